"""Attributes of STUN messages: RFC 8489 §14, and those of RFC 5780 §7."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, TypeAlias

from pt.errors import LocalProtocolError
from pt.stun.messages import COOKIE, Attribute, Message, StunError

__all__ = [
    "CHANGE_REQUEST",
    "CONNECT_BACK",
    "DATA",
    "ERROR_CODE",
    "LATER",
    "MAPPED_ADDRESS",
    "OTHER_ADDRESS",
    "PADDING",
    "RESPONSE_ORIGIN",
    "RESPONSE_PORT",
    "SOFTWARE",
    "UNKNOWN_ATTRIBUTES",
    "USERNAME",
    "XOR_MAPPED_ADDRESS",
    "XOR_PEER_ADDRESS",
    "Address",
    "Change",
    "address",
    "change_request",
    "error_code",
    "later",
    "read_address",
    "read_change_request",
    "read_error_code",
    "read_later",
    "read_port",
    "read_unknown",
    "read_xor_address",
    "response_port",
    "unknown_attributes",
    "xor_address",
]

Address: TypeAlias = tuple[str, int]
"""An IP address in its usual spelling, and a port."""

MAPPED_ADDRESS: Final = 0x0001
CHANGE_REQUEST: Final = 0x0003
USERNAME: Final = 0x0006
ERROR_CODE: Final = 0x0009
UNKNOWN_ATTRIBUTES: Final = 0x000A
XOR_PEER_ADDRESS: Final = 0x0012
DATA: Final = 0x0013
XOR_MAPPED_ADDRESS: Final = 0x0020
PADDING: Final = 0x0026
RESPONSE_PORT: Final = 0x0027
SOFTWARE: Final = 0x8022
RESPONSE_ORIGIN: Final = 0x802B
OTHER_ADDRESS: Final = 0x802C

CONNECT_BACK: Final = 0xC0F3
"""Ours, over TCP: connect to where this comes from. As `CHANGE_REQUEST` in form; in the answer its
bits say from where that is tried: the other port (2), the other IP address and port (4)."""
LATER: Final = 0xC0F4
"""Ours, over TCP: after so many milliseconds (4 bytes) say an indication of this transaction, over
this very connection, and nothing before. In the answer: that will be done."""

MAX_REASON: Final = 509
"""Bytes of an error's reason: 127 characters of UTF-8."""
_COOKIE_PORT: Final = int.from_bytes(COOKIE[:2])


class Change(NamedTuple):
    """From which other address the answer is to come."""

    ip: bool
    port: bool


# --- addresses ----------------------------------------------------------------------------------


def address(kind: int, where: Address) -> Attribute:
    """An address in the clear."""
    packed = _packed(where[0])
    return kind, struct.pack("!xBH", 1 if len(packed) == 4 else 2, where[1]) + packed


def xor_address(kind: int, where: Address, transaction: bytes) -> Attribute:
    """An address in the disguise that keeps NATs from rewriting it."""
    packed = _packed(where[0])
    family = 1 if len(packed) == 4 else 2
    disguised = _xor(packed, COOKIE + transaction)
    return kind, struct.pack("!xBH", family, where[1] ^ _COOKIE_PORT) + disguised


def read_address(value: bytes) -> Address:
    """Read an address in the clear.

    Raises:
        StunError: it is damaged, or of no known family.

    """
    if len(value) == 8 and value[1] == 1:
        return str(IPv4Address(value[4:])), int.from_bytes(value[2:4])
    if len(value) == 20 and value[1] == 2:
        return str(IPv6Address(value[4:])), int.from_bytes(value[2:4])
    raise StunError(f"an address of {len(value)} bytes: {value[:20].hex()}")


def read_xor_address(value: bytes, transaction: bytes) -> Address:
    """Read an address in disguise.

    Raises:
        StunError: it is damaged, or of no known family.

    """
    if len(value) < 4:
        raise StunError("an address without a port")
    head = value[:2] + (int.from_bytes(value[2:4]) ^ _COOKIE_PORT).to_bytes(2)
    return read_address(head + _xor(value[4:20], COOKIE + transaction) + value[20:])


def _xor(one: bytes, two: bytes) -> bytes:
    length = len(one)
    return (int.from_bytes(one) ^ int.from_bytes(two[:length])).to_bytes(length)


@functools.lru_cache(maxsize=4096)
def _packed(host: str) -> bytes:
    return ip_address(host).packed


# --- errors -------------------------------------------------------------------------------------


def error_code(code: int, reason: str) -> Attribute:
    """An error's number and reason.

    Raises:
        LocalProtocolError: there is no such number.

    """
    if not 300 <= code <= 699:
        raise LocalProtocolError(f"STUN has no error {code}")
    return ERROR_CODE, struct.pack("!xxBB", code // 100, code % 100) + reason.encode()[:MAX_REASON]


def read_error_code(message: Message) -> tuple[int, str]:
    """The error of a response.

    Raises:
        StunError: it names none, or not properly.

    """
    value = message.get(ERROR_CODE)
    if value is None or len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise StunError("an error response without an error")
    reason = value[4 : 4 + MAX_REASON].decode("utf-8", "replace")
    return (value[2] & 7) * 100 + value[3], reason


def unknown_attributes(kinds: Iterable[int]) -> Attribute:
    """Which attributes of a request were not understood."""
    return UNKNOWN_ATTRIBUTES, b"".join(kind.to_bytes(2) for kind in kinds)


def read_unknown(value: bytes) -> tuple[int, ...]:
    """The attributes that the other side did not understand.

    Raises:
        StunError: the list is damaged.

    """
    if len(value) % 2:
        raise StunError("half an attribute's type")
    return tuple(int.from_bytes(value[at : at + 2]) for at in range(0, len(value), 2))


# --- RFC 5780 -----------------------------------------------------------------------------------


def change_request(change: Change) -> Attribute:
    """Ask for an answer from another address."""
    return CHANGE_REQUEST, (change.ip << 2 | change.port << 1).to_bytes(4)


def read_change_request(value: bytes) -> Change:
    """Read such a wish.

    Raises:
        StunError: it is damaged.

    """
    if len(value) != 4:
        raise StunError("CHANGE-REQUEST has 4 bytes")
    return Change(bool(value[3] & 4), bool(value[3] & 2))


def later(seconds: float) -> Attribute:
    """Ask for an indication after a silence, or promise it."""
    return LATER, round(seconds * 1000).to_bytes(4)


def read_later(value: bytes) -> float:
    """The seconds of LATER.

    Raises:
        StunError: it is damaged.

    """
    if len(value) != 4:
        raise StunError("LATER has 4 bytes")
    return int.from_bytes(value) / 1000


def response_port(port: int) -> Attribute:
    """Ask for an answer to another port."""
    return RESPONSE_PORT, port.to_bytes(2)


def read_port(value: bytes) -> int:
    """The port of RESPONSE-PORT; old programs append two zero bytes.

    Raises:
        StunError: it is damaged, or 0.

    """
    if len(value) not in (2, 4) or not any(value[:2]):
        raise StunError("RESPONSE-PORT has 2 bytes, which are not zero")
    return int.from_bytes(value[:2])
