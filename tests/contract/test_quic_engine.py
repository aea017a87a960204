"""What every QUIC engine does with every other: each pair, on a network that tests control."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pt.errors import LimitError, LocalProtocolError
from pt.identity.peer_id import PeerMismatchError
from pt.quic.certificate import Certificate, CertificateError, load
from pt.quic.engine import Admission, EngineFactory
from pt.quic.engine_aioquic import AioquicEngine
from pt.quic.events import (
    Address,
    Closed,
    ConnectionIdIssued,
    HandshakeDone,
    PathChanged,
    StopSending,
    StreamEnded,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
)
from pt.quic.limits import Limits
from pt.quic.packets import Kind, first_packets, parse_header, put_varint
from pt.quic.select import factories
from tests.contract.quic_world import (
    CLIENT,
    SERVER,
    Network,
    Peer,
    Port,
    World,
    identity,
    joined,
    two_ports,
)
from tests.unit.quic.forge import forge

ENGINES = factories()
PAIRS = [(a, b) for a in ENGINES for b in ENGINES]
Pair = tuple[EngineFactory, EngineFactory]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=PAIRS, ids=[f"{a.name}-{b.name}" for a, b in PAIRS])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.param


@pytest.fixture(params=ENGINES, ids=[engine.name for engine in ENGINES])
def one(request: pytest.FixtureRequest) -> EngineFactory:
    return request.param


def ports(world: World, pair: Pair, **options: object) -> tuple[Port, Port]:
    """(client, server)."""
    return two_ports(world, *pair, **options)


def connected(world: World, pair: Pair, **options: object) -> tuple[Peer, Peer]:
    return joined(world, *ports(world, pair, **options))


def payload(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def transfer(world: World, sender: Peer, receiver: Peer, data: bytes, seconds: float) -> float:
    """One stream from `sender`, read at once; returns how long it took."""
    stream = sender.open()
    stream.send(data, fin=True)
    world.poke(sender.port)
    took = world.run(
        seconds,
        lambda: stream.id in receiver.streams and receiver.streams[stream.id].fin,
    )
    assert bytes(receiver.streams[stream.id].received) == data
    return took


# --- handshake -------------------------------------------------------------------------------


def test_both_sides_know_each_other(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    assert ours.done is not None
    assert theirs.done is not None
    assert ours.done.peer == ours.engine.peer == server.peer_id
    assert theirs.done.peer == theirs.engine.peer == client.peer_id
    assert ours.done.public_key == identity("server").public
    assert len(ours.done.binding) == 32
    assert ours.done.binding == theirs.done.binding
    assert world.now - 1000 < 4 * world.network.delay
    assert (ours.engine.is_client, theirs.engine.is_client) == (True, False)
    assert ours.engine.address == SERVER


def test_bindings_differ_between_connections(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    one, _ = joined(world, client, server)
    two, _ = joined(world, client, server)
    assert one.done is not None
    assert two.done is not None
    assert one.done.binding != two.done.binding


@pytest.mark.parametrize("seed", range(4))
def test_handshake_with_loss(pair: Pair, seed: int) -> None:
    world = World(Network(seed=seed, loss=0.2, jitter=0.01, duplicate=0.1))
    ours, theirs = joined(world, *ports(world, pair), seconds=10)
    transfer(world, ours, theirs, payload(20_000), 20)


def test_every_handshake_ends_where_three_of_ten_datagrams_are_lost(pair: Pair) -> None:
    """Even where a server may not send before it hears more, and what it hears is lost."""
    for seed in range(100):
        world = World(Network(seed=seed, delay=0.015, loss=0.3))
        client, server = ports(world, pair, limits=Limits(handshake_timeout=30.0))
        joined(world, client, server, seconds=10.0)


def test_a_server_s_first_flight_is_the_handshake_alone(pair: Pair) -> None:
    """What it sent under 1-RTT keys would be sent again in turns with it, each twice as late."""
    kinds = set()

    def first_flight(datagram: bytes, source: Address, target: Address) -> bool:
        if source == SERVER:
            headers = [parse_header(packet) for packet in first_packets(datagram)]
            kinds.update(header.kind for header in headers if header is not None)
        return source == CLIENT

    world = World(Network(filter=first_flight))
    client, server = ports(world, pair)
    client.connect(server.address, server.peer_id)
    world.run(1.0)
    assert kinds == {Kind.INITIAL, Kind.HANDSHAKE}


@pytest.mark.parametrize("seed", range(3))
def test_ends_that_stand_alone_are_not_lost(pair: Pair, seed: int) -> None:
    world = World(Network(seed=seed, delay=0.02))
    ours, theirs = connected(world, pair)
    world.run(1)
    world.network.loss = 0.2
    rng = random.Random(seed)
    streams = []
    for _ in range(60):
        stream = ours.open()
        streams.append(stream.id)
        for size in rng.choices((24, 32, 1000, 1500), k=rng.randrange(1, 6)):
            stream.send(bytes(size))
            world.poke(ours.port)
            world.settle()
        stream.send(b"", fin=True)
        world.poke(ours.port)
        world.run(rng.random() * 0.1)
    world.run(120, lambda: all(n in theirs.streams and theirs.streams[n].fin for n in streams))
    for number in streams:
        theirs.streams[number].send(b"", fin=True)
    world.poke(theirs.port)
    world.run(120, lambda: all(ours.streams[n].ended and theirs.streams[n].ended for n in streams))


@pytest.mark.parametrize("lost", range(4))
def test_handshake_when_the_client_s_first_datagrams_are_lost(pair: Pair, lost: int) -> None:
    world = World()
    count = [0]

    def drop(data: bytes, source: object, target: object) -> bool:
        count[0] += source == CLIENT
        return source != CLIENT or count[0] > lost

    world.network.filter = drop
    joined(world, *ports(world, pair))


def test_handshake_after_a_retry(pair: Pair) -> None:
    world = World()
    kinds: Counter[Kind] = Counter()

    def watch(data: bytes, source: object, target: object) -> bool:
        header = parse_header(data)
        assert header is not None
        kinds[header.kind] += 1
        return True

    world.network.filter = watch
    server = Port(world, "server", pair[1], SERVER, reception={"retry_from": 0})
    client = Port(world, "client", pair[0], CLIENT, serving=False)
    ours, theirs = joined(world, client, server)
    assert kinds[Kind.RETRY] == 1
    transfer(world, ours, theirs, payload(100_000), 10)


def test_streams_come_after_who_opens_them(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours = client.connect(SERVER, server.peer_id)
    held: list[bytes] = []

    def hold(data: bytes, source: object, target: object) -> bool:
        last = parse_header(first_packets(data)[-1])
        assert last is not None
        if source != CLIENT or last.kind is Kind.INITIAL:
            return True
        held.append(data)
        return False

    world.network.filter = hold
    world.run(1, lambda: ours.done is not None)
    ours.open().send(b"early")
    world.poke(client)
    world.settle()
    finished = [part for part in first_packets(held[0]) if part[0] & 0xF0 == 0xE0]
    early = held[-1]
    assert not early[0] & 0x80
    world.network.filter = lambda *_: True
    both = b"".join(finished) + early
    server.receive(both, len(both), CLIENT)
    world.settle()
    (theirs,) = server.accepted
    assert bytes(theirs.streams[0].received) == b"early"
    told = [type(event) for event in theirs.events]
    assert told.index(HandshakeDone) < told.index(StreamOpened)


def test_a_forged_retry_is_ignored(one: EngineFactory) -> None:
    world = World()
    client, server = ports(world, (one, one))
    ours = client.connect(SERVER, server.peer_id)
    world.settle()
    header = parse_header(world.queue[0][2])
    assert header is not None
    forged = (
        b"\xf0\x00\x00\x00\x01"
        + bytes([len(header.source)])
        + header.source
        + b"\x08elsewher"
        + b"token"
        + bytes(16)
    )
    client.receive(forged, len(forged), SERVER)
    world.run(5, lambda: ours.done is not None)


def test_another_peer_than_the_expected_one(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours = client.connect(SERVER, client.peer_id)
    world.run(5, lambda: ours.closed is not None)
    assert ours.closed is not None
    assert ours.done is None
    assert isinstance(ours.closed.error, PeerMismatchError)
    assert ours.closed.code == 0x12A
    assert not ours.closed.by_peer
    world.run(5, lambda: server.accepted[0].closed is not None)
    closed = server.accepted[0].closed
    assert closed is not None
    assert server.accepted[0].done is None
    assert (closed.code, closed.by_peer) == (0x12A, True)


def refused(world: World, client: Port, server: Port) -> tuple[Peer, Peer]:
    """The server does not want this client."""
    ours = client.connect(SERVER, server.peer_id)
    world.run(
        5,
        lambda: (
            ours.closed is not None
            and bool(server.accepted)
            and server.accepted[0].closed is not None
        ),
    )
    theirs = server.accepted[0]
    assert theirs.done is None
    assert theirs.closed is not None
    assert ours.closed is not None
    assert ours.closed.by_peer
    assert not theirs.closed.by_peer
    assert ours.closed.code == theirs.closed.code
    assert not ours.closed.application
    return ours, theirs


def test_a_client_without_a_certificate_is_refused(one: EngineFactory) -> None:
    world = World()
    client, server = ports(world, (AioquicEngine, one))
    connect = client.connect

    def without(*args: object, **kwargs: object) -> Peer:
        # The client's TLS has no key to sign with: it answers with an empty Certificate.
        peer = connect(*args, **kwargs)  # type: ignore[arg-type]
        peer.engine._conn.tls.certificate_private_key = None  # type: ignore[attr-defined]
        return peer

    client.connect = without  # type: ignore[method-assign]
    ours, theirs = refused(world, client, server)
    assert theirs.closed is not None
    assert theirs.closed.code == 0x174
    assert isinstance(theirs.closed.error, CertificateError)


def test_a_client_with_an_expired_certificate_is_refused(pair: Pair) -> None:
    world = World()
    server = Port(world, "server", pair[1], SERVER)
    key = ec.derive_private_key(77, ec.SECP256R1())
    expired = Certificate(load(forge(identity("client"), key=key, since=-7200, until=0)), key)
    client = Port(world, "client", pair[0], CLIENT, serving=False, certificate=expired)
    _, theirs = refused(world, client, server)
    assert theirs.closed is not None
    assert theirs.closed.code == 0x12D
    assert "clocks" in str(theirs.closed.error)


def test_nobody_answers(one: EngineFactory) -> None:
    world = World()
    client = Port(world, "client", one, CLIENT, serving=False)
    ours = client.connect(SERVER)
    took = world.run(30, lambda: ours.closed is not None)
    assert 9 < took < 11
    assert ours.closed is not None
    assert "timed out" in ours.closed.reason
    world.run(30, lambda: not client.peers)


def test_a_client_that_goes_away_in_its_handshake(one: EngineFactory) -> None:
    world = World()
    client, server = ports(world, (one, one))
    client.connect(SERVER)
    world.run(1, lambda: bool(server.accepted))
    client.dead = True
    client.peers.clear()
    took = world.run(60, lambda: not server.peers)
    assert took < 30
    assert server.reception.half_open == 0


# --- streams ---------------------------------------------------------------------------------


def test_bytes_come_in_order_both_ways(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    theirs.echo = ours.echo = False
    theirs.echo = True
    data = payload(700_000)
    stream = ours.open()
    for start in range(0, len(data), 33_333):
        stream.send(data[start : start + 33_333], fin=start + 33_333 >= len(data))
        world.poke(ours.port)
        world.run(0.001)
    world.run(10, lambda: stream.fin)
    assert bytes(stream.received) == data
    world.run(5, lambda: stream.ended and theirs.streams[stream.id].ended)
    assert theirs.of(StreamOpened) == [StreamOpened(stream.id)]


def test_both_sides_open_streams(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    assert [ours.open().id, ours.open().id] == [0, 4]
    assert [theirs.open().id, theirs.open().id] == [1, 5]
    for peer in (ours, theirs):
        for stream in list(peer.streams.values()):
            stream.send(f"from {stream.id}".encode(), fin=True)
        world.poke(peer.port)
    world.run(1)
    for number in (0, 4):
        assert bytes(theirs.streams[number].received) == f"from {number}".encode()
    for number in (1, 5):
        assert bytes(ours.streams[number].received) == f"from {number}".encode()


def test_one_direction_may_end_alone(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    stream = ours.open()
    stream.send(b"", fin=True)
    world.poke(ours.port)
    world.run(1, lambda: bool(theirs.streams) and theirs.streams[stream.id].fin)
    assert not theirs.streams[stream.id].ended
    world.run(1)
    theirs.streams[stream.id].send(payload(100_000), fin=True)
    world.poke(theirs.port)
    world.run(5, lambda: stream.fin)
    assert bytes(stream.received) == payload(100_000)
    world.run(5, lambda: stream.ended)


def test_a_reset_carries_its_code_one_way(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    stream = ours.open()
    stream.send(b"begin")
    world.poke(ours.port)
    world.run(1, lambda: bool(theirs.streams))
    ours.engine.reset(stream.id, 0x1005)
    world.poke(ours.port)
    world.run(1, lambda: theirs.streams[stream.id].reset_code is not None)
    assert theirs.of(StreamReset) == [StreamReset(stream.id, 0x1005)]
    theirs.streams[stream.id].send(b"still here", fin=True)
    world.poke(theirs.port)
    world.run(1, lambda: stream.fin)
    assert bytes(stream.received) == b"still here"
    world.run(1, lambda: stream.ended and theirs.streams[stream.id].ended)


def test_stop_makes_the_sender_reset(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    stream = ours.open()
    stream.send(payload(5_000_000))
    world.poke(ours.port)
    world.run(1, lambda: bool(theirs.streams))
    theirs.engine.stop(stream.id, 0x1002)
    theirs.streams[stream.id].reading = False
    world.poke(theirs.port)
    world.run(1, lambda: stream.stop_code is not None)
    assert ours.of(StopSending) == [StopSending(stream.id, 0x1002)]
    assert ours.engine.write(stream.id, b"more") == 0
    theirs.engine.reset(stream.id, 0x1002)
    world.poke(theirs.port)
    world.run(5, lambda: stream.ended and theirs.streams[stream.id].ended)
    assert ours.engine.stats().backlog == 0
    assert theirs.engine.stats().held == 0


def test_both_reset_at_once(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    stream = ours.open()
    stream.send(b"x")
    world.poke(ours.port)
    world.run(1, lambda: bool(theirs.streams))
    for peer in (ours, theirs):
        peer.engine.reset(stream.id, 0x1006)
        peer.engine.stop(stream.id, 0x1006)
        world.poke(peer.port)
    world.run(5, lambda: stream.ended and theirs.streams[stream.id].ended)
    for peer in (ours, theirs):  # over: nothing happens, nothing is raised
        peer.engine.reset(stream.id, 1)
        peer.engine.stop(stream.id, 1)
        peer.engine.finish(stream.id)
        peer.engine.consumed(stream.id, 5, world.now)
        assert peer.engine.write(stream.id, b"x") == 0


def test_misuse_is_told(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    early = client.connect(SERVER)
    with pytest.raises(LocalProtocolError):
        early.engine.open_stream()
    ours, _ = joined(world, client, server)
    with pytest.raises(LocalProtocolError, match="never opened"):
        ours.engine.write(400, b"x")
    stream = ours.open()
    stream.send(b"x", fin=True)
    with pytest.raises(LocalProtocolError, match="after its end"):
        ours.engine.write(stream.id, b"x")
    with pytest.raises(LocalProtocolError):
        ours.engine.reset(stream.id, 2**62)


def test_200_streams_at_once(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    theirs.echo = True
    data = {}
    for number in range(200):
        stream = ours.open()
        data[stream.id] = payload(5_000, number)
        stream.send(data[stream.id], fin=True)
    world.poke(ours.port)
    world.run(10, lambda: all(stream.fin for stream in ours.streams.values()))
    assert {number: bytes(s.received) for number, s in ours.streams.items()} == data
    world.run(2)
    assert len(ours.of(StreamEnded)) == len(theirs.of(StreamEnded)) == 200


def test_streams_are_limited_and_given_back(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair, limits=Limits(streams=8))
    for _ in range(8):
        ours.open().send(b"x")
    assert ours.engine.streams_left == 0
    with pytest.raises(LimitError):
        ours.engine.open_stream()
    world.poke(ours.port)
    world.run(1)
    assert len(theirs.streams) == 8
    for number in range(0, 32, 4):
        ours.engine.finish(number)
        theirs.engine.finish(number)
    world.poke(ours.port, theirs.port)
    world.run(2, lambda: bool(ours.of(StreamsAvailable)))
    world.run(1)
    assert ours.engine.streams_left == 8
    for _ in range(5):
        for _ in range(8):
            stream = ours.open()
            stream.send(b"again", fin=True)
        world.poke(ours.port)
        world.run(1)
        for number in list(theirs.streams)[-8:]:
            assert bytes(theirs.streams[number].received) == b"again"
            theirs.engine.finish(number)
        world.poke(theirs.port)
        world.run(1)
        assert ours.engine.streams_left == 8


# --- flow control ----------------------------------------------------------------------------


def test_a_stream_that_is_not_read_is_bounded_and_stalls_nobody(pair: Pair) -> None:
    world = World()
    limits = Limits()
    ours, theirs = connected(world, pair, limits=limits)
    theirs.on_opened = lambda stream: setattr(stream, "reading", stream.id != 0)
    data = payload(6_000_000)
    stalled = ours.open()
    stalled.send(data, fin=True)
    world.poke(ours.port)
    world.run(3)
    there = theirs.streams[stalled.id]
    assert there.unconsumed == theirs.engine.stats().held == limits.stream_window
    assert stalled.written <= limits.stream_window + limits.send_buffer + 2000
    for turn in range(3):  # others are not slowed down
        transfer(world, ours, theirs, payload(3_000_000, turn), 2)
        assert theirs.engine.stats().held == there.unconsumed == limits.stream_window
    there.reading = True
    there.read()
    world.poke(theirs.port)
    world.run(5, lambda: there.fin)
    assert bytes(there.received) == data
    assert theirs.engine.stats().held == 0


def test_a_stream_that_is_read_slowly_is_bounded(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    theirs.read_at_once = False
    data = payload(1_500_000)
    stream = ours.open()
    stream.send(data, fin=True)
    world.poke(ours.port)
    most = 0
    for _ in range(400):
        world.run(0.02)
        there = theirs.streams.get(stream.id)
        if there is not None:
            most = max(most, there.unconsumed)
            there.read(10_000)
            world.poke(theirs.port)
            if there.fin and not there.unconsumed:
                break
    assert bytes(theirs.streams[stream.id].received) == data
    assert most <= Limits().stream_window


def test_many_streams_that_are_not_read_are_bounded_together(pair: Pair) -> None:
    world = World()
    limits = Limits(connection_window=1024 * 1024)
    ours, theirs = connected(world, pair, limits=limits)
    theirs.read_at_once = False
    data = payload(200_000)
    for _ in range(12):
        ours.open().send(data, fin=True)
    world.poke(ours.port)
    world.run(5)
    held = theirs.engine.stats().held
    assert limits.connection_window // 2 <= held <= limits.connection_window
    theirs.read_at_once = True
    for stream in theirs.streams.values():
        stream.read()
    world.poke(theirs.port)
    world.run(10, lambda: sum(s.fin for s in theirs.streams.values()) == 12)
    assert all(bytes(stream.received) == data for stream in theirs.streams.values())


def test_windows_grow_for_a_fast_reader(pair: Pair) -> None:
    """A window of 256 KiB would mean 2.5 MB/s at 100 ms."""
    world = World(Network(delay=0.05))
    ours, theirs = connected(world, pair)
    theirs.keep = False
    stream = ours.open()
    stream.send(bytes(20_000_000), fin=True)
    world.poke(ours.port)
    took = world.run(20, lambda: stream.id in theirs.streams and theirs.streams[stream.id].fin)
    assert took < 3


def test_writes_are_accepted_as_far_as_there_is_room(pair: Pair) -> None:
    world = World()
    limits = Limits(send_buffer=100_000, send_total=250_000)
    ours, theirs = connected(world, pair, limits=limits)
    theirs.read_at_once = False
    streams = [ours.open().id for _ in range(4)]
    accepted = [ours.engine.write(number, bytes(150_000)) for number in streams]
    assert accepted == [100_000, 100_000, 50_000, 0]
    assert ours.engine.stats().backlog == 250_000
    assert ours.engine.write(streams[0], b"x") == 0
    world.poke(ours.port)
    world.run(1, lambda: len({e.stream for e in ours.events if hasattr(e, "stream")}) == 4)
    assert ours.engine.write(streams[3], memoryview(b"room again")) == 10


def test_data_for_a_stopped_stream_is_thrown_away(pair: Pair) -> None:
    """Also when the peer does not react to STOP_SENDING at once: its window must not stall."""
    world = World(Network(delay=0.1))
    ours, theirs = connected(world, pair)
    theirs.read_at_once = False
    stream = ours.open()
    stream.send(payload(2_000_000))
    world.poke(ours.port)
    world.run(2, lambda: bool(theirs.streams) and theirs.engine.stats().held > 50_000)
    theirs.engine.stop(stream.id, 0)
    got = len(theirs.streams[stream.id].received)
    world.poke(theirs.port)
    world.run(3)
    assert theirs.engine.stats().held == 0
    assert len(theirs.streams[stream.id].received) == got
    theirs.read_at_once = True
    transfer(world, ours, theirs, payload(1_000_000), 5)


def test_keys_are_renewed(pair: Pair) -> None:
    """Each side after so many packets; what is sent in own packets must keep up, too."""
    world = World(Network(loss=0.01))
    ours, theirs = connected(world, pair, limits=Limits(key_update_packets=150))
    for turn in range(2):
        transfer(world, ours, theirs, payload(700_000, turn), 60)
        transfer(world, theirs, ours, payload(700_000, turn), 60)
    assert not ours.closed
    assert not theirs.closed


def test_lost_window_updates_are_repeated(pair: Pair) -> None:
    """Every second datagram with the reader's updates is lost, and the sender says nothing."""
    world = World()
    ours, theirs = connected(world, pair)
    theirs.read_at_once = False
    data = payload(3_000_000)
    stream = ours.open()
    stream.send(data, fin=True)
    world.poke(ours.port)
    world.run(2)
    there = theirs.streams[stream.id]
    while not there.fin:
        world.network.loss = 1.0
        there.read()
        world.poke(theirs.port)
        world.settle()
        world.network.loss = 0.0
        before = len(there.received)
        world.run(8, lambda: len(there.received) > before)  # noqa: B023  # run at once
        world.run(0.5)
    assert bytes(there.received) == data


