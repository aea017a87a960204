"""Varints: the multiformats examples, the bounds, and every refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.wire import uvarint

CASES = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (255, "ff01"),
    (300, "ac02"),
    (421, "a503"),
    (16384, "808001"),
    (uvarint.MAX_VALUE, "ffffffffffffffff7f"),
]


@pytest.mark.parametrize(("number", "wire"), CASES)
def test_examples(number, wire):
    raw = bytes.fromhex(wire)
    assert uvarint.encode(number) == raw
    assert uvarint.decode(raw) == (number, len(raw))


@pytest.mark.parametrize(
    "wire",
    ["8000", "808000", "ff00", "ffffffffffffffffff", "ffffffffffffffffff01", "80" * 20],
)
def test_not_minimal_or_too_long(wire):
    with pytest.raises(uvarint.UvarintError) as caught:
        uvarint.decode(bytes.fromhex(wire))
    assert not isinstance(caught.value, uvarint.Incomplete)


@pytest.mark.parametrize("wire", ["", "80", "ffff", "ff" * 8])
def test_incomplete(wire):
    with pytest.raises(uvarint.Incomplete):
        uvarint.decode(bytes.fromhex(wire))


@pytest.mark.parametrize("number", [-1, uvarint.MAX_VALUE + 1])
def test_out_of_range(number):
    with pytest.raises(LocalProtocolError):
        uvarint.encode(number)


@given(st.integers(0, uvarint.MAX_VALUE), st.binary(max_size=4), st.binary(max_size=4))
def test_round_trip_inside_a_buffer(number, before, after):
    wire = uvarint.encode(number)
    for buf in (bytes, bytearray, memoryview):
        found = uvarint.decode(buf(before + wire + after), len(before))
        assert found == (number, len(before) + len(wire))


@given(st.binary(max_size=12))
def test_whatever_decodes_encodes_to_the_same_bytes(raw):
    try:
        number, end = uvarint.decode(raw)
    except uvarint.UvarintError:
        return
    assert uvarint.encode(number) == raw[:end]


@given(st.integers(0, uvarint.MAX_VALUE))
def test_every_proper_prefix_is_incomplete(number):
    wire = uvarint.encode(number)
    for cut in range(len(wire)):
        with pytest.raises(uvarint.Incomplete):
            uvarint.decode(wire[:cut])


def test_prefix():
    assert uvarint.prefix(b"") == b"\0"
    assert uvarint.prefix(b"x" * 200) == b"\xc8\x01" + b"x" * 200
