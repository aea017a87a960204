"""STUN messages: framing, FINGERPRINT and MESSAGE-INTEGRITY (RFC 8489 §5, §9.1, §14).

     0 0 | type (14 bits) | length (16) | 21 12 a4 42 | transaction id (96)
     attribute type (16) | length (16) | value, padded to 4 bytes | …

Attributes are kept as bytes; `pt.stun.attributes` reads them. A message that is decoded here has a
right length, a right FINGERPRINT if it has one, and nothing in it that RFC 8489 says to ignore.
Whether its MESSAGE-INTEGRITY is right is for whoever knows the key to ask.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from pt.errors import LocalProtocolError, RemoteProtocolError, UsageError

__all__ = [
    "BINDING",
    "COOKIE",
    "FINGERPRINT",
    "HEADER",
    "INTEGRITY",
    "INTEGRITY_SHA256",
    "MAX_MESSAGE",
    "TRANSACTION_ID",
    "Attribute",
    "Kind",
    "Message",
    "StunError",
    "decode",
    "encode",
    "is_stun",
    "password_key",
]

Attribute: TypeAlias = tuple[int, bytes]
"""A type, and the value without its padding."""

COOKIE: Final = b"\x21\x12\xa4\x42"
HEADER: Final = 20
TRANSACTION_ID: Final = 12
MAX_MESSAGE: Final = 2048
"""What a port hands over; with PADDING a message is longer than other STUN messages ever are."""
BINDING: Final = 0x001
INTEGRITY: Final = 0x0008
INTEGRITY_SHA256: Final = 0x001C
FINGERPRINT: Final = 0x8028
_FINGERPRINT_XOR: Final = 0x5354554E
_SHA1_LEN: Final = 20
_SHA256_LEN: Final = 32
_MIN_SHA256: Final = 16
_MAX_METHOD: Final = 0xFFF


class StunError(RemoteProtocolError):
    """Bytes that are no STUN message, or an attribute that is damaged."""


class Kind(IntEnum):
    """What RFC 8489 calls the class of a message."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Message:
    """A message; equal to another one when it says the same."""

    kind: Kind
    method: int
    transaction: bytes
    attributes: tuple[Attribute, ...] = ()
    raw: bytes = field(default=b"", compare=False, repr=False)
    """As received: what its integrity covers."""

    def get(self, kind: int) -> bytes | None:
        """The first attribute of a type; further ones are to be ignored (RFC 8489 §14)."""
        return next((value for each, value in self.attributes if each == kind), None)

    def verify(self, key: bytes) -> bool:
        """Whether it is signed with `key`; by the stronger of two signatures, if it has both."""
        kind = INTEGRITY_SHA256 if self.get(INTEGRITY_SHA256) is not None else INTEGRITY
        value = self.get(kind)
        if value is None or not self.raw:
            return False
        at = HEADER
        while int.from_bytes(self.raw[at : at + 2]) != kind:
            at += 4 + _padded(int.from_bytes(self.raw[at + 2 : at + 4]))
        mac = _mac(self.raw[:at], kind, key, len(value))
        return hmac.compare_digest(mac, value)


def is_stun(data: bytes) -> bool:
    """Whether a datagram is meant to be STUN: two zero bits, and the magic cookie.

    QUIC, whose second bit is one, and the overlay never look like this (RFC 9443).
    """
    return len(data) >= HEADER and data[0] < 0x40 and data[4:8] == COOKIE