# --- bad networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_transfer_through_20_percent_loss_is_exact(pair: Pair, seed: int) -> None:
    world = World(Network(seed=seed, delay=0.01, loss=0.2, jitter=0.005, duplicate=0.05))
    ours, theirs = joined(world, *ports(world, pair), seconds=10)
    theirs.echo = True
    stream = ours.open()
    stream.send(payload(200_000), fin=True)
    world.poke(ours.port)
    world.run(300, lambda: stream.fin)
    assert bytes(stream.received) == payload(200_000)
    world.run(60, lambda: stream.ended)


def test_reordering_and_duplicates_do_no_harm(pair: Pair) -> None:
    world = World(Network(delay=0.01, jitter=0.02, duplicate=0.3))
    ours, theirs = connected(world, pair)
    transfer(world, ours, theirs, payload(1_000_000), 60)
    transfer(world, theirs, ours, payload(1_000_000), 60)


def test_junk_does_no_harm(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    rng = random.Random(3)
    stream = ours.open()
    stream.send(payload(500_000), fin=True)
    world.poke(client)
    for _ in range(300):
        for port, peer, source in ((client, ours, SERVER), (server, theirs, CLIENT)):
            cid = rng.choice(sorted(peer.engine.connection_ids))
            junk = rng.choice(
                [
                    rng.randbytes(rng.randrange(1, 1400)),
                    bytes([0x40 | rng.getrandbits(6)]) + cid + rng.randbytes(rng.randrange(60)),
                    b"\xc0\x00\x00\x00\x01\x08" + cid + rng.randbytes(rng.randrange(1300)),
                    b"\xff\x00\x00\x00\x00\x08" + cid + b"\x00" + rng.randbytes(8),
                    bytes(rng.randrange(1, 100)),
                ]
            )
            peer.engine.receive(junk, len(junk), source, world.now)
            port.receive(junk, len(junk), source)
        if world.queue:  # something real, cut off or with a flipped bit
            _, _, data, source, target = world.queue[0]
            broken = bytearray(data)
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            port = client if target == CLIENT else server
            for bad in (data[: rng.randrange(1, len(data))], bytes(broken)):
                port.receive(bad, len(bad), source)
        world.run(0.002)
    world.run(10, lambda: stream.id in theirs.streams and theirs.streams[stream.id].fin)
    assert bytes(theirs.streams[stream.id].received) == payload(500_000)
    assert len(server.accepted) == 1


def test_empty_datagrams_are_nothing(one: EngineFactory) -> None:
    world = World()
    ours, theirs = connected(world, (one, one))
    ours.engine.receive(b"", 0, SERVER, world.now)
    theirs.engine.receive(b"", 0, CLIENT, world.now)
    transfer(world, ours, theirs, payload(1000), 1)


def test_datagrams_come_in_trains(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair)
    transfer(world, ours, theirs, payload(3_000_000), 5)
    lengths = []
    trains = ours.engine.trains

    def watch(now: float) -> list:
        made = trains(now)
        lengths.extend(len(train.segments) for train in made)
        return made

    ours.engine.trains = watch  # type: ignore[method-assign]
    transfer(world, ours, theirs, payload(3_000_000), 5)
    # What a train carries on the average byte's way; single ones are acknowledgements.
    assert sum(n * n for n in lengths) / sum(lengths) > 8


def test_received_trains_are_split(pair: Pair) -> None:
    """A GRO buffer: datagrams of one size in one piece."""
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    transfer(world, ours, theirs, payload(3_000_000), 5)
    stream = ours.open()
    stream.send(payload(400_000), fin=True)
    for _ in range(100):
        for train in ours.engine.trains(world.now):
            buffer = b"".join(train.segments)
            theirs.engine.receive(buffer, len(train.segments[0]), CLIENT, world.now)
        world.poke(client, server)
        world.run(0.02)
    assert bytes(theirs.streams[stream.id].received) == payload(400_000)


@pytest.mark.parametrize(("host", "mtu", "expected"), [("v4", 1472, 1472), ("v4", 1400, 1392)])
def test_path_mtu_is_found(pair: Pair, host: str, mtu: int, expected: int) -> None:
    world = World(Network(mtu=mtu))
    ours, theirs = connected(world, pair)
    transfer(world, ours, theirs, payload(1_000_000), 20)
    transfer(world, theirs, ours, payload(1_000_000), 20)
    world.run(10)
    assert ours.engine.stats().datagram_size in range(min(expected, 1350), expected + 1)
    assert theirs.engine.stats().datagram_size <= mtu


def test_ipv6_leaves_room_for_its_header(pair: Pair) -> None:
    world = World(Network(mtu=1452))
    server = Port(world, "server", pair[1], ("2001:db8::1", 4001, 0, 0))
    client = Port(world, "client", pair[0], ("2001:db8::2", 4001, 0, 0), serving=False)
    ours, theirs = joined(world, client, server)
    transfer(world, ours, theirs, payload(1_000_000), 5)
    transfer(world, theirs, ours, payload(1_000_000), 5)
    world.run(10)
    assert ours.engine.stats().datagram_size == 1452
    assert not world.network.dropped


def test_an_mtu_black_hole_in_mid_transfer(pair: Pair) -> None:
    world = World(Network(delay=0.02))
    ours, theirs = connected(world, pair)
    transfer(world, ours, theirs, payload(1_000_000), 10)
    transfer(world, theirs, ours, payload(1_000_000), 10)
    world.run(10)
    assert ours.engine.stats().datagram_size == 1472
    world.network.mtu = 1280
    transfer(world, ours, theirs, payload(1_000_000), 60)
    transfer(world, theirs, ours, payload(1_000_000), 60)
    assert ours.engine.stats().datagram_size <= 1280


def test_a_black_hole_under_many_streams_ends_in_time_or_not_at_all(pair: Pair) -> None:
    """Frames that are cut already cannot be cut again by every engine: then it must say so soon."""
    world = World(Network(delay=0.02, rate=5e6))
    ours, theirs = connected(world, pair)
    streams = [ours.open() for _ in range(8)]
    for stream in streams:
        stream.send(payload(700_000), fin=True)
    world.poke(ours.port)
    world.run(0.7)
    world.network.mtu = 1280

    def arrived() -> bool:
        there = theirs.streams
        return all(s.id in there and there[s.id].fin for s in streams)

    world.run(30, lambda: ours.closed is not None or arrived())
    if not arrived():
        assert ours.closed is not None
        assert ours.closed.code == 0x10
        assert "connect again" in ours.closed.reason
        assert pair[0].name == "qh3"


@pytest.mark.parametrize("outage", [1.0, 6.0])
def test_a_network_that_is_gone_for_a_while_comes_back(pair: Pair, outage: float) -> None:
    world = World(Network(delay=0.02, rate=5e6))
    ours, theirs = connected(world, pair)
    streams = [ours.open() for _ in range(8)] + [theirs.open() for _ in range(8)]
    for stream in streams:
        stream.send(payload(500_000), fin=True)
    world.poke(ours.port, theirs.port)
    world.run(0.4)
    world.network.loss = 1.0
    world.run(outage)
    world.network.loss = 0.0
    both = {**{s.id: theirs for s in streams[:8]}, **{s.id: ours for s in streams[8:]}}
    world.run(
        30 + 2 * outage,
        lambda: all(n in peer.streams and peer.streams[n].fin for n, peer in both.items()),
    )
    for number, peer in both.items():
        assert bytes(peer.streams[number].received) == payload(500_000)


# --- moving ----------------------------------------------------------------------------------


class Nat:
    """The client's port on the way; changes when told to."""

    def __init__(self, world: World, client: Port) -> None:
        self.world = world
        self.client = client
        self.outside = client.address
        self.count = 0
        send = world.send

        def translate(data: bytes, source: object, target: object) -> None:
            if source == self.client.address:
                send(data, self.outside, target)  # type: ignore[arg-type]
            elif target == self.outside:
                send(data, source, self.client.address)  # type: ignore[arg-type]
            elif target == self.client.address or source == self.client.address:
                pass
            else:
                send(data, source, target)  # type: ignore[arg-type]

        world.send = translate  # type: ignore[assignment]

    def rebind(self, *, host: str | None = None) -> None:
        self.count += 1
        self.outside = (host or self.outside[0], 20_000 + self.count)


def test_the_session_goes_on_when_the_nat_rebinds_20_times(pair: Pair) -> None:
    world = World(Network(delay=0.01))
    client, server = ports(world, pair)
    nat = Nat(world, client)
    ours, theirs = joined(world, client, server)
    up = ours.open()
    up.send(payload(12_000_000), fin=True)
    theirs_stream = theirs.open()
    theirs_stream.send(payload(12_000_000, 8), fin=True)
    world.poke(client, server)
    for turn in range(20):
        world.run(0.15)
        nat.rebind(host=f"11.0.{turn}.9" if turn % 4 == 3 else None)
    world.run(60, lambda: theirs.streams.get(up.id) is not None and theirs.streams[up.id].fin)
    world.run(60, lambda: theirs_stream.id in ours.streams and ours.streams[1].fin)
    assert bytes(theirs.streams[up.id].received) == payload(12_000_000)
    assert bytes(ours.streams[theirs_stream.id].received) == payload(12_000_000, 8)
    world.run(10)
    assert theirs.engine.address == nat.outside
    assert theirs.of(PathChanged)[-1] == PathChanged(nat.outside)
    assert not ours.closed
    assert not theirs.closed


def test_a_quiet_session_survives_rebinding(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    nat = Nat(world, client)
    ours, theirs = joined(world, client, server)
    for _ in range(8):
        nat.rebind()
        world.run(8)  # the client's keep-alive shows its new address
        assert theirs.engine.address == nat.outside
        transfer(world, theirs, ours, payload(50_000), 5)


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_client_that_only_receives_is_asked_again_where_it_is(pair: Pair, lost: str) -> None:
    """It acknowledges from its new address what it had got, and then has nothing more to say."""
    world = World()
    client, server = ports(world, pair)
    nat = Nat(world, client)
    ours, theirs = joined(world, client, server)
    down = theirs.open()
    down.send(payload(2_000_000), fin=True)
    world.poke(server)
    world.run(0.04)
    nat.rebind()
    late = world.now + 0.4
    seen: Counter[str] = Counter()

    def lose(data: bytes, source: object, target: object) -> bool:
        """One acknowledgement gets through, and of question and answer all but the first."""
        if source == SERVER:
            seen["question"] += 1
            return lost != "question" or seen["question"] > 1
        seen["said"] += 1
        return seen["said"] == 1 or seen["question"] > 1 or world.now > late

    world.network.filter = lose
    world.run(1.5, lambda: down.id in ours.streams and ours.streams[down.id].fin)
    assert bytes(ours.streams[down.id].received) == payload(2_000_000)
    assert theirs.of(PathChanged)[-1] == PathChanged(nat.outside)


def test_a_forged_source_gets_no_more_than_three_times_what_it_sent(pair: Pair) -> None:
    """An attacker on the way copies packets under a victim's address, and drops the originals."""
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    victim = ("11.9.9.9", 53)
    down = theirs.open()
    down.send(payload(3_000_000), fin=True)
    world.poke(server)
    world.run(0.03)
    send = world.send

    def hijack(data: bytes, source: object, target: object) -> None:
        send(data, victim if source == CLIENT else source, target)  # type: ignore[arg-type]

    world.send = hijack  # type: ignore[assignment]
    to_victim = Counter()
    from_victim = Counter()

    def watch(data: bytes, source: object, target: object) -> bool:
        if target == victim:
            to_victim["bytes"] += len(data)
        if source == victim:
            from_victim["bytes"] += len(data)
        return True

    world.network.filter = watch
    world.run(3)
    assert from_victim["bytes"] > 0
    assert to_victim["bytes"] <= 3 * from_victim["bytes"]
    assert theirs.engine.address == CLIENT
    world.send = send  # type: ignore[method-assign]
    world.run(30, lambda: down.id in ours.streams and ours.streams[down.id].fin)


# --- attacks on a server ---------------------------------------------------------------------


def test_no_amplification_before_the_address_is_proved(one: EngineFactory) -> None:
    """A client that only ever sends its first packet, under somebody else's address."""
    world = World()
    client, server = ports(world, (one, one))
    client.connect(SERVER)
    world.network.filter = lambda data, source, target: target != CLIENT
    world.settle()
    client.dead = True
    client.peers.clear()
    world.run(60)
    sent, got = world.network.sent[SERVER], world.network.received[SERVER]
    assert got >= 1200
    assert 1200 < sent <= 3 * got


def test_a_flood_of_initials_is_bounded_and_others_get_in(one: EngineFactory) -> None:
    world = World()
    client, server = ports(world, (one, one))
    kinds: Counter[Kind] = Counter()

    def watch(data: bytes, source: object, target: object) -> bool:
        header = parse_header(data)
        if header is not None and source == SERVER:
            kinds[header.kind] += 1
        return True

    world.network.filter = watch
    for number in range(200):
        (train,) = client.connect(SERVER).engine.trains(world.now)
        first = train.segments[0]
        server.receive(first, len(first), ("11.7.0.1", 1024 + number))
    client.peers.clear()
    assert len(server.peers) == 32
    world.settle()
    assert kinds[Kind.RETRY] == 200 - 32
    ours, theirs = joined(world, client, server)  # through a Retry
    transfer(world, ours, theirs, payload(100_000), 5)
    world.run(20)
    assert len(server.peers) == 1
    assert server.reception.half_open == 0


def test_a_version_that_nobody_speaks_is_answered(one: EngineFactory) -> None:
    world = World()
    client, server = ports(world, (one, one))
    ours = client.connect(SERVER)
    (train,) = ours.engine.trains(world.now)
    alien = bytearray(train.segments[0])
    alien[1:5] = b"\xba\xba\xba\xba"
    answers = []
    world.network.filter = lambda data, source, target: bool(answers.append(data)) or True
    server.receive(bytes(alien), len(alien), CLIENT)
    world.settle()
    (answer,) = answers
    header = parse_header(answer)
    sent = parse_header(train.segments[0])
    assert header is not None
    assert sent is not None
    assert header.kind is Kind.VERSION_NEGOTIATION
    assert (header.destination, header.source) == (sent.source, sent.destination)
    assert b"\x00\x00\x00\x01" in answer[-8:]
    assert not server.peers


def test_an_initial_that_cannot_be_decrypted_ends_in_silence(
    one: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pt.quic.initials.opens", lambda _: True)  # an owner that does not look
    world = World()
    _, server = ports(world, (one, one))
    head = b"\xc0\x00\x00\x00\x01\x08original\x06source\x00"
    junk = head + put_varint(1180) + payload(1180)
    server.receive(junk, len(junk), CLIENT)
    assert len(server.peers) == 1
    world.run(60, lambda: not server.peers)
    assert world.network.sent[SERVER] == 0


def test_a_server_engine_before_its_first_datagram(one: EngineFactory) -> None:
    world = World()
    _, server = ports(world, (one, one))
    admission = Admission(b"original", b"original", b"source", validated=False)
    made = one.accept(server.config, admission, CLIENT, world.now)
    assert made.trains(world.now) == []
    assert made.next_timeout() == world.now + 10.0
    assert b"original" in made.connection_ids


def test_a_server_without_version_1(one: EngineFactory) -> None:
    world = World()
    client = Port(world, "client", one, CLIENT, serving=False)
    ours = client.connect(SERVER)
    (train,) = ours.engine.trains(world.now)
    sent = parse_header(train.segments[0])
    assert sent is not None
    answer = (
        b"\xc0\x00\x00\x00\x00"
        + bytes([len(sent.source)])
        + sent.source
        + bytes([len(sent.destination)])
        + sent.destination
    )
    # One that lists what we offered is a forgery (RFC 9000, section 6.2).
    client.receive(answer + b"\x00\x00\x00\x01", len(answer) + 4, SERVER)
    world.run(0.1)
    assert ours.closed is None
    client.receive(answer + b"\xba\xba\xba\xba", len(answer) + 4, SERVER)
    world.run(1, lambda: ours.closed is not None)
    assert ours.closed is not None
    assert "version" in ours.closed.reason


# --- the end ---------------------------------------------------------------------------------


def test_close_carries_code_and_reason(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    stream = ours.open()
    stream.send(b"x")
    world.poke(client)
    world.run(1, lambda: bool(theirs.streams))
    ours.engine.close(0x1006, "shutting down", world.now)
    world.poke(client)
    world.run(1, lambda: theirs.closed is not None)
    assert ours.closed == Closed(0x1006, True, "shutting down", False)
    assert theirs.closed == Closed(0x1006, True, "shutting down", True)
    assert ours.engine.write(stream.id, b"y") == 0
    assert ours.engine.streams_left == 0
    world.run(5, lambda: not client.peers and not server.peers)
    assert ours.engine.next_timeout() is None
    assert ours.engine.connection_ids == theirs.engine.connection_ids == frozenset()


def test_what_comes_before_a_close_is_delivered(pair: Pair) -> None:
    """Also when both are read at once."""
    world = World(Network(delay=0.01))
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    world.run(1)
    stream = ours.open()
    stream.send(b"first")
    world.poke(client)
    world.run(1, lambda: bool(theirs.streams))
    stream.send(b" and goodbye")
    client.pump()
    ours.engine.close(0, "over", world.now)
    client.pump()
    world.run(1, lambda: theirs.closed is not None)
    assert theirs.streams[stream.id].received == b"first and goodbye"


def test_a_lost_close_is_repeated(pair: Pair) -> None:
    world = World(Network(delay=0.03))
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    stream = theirs.open()
    stream.send(payload(5_000_000))
    world.poke(server)
    world.run(0.05)
    world.network.loss = 1.0
    ours.engine.close(0x1001, "full", world.now)
    world.poke(client)
    world.settle()
    world.network.loss = 0.0
    world.run(2, lambda: theirs.closed is not None)
    assert theirs.closed is not None
    assert (theirs.closed.code, theirs.closed.by_peer) == (0x1001, True)


def test_a_peer_that_vanishes_is_noticed(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair, limits=Limits(idle_timeout=12))
    theirs.port.dead = True
    theirs.port.peers.clear()
    took = world.run(60, lambda: ours.closed is not None)
    assert 10 < took < 20
    assert ours.closed is not None
    assert not ours.closed.by_peer
    assert (ours.closed.code, ours.closed.reason) == (0, "no sign of life")
    assert ours.engine.terminated


def test_a_quiet_connection_is_kept_alive(pair: Pair) -> None:
    world = World()
    ours, theirs = connected(world, pair, limits=Limits(idle_timeout=10))
    world.run(5)
    silence = []
    last = {SERVER: world.now, CLIENT: world.now}

    def watch(data: bytes, source: object, target: object) -> bool:
        silence.append(world.now - last[source])  # type: ignore[index]
        last[source] = world.now  # type: ignore[index]
        return True

    world.network.filter = watch
    world.run(300)
    assert not ours.closed
    assert not theirs.closed
    assert max(silence) <= 5
    assert len(silence) < 300 / 4 * 6  # a PING and its acknowledgement, not more
    transfer(world, ours, theirs, payload(10_000), 5)


def test_a_server_that_has_lost_its_memory_says_so(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours, _ = joined(world, client, server)
    server.peers.clear()  # it crashed, and is back with its key
    stream = ours.open()
    stream.send(payload(3000))
    world.poke(client)
    took = world.run(20, lambda: ours.closed is not None)
    assert took < 1
    assert ours.closed is not None
    assert ours.closed.by_peer


def test_connection_ids_are_told(pair: Pair) -> None:
    world = World()
    client, server = ports(world, pair)
    ours, theirs = joined(world, client, server)
    world.run(1)
    for peer in (ours, theirs):
        assert len(peer.engine.connection_ids) >= 2
        issued = {event.cid for event in peer.of(ConnectionIdIssued)}
        assert issued < peer.engine.connection_ids
        assert all(len(cid) == 8 for cid in peer.engine.connection_ids)
    assert len(ours.of(HandshakeDone)) == len(theirs.of(HandshakeDone)) == 1


def test_1000_idle_streams_cost_the_active_one_nothing(pair: Pair) -> None:
    def calls(idle: int) -> int:
        world = World()
        ours, theirs = connected(world, pair, limits=Limits(streams=2000))
        for _ in range(idle):
            ours.open().send(b"hello")
        world.poke(ours.port)
        world.run(2)
        count = 0

        def profile(frame: object, event: str, arg: object) -> None:
            nonlocal count
            count += event == "call" or event == "c_call"

        sys.setprofile(profile)
        try:
            transfer(world, ours, theirs, payload(500_000), 5)
        finally:
            sys.setprofile(None)
        return count

    assert calls(1000) < 1.3 * calls(0)


def test_traces_show_packets_and_frames(pair: Pair) -> None:
    world = World()
    found: dict[bool, list[tuple[float, str, dict]]] = {True: [], False: []}

    def trace(is_client: bool, odcid: bytes) -> object:
        return lambda now, name, data: found[is_client].append((now, name, data))

    ours, theirs = connected(world, pair, trace=trace)
    transfer(world, ours, theirs, payload(100_000), 5)
    for events in found.values():
        times = [now for now, _, _ in events]
        assert times == sorted(times)
        assert 1000 <= times[0] <= times[-1] <= world.now
        kinds = Counter()
        for _, name, data in events:
            json.dumps(data)
            if name in {"transport:packet_sent", "transport:packet_received"}:
                kinds[name, data["header"]["packet_type"]] += 1
                for frame in data["frames"]:
                    kinds[name, frame["frame_type"]] += 1
        for wanted in ("initial", "handshake", "1RTT", "ack"):
            assert kinds["transport:packet_sent", wanted]
            assert kinds["transport:packet_received", wanted]
        assert any(name == "recovery:metrics_updated" for _, name, _ in events)
    sent = [
        frame
        for _, name, data in found[True]
        if name == "transport:packet_sent"
        for frame in data["frames"]
        if frame["frame_type"] == "stream"
    ]
    assert sum(frame["length"] for frame in sent) == 100_000


def test_a_connection_may_go_without_a_trace(pair: Pair) -> None:
    connected(World(), pair, trace=lambda is_client, odcid: None)
