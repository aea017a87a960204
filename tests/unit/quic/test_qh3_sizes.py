from __future__ import annotations

import pytest

pytest.importorskip("qh3._hazmat", exc_type=ImportError)

from pt.quic.engine_qh3 import Qh3Engine
from pt.quic.qh3_sizes import Sizes
from tests.contract.quic_world import Network, Peer, World, joined, two_ports


def pair(network: Network) -> tuple[World, Peer, Peer]:
    world = World(network)
    ours, theirs = joined(world, *two_ports(world, Qh3Engine, Qh3Engine))
    return world, ours, theirs


def sizes(peer: Peer) -> Sizes:
    assert isinstance(peer.engine, Qh3Engine)
    return peer.engine._sizes


@pytest.mark.parametrize(("mtu", "size"), [(1500, 1472), (1460, 1452), (1400, 1392), (1200, 1200)])
def test_the_path_is_known_a_round_trip_after_the_handshake(mtu: int, size: int) -> None:
    world, ours, theirs = pair(Network(delay=0.05, mtu=mtu))
    for peer in (ours, theirs):
        assert sizes(peer).careful
    world.run(0.15 if mtu > 1200 else 1.0)
    for peer in (ours, theirs):
        assert not sizes(peer).careful
        assert not sizes(peer).looking
        assert sizes(peer).size == size


def test_the_peers_own_limit_counts() -> None:
    world, ours, theirs = pair(Network())
    world.run(1)
    assert sizes(ours)._conn.peer is not None
    assert sizes(ours)._ceiling == sizes(ours).size == 1472


def test_a_network_that_is_gone_does_not_change_the_size() -> None:
    world, ours, _ = pair(Network(delay=0.01))
    world.run(1)
    stream = ours.open()
    stream.send(bytes(500_000))
    world.poke(ours.port)
    world.network.loss = 1.0
    world.run(3)
    world.network.loss = 0.0
    world.run(5)
    assert sizes(ours).size == 1472
    assert not ours.closed
    assert not sizes(ours).gated


def test_a_black_hole_does() -> None:
    world, ours, theirs = pair(Network(delay=0.01))
    world.run(1)
    world.network.mtu = 1300
    stream = ours.open()
    stream.send(bytes(500_000), fin=True)
    world.poke(ours.port)
    world.run(20, lambda: stream.id in theirs.streams and theirs.streams[stream.id].fin)
    assert sizes(ours).size == 1280
