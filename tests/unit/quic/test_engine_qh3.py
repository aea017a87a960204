from __future__ import annotations

import pytest

pytest.importorskip("qh3._hazmat", exc_type=ImportError)

from pt.quic.engine_qh3 import EARLY_LIMIT, Qh3Engine
from tests.contract.quic_world import CLIENT, SERVER, Network, Peer, Port, World, joined, two_ports


def ports(world: World, **options: object) -> tuple[Port, Port]:
    return two_ports(world, Qh3Engine, Qh3Engine, **options)


def engine(peer: Peer) -> Qh3Engine:
    assert isinstance(peer.engine, Qh3Engine)
    return peer.engine


def test_an_endless_handshake_is_not_listened_to() -> None:
    world = World()
    client, server = ports(world)
    ours = client.connect(SERVER)
    (train,) = ours.engine.trains(world.now)
    first = train.segments[0]
    server.receive(first, len(first), CLIENT)
    made = engine(server.peers[0])
    for _ in range(EARLY_LIMIT // len(first) + 10):
        made.receive(first, len(first), CLIENT, world.now)
    assert made._early < 0
    world.run(60, lambda: not server.peers)


def test_datagrams_from_elsewhere_do_not_disturb_a_handshake() -> None:
    world = World()
    client, server = ports(world)
    ours = client.connect(SERVER)
    (train,) = ours.engine.trains(world.now)
    first = train.segments[0]
    server.receive(first, len(first), CLIENT)
    made = server.peers[0].engine
    made.receive(first, len(first), ("11.9.9.9", 9), world.now)
    assert made.address == CLIENT
    assert all(t.address == CLIENT for t in made.trains(world.now))


def test_a_client_listens_to_its_server_alone() -> None:
    world = World()
    ours, theirs = joined(world, *ports(world))
    theirs.open().send(b"hello")
    (train, *_) = theirs.engine.trains(world.now)
    ours.engine.receive(train.segments[0], len(train.segments[0]), ("11.9.9.9", 9), world.now)
    world.poke(ours.port)
    world.settle()
    assert not ours.streams


def test_an_old_packet_from_elsewhere_is_no_move() -> None:
    world = World(Network(delay=0.01))
    ours, theirs = joined(world, *ports(world))
    world.run(1)
    late = engine(ours)._conn.seal(b"\x01")  # sent first, arrives last
    assert late is not None
    ours.open().send(b"x" * 3000)
    world.poke(ours.port)
    world.run(0.1)
    theirs.engine.receive(late, len(late), ("11.9.9.9", 9), world.now)
    assert all(t.address == CLIENT for t in theirs.engine.trains(world.now))
    assert engine(theirs)._moves.address == CLIENT


def test_a_duplicate_from_elsewhere_is_no_move() -> None:
    world = World()
    ours, theirs = joined(world, *ports(world))
    world.run(1)
    packet = engine(ours)._conn.seal(b"\x01")
    assert packet is not None
    theirs.engine.receive(packet, len(packet), CLIENT, world.now)
    theirs.engine.receive(packet, len(packet), ("11.9.9.9", 9), world.now)
    assert engine(theirs)._moves.address == CLIENT


def test_surveys_end() -> None:
    world = World()
    ours, theirs = joined(world, *ports(world))
    world.run(1)
    for peer in (ours, theirs):
        assert engine(peer)._sizes.size == 1472
        assert not engine(peer)._looking()
        assert engine(peer)._sizes._opened < 20


def test_timeouts_that_can_do_nothing_become_rare() -> None:
    world = World()
    ours, _ = joined(world, *ports(world))
    world.run(1)
    made = engine(ours)
    timer = made._conn.core.get_timer()
    assert timer is not None
    now = timer[1] + 1  # long overdue, and nobody asks for trains
    times = []
    for _ in range(6):
        made.handle_timeout(now)
        timeout = made.next_timeout()
        assert timeout is None or timeout > now
        if timeout is None:
            break
        times.append(timeout - now)
        now = timeout
    assert times == sorted(times)
