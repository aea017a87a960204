from __future__ import annotations

import pytest

pytest.importorskip("qh3._hazmat", exc_type=ImportError)

from pt.quic import aioquic_connection
from pt.quic.engine_aioquic import AioquicEngine
from pt.quic.engine_qh3 import Qh3Engine
from pt.quic.limits import Limits
from pt.quic.packets import CID_LENGTH, put_varint
from pt.quic.qh3_connection import REFRESH, Connection
from tests.contract.quic_world import CLIENT, SERVER, Peer, Port, World, joined, two_ports


def pair(**options: object) -> tuple[World, Peer, Peer]:
    world = World()
    ours, theirs = joined(world, *two_ports(world, Qh3Engine, Qh3Engine, **options))
    world.run(1)
    return world, ours, theirs


def connection(peer: Peer) -> Connection:
    assert isinstance(peer.engine, Qh3Engine)
    return peer.engine._conn


def give(peer: Peer, packet: bytes | None, source: tuple[str, int]) -> None:
    assert packet is not None
    peer.engine.receive(packet, len(packet), source, peer.world.now)
    peer.world.poke(peer.port)


def ping_until_acked(world: World, peer: Peer) -> None:
    stream = peer.open()
    stream.send(b"x", fin=True)
    world.poke(peer.port)
    world.run(2, lambda: not connection(peer).core.outstanding_application_packets)


def test_packets_of_our_own_fit_between_the_cores() -> None:
    """The peer takes them, acknowledges them, and the core does not mind."""
    world, ours, theirs = pair()
    ours.open()
    for _ in range(5):
        before = connection(ours)._sent_number
        packet = connection(ours).seal(b"\x01")
        assert connection(theirs).number(packet or b"") == before + 1
        give(theirs, packet, CLIENT)
        ping_until_acked(world, ours)
        assert connection(ours)._sent_number > before + 1
    assert not ours.closed
    assert not theirs.closed


def test_padding_makes_the_size() -> None:
    _, ours, _ = pair()
    for size in (0, 30, 1200, 1472):
        packet = connection(ours).seal(b"\x1a" + bytes(8), size=size)
        assert packet is not None
        assert len(packet) == max(size, 1 + CID_LENGTH + 4 + 9 + 16)


def test_frames_of_the_peers_packets_can_be_read() -> None:
    world, ours, theirs = pair()
    packet = connection(ours).seal(b"\x1a" + b"12345678")
    assert packet is not None
    assert connection(theirs).frames_of(packet).startswith(b"\x1a12345678")
    assert connection(theirs).frames_of(packet[:-1]) == b""
    assert connection(theirs).frames_of(b"\x40junk") == b""


def test_a_forged_number_is_not_taken_note_of() -> None:
    _, ours, theirs = pair()
    packet = bytearray(connection(ours).seal(b"\x01" + bytes(30)) or b"")
    before = connection(theirs).newest_received
    packet[-1] ^= 1
    assert connection(theirs).note_number(bytes(packet)) == before
    packet[-1] ^= 1
    assert connection(theirs).note_number(bytes(packet)) == before + 1 or before == 0


def test_keys_are_followed_through_updates() -> None:
    world, ours, theirs = pair(limits=Limits(key_update_packets=20))
    phases = set()
    for _ in range(12):
        for sender, receiver, source in ((ours, theirs, CLIENT), (theirs, ours, SERVER)):
            stream = sender.open()
            stream.send(bytes(20_000), fin=True)
            world.poke(sender.port)
            world.run(0.2)
            phases.add(connection(sender).core.send_key_phase)
            packet = connection(sender).seal(b"\x1a" + b"12345678")
            assert packet is not None
            give(receiver, packet, source)
            assert connection(receiver).frames_of(packet)[:9] == b"\x1a12345678"
            world.run(0.1)
    assert phases == {0, 1}
    assert not ours.closed
    assert not theirs.closed


def test_packet_numbers_are_kept_track_of_over_long_runs() -> None:
    """Two bytes are sent of them; far more packets than that can tell apart."""
    world, ours, theirs = pair(limits=Limits(max_datagram=1200))
    theirs.keep = False
    stream = ours.open()
    while connection(ours)._sent_number < 70_000:
        stream.send(bytes(8_000_000))
        world.poke(ours.port)
        world.run(5, lambda: not stream.outgoing and not ours.engine.stats().backlog)
    world.run(1)
    assert connection(theirs).newest_received > 60_000
    packet = connection(ours).seal(b"\x1a" + b"12345678")
    assert connection(theirs).frames_of(packet or b"")[:9] == b"\x1a12345678"
    assert connection(theirs).note_number(packet or b"") == connection(ours)._sent_number
    assert REFRESH < 2**15


def test_more_than_the_window_closes_the_connection() -> None:
    world, ours, theirs = pair(limits=Limits(stream_window=4096, max_stream_window=8192))
    theirs.read_at_once = False
    data = bytes(1000)
    for turn in range(5):
        frame = b"\x0e" + put_varint(0) + put_varint(turn * 1000) + put_varint(1000) + data
        give(theirs, connection(ours).seal(frame), CLIENT)
    world.run(1, lambda: theirs.closed is not None)
    assert theirs.closed is not None
    assert theirs.closed.code == 3
    world.run(1, lambda: ours.closed is not None)


def test_a_client_that_lies_about_its_first_id_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = aioquic_connection.Connection._serialize_transport_parameters
    monkeypatch.setattr(
        aioquic_connection.Connection,
        "_serialize_transport_parameters",
        lambda conn: original(conn).replace(conn.host_cid, b"imposter"),
    )
    world = World()
    server = Port(world, "server", Qh3Engine, SERVER)
    client = Port(world, "client", AioquicEngine, CLIENT, serving=False)
    ours = client.connect(SERVER)
    world.run(2, lambda: ours.closed is not None)
    assert ours.closed is not None
    assert (ours.closed.code, ours.closed.by_peer) == (8, True)
    theirs = server.accepted[0].closed
    assert theirs is not None
    assert "initial_source" in str(theirs.error)