def decode(data: bytes) -> Message:
    """Read one message, which is all of `data`.

    Raises:
        StunError: it is none.

    """
    if len(data) > MAX_MESSAGE:
        raise StunError(f"a STUN message of {len(data)} bytes")
    if not is_stun(data):
        raise StunError("not a STUN message")
    kind, length = struct.unpack_from("!HH", data)
    if length % 4 or length != len(data) - HEADER:
        raise StunError(f"a STUN message that claims {length} bytes of attributes, wrongly")
    method = (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2
    return Message(
        Kind((kind & 0x0010) >> 4 | (kind & 0x0100) >> 7),
        method,
        bytes(data[8:HEADER]),
        tuple(_attributes(data)),
        bytes(data),
    )


def _attributes(data: bytes) -> Iterable[Attribute]:
    at = HEADER
    allowed: frozenset[int] | None = None  # all of them
    while at < len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        value = bytes(data[at + 4 : at + 4 + length])
        end = at + 4 + _padded(length)
        if end > len(data):
            raise StunError(f"attribute {kind:#06x} is cut off")
        if kind == FINGERPRINT:
            if end != len(data):
                raise StunError("FINGERPRINT is not the last attribute")
            if value != _fingerprint(data[:at]):
                raise StunError("the FINGERPRINT is wrong")
        if allowed is None or kind in allowed:
            _check_length(kind, length)
            yield kind, value
            if kind == INTEGRITY:
                allowed = frozenset({INTEGRITY_SHA256, FINGERPRINT})
            elif kind == INTEGRITY_SHA256:
                allowed = frozenset({FINGERPRINT})
        at = end


def _check_length(kind: int, length: int) -> None:
    wrong = (kind == INTEGRITY and length != _SHA1_LEN) or (
        kind == INTEGRITY_SHA256 and (not _MIN_SHA256 <= length <= _SHA256_LEN or length % 4)
    )
    if wrong:
        raise StunError(f"a signature of {length} bytes")


def encode(
    kind: Kind,
    method: int,
    transaction: bytes,
    attributes: Iterable[Attribute] = (),
    *,
    key: bytes | None = None,
    sha256_key: bytes | None = None,
    fingerprint: bool = True,
) -> bytes:
    """Write a message; with `key` it is signed by MESSAGE-INTEGRITY, with `sha256_key` by -SHA256.

    Raises:
        LocalProtocolError: it would not be one.

    """
    if len(transaction) != TRANSACTION_ID or not 0 <= method <= _MAX_METHOD:
        raise LocalProtocolError("a transaction id of 12 bytes, and a method of 12 bits")
    word = (method & 0x00F) | (method & 0x070) << 1 | (method & 0xF80) << 2
    word |= (kind & 1) << 4 | (kind & 2) << 7
    out = bytearray(struct.pack("!HH", word, 0) + COOKIE + transaction)
    for type_, value in attributes:
        out += struct.pack("!HH", type_, len(value)) + value + bytes(-len(value) % 4)
    if key is not None:
        out += struct.pack("!HH", INTEGRITY, _SHA1_LEN) + _mac(out, INTEGRITY, key, _SHA1_LEN)
    if sha256_key is not None:
        mac = _mac(out, INTEGRITY_SHA256, sha256_key, _SHA256_LEN)
        out += struct.pack("!HH", INTEGRITY_SHA256, _SHA256_LEN) + mac
    if fingerprint:
        _set_length(out, len(out) + 8)
        out += struct.pack("!HH", FINGERPRINT, 4) + _fingerprint(out)
    if len(out) > MAX_MESSAGE:
        raise LocalProtocolError(f"a STUN message of {len(out)} bytes, not {MAX_MESSAGE} at most")
    _set_length(out, len(out))
    return bytes(out)


def password_key(password: str) -> bytes:
    """The key of a short-term credential: the password, prepared as OpaqueString (RFC 8265).

    Raises:
        UsageError: it is empty, or has control characters.

    """
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in password)
    text = unicodedata.normalize("NFC", spaced)
    if not text or any(unicodedata.category(char) == "Cc" for char in text):
        raise UsageError("a password is empty, or has control characters in it")
    return text.encode()


def _padded(length: int) -> int:
    return length + (-length % 4)


def _set_length(out: bytearray, total: int) -> None:
    struct.pack_into("!H", out, 2, total - HEADER)


def _mac(before: bytes | bytearray, kind: int, key: bytes, length: int) -> bytes:
    """The signature over what comes before it, as though it were the last attribute."""
    covered = bytearray(before)
    _set_length(covered, len(covered) + 4 + length)
    hashed = hashlib.sha1 if kind == INTEGRITY else hashlib.sha256
    return hmac.digest(key, covered, hashed)[:length]


def _fingerprint(before: bytes | bytearray) -> bytes:
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4)
