"""The Protocol Buffers wire format, as much of it as libp2p's messages use.

A message is a sequence of fields: varint `number << 3 | wire type`, then the value. Wire types:
0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes; groups (3, 4) are refused. Unknown fields
are skipped by not asking for them, and so is a known field with an unexpected wire type. Of a
field that occurs twice where one is expected, the last counts.

Writing: join what the `put_` functions return, in order of field numbers.
Reading: `Fields(buf)`, then ask by number; an absent field is None. `fields(buf)` is the bare loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from pt.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "MAX_FIELDS",
    "MAX_UINT",
    "VARINT",
    "Fields",
    "ProtobufError",
    "fields",
    "put_bytes",
    "put_fixed64",
    "put_text",
    "put_uint",
]

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

MAX_UINT: Final = 2**64 - 1
MAX_FIELDS: Final = 4096  # a 64 KiB message of empty fields must not become a list without end
_MAX_VARINT_LEN: Final = 10  # 64 bits; unlike multiformats' varints these need not be minimal
_MAX_NUMBER: Final = 2**29 - 1

_Bytes: TypeAlias = bytes  # inside `Fields`, `bytes` is a method


class ProtobufError(RemoteProtocolError):
    """The bytes are not a well-formed protobuf message, or break a bound."""


def put_uint(field: int, value: int) -> bytes:
    """One varint field, 0 ≤ `value` < 2⁶⁴ (also for bool and enum).

    Raises:
        LocalProtocolError: `value` is out of range.

    """
    if not 0 <= value <= MAX_UINT:
        raise LocalProtocolError(f"{value} does not fit protobuf field {field}")
    return _varint(field << 3 | VARINT) + _varint(value)


def put_fixed64(field: int, value: int) -> bytes:
    """One fixed64 field, 0 ≤ `value` < 2⁶⁴.

    Raises:
        LocalProtocolError: `value` is out of range.

    """
    if not 0 <= value <= MAX_UINT:
        raise LocalProtocolError(f"{value} does not fit protobuf field {field}")
    return _varint(field << 3 | FIXED64) + value.to_bytes(8, "little")


def put_bytes(field: int, value: bytes) -> bytes:
    """One length-delimited field: bytes or an embedded message."""
    return _varint(field << 3 | BYTES) + _varint(len(value)) + value


def put_text(field: int, value: str) -> bytes:
    """One string field, UTF-8."""
    return put_bytes(field, value.encode())


def fields(buf: bytes, max_fields: int = MAX_FIELDS) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (number, wire type, value) of each field in order.

    A value of wire type 2 is bytes; the others are unsigned ints (fixed ones little-endian).

    Raises:
        ProtobufError: malformed, or more than `max_fields` fields.

    """
    pos = count = 0
    size = len(buf)
    while pos < size:
        count += 1
        if count > max_fields:
            raise ProtobufError(f"a message has more than {max_fields} fields")
        tag, pos = _read_varint(buf, pos)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_NUMBER:
            raise ProtobufError(f"protobuf field number {number} is out of range")
        if wire_type == VARINT:
            value, pos = _read_varint(buf, pos)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            length, pos = _read_varint(buf, pos)
        elif wire_type == FIXED64:
            length = 8
        elif wire_type == FIXED32:
            length = 4
        else:
            raise ProtobufError(f"protobuf wire type {wire_type} is not supported")
        if length > size - pos:
            raise ProtobufError(f"protobuf field {number} is cut short")
        chunk = buf[pos : pos + length]
        pos += length
        yield number, wire_type, chunk if wire_type == BYTES else int.from_bytes(chunk, "little")


class Fields:
    """A parsed message; values are asked for by field number and expected kind.

    Raises:
        ProtobufError: from the constructor: malformed, or too many fields.

    """

    __slots__ = ("_bytes", "_fixed64", "_uints")

    def __init__(self, buf: bytes, max_fields: int = MAX_FIELDS) -> None:
        self._uints: dict[int, list[int]] = {}
        self._bytes: dict[int, list[bytes]] = {}
        self._fixed64: dict[int, int] = {}
        for number, wire_type, value in fields(buf, max_fields):
            if isinstance(value, bytes):
                self._bytes.setdefault(number, []).append(value)
            elif wire_type == VARINT:
                self._uints.setdefault(number, []).append(value)
            elif wire_type == FIXED64:
                self._fixed64[number] = value

    def uint(self, field: int) -> int | None:
        """The last varint under `field`."""
        found = self._uints.get(field)
        return found[-1] if found else None

    def fixed64(self, field: int) -> int | None:
        """The last fixed64 under `field`."""
        return self._fixed64.get(field)

    def bytes(self, field: int) -> _Bytes | None:
        """The last length-delimited value under `field`."""
        found = self._bytes.get(field)
        return found[-1] if found else None

    def text(self, field: int) -> str | None:
        """The last string under `field`.

        Raises:
            ProtobufError: not UTF-8.

        """
        found = self.bytes(field)
        return None if found is None else _text(field, found)

    def all_uints(self, field: int) -> list[int]:
        """Every varint under `field`, whether written one by one or packed."""
        values = list(self._uints.get(field, ()))
        for packed in self._bytes.get(field, ()):
            pos = 0
            while pos < len(packed):
                value, pos = _read_varint(packed, pos)
                values.append(value)
        return values

    def all_bytes(self, field: int) -> list[_Bytes]:
        """Every length-delimited value under `field`, in order."""
        return list(self._bytes.get(field, ()))

    def all_texts(self, field: int) -> list[str]:
        """Every string under `field`, in order.

        Raises:
            ProtobufError: one is not UTF-8.

        """
        return [_text(field, value) for value in self._bytes.get(field, ())]


def _text(field: int, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"protobuf field {field} is not UTF-8") from error


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(buf: bytes, pos: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_LEN):
        if pos >= len(buf):
            raise ProtobufError("a protobuf varint is cut short")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value > MAX_UINT:
                raise ProtobufError("a protobuf varint exceeds 64 bits")
            return value, pos
    raise ProtobufError("a protobuf varint is longer than 10 bytes")
