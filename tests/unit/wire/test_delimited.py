from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.wire import uvarint
from pt.wire.delimited import Deframer, DelimitedError


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50))
def test_messages_are_found_however_they_are_split(messages: list[bytes], size: int) -> None:
    stream = b"".join(uvarint.prefix(message) for message in messages)
    deframer = Deframer(200)
    found = []
    for at in range(0, len(stream), size):
        found += deframer.receive_data(stream[at : at + size])
    assert found == messages
    assert deframer.leftover() == b""


def test_what_is_too_long_is_refused_before_it_is_there() -> None:
    with pytest.raises(DelimitedError, match="201 bytes, over 200"):
        Deframer(200).receive_data(uvarint.encode(201))


def test_a_length_that_is_none_is_refused() -> None:
    with pytest.raises(DelimitedError, match="bad length"):
        Deframer(200).receive_data(b"\x80\x00")


def test_a_part_is_left_over() -> None:
    deframer = Deframer(200)
    assert deframer.receive_data(b"\x01a\x05bc") == [b"a"]
    assert deframer.leftover() == b"\x05bc"
    assert deframer.receive_data(b"\x00") == [b""]
