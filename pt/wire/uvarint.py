"""Unsigned LEB128 as libp2p uses it (multiformats unsigned-varint): minimal, at most 9 bytes.

Seven bits a byte, least significant group first; the high bit says that another byte follows.
"""

from __future__ import annotations

from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["MAX_LEN", "MAX_VALUE", "Incomplete", "UvarintError", "decode", "encode", "prefix"]

MAX_LEN: Final = 9  # the multiformats specification's bound: 63 bits
MAX_VALUE: Final = 2 ** (7 * MAX_LEN) - 1

_ONE_BYTE: Final = tuple(bytes((n,)) for n in range(0x80))  # most values on our wires are below 128


class UvarintError(RemoteProtocolError):
    """The bytes are not a minimal unsigned varint of at most 9 bytes."""


class Incomplete(UvarintError):  # noqa: N818  # a state more than an error
    """The buffer ends inside the varint: more bytes may complete it."""


def encode(n: int) -> bytes:
    """Encode 0 ≤ `n` ≤ `MAX_VALUE`.

    Raises:
        LocalProtocolError: `n` is out of range.

    """
    if 0 <= n < 0x80:
        return _ONE_BYTE[n]
    if not 0 <= n <= MAX_VALUE:
        raise LocalProtocolError(f"{n} does not fit an unsigned varint of {MAX_LEN} bytes")
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def decode(buf: bytes | bytearray | memoryview, pos: int = 0) -> tuple[int, int]:
    """Decode the varint that starts at `pos`; return its value and the position after it.

    Raises:
        Incomplete: the buffer ends first.
        UvarintError: longer than 9 bytes, or not minimal.

    """
    value = 0
    size = len(buf)
    for index in range(MAX_LEN):
        at = pos + index
        if at >= size:
            raise Incomplete("a varint is cut short")
        byte = buf[at]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise UvarintError("a varint is not minimal")
            return value, at + 1
    raise UvarintError(f"a varint is longer than {MAX_LEN} bytes")


def prefix(body: bytes) -> bytes:
    """Put the length of `body` before it, as every delimited libp2p message has it."""
    return encode(len(body)) + body
