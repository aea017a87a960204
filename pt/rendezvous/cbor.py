"""DAG-CBOR, as much of it as the data of an IPNS record is: one flat map.

Keys are text. Values are byte strings, texts, integers 0 ≤ n < 2⁶³ or booleans. Every map has one
encoding: definite lengths, shortest integers, shorter keys first and equally long ones by their
bytes; all others are refused. Source: ipld.io/specs/codecs/dag-cbor, RFC 8949 section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from pt.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["MAX_ENTRIES", "MAX_INT", "CborError", "Value", "decode_map", "encode_map"]

MAX_ENTRIES: Final = 16
MAX_INT: Final = (1 << 63) - 1
"""Readers in Go take integers as int64."""

_UINT: Final = 0
_BYTES: Final = 2
_TEXT: Final = 3
_MAP: Final = 5
_FALSE: Final = 0xF4
_TRUE: Final = 0xF5
_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}

Value: TypeAlias = "bytes | str | int | bool"


class CborError(RemoteProtocolError):
    """The bytes are not a map of this kind in its one encoding."""


def encode_map(entries: Mapping[str, Value]) -> bytes:
    """Encode a map, in whatever order its entries are.

    Raises:
        LocalProtocolError: too many entries, or an integer out of range.

    """
    if len(entries) > MAX_ENTRIES:
        raise LocalProtocolError(f"a map of more than {MAX_ENTRIES} entries")
    keys = sorted((key.encode() for key in entries), key=_order)
    out = [_head(_MAP, len(entries))]
    for key in keys:
        out += (_head(_TEXT, len(key)), key, _encode(entries[key.decode()]))
    return b"".join(out)


def decode_map(raw: bytes) -> dict[str, Value]:
    """Decode a map that fills `raw`.

    Raises:
        CborError: malformed, not canonical, another kind of value, or too many entries.

    """
    major, count, pos = _read_head(raw, 0)
    if major != _MAP or count > MAX_ENTRIES:
        raise CborError(f"not a CBOR map of at most {MAX_ENTRIES} entries")
    entries: dict[str, Value] = {}
    last: tuple[int, bytes] = (-1, b"")
    for _ in range(count):
        major, size, pos = _read_head(raw, pos)
        if major != _TEXT:
            raise CborError("a CBOR map with a key that is no text")
        key, pos = _take(raw, pos, size)
        if _order(key) <= last:
            raise CborError("a CBOR map with a key that repeats or is out of order")
        last = _order(key)
        entries[_text(key)], pos = _decode(raw, pos)
    if pos != len(raw):
        raise CborError("bytes after the end of a CBOR map")
    return entries


def _order(key: bytes) -> tuple[int, bytes]:
    return len(key), key


def _encode(value: Value) -> bytes:
    if isinstance(value, bool):
        return bytes((_TRUE if value else _FALSE,))
    if isinstance(value, int):
        if not 0 <= value <= MAX_INT:
            raise LocalProtocolError(f"{value} does not fit a CBOR integer that Go reads")
        return _head(_UINT, value)
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    return _head(_BYTES, len(value)) + value


def _decode(raw: bytes, pos: int) -> tuple[Value, int]:
    if raw[pos : pos + 1] == bytes((_FALSE,)):
        return False, pos + 1
    if raw[pos : pos + 1] == bytes((_TRUE,)):
        return True, pos + 1
    major, argument, pos = _read_head(raw, pos)
    if major == _UINT:
        if argument > MAX_INT:
            raise CborError("a CBOR integer of more than 63 bits")
        return argument, pos
    if major not in {_BYTES, _TEXT}:
        raise CborError(f"a CBOR value of major type {major}")
    chunk, pos = _take(raw, pos, argument)
    return (chunk if major == _BYTES else _text(chunk)), pos


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for info, size in _SIZES.items():
        if argument < 1 << 8 * size:
            return bytes((major << 5 | info,)) + argument.to_bytes(size, "big")
    raise LocalProtocolError("a CBOR length of more than 64 bits")


def _read_head(raw: bytes, pos: int) -> tuple[int, int, int]:
    """The major type, the argument, and the position after them."""
    first, pos = _take(raw, pos, 1)
    major, info = first[0] >> 5, first[0] & 31
    if info < 24:
        return major, info, pos
    if info not in _SIZES:
        raise CborError("a CBOR item of indefinite or reserved length")
    chunk, pos = _take(raw, pos, _SIZES[info])
    argument = int.from_bytes(chunk, "big")
    if argument < (24 if info == 24 else 1 << 8 * _SIZES[info - 1]):
        raise CborError("a CBOR length that is not in its shortest form")
    return major, argument, pos


def _take(raw: bytes, pos: int, size: int) -> tuple[bytes, int]:
    if size > len(raw) - pos:
        raise CborError("a CBOR map is cut short")
    return raw[pos : pos + size], pos + size


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CborError("a CBOR text that is not UTF-8") from error
