from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.rendezvous.cbor import MAX_INT, CborError, Value, decode_map, encode_map

values = (
    st.binary(max_size=300)
    | st.text(max_size=60)
    | st.integers(0, MAX_INT)
    | st.booleans()
    | st.sampled_from([23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
)


def test_golden() -> None:
    """By hand, after RFC 8949 appendix A: shorter keys first, then bytewise."""
    got = encode_map({"Value": b"\1\2", "_pt": True, "TTL": 24, "b": "é", "z": 1 << 32})
    assert got.hex() == (
        "a5" "6162" "62c3a9" "617a" "1b0000000100000000" "6354544c" "1818" "635f7074" "f5"
        "6556616c7565" "420102"
    )  # fmt: skip


@given(st.dictionaries(st.text(max_size=30), values, max_size=16))
def test_round_trip(entries: dict[str, Value]) -> None:
    raw = encode_map(entries)
    got = decode_map(raw)
    assert got == entries
    assert {key: type(value) for key, value in got.items()} == {
        key: type(value) for key, value in entries.items()
    }
    for end in range(len(raw)):
        with pytest.raises(CborError):
            decode_map(raw[:end])


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: b"\xa2\x61a" + tail))
def test_what_is_accepted_has_one_encoding(raw: bytes) -> None:
    with contextlib.suppress(CborError):
        assert encode_map(decode_map(raw)) == raw


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "80",  # a list
        "a0 00",  # bytes left over
        "bf ff",  # indefinite
        "a1 01 01",  # a number for a key
        "a1 6161 20",  # -1
        "a1 6161 80",
        "a1 6161 a0",
        "a1 6161 f6",  # null
        "a1 6161 f90000",  # a float
        "a1 6161 c000",  # a tag
        "a1 6161 1817",  # 23 in two bytes
        "a1 6161 1900ff",
        "a1 6161 1a0000ffff",
        "a1 6161 1b00000000ffffffff",
        "a1 6161 1b8000000000000000",  # 2^63
        "a1 6161 5f41004100ff",  # a byte string in pieces
        "a1 6161 5bffffffffffffffff",  # one without end
        "a1 61ff 01",  # not UTF-8
        "a2 6161 01 6161 02",  # twice
        "a2 6162 01 6161 02",  # out of order
        "a2 626161 01 6161 02",
        "b1" + "".join(f"61{n:02x}00" for n in range(0x41, 0x52)),  # 17 entries
    ],
)  # fmt: skip
def test_refused(raw: str) -> None:
    with pytest.raises(CborError):
        decode_map(bytes.fromhex(raw))


def test_encoding_refuses() -> None:
    for entries in ({"a": -1}, {"a": 1 << 63}, {str(n): n for n in range(17)}):
        with pytest.raises(LocalProtocolError):
            encode_map(entries)
