"""UDP ports with QUIC engines on a network in memory, on a clock that tests move."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.quic.certificate import Certificate
from pt.quic.engine import Admission, Config, Engine, EngineFactory
from pt.quic.events import (
    Address,
    Closed,
    Event,
    HandshakeDone,
    PathChanged,
    StopSending,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    Writable,
)
from pt.quic.limits import Limits
from pt.quic.packets import parse_header
from pt.quic.reception import Reception, Reply

__all__ = ["Network", "Peer", "Port", "Stream", "World", "identity"]

EPOCH = 1_800_000_000.0

SERVER, CLIENT = ("11.0.0.1", 4001), ("11.0.0.2", 4002)


def identity(name: str) -> PrivateKey:
    return PrivateKey.generate(name.encode().ljust(32, b"-"))


_CERTIFICATES: dict[str, Certificate] = {}


def certificate(name: str) -> Certificate:
    if name not in _CERTIFICATES:
        _CERTIFICATES[name] = Certificate.create(
            identity(name), now=EPOCH, entropy=name.encode().ljust(56, b"e")
        )
    return _CERTIFICATES[name]


@dataclass
class Network:
    """Loses, delays, reorders and duplicates; `mtu` is the largest UDP payload that passes."""

    seed: int = 1
    delay: float = 0.005
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    mtu: int = 1472
    rate: float = 0.0
    """Bytes a second each way, with a queue of 100 ms; 0: no limit."""
    filter: Callable[[bytes, Address, Address], bool] = lambda data, source, target: True
    sent: Counter[Address] = field(default_factory=Counter)
    """Bytes by sender."""
    received: Counter[Address] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.busy: dict[Address, float] = {}

    def arrivals(
        self, data: bytes, source: Address, target: Address, now: float
    ) -> Iterator[float]:
        self.sent[source] += len(data)
        if len(data) > self.mtu:
            self.dropped["mtu"] += 1
            return
        if not self.filter(data, source, target):
            self.dropped["filter"] += 1
            return
        start = now
        if self.rate:
            start = max(now, self.busy.get(source, 0.0))
            if start - now > 0.1:
                self.dropped["queue"] += 1
                return
            self.busy[source] = start + len(data) / self.rate
        copies = 2 if self.random.random() < self.duplicate else 1
        for _ in range(copies):
            if self.random.random() < self.loss:
                self.dropped["loss"] += 1
                continue
            yield start + self.delay + self.random.random() * self.jitter


class Stream:
    """One side of a stream: what came, what is to be sent."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.id = number
        self.received = bytearray()
        self.unconsumed = 0
        self.reading = True
        self.ended = self.fin = False
        self.reset_code: int | None = None
        self.stop_code: int | None = None
        self.outgoing = bytearray()
        self.finish_after = False
        self.finished = False
        self.written = 0

    def send(self, data: bytes, *, fin: bool = False) -> None:
        self.outgoing += data
        self.finish_after |= fin
        self.pump()

    def pump(self) -> None:
        engine = self.peer.engine
        if self.outgoing and self.stop_code is None:
            # In pieces, as from a socket.
            while self.outgoing:
                part = bytes(self.outgoing[: 256 * 1024])
                count = engine.write(self.id, part)
                self.written += count
                del self.outgoing[:count]
                if count < len(part):
                    break
        if not self.outgoing and self.finish_after and not self.finished:
            self.finished = True
            engine.finish(self.id)

    def read(self, count: int | None = None) -> None:
        """Consume what came."""
        count = self.unconsumed if count is None else min(count, self.unconsumed)
        self.unconsumed -= count
        if count:
            self.peer.engine.consumed(self.id, count, self.peer.world.now)


