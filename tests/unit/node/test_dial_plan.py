from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.node.dial_plan import LAN_STAGGER, MAX_ADDRESSES, PUBLIC_STAGGER, QUIC_RELAY_AFTER, plan
from pt.wire.multiaddr import Multiaddr

PEER = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def planned(*texts: str) -> list[tuple[float, str]]:
    found = plan(Multiaddr.parse(text) for text in texts)
    return [(attempt.delay, str(attempt.address)) for attempt in found]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["/ip4/127.0.0.1/tcp/1"], [(0.0, "/ip4/127.0.0.1/tcp/1")]),
        (["/ip4/192.168.0.1/tcp/1" + PEER], [(0.0, "/ip4/192.168.0.1/tcp/1")]),
        # near ones first, whatever the order; families in turn, IPv6 first
        (
            [
                "/ip4/8.8.8.8/tcp/1",
                "/ip4/10.0.0.1/tcp/1",
                "/ip6/2600::1/tcp/1",
                "/ip6/fd00::1/tcp/1",
            ],
            [
                (0.0, "/ip6/fd00::1/tcp/1"),
                (LAN_STAGGER, "/ip4/10.0.0.1/tcp/1"),
                (2 * LAN_STAGGER, "/ip6/2600::1/tcp/1"),
                (2 * LAN_STAGGER + PUBLIC_STAGGER, "/ip4/8.8.8.8/tcp/1"),
            ],
        ),
        (
            ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1", "/ip6/fd00::1/tcp/1"],
            [
                (0.0, "/ip6/fd00::1/tcp/1"),
                (0.05, "/ip4/10.0.0.1/tcp/1"),
                (0.1, "/ip4/10.0.0.2/tcp/1"),
            ],
        ),
        # what cannot be dialed is left out
        (["/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1/ws", "/ip4/10.0.0.1/tcp/0"], []),
        (["/ip4/10.0.0.1/tcp/1" + PEER + "/p2p-circuit"], []),
        # the same one twice
        (["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1" + PEER], [(0.0, "/ip4/10.0.0.1/tcp/1")]),
    ],
)
def test_plan(texts: list[str], expected: list[tuple[float, str]]) -> None:
    assert planned(*texts) == expected


HOSTS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.lists(st.tuples(HOSTS, st.integers(0, 65535)), max_size=60))
def test_bounded_ordered_and_without_repetition(points: list[tuple[str, int]]) -> None:
    addresses = [Multiaddr.tcp(host, port) for host, port in points]
    attempts = plan(addresses)
    delays = [attempt.delay for attempt in attempts]
    chosen = [attempt.address for attempt in attempts]
    assert delays == sorted(delays)
    assert len(set(chosen)) == len(chosen) <= MAX_ADDRESSES
    assert set(chosen) <= set(addresses)
    assert not attempts or delays[0] == 0.0
    assert len(chosen) == min(MAX_ADDRESSES, len({a for a in addresses if a.tcp_port}))


RELAY = f"/ip4/11.0.0.9/tcp/4001{PEER}/p2p-circuit"


def test_relays_come_last_and_soon() -> None:
    direct = [f"/ip4/11.0.0.{n}/tcp/1" for n in range(1, 7)]
    attempts = plan(map(Multiaddr.parse, [RELAY, *direct]), frozenset({"circuit"}))
    by_address = {str(attempt.address): attempt.delay for attempt in attempts}
    assert by_address[RELAY] == 0.4
    assert by_address[direct[0]] == 0.0
    assert [attempt.delay for attempt in attempts] == sorted(by_address.values())


def test_a_relay_alone_is_tried_at_once_and_others_a_moment_later() -> None:
    other = RELAY.replace("11.0.0.9", "11.0.0.8")
    attempts = plan(map(Multiaddr.parse, [RELAY, other]), frozenset({"circuit"}))
    assert [(str(a.address), a.delay) for a in attempts] == [(RELAY, 0.0), (other, 0.25)]


def test_how_long_direct_addresses_have_is_the_callers_choice() -> None:
    given = map(Multiaddr.parse, ["/ip4/11.0.0.1/tcp/1", RELAY])
    attempts = plan(given, frozenset({"circuit"}), 0.0)
    assert [attempt.delay for attempt in attempts] == [0.0, 0.0]


def test_transports_nobody_can_dial_are_left_out() -> None:
    given = ["/ip4/11.0.0.1/tcp/80/ws", RELAY, "/ip4/11.0.0.1/tcp/1"]
    assert [str(a.address) for a in plan(map(Multiaddr.parse, given))] == [given[2]]
    taken = plan(map(Multiaddr.parse, given), frozenset({"ws"}))
    assert {str(a.address) for a in taken} == {given[0], given[2]}


def test_relays_are_reached_over_tcp_first() -> None:
    """Two relays with an address of each kind: only circuits of those on TCP are raw."""
    over_quic = [f"/ip4/11.0.0.{n}/udp/4001/quic-v1{PEER}/p2p-circuit" for n in (8, 9)]
    over_tcp = [f"/ip4/11.0.0.{n}/tcp/4001{PEER}/p2p-circuit" for n in (8, 9)]
    given = [over_quic[0], over_tcp[0], over_quic[1], over_tcp[1]]
    attempts = plan(map(Multiaddr.parse, given), frozenset({"circuit", "quic-v1"}), 0.0)
    assert [str(attempt.address) for attempt in attempts] == over_tcp + over_quic
    late = QUIC_RELAY_AFTER + PUBLIC_STAGGER
    assert [each.delay for each in attempts] == [0.0, PUBLIC_STAGGER, QUIC_RELAY_AFTER, late]
    alone = plan(map(Multiaddr.parse, over_quic), frozenset({"circuit", "quic-v1"}), 0.0)
    assert [each.delay for each in alone] == [0.0, PUBLIC_STAGGER]
