from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.dcutr.messages import MAX_ADDRESSES, HolePunch, HolePunchError, Kind, punchable
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr
from tests.vectors import load

GOLDEN = {name: bytes.fromhex(text) for name, text in load("libp2p/messages.json").items()}
TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
CONNECT = HolePunch(Kind.CONNECT, (TCP, QUIC))


@pytest.mark.parametrize(
    ("name", "message"), [("dcutr-CONNECT", CONNECT), ("dcutr-SYNC", HolePunch(Kind.SYNC))]
)
def test_golden_messages(name: str, message: HolePunch) -> None:
    assert message.encode() == uvarint.prefix(GOLDEN[name])
    assert HolePunch.decode(GOLDEN[name]) == message


def test_an_address_that_cannot_be_read_costs_the_others_nothing() -> None:
    body = protobuf.put_uint(1, 100) + protobuf.put_bytes(2, b"\xff") + CONNECT.encode()[3:]
    assert HolePunch.decode(body).addresses == (TCP, QUIC)


@pytest.mark.parametrize("body", [b"", b"\x08", protobuf.put_uint(1, 1), protobuf.put_uint(1, 200)])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(HolePunchError):
        HolePunch.decode(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    with contextlib.suppress(HolePunchError):
        HolePunch.decode(body)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.168.1.2/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/100.64.1.1/udp/4001/quic-v1",
        "/ip6/fe80::1/tcp/4001",
        "/dns4/example.com/tcp/4001",
        "/ip4/11.0.1.2/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
        "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    ],
)
def test_addresses_that_are_not_dialed(text: str) -> None:
    assert punchable([Multiaddr.parse(text)]) == ()


def test_addresses_are_told_once_without_peer_ids_and_not_too_many() -> None:
    peer = Multiaddr.parse(
        "/ip4/11.0.1.2/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    )
    assert punchable([peer, TCP]) == (TCP,)
    many = [Multiaddr.tcp("11.0.1.2", port) for port in range(1, 50)]
    assert len(punchable(many)) == MAX_ADDRESSES
