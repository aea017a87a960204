"""What can be read of a QUIC packet without keys, and the packets that take none to make.

Source: RFC 8999 (what holds for all versions), RFC 9000 section 17, RFC 9001 section 5.8.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import Final, NamedTuple

__all__ = [
    "CID_LENGTH",
    "MAX_CID",
    "MIN_INITIAL",
    "RESET_TOKEN",
    "VERSION_1",
    "Header",
    "Kind",
    "first_packets",
    "parse_header",
    "put_varint",
    "read_varint",
    "reset_token",
    "retry",
    "retry_is_valid",
    "stateless_reset",
    "version_negotiation",
]

VERSION_1: Final = 1
CID_LENGTH: Final = 8
"""Length of all connection ids of ours: short headers do not tell it."""
MAX_CID: Final = 20
MIN_INITIAL: Final = 1200
"""A smaller datagram with an Initial is dropped: it would make us amplify."""
RESET_TOKEN: Final = 16
MAX_INVARIANT_CID: Final = 255  # of versions that we do not know

_MIN_RESET: Final = 21  # bytes; with fewer it could not pass for a packet
_RETRY_KEY: Final = bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")
_RETRY_NONCE: Final = bytes.fromhex("461599d35d632bf2239825bb")
_TAG: Final = 16
_GREASE: Final = 0x0A0A0A0A  # a version that nobody speaks (RFC 9000, section 15)


class Kind(Enum):
    """What a packet is; the first three and RETRY are version 1's."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3
    SHORT = 4
    VERSION_NEGOTIATION = 5
    OTHER_VERSION = 6


class Header(NamedTuple):
    """The open part of a packet; `end` is where it ends in its datagram."""

    kind: Kind
    destination: bytes
    source: bytes
    version: int
    token: bytes
    end: int


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000, section 16) and where it ends.

    Raises:
        IndexError: it is cut off.

    """
    size = 1 << (data[at] >> 6)
    end = at + size
    if end > len(data):
        raise IndexError("a cut off integer")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * size - 2)) - 1), end


def put_varint(value: int) -> bytes:
    """Encode 0 ≤ value < 2**62 as short as it goes."""
    for size, bits in ((1, 6), (2, 14), (4, 30), (8, 62)):
        if value < 1 << bits:
            return ((size.bit_length() - 1) << (8 * size - 2) | value).to_bytes(size, "big")
    raise ValueError(f"{value} does not fit a QUIC integer")


def parse_header(data: bytes | memoryview, at: int = 0) -> Header | None:
    """The header of the packet that begins at `at`, or None if it is none.

    Nothing is authentic before decryption.
    """
    try:
        return _parse(data, at)
    except IndexError:
        return None


def _parse(data: bytes | memoryview, at: int) -> Header | None:
    first = data[at]
    size = len(data)
    if not first & 0x80:
        end = at + 1 + CID_LENGTH
        if not first & 0x40 or end > size:
            return None
        return Header(Kind.SHORT, bytes(data[at + 1 : end]), b"", VERSION_1, b"", size)
    version = int.from_bytes(data[at + 1 : at + 5], "big")
    destination, pos = _opaque(data, at + 5)
    source, pos = _opaque(data, pos)
    if version != VERSION_1:
        kind = Kind.OTHER_VERSION if version else Kind.VERSION_NEGOTIATION
        return Header(kind, destination, source, version, b"", size)
    if not first & 0x40 or len(destination) > MAX_CID or len(source) > MAX_CID:
        return None
    kind = Kind(first >> 4 & 3)
    token = b""
    if kind is Kind.RETRY:
        if size - pos <= _TAG:
            return None
        return Header(kind, destination, source, version, bytes(data[pos : size - _TAG]), size)
    if kind is Kind.INITIAL:
        length, pos = read_varint(data, pos)
        token = bytes(data[pos : pos + length])
        pos += length
    length, pos = read_varint(data, pos)
    if pos + length > size or length < 4 + _TAG:
        return None
    return Header(kind, destination, source, version, token, pos + length)


def _opaque(data: bytes | memoryview, at: int) -> tuple[bytes, int]:
    end = at + 1 + data[at]
    if end > len(data):
        raise IndexError("a cut off connection id")
    return bytes(data[at + 1 : end]), end


def first_packets(data: bytes) -> list[bytes]:
    """The packets that one datagram carries, each by itself; what follows the last one is junk.

    During the handshake a packet may bring the keys that the next one needs.
    """
    packets = []
    at = 0
    while at < len(data):
        header = parse_header(data, at)
        if header is None or header.end <= at:
            break
        packets.append(data[at : header.end])
        at = header.end
    return packets


def version_negotiation(destination: bytes, source: bytes, random: bytes) -> bytes:
    """Tell a client whose version is unknown that there is only version 1.

    `destination` is the client's source id, `source` its destination; `random` five bytes.
    """
    grease = int.from_bytes(random[1:5], "big") & 0xF0F0F0F0 | _GREASE
    return (
        bytes([0xC0 | random[0] & 0x3F])
        + bytes(4)
        + bytes([len(destination)])
        + destination
        + bytes([len(source)])
        + source
        + VERSION_1.to_bytes(4, "big")
        + grease.to_bytes(4, "big")
    )


def retry(destination: bytes, source: bytes, original: bytes, token: bytes) -> bytes:
    """A Retry packet that asks for `token` at the connection id `source`.

    `destination` is the client's source id, `original` the destination id of its Initial.
    """
    packet = (
        b"\xf0"
        + VERSION_1.to_bytes(4, "big")
        + bytes([len(destination)])
        + destination
        + bytes([len(source)])
        + source
        + token
    )
    return packet + _retry_tag(packet, original)


def retry_is_valid(packet: bytes, original: bytes) -> bool:
    """Whether a Retry answers the Initial that we sent to `original`, unchanged on its way."""
    return hmac.compare_digest(packet[-_TAG:], _retry_tag(packet[:-_TAG], original))


def _retry_tag(packet: bytes, original: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # start-up cost

    pseudo = bytes([len(original)]) + original + packet
    return AESGCM(_RETRY_KEY).encrypt(_RETRY_NONCE, b"", pseudo)


def reset_token(key: bytes, cid: bytes) -> bytes:
    """The stateless reset token of our connection id `cid` (RFC 9000, section 10.3.2)."""
    return hmac.digest(key, b"pt quic stateless reset" + cid, hashlib.sha256)[:RESET_TOKEN]


def stateless_reset(key: bytes, datagram_size: int, cid: bytes, random: bytes) -> bytes | None:
    """The answer to a datagram to `cid` of which we know nothing; None: to none of such size.

    It is shorter than the datagram, so that two endpoints without state do not go on for ever.
    `random` is 42 bytes.
    """
    size = min(datagram_size - 1, 43)
    if size < _MIN_RESET:
        return None
    filling = bytearray(random[: size - RESET_TOKEN])
    filling[0] = 0x40 | filling[0] & 0x3F
    return bytes(filling) + reset_token(key, cid)
