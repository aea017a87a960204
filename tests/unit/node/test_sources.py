"""Who counts as one: a host has all addresses of its IPv6 network."""

from __future__ import annotations

import asyncio

import pytest

from pt.node.node import NodeLimits
from pt.node.route import Route, source_of
from pt.relay.registry import places
from pt.wire.multiaddr import Multiaddr
from tests.sim.world import tcp_pair
from tests.unit.node.relays_lab import node
from tests.unit.tunnel.loopback import until


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("relay.example", "relay.example"),
    ],
)
def test_what_a_host_counts_as(host: str, source: str) -> None:
    assert source_of(host) == source
    assert places(source) == places(host)  # what a relay counts by stays the same


def test_routes_count_by_host() -> None:
    one, two = (Multiaddr.tcp(f"2001:db8::{n}", 4001) for n in (1, 2))
    assert Route(one).source == Route(two).source


def test_one_ipv6_host_does_not_take_all_places() -> None:
    """By the single address it had as many places as it liked."""

    async def main() -> None:
        here = node(limits=NodeLimits(handshakes_per_host=3))
        await here.start()
        refused = 0
        ends = []
        for n in range(10):
            ours, theirs = tcp_pair()
            here._accepted(theirs, f"2001:db8::{n:x}")
            refused += theirs.fileno() < 0
            ends.append(ours)
        assert refused == 7
        assert sum(here._handshakes.values()) == 3
        for sock in ends:
            sock.close()
        await until(lambda: not here._handshakes)
        await here.close()

    asyncio.run(asyncio.wait_for(main(), 10))
