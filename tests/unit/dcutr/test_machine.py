from __future__ import annotations

import pytest

from pt.dcutr import Dial, HolePunch, HolePunchError, Initiator, Kind, Responder, Role
from pt.dcutr.messages import MAX_MESSAGE
from pt.errors import LocalProtocolError
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr

A = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
B = Multiaddr.parse("/ip4/11.0.2.2/udp/4001/quic-v1")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")


def test_both_dial_at_the_same_time() -> None:
    b = Initiator([B, PRIVATE], attempt=1, now=10.0)
    a = Responder([A])
    assert a.receive_data(b.data_to_send(), 10.05) is None
    server = b.receive_data(a.data_to_send(), 10.1)
    client = a.receive_data(b.data_to_send(), 10.15)
    assert server == Dial(pytest.approx(10.15), (A,), Role.SERVER, pytest.approx(0.1))
    assert client == Dial(10.15, (B,), Role.CLIENT, None)


def test_byte_by_byte() -> None:
    b = Initiator([B], attempt=1, now=0.0)
    a = Responder([A])
    for byte in b.data_to_send():
        assert a.receive_data(bytes([byte]), 0.05) is None
    dials = [b.receive_data(bytes([byte]), 0.1) for byte in a.data_to_send()]
    assert [dial is not None for dial in dials[-2:]] == [False, True]


def test_the_third_attempt_is_for_peers_with_the_roles_the_other_way_round() -> None:
    roles = []
    for attempt in (1, 2, 3):
        b = Initiator([B], attempt=attempt, now=0.0)
        dial = b.receive_data(HolePunch(Kind.CONNECT, (A,)).encode(), 0.1)
        assert dial is not None
        roles.append(dial.role)
    assert roles == [Role.SERVER, Role.SERVER, Role.CLIENT]


@pytest.mark.parametrize(
    "make", [lambda: Initiator([PRIVATE], attempt=1, now=0), lambda: Responder([])]
)
def test_without_a_public_address_there_is_no_use(make) -> None:
    with pytest.raises(LocalProtocolError, match="no public address"):
        make()


CONNECT = HolePunch(Kind.CONNECT, (A,)).encode()
SYNC = HolePunch(Kind.SYNC).encode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (SYNC, "SYNC before CONNECT"),
        (uvarint.encode(MAX_MESSAGE + 1), "over 4096"),
        (b"\x02\x08\x01", "type 1"),
    ],
)
def test_a_peer_that_breaks_the_protocol(data: bytes, error: str) -> None:
    with pytest.raises(HolePunchError, match=error):
        Initiator([B], attempt=1, now=0.0).receive_data(data, 0.1)
    with pytest.raises(HolePunchError, match=error):
        Responder([B]).receive_data(data, 0.1)


@pytest.mark.parametrize("told", [(), (PRIVATE,)])
def test_a_peer_without_a_public_address_may_still_come(told: tuple[Multiaddr, ...]) -> None:
    connect = HolePunch(Kind.CONNECT, told).encode()
    b = Initiator([B], attempt=1, now=0.0)
    b.data_to_send()
    assert b.receive_data(connect, 0.1) == Dial(pytest.approx(0.15), (), Role.SERVER, 0.1)
    assert b.data_to_send() == SYNC
    a = Responder([A])
    assert a.receive_data(connect + SYNC, 0.1) == Dial(0.1, (), Role.CLIENT, None)
    assert a.data_to_send() == CONNECT


def test_a_responder_can_be_the_server() -> None:
    dial = Responder([B], role=Role.SERVER).receive_data(CONNECT + SYNC, 0.1)
    assert dial == Dial(0.1, (A,), Role.SERVER, None)


@pytest.mark.parametrize("told", [(), (A,)])
def test_connect_twice(told: tuple[Multiaddr, ...]) -> None:
    connect = HolePunch(Kind.CONNECT, told).encode()
    with pytest.raises(HolePunchError, match="twice"):
        Responder([B]).receive_data(connect + connect, 0.1)


def test_talk_after_the_answer() -> None:
    b = Initiator([B], attempt=1, now=0.0)
    assert b.receive_data(CONNECT, 0.1) is not None
    with pytest.raises(HolePunchError, match="goes on talking"):
        b.receive_data(SYNC, 0.2)


def test_an_answer_that_is_too_late() -> None:
    with pytest.raises(HolePunchError, match="too late"):
        Initiator([B], attempt=1, now=0.0).receive_data(CONNECT, 11.0)
