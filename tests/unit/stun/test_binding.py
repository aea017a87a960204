from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.stun.attributes import (
    MAPPED_ADDRESS,
    OTHER_ADDRESS,
    RESPONSE_ORIGIN,
    SOFTWARE,
    XOR_MAPPED_ADDRESS,
    address,
    xor_address,
)
from pt.stun.binding import Binding, read_binding
from pt.stun.messages import BINDING, Kind, Message
from pt.stun.transactions import Outcome

ID = bytes(range(12))
SERVER = ("11.0.0.1", 3478)
US = ("11.0.0.9", 40000)


def read(*attributes, source=SERVER) -> Binding | None:
    message = Message(Kind.SUCCESS, BINDING, ID, attributes)
    return read_binding(Outcome(message, source, None, 0.25, 2))


def test_all_there_is():
    found = read(
        xor_address(XOR_MAPPED_ADDRESS, US, ID),
        address(MAPPED_ADDRESS, US),
        address(RESPONSE_ORIGIN, SERVER),
        address(OTHER_ADDRESS, ("11.0.0.2", 3479)),
        (SOFTWARE, b"some server"),
    )
    assert found == Binding(
        mapped=US,
        source=SERVER,
        origin=SERVER,
        other=("11.0.0.2", 3479),
        software="some server",
        rtt=0.25,
        sends=2,
    )


def test_old_servers():
    found = read(address(MAPPED_ADDRESS, US))
    assert found is not None
    assert found.mapped == US


def test_a_helpful_router_that_rewrites_addresses():
    found = read(
        xor_address(XOR_MAPPED_ADDRESS, US, ID), address(MAPPED_ADDRESS, ("192.168.1.2", 40000))
    )
    assert found is not None
    assert found.mapped == US
    assert found.rewritten


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        [(XOR_MAPPED_ADDRESS, b"")],
        [address(MAPPED_ADDRESS, (US[0], 0))],
        [address(MAPPED_ADDRESS, ("2001:db8::1", 5))],
        [address(MAPPED_ADDRESS, US), (OTHER_ADDRESS, b"x")],
    ],
)
def test_answers_without_sense(attributes):
    assert read(*attributes) is None


def test_an_other_address_of_another_family_is_none():
    found = read(address(MAPPED_ADDRESS, US), address(OTHER_ADDRESS, ("2001:db8::1", 5)))
    assert found is not None
    assert found.other is None


def test_silence_and_errors():
    assert read_binding(Outcome()) is None
    assert read_binding(Outcome(None, SERVER, (420, "x"))) is None


@given(
    st.lists(st.tuples(st.sampled_from([1, 0x20, 0x802B, 0x802C, 0x8022]), st.binary(max_size=24)))
)
def test_whatever_a_server_sends(attributes):
    found = read(*attributes)
    assert found is None or 0 < found.mapped[1] < 65536