class Peer:
    """The owner of one engine: writes down events; `echo` gives back what comes."""

    def __init__(self, world: World, port: Port, engine: Engine) -> None:
        self.world = world
        self.port = port
        self.engine = engine
        self.streams: dict[int, Stream] = {}
        self.events: list[Event] = []
        self.done: HandshakeDone | None = None
        self.closed: Closed | None = None
        self.read_at_once = True
        self.keep = True
        self.echo = False
        self.on_opened: Callable[[Stream], None] | None = None

    def open(self) -> Stream:
        number = self.engine.open_stream()
        stream = self.streams[number] = Stream(self, number)
        return stream

    def take_events(self) -> bool:
        any_event = False
        while (event := self.engine.next_event()) is not None:
            any_event = True
            if not isinstance(event, StreamData):
                self.events.append(event)
            self.handle(event)
        return any_event

    def handle(self, event: Event) -> None:
        match event:
            case HandshakeDone():
                self.done = event
                self.port.settled(self)
            case Closed():
                self.closed = event
                self.port.settled(self)
            case StreamOpened(number):
                assert number not in self.streams
                stream = self.streams[number] = Stream(self, number)
                if self.on_opened is not None:
                    self.on_opened(stream)
            case StreamData(number, data, fin):
                stream = self.streams[number]
                assert not stream.fin
                stream.unconsumed += len(data)
                if self.keep:
                    stream.received += data
                else:
                    stream.received[:] = (len(stream.received) + len(data)).to_bytes(8, "big")
                stream.fin = fin
                if self.read_at_once and stream.reading:
                    stream.read()
                if self.echo:
                    stream.send(data, fin=fin)
            case StreamReset(number, code):
                self.streams[number].reset_code = code
            case StopSending(number, code):
                self.streams[number].stop_code = code
            case StreamEnded(number):
                self.streams[number].ended = True
            case Writable(number):
                self.streams[number].pump()
            case PathChanged() | StreamsAvailable():
                pass

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Port:
    """A UDP port: demultiplexes as a shell does, one engine a connection."""

    def __init__(
        self,
        world: World,
        name: str,
        factory: EngineFactory,
        address: Address,
        *,
        serving: bool = True,
        reception: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.world = world
        self.name = name
        self.factory = factory
        self.address = address
        self.serving = serving
        self.rng = random.Random(f"{world.network.seed} {name}")
        config.setdefault("certificate", certificate(name))
        config.setdefault("limits", Limits())
        self.config = Config(
            reset_key=name.encode().ljust(32, b"r"),
            random=self.rng.randbytes,
            unix_time=lambda: EPOCH + world.now,
            **config,
        )
        self.reception = Reception(self.config.reset_key, self.rng.randbytes, **(reception or {}))
        self.peers: list[Peer] = []
        self.accepted: list[Peer] = []
        self.drops: Counter[str] = Counter()
        self.half_open: set[int] = set()
        self.on_accept: Callable[[Peer], None] | None = None
        self.dead = False
        world.ports.append(self)

    @property
    def peer_id(self) -> PeerId:
        return PeerId.from_public_key(identity(self.name).public)

    def connect(self, target: Address, expected: PeerId | None = None) -> Peer:
        engine = self.factory.connect(self.config, target, self.world.now, expected=expected)
        peer = Peer(self.world, self, engine)
        self.peers.append(peer)
        self.world.dirty.add(self)
        return peer

    def settled(self, peer: Peer) -> None:
        if id(peer) in self.half_open:
            self.half_open.remove(id(peer))
            self.reception.half_open -= 1

    def find(self, data: bytes, source: Address) -> Peer | None:
        header = parse_header(data)
        if header is None:
            return None
        for peer in self.peers:
            if header.destination in peer.engine.connection_ids:
                return peer
        if not data[0] & 0x80:
            for peer in self.peers:
                if peer.engine.address == source:
                    return peer
        return None

    def receive(self, data: bytes, segment: int, source: Address) -> None:
        if self.dead:
            return
        self.world.dirty.add(self)
        peer = self.find(data, source)
        if peer is None:
            decision = self.reception.decide(data, source, self.world.now, accepting=self.serving)
            if isinstance(decision, Reply):
                assert len(decision.datagram) <= len(data)
                self.world.send(decision.datagram, self.address, source)
                return
            if not isinstance(decision, Admission):
                self.drops[decision.cause] += 1
                return
            engine = self.factory.accept(self.config, decision, source, self.world.now)
            peer = Peer(self.world, self, engine)
            self.peers.append(peer)
            self.accepted.append(peer)
            self.half_open.add(id(peer))
            self.reception.half_open += 1
            if self.on_accept is not None:
                self.on_accept(peer)
        peer.engine.receive(data, segment, source, self.world.now)

    def pump(self) -> None:
        for peer in list(self.peers):
            for _ in range(1000):
                moved = peer.take_events()
                for train in peer.engine.trains(self.world.now):
                    moved = True
                    assert 0 < len(train.segments) <= 64
                    sizes = [len(segment) for segment in train.segments]
                    assert sum(sizes) <= 65_000
                    assert all(size == sizes[0] for size in sizes[:-1])
                    assert sizes[-1] <= sizes[0]
                    for segment in train.segments:
                        self.world.send(segment, self.address, train.address)
                moved |= peer.take_events()
                if not moved:
                    break
            else:
                raise AssertionError("an engine that never comes to rest")
            if peer.engine.terminated:
                self.peers.remove(peer)

    def next_timeout(self) -> float | None:
        times = [t for peer in self.peers if (t := peer.engine.next_timeout()) is not None]
        return min(times) if times else None

    def handle_timeouts(self) -> None:
        for peer in self.peers:
            timeout = peer.engine.next_timeout()
            if timeout is not None and timeout <= self.world.now:
                peer.engine.handle_timeout(self.world.now)
                self.world.dirty.add(self)


class World:
    """Ports, a network and the time; timers fire at whole `grain`s of it, as a kernel's do."""

    def __init__(self, network: Network | None = None, *, grain: float = 0.0) -> None:
        self.network = network or Network()
        self.grain = grain
        self.now = 1000.0
        self.ports: list[Port] = []
        self.dirty: set[Port] = set()
        self.queue: list[tuple[float, int, bytes, Address, Address]] = []
        self.order = itertools.count()
        self.steps = 0

    def send(self, data: bytes, source: Address, target: Address) -> None:
        for at in self.network.arrivals(data, source, target, self.now):
            heapq.heappush(self.queue, (at, next(self.order), data, source, target))

    def settle(self) -> None:
        while self.dirty:
            self.dirty.pop().pump()

    def late(self, at: float) -> float:
        return math.ceil(at / self.grain) * self.grain if self.grain else at

    def step(self, deadline: float) -> bool:
        """On to the next thing that happens, at most to `deadline`; False when that is reached."""
        self.settle()
        times = [self.late(t) for port in self.ports if (t := port.next_timeout()) is not None]
        if self.queue:
            times.append(self.queue[0][0])
        at = min(times, default=deadline)
        if at >= deadline:
            self.now = max(self.now, deadline)
            return False
        self.now = max(self.now, at)
        while self.queue and self.queue[0][0] <= self.now:
            _, _, data, source, target = heapq.heappop(self.queue)
            self.network.received[target] += len(data)
            for port in self.ports:
                if port.address == target:
                    port.receive(data, len(data), source)
        for port in self.ports:
            port.handle_timeouts()
        self.steps += 1
        return True

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        """Let time pass until `until`, which must come; returns how long it took."""
        start = self.now
        deadline = self.now + seconds
        while True:
            self.settle()
            if until is not None and until():
                return self.now - start
            if not self.step(deadline):
                break
        if until is not None:
            self.settle()
            assert until(), f"not after {seconds} s"
        return self.now - start

    def poke(self, *ports: Port) -> None:
        """Ports whose engines were called from outside."""
        self.dirty.update(ports)


def two_ports(
    world: World, client: EngineFactory, server: EngineFactory, **options: object
) -> tuple[Port, Port]:
    """(client, server)."""
    return (
        Port(world, "client", client, CLIENT, serving=False, **options),
        Port(world, "server", server, SERVER, **options),
    )


def joined(world: World, client: Port, server: Port, *, seconds: float = 5.0) -> tuple[Peer, Peer]:
    """A connection with both handshakes done."""
    count = len(server.accepted)
    ours = client.connect(server.address, server.peer_id)
    world.run(
        seconds,
        lambda: (
            ours.done is not None
            and len(server.accepted) > count
            and server.accepted[-1].done is not None
        ),
    )
    return ours, server.accepted[-1]
