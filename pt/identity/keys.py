"""Keys and signatures (libp2p peer-ids spec, "Keys").

`PublicKey{Type=1: enum, Data=2: bytes}` and `PrivateKey` of the same shape, protobuf, both fields
always written, in this order: peer ids hash exactly these bytes.

    type          public Data            signature
    RSA 0         PKIX DER, 2048..8192 b RSASSA-PKCS1-v1_5 over SHA-256
    Ed25519 1     32 bytes               RFC 8032
    Secp256k1 2   33 bytes, compressed   ECDSA over SHA-256, DER
    ECDSA 3       PKIX DER, NIST curves  ECDSA over SHA-256, DER

Ours are Ed25519; the other types are only verified, by `pt.identity.foreign_keys`. `cryptography`
is imported on first use, and its RSA and EC parts only when such a key is met: start-up pays for
neither.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError, UsageError
from pt.wire import protobuf

__all__ = ["MAX_KEY_SIZE", "KeyFormatError", "KeyType", "PrivateKey", "PublicKey"]

MAX_KEY_SIZE: Final = 2048  # bytes of an encoded key; RSA-8192 takes 1,063
MAX_SIGNATURE_SIZE: Final = 1024  # bytes; RSA-8192 makes 1,024
SEED_SIZE: Final = 32
ED25519_SIZE: Final = 32
_BAD_SIGNATURE: Final = "a signature does not verify"


class KeyFormatError(RemoteProtocolError):
    """The bytes are not a public key of a supported kind."""


class KeyType(IntEnum):
    """The key types' numbers on the wire."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key in canonical form; `data` is laid out as the module says."""

    type: KeyType
    data: bytes

    @classmethod
    def from_protobuf(cls, raw: bytes) -> PublicKey:
        """Read a key and bring it into canonical form.

        Whatever encoding a peer chose, `to_protobuf` then gives the bytes its peer id is made of.

        Raises:
            KeyFormatError: malformed, unknown type, or parameters out of bounds.

        """
        key_type, data = _read(raw)
        if key_type is KeyType.ED25519:
            if len(data) != ED25519_SIZE:
                raise KeyFormatError(f"an Ed25519 key has 32 bytes, not {len(data)}")
            return cls(key_type, data)
        from pt.identity import foreign_keys  # noqa: PLC0415  # loads RSA and EC: rarely needed

        return cls(key_type, foreign_keys.canonical(key_type, data))

    def to_protobuf(self) -> bytes:
        """The canonical encoding."""
        return protobuf.put_uint(1, self.type) + protobuf.put_bytes(2, self.data)

    def verify(self, data: bytes, signature: bytes) -> None:
        """Check that this key's owner signed `data`.

        Raises:
            CryptoFailure: it did not.

        """
        if len(signature) > MAX_SIGNATURE_SIZE:
            raise CryptoFailure(_BAD_SIGNATURE)
        if self.type is not KeyType.ED25519:
            from pt.identity import foreign_keys  # noqa: PLC0415  # as above

            foreign_keys.verify(self.type, self.data, data, signature)
            return
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # start-up cost
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # same
            Ed25519PublicKey,
        )

        try:
            Ed25519PublicKey.from_public_bytes(self.data).verify(signature, data)
        except (InvalidSignature, ValueError) as error:
            raise CryptoFailure(_BAD_SIGNATURE) from error


class PrivateKey:
    """Our identity: an Ed25519 key. Its repr shows the public half only."""

    __slots__ = ("_seed", "_signer", "public")

    public: PublicKey

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise LocalProtocolError(f"an Ed25519 seed has {SEED_SIZE} bytes, not {len(seed)}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # start-up
            Ed25519PrivateKey,
        )

        self._seed = seed
        self._signer = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(KeyType.ED25519, self._signer.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, seed: bytes) -> PrivateKey:
        """Make the key of `seed`: 32 bytes from a cryptographic random source.

        Raises:
            LocalProtocolError: not 32 bytes.

        """
        return cls(seed)

    @classmethod
    def from_protobuf(cls, raw: bytes) -> PrivateKey:
        """Read a stored key: seed ‖ public key, or go-libp2p's older seed ‖ public ‖ public.

        Raises:
            UsageError: malformed, not Ed25519, or the public half belongs to another key.

        """
        try:
            key_type, data = _read(raw)
        except RemoteProtocolError as error:
            raise UsageError(f"the private key cannot be read: {error}") from error
        if key_type is not KeyType.ED25519:
            raise UsageError(
                f"the private key is of type {key_type.name}, but pt's own identity is an Ed25519 "
                "key: make one with `pt key new`"
            )
        if len(data) not in {64, 96}:
            raise UsageError(f"the private key has {len(data)} bytes instead of 64")
        key = cls(data[:SEED_SIZE])
        if any(data[at : at + 32] != key.public.data for at in range(32, len(data), 32)):
            raise UsageError("the private key is damaged: its public half does not belong to it")
        return key

    def derive(self, info: bytes) -> PrivateKey:
        """Another key for each `info`; without this one, nobody can tell that they belong together.

        HMAC-SHA256 of the seed, as HKDF-Expand does it for 32 bytes (RFC 5869, section 2.3).
        """
        return PrivateKey(hmac.digest(self._seed, b"pt/2 identity " + info + b"\x01", "sha256"))

    def to_protobuf(self) -> bytes:
        """Type Ed25519, Data = seed ‖ public key. Secret: store it with mode 0600."""
        data = self._seed + self.public.data
        return protobuf.put_uint(1, KeyType.ED25519) + protobuf.put_bytes(2, data)

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature of `data`; deterministic."""
        return self._signer.sign(data)

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.data.hex()})"


def _read(raw: bytes) -> tuple[KeyType, bytes]:
    if len(raw) > MAX_KEY_SIZE:
        raise KeyFormatError(f"a key of {len(raw)} bytes, more than {MAX_KEY_SIZE}")
    message = protobuf.Fields(raw)
    number, data = message.uint(1), message.bytes(2)
    if number is None or data is None:
        raise KeyFormatError("a key without type or data")
    try:
        return KeyType(number), data
    except ValueError:
        raise KeyFormatError(f"key type {number} is not supported") from None
