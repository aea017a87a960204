"""Multihash (multiformats/multihash): a digest that says which function made it.

Layout: uvarint code, uvarint digest length, digest. libp2p needs two functions: `identity` (the
"digest" is the data itself, for short public keys) and SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pt.errors import RemoteProtocolError
from pt.wire import uvarint

__all__ = ["MAX_IDENTITY", "HashCode", "Multihash", "MultihashError"]

MAX_IDENTITY: Final = 42  # bytes; the peer-ids spec inlines no longer key
_SHA2_256_SIZE: Final = 32


class MultihashError(RemoteProtocolError):
    """The bytes are not a multihash of a kind known here."""


class HashCode(IntEnum):
    """The multicodec numbers of the hash functions."""

    IDENTITY = 0x00
    SHA2_256 = 0x12


@dataclass(frozen=True, slots=True)
class Multihash:
    """One digest with its function."""

    code: HashCode
    digest: bytes

    def __post_init__(self) -> None:
        size = len(self.digest)
        if self.code is HashCode.SHA2_256 and size != _SHA2_256_SIZE:
            raise MultihashError(f"a SHA-256 multihash with a digest of {size} bytes")
        if self.code is HashCode.IDENTITY and size > MAX_IDENTITY:
            raise MultihashError(f"an identity multihash of {size} bytes, more than {MAX_IDENTITY}")

    @classmethod
    def identity(cls, data: bytes) -> Multihash:
        """Inline `data`, at most `MAX_IDENTITY` bytes."""
        return cls(HashCode.IDENTITY, data)

    @classmethod
    def sha256(cls, data: bytes) -> Multihash:
        """Hash `data`."""
        return cls(HashCode.SHA2_256, hashlib.sha256(data).digest())

    @classmethod
    def decode(cls, raw: bytes) -> Multihash:
        """Read a multihash that fills `raw` exactly.

        Raises:
            MultihashError: unknown function, wrong length, or bytes left over.

        """
        try:
            number, pos = uvarint.decode(raw)
            size, pos = uvarint.decode(raw, pos)
        except uvarint.UvarintError as error:
            raise MultihashError(f"bad multihash: {error}") from error
        try:
            code = HashCode(number)
        except ValueError:
            raise MultihashError(f"multihash function {number:#x} is not supported") from None
        if len(raw) - pos != size:
            raise MultihashError(f"a multihash of {size} bytes has {len(raw) - pos}")
        return cls(code, bytes(raw[pos:]))

    def encode(self) -> bytes:
        """Write code, length and digest."""
        return uvarint.encode(self.code) + uvarint.prefix(self.digest)
