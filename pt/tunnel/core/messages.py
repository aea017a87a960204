"""The tunnel's wire format, version 2, and its limits, on one page.

Every stream of `/peertunnel/2.0.0` begins with a kind, all integers big endian:

    SESSION  u8 0                                  then the authentication (`pt.tunnel.core.auth`),
                                                   then control messages both ways
    OPEN     u8 1 | u8 0 | stream u32 | port u16   then the connection's bytes
    RESUME   u8 2 | u8 0 | stream u32 | received u64
    ATTACH   u8 3 | session id 16 bytes | proof 32 bytes
                                                   answered u8 code | proof 32 bytes, then control
                                                   messages both ways

OPEN and RESUME are answered on the same stream:

    ANSWER   u8 code | u8 reason length | received u64 | reason, UTF-8

and after it the stream carries the connection's bytes and nothing else.  A stream of bytes has
offsets: byte n is the n-th that was ever sent, the end of the stream counts as one more.
`received` is how far the answering (or resuming) side has them; the other goes on from there.

Control messages, on the stream that began with SESSION or ATTACH:

    u16 length of what follows | u8 type | body
    ACK       (stream u32 | received u64)*   the sender may forget everything before
    LIVE      (stream u32)*                  after ATTACH: the streams the binder still has
    LIVE_END                                 and all others are over
    OFFER     (port u16)*                    the exposer's ports, first of all messages
    BYE       reason, UTF-8                  the sender is about to end
    ADDRESSES (u16 length | multiaddr)*      where the sender can be dialed, said while a relay
                                             carries the session; the exposer dials the binder's

A stream of `/peertunnel/2.0.0/lost`, on a connection that the session left and that still stands,
carries nothing: by it the exposer says that the connection in use is silent.

A session moves to another connection by ATTACH there; what still comes on the one before is
ignored.  Only the binder opens streams.  It counts their numbers up and never uses one for two
streams; an OPEN that a lost path swallowed is said again, with its number, when RESUME was answered
UNKNOWN.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

from pt.errors import RemoteProtocolError

__all__ = [
    "ANSWER",
    "ATTACH",
    "ATTACH_ANSWER",
    "ATTACH_KIND",
    "MAX_ADDRESSES",
    "MAX_CONTROL",
    "MAX_REASON",
    "OPEN",
    "OPEN_KIND",
    "PROTOCOL",
    "PROTOCOL_LOST",
    "PROTOCOL_PUNCH",
    "PROTOCOL_V1",
    "RESUME",
    "RESUME_KIND",
    "SESSION_KIND",
    "Code",
    "Control",
    "ControlReader",
    "acks",
    "addresses",
    "control",
    "encode_answer",
    "ids",
    "ports",
    "read_acks",
    "read_addresses",
    "read_ids",
    "read_ports",
]

PROTOCOL: Final = "/peertunnel/2.0.0"
PROTOCOL_LOST: Final = "/peertunnel/2.0.0/lost"
PROTOCOL_PUNCH: Final = "/peertunnel/punch/1.0.0"
PROTOCOL_V1: Final = "/peertunnel/1.0.0"

SESSION_KIND: Final = 0
OPEN_KIND: Final = 1
RESUME_KIND: Final = 2
ATTACH_KIND: Final = 3

OPEN: Final = struct.Struct(">BBIH")
RESUME: Final = struct.Struct(">BBIQ")
ATTACH: Final = struct.Struct(">B16s32s")
ATTACH_ANSWER: Final = struct.Struct(">B32s")
ANSWER: Final = struct.Struct(">BBQ")
_ACK: Final = struct.Struct(">IQ")
_HEAD: Final = struct.Struct(">HB")
_LENGTH: Final = struct.Struct(">H")

MAX_REASON: Final = 200
MAX_CONTROL: Final = 16 * 1024
"""Longest control message, bytes; longer lists are split."""
MAX_ADDRESSES: Final = 16
"""Addresses told and taken at a time."""


class Code(IntEnum):
    """How an OPEN or RESUME went."""

    OK = 0
    REFUSED = 1
    UNREACHABLE = 2
    TIMEOUT = 3
    NOT_OFFERED = 4
    LIMIT = 5
    UNKNOWN = 6
    """RESUME of a stream that never arrived: open it anew."""
    GONE = 7
    """RESUME of a stream that is over."""
    FAILED = 8
    CLOSING = 9


class Control(IntEnum):
    """Types of control messages."""

    ACK = 1
    LIVE = 2
    LIVE_END = 3
    OFFER = 4
    BYE = 5
    ADDRESSES = 6
    LOSSY = 7
    """Packets get lost on this path: the next connection should not mind."""


def encode_answer(code: Code, received: int, reason: str = "") -> bytes:
    """An ANSWER; a long reason is cut."""
    text = reason.encode()[:MAX_REASON]
    return ANSWER.pack(code, len(text), received) + text


def control(kind: Control, body: bytes = b"") -> bytes:
    """One control message."""
    return _HEAD.pack(len(body) + 1, kind) + body


def acks(entries: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """ACK messages for (stream, received) pairs, as many as needed."""
    yield from _split(Control.ACK, [_ACK.pack(*entry) for entry in entries])


def ids(kind: Control, streams: Iterable[int]) -> Iterator[bytes]:
    """LIVE messages for stream numbers."""
    yield from _split(kind, [struct.pack(">I", stream) for stream in streams])


def ports(offered: Iterable[int]) -> bytes:
    """The OFFER message."""
    return control(Control.OFFER, b"".join(struct.pack(">H", port) for port in offered))


def addresses(found: Iterable[bytes]) -> bytes:
    """The ADDRESSES message, of encoded multiaddrs."""
    items = [_LENGTH.pack(len(raw)) + raw for raw in list(found)[:MAX_ADDRESSES]]
    return control(Control.ADDRESSES, b"".join(items))


def read_addresses(body: bytes) -> list[bytes]:
    """Encoded multiaddrs of an ADDRESSES' body; more than MAX_ADDRESSES are left out."""
    found: list[bytes] = []
    pos = 0
    while pos < len(body) and len(found) < MAX_ADDRESSES:
        if len(body) - pos < _LENGTH.size:
            raise RemoteProtocolError("an ADDRESSES message is cut off")
        (length,) = _LENGTH.unpack_from(body, pos)
        pos += _LENGTH.size
        if len(body) - pos < length:
            raise RemoteProtocolError("an ADDRESSES message is cut off")
        found.append(body[pos : pos + length])
        pos += length
    return found


