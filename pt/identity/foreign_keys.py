"""Keys of the types other peers have: RSA, ECDSA, secp256k1 (libp2p peer-ids spec, "Key Types").

Used by `pt.identity.keys` alone, and imported by it only when such a key is met.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from pt.errors import CryptoFailure
from pt.identity.keys import KeyFormatError, KeyType

__all__ = ["canonical", "verify"]

_RSA_BITS: Final = range(2048, 8192 + 1)  # go-libp2p's bounds: fewer can be forged, more is a DoS
_CURVES: Final = frozenset({"secp224r1", "secp256r1", "secp384r1", "secp521r1"})

_ForeignKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey


def canonical(key_type: KeyType, data: bytes) -> bytes:
    """The key's data as go-libp2p would write it: canonical DER, or the compressed point.

    Raises:
        KeyFormatError: malformed, or parameters out of bounds.

    """
    key = _load(key_type, data)
    if key_type is KeyType.SECP256K1:
        return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify(key_type: KeyType, key_data: bytes, data: bytes, signature: bytes) -> None:
    """Check the signature of `data`.

    Raises:
        CryptoFailure: it does not verify.
        KeyFormatError: the key is malformed.

    """
    key = _load(key_type, key_data)
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(signature, data, PKCS1v15(), SHA256())
        else:
            key.verify(signature, data, ECDSA(SHA256()))
    except InvalidSignature as error:
        raise CryptoFailure("a signature does not verify") from error


def _load(key_type: KeyType, data: bytes) -> _ForeignKey:
    try:
        if key_type is KeyType.SECP256K1:
            return EllipticCurvePublicKey.from_encoded_point(SECP256K1(), data)
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFormatError(f"a public key of type {key_type.name} cannot be read") from error
    if key_type is KeyType.RSA:
        if not isinstance(key, RSAPublicKey) or key.key_size not in _RSA_BITS:
            raise KeyFormatError("an RSA key must have 2048 to 8192 bits")
        return key
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise KeyFormatError("an ECDSA key must be on a NIST curve")
    return key
