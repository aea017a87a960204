from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.stun.framing import Deframer
from pt.stun.messages import BINDING, MAX_MESSAGE, Kind, StunError, encode

ONE = encode(Kind.REQUEST, BINDING, bytes(12))
TWO = encode(Kind.SUCCESS, BINDING, bytes(12), [(0x8022, b"somebody")])


@given(st.lists(st.integers(1, 30), max_size=10))
def test_messages_in_any_pieces(sizes):
    data = ONE + TWO + ONE
    deframer = Deframer()
    found = []
    for size in sizes:
        found += deframer.receive_data(data[:size])
        data = data[size:]
    found += deframer.receive_data(data)
    assert found == [ONE, TWO, ONE]


@given(st.binary(min_size=8, max_size=64))
def test_a_stream_of_something_else_ends(data):
    with pytest.raises(StunError):
        Deframer().receive_data(data)


def test_a_message_is_bounded_before_it_is_there():
    head = ONE[:2] + (MAX_MESSAGE).to_bytes(2) + ONE[4:20]
    with pytest.raises(StunError, match="bytes"):
        Deframer().receive_data(head)