def _split(kind: Control, items: list[bytes]) -> Iterator[bytes]:
    per_message = (MAX_CONTROL - 1) // 12
    for start in range(0, len(items), per_message):
        yield control(kind, b"".join(items[start : start + per_message]))


def read_acks(body: bytes) -> Iterator[tuple[int, int]]:
    """(stream, received) pairs of an ACK's body."""
    if len(body) % _ACK.size:
        raise RemoteProtocolError("an ACK message is cut off")
    return _ACK.iter_unpack(body)


def read_ids(body: bytes) -> list[int]:
    """Stream numbers of a LIVE's body."""
    if len(body) % 4:
        raise RemoteProtocolError("a LIVE message is cut off")
    return [stream for (stream,) in struct.iter_unpack(">I", body)]


def read_ports(body: bytes) -> tuple[int, ...]:
    """Ports of an OFFER's body."""
    if len(body) % 2:
        raise RemoteProtocolError("an OFFER message is cut off")
    return tuple(port for (port,) in struct.iter_unpack(">H", body))


class ControlReader:
    """Cuts the control stream into messages, any split; holds at most one of them."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield each whole (type, body); types not known here are for the caller to skip.

        Raises:
            RemoteProtocolError: a message is empty or longer than MAX_CONTROL.

        """
        buffer = self._buffer
        buffer += data
        pos = 0
        try:
            while len(buffer) - pos >= _HEAD.size:
                length, kind = _HEAD.unpack_from(buffer, pos)
                if not 1 <= length <= MAX_CONTROL:
                    raise RemoteProtocolError(f"a control message of {length} bytes")
                if len(buffer) - pos < 2 + length:
                    break
                body = bytes(buffer[pos + 3 : pos + 2 + length])
                pos += 2 + length
                yield kind, body
        finally:
            del buffer[:pos]
