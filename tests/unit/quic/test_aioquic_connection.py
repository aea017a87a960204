from __future__ import annotations

from pt.quic.aioquic_connection import Connection
from pt.quic.engine_aioquic import AioquicEngine
from pt.quic.limits import Limits
from pt.quic.packets import reset_token
from tests.contract.quic_world import SERVER, Peer, World, joined, two_ports


def pair(**options: object) -> tuple[World, Peer, Peer]:
    world = World()
    ours, theirs = joined(world, *two_ports(world, AioquicEngine, AioquicEngine, **options))
    world.run(1)
    return world, ours, theirs


def connection(peer: Peer) -> Connection:
    assert isinstance(peer.engine, AioquicEngine)
    return peer.engine._conn


def test_idle_streams_are_not_looked_at() -> None:
    world, ours, theirs = pair()
    for _ in range(50):
        ours.open().send(b"hello")
    world.poke(ours.port)
    world.run(1)
    for peer in (ours, theirs):
        conn = connection(peer)
        assert len(conn._streams) == 50
        assert conn._streams_queue == []
        assert list(conn._streams.values()) == []
    ours.streams[8].send(b"again")
    assert connection(ours)._streams_queue == [connection(ours)._streams[8]]


def test_a_lost_window_update_is_repeated() -> None:
    world, ours, theirs = pair()
    stream = ours.open()
    stream.send(bytes(200_000))
    theirs.read_at_once = False
    world.poke(ours.port)
    world.run(1)
    world.network.loss = 1.0
    theirs.streams[stream.id].read()
    world.poke(theirs.port)
    world.settle()
    world.network.loss = 0.0
    before = connection(ours)._streams[stream.id].max_stream_data_remote
    world.run(2)
    after = connection(ours)._streams[stream.id].max_stream_data_remote
    assert (before, after) == (256 * 1024, 256 * 1024 + 200_000)


def test_a_probe_has_its_size_and_is_not_congestion() -> None:
    world, ours, _ = pair(limits=Limits(max_datagram=1200))
    conn = connection(ours)
    in_flight = conn.recovery.bytes_in_flight
    window = conn.recovery.congestion_window
    ((datagram, address),) = conn.probe(1350, world.now)
    assert (len(datagram), address) == (1350, SERVER)
    assert conn.recovery.bytes_in_flight == in_flight
    ours.open().send(bytes(8000))  # what follows arrives: the probe is lost
    world.poke(ours.port)
    world.run(2, lambda: (1350, False) in conn.probe_outcomes or not conn.probe_outcomes)
    world.run(2)
    assert conn.recovery.congestion_window >= window


def test_ids_have_tokens_of_our_key() -> None:
    _, ours, theirs = pair()
    for peer in (ours, theirs):
        conn = connection(peer)
        for cid in conn._host_cids:
            if cid.sequence_number or not peer.engine.is_client:
                assert cid.stateless_reset_token == reset_token(peer.port.config.reset_key, cid.cid)
    peer_ids = {cid.cid for cid in connection(theirs)._host_cids}
    known = connection(ours)
    assert {known._peer_cid.cid, *(c.cid for c in known._peer_cid_available)} == peer_ids


def test_the_connections_window_follows_consumption() -> None:
    limits = Limits(connection_window=100_000)
    world, ours, theirs = pair(limits=limits)
    theirs.read_at_once = False
    stream = ours.open()
    stream.send(bytes(250_000))
    world.poke(ours.port)
    world.run(1)
    assert connection(theirs)._local_max_data.value == 100_000
    assert theirs.streams[stream.id].unconsumed == 100_000
    theirs.streams[stream.id].read(60_000)
    world.poke(theirs.port)
    world.run(1)
    assert connection(theirs)._local_max_data.value == 160_000
    assert theirs.streams[stream.id].unconsumed == 100_000
