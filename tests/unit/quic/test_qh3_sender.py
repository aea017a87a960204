from __future__ import annotations

import pytest

pytest.importorskip("qh3._hazmat", exc_type=ImportError)

from pt.quic.engine_qh3 import Qh3Engine
from pt.quic.limits import Limits
from pt.quic.qh3_sender import QUANTUM, SHORT, Sender
from pt.quic.trains import MAX_TRAIN
from tests.contract.quic_world import Network, Peer, World, joined, two_ports


def pair(network: Network | None = None, **options: object) -> tuple[World, Peer, Peer]:
    world = World(network)
    ours, theirs = joined(world, *two_ports(world, Qh3Engine, Qh3Engine, **options))
    return world, ours, theirs


def sender(peer: Peer) -> Sender:
    assert isinstance(peer.engine, Qh3Engine)
    return peer.engine._sender


def in_core(peer: Peer) -> dict[int, int]:
    assert isinstance(peer.engine, Qh3Engine)
    core = peer.engine._conn.core
    sizes = {number: core.get_send_buffer_size(number) for number in peer.streams}
    return {number: size for number, size in sizes.items() if size}


def test_the_core_has_bytes_of_one_stream_only() -> None:
    world, ours, _ = pair(Network(delay=0.05))
    world.run(1)
    for _ in range(10):
        ours.open().send(bytes(400_000))
    world.poke(ours.port)
    for _ in range(50):
        world.run(0.01)
        assert len(in_core(ours)) <= 1
        assert sum(in_core(ours).values()) <= QUANTUM
    assert sender(ours).unsent(0) == in_core(ours).get(0, 0) + sender(ours).outbox.size(0)


def test_bulk_leaves_in_full_trains() -> None:
    world, ours, theirs = pair(Network(delay=0.001))
    theirs.keep = False
    stream = ours.open()
    stream.send(bytes(8_000_000))
    world.poke(ours.port)
    world.run(20, lambda: stream.written == 8_000_000 and ours.engine.backlog == 0)
    world.run(1)
    stream.send(bytes(2 * QUANTUM))
    trains = [len(train.segments) for train in ours.engine.trains(world.now)]
    full = trains[0]
    assert full * 1400 > 0.9 * MAX_TRAIN
    assert trains[:8] == [full] * 8
    assert len(trains) <= 10


def test_short_messages_of_many_streams_share_packets() -> None:
    world, ours, theirs = pair()
    world.run(1)
    for _ in range(100):
        ours.open().send(b"ten bytes.")
    packets = sum(len(train.segments) for train in ours.engine.trains(world.now))
    assert packets <= 100 * 20 // SHORT + 5
    ours.streams[0].send(b"more")
    world.poke(ours.port)
    world.run(1)


def test_until_the_path_is_known_frames_are_small() -> None:
    world, ours, theirs = pair(Network(delay=0.05, mtu=1280))
    stream = ours.open()
    stream.send(bytes(300_000), fin=True)
    world.poke(ours.port)
    world.settle()
    assert sum(in_core(ours).values()) <= SHORT
    world.run(5, lambda: stream.id in theirs.streams and theirs.streams[stream.id].fin)
    assert ours.engine.stats().datagram_size == 1280
    assert not ours.closed


def test_a_stream_whose_window_is_used_up_holds_nobody_up() -> None:
    world, ours, theirs = pair(limits=Limits(stream_window=50_000))
    world.run(1)
    theirs.on_opened = lambda stream: setattr(stream, "reading", stream.id != 0)
    for _ in range(2):
        ours.open().send(bytes(200_000), fin=True)
    world.poke(ours.port)
    world.run(2, lambda: theirs.streams[4].fin if 4 in theirs.streams else False)
    assert theirs.streams[0].unconsumed == 50_000
    assert in_core(ours) == {}


def test_a_reset_drops_what_waits() -> None:
    world, ours, theirs = pair()
    world.run(1)
    stream = ours.open()
    stream.send(bytes(500_000))
    ours.engine.reset(stream.id, 7)
    assert sender(ours).unsent(stream.id) == 0
    world.poke(ours.port)
    world.run(1, lambda: bool(theirs.streams) and theirs.streams[0].reset_code == 7)


def test_both_sides_fill_their_windows_and_wait_for_nobody() -> None:
    world, ours, theirs = pair(Network(delay=0.02, rate=5e6))
    streams = [peer.open() for peer in (ours, theirs) for _ in range(8)]
    for stream in streams:
        stream.send(bytes(300_000), fin=True)
    world.poke(ours.port, theirs.port)
    there = {ours: theirs, theirs: ours}
    took = world.run(
        10,
        lambda: all(
            s.id in there[s.peer].streams and there[s.peer].streams[s.id].fin for s in streams
        ),
    )
    assert took < 1.5  # 2.4 MB each way at 5 MB/s
