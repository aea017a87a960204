"""Two hosts behind NAT models on a virtual clock, each with a punching machine.

A packet takes half a round trip from one NAT to the other; so do messages of the session, unless
`relay` says otherwise.  Servers that tell outer ports are as far away as the peer.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pt.punch import Budget, Candidate, Kind, Side
from pt.punch.commands import (
    MAIN,
    PRESAMPLED,
    AskServer,
    CloseSocket,
    Ended,
    OpenSocket,
    Send,
    StartTcp,
    Tell,
    Won,
)
from pt.punch.machine import Puncher
from pt.punch.messages import Offer, Sample, Started, decode_message
from pt.punch.packets import NONCE_LEN
from pt.trace import NO_TRACE, Tracer
from pt.wire.nat_facts import Allocation, Dependence, NatFacts

Endpoint = tuple[str, int]
STUN = ("11.9.0.1", 3478)
HOPS = 9


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, call))

    def run(self, until: float, done: Callable[[], bool]) -> None:
        while self._events and not done():
            when, _, call = heapq.heappop(self._events)
            if when > until:
                break
            self.now = when
            call()


class NatModel:
    """One outer address; behaviour as RFC 4787 has words for it."""

    def __init__(
        self, facts: NatFacts, outer: str, rng: random.Random, clock: Clock, *, poison: bool = False
    ) -> None:
        self.facts = facts
        self.outer = outer
        self.noise = facts.noise or 0.0
        self.poison = poison
        self._rng = rng
        self._clock = clock
        self._next = rng.randrange(20000, 40000)
        self._looked = 0.0
        self._ports: dict[object, int] = {}
        self._inner: dict[int, Endpoint] = {}
        self._contacted: dict[int, set[Endpoint]] = {}
        self._sessions: dict[tuple[Endpoint, Endpoint], int] = {}
        self._poisoned: set[tuple[int, Endpoint]] = set()

    @property
    def keeps(self) -> bool:
        return self.facts.ports is Allocation.PRESERVING

    def outbound(self, source: Endpoint, remote: Endpoint) -> Endpoint:
        if self.facts.translated is False:
            self._contacted.setdefault(source[1], set()).add(remote)
            self._inner[source[1]] = source
            return source
        port = self._sessions.get((source, remote))
        if port is None:
            key: object = source
            if self.facts.mapping is Dependence.ADDRESS:
                key = (source, remote[0])
            elif self.facts.mapping is Dependence.ADDRESS_AND_PORT:
                key = (source, remote)
            port = self._ports.get(key)
            if port is None:
                port = self._ports[key] = self._allocate(source)
                self._inner[port] = source
            if (port, remote) in self._poisoned:
                port = self._sessions[source, remote] = self._free()
                self._inner[port] = source
        self._contacted.setdefault(port, set()).add(remote)
        return self.outer, port

    def inbound(self, remote: Endpoint, port: int) -> Endpoint | None:
        inner = self._inner.get(port)
        if inner is None or not self._lets_in(remote, port):
            if self.poison:
                self._poisoned.add((port, remote))
            return None
        self._sessions.setdefault((inner, remote), port)
        return inner

    def _lets_in(self, remote: Endpoint, port: int) -> bool:
        if self.facts.filtering is Dependence.INDEPENDENT:
            return True
        contacted = self._contacted.get(port, set())
        if self.facts.filtering is Dependence.ADDRESS:
            return any(host == remote[0] for host, _ in contacted)
        return remote in contacted

    def _allocate(self, source: Endpoint) -> int:
        if (
            self.facts.ports is Allocation.PRESERVING
            and self._inner.get(source[1], source) == source
        ):
            return source[1]
        if self.facts.ports is Allocation.SEQUENTIAL:
            passed = self._clock.now - self._looked
            self._looked = self._clock.now
            self._next += self.facts.step * (1 + self._poisson(self.noise * passed))
            self._next = 1024 + (self._next - 1024) % 64512
            return self._next
        return self._free()

    def _free(self) -> int:
        low, high = self.facts.block or (1024, 65535)
        while True:
            port = self._rng.randint(low, high)
            if port not in self._inner:
                return port

    def _poisson(self, mean: float) -> int:
        count, product, limit = 0, self._rng.random(), math.exp(-mean)
        while product > limit:
            count += 1
            product *= self._rng.random()
        return count


@dataclass
class Host:
    world: World
    name: str
    inner: str
    nat: NatModel
    extra: tuple[Candidate, ...] = ()
    puncher: Puncher = field(init=False)
    socks: dict[int, int] = field(default_factory=lambda: {MAIN: 4000})
    sent: list[tuple[float, Endpoint, int | None]] = field(default_factory=list)
    won: Won | None = None
    won_at: float = 0.0
    ended: str | None = None
    most_socks: int = 1
    tcp: int = 0
    _armed: float = math.inf

    def side(self, budget: Budget) -> Side:
        seen = self.nat.outbound((self.inner, self.socks[MAIN]), STUN)
        candidates = [
            Candidate(Kind.HOST, self.inner, self.socks[MAIN]),
            Candidate(Kind.REFLEXIVE, *seen),
            *self.extra,
        ]
        return Side(facts=(self.nat.facts,), candidates=tuple(candidates), budget=budget)

    def carry_out(self) -> None:
        world = self.world
        for command in self.puncher.commands():
            match command:
                case OpenSocket(sock):
                    self.socks[sock] = 30000 + sock
                    self.most_socks = max(self.most_socks, len(self.socks))
                case CloseSocket(sock):
                    del self.socks[sock]
                case Send(sock, data, addr, ttl):
                    self.sent.append((world.clock.now, addr, ttl))
                    world.send(self, self.socks[sock], data, addr, ttl)
                case AskServer(sock):
                    world.ask(self, sock)
                case Tell(message):
                    world.tell(self, message.encode())
                case Won():
                    self.won, self.won_at = command, world.clock.now
                case Ended(reason):
                    self.ended = reason
                case StartTcp():
                    self.tcp += 1
        due = self.puncher.deadline()
        if due is not None and (due < self._armed or self._armed <= world.clock.now):
            self._armed = due
            world.clock.at(due, self._tick)

    def _tick(self) -> None:
        if self.puncher.deadline() is not None:
            self.puncher.tick(self.world.clock.now)
        self._armed = math.inf
        self.carry_out()


class World:
    """`one` is controlling."""

    def __init__(
        self,
        one: NatFacts,
        other: NatFacts,
        *,
        seed: int,
        rtt: float = 0.05,
        loss: float = 0.0,
        relay: float | None = None,
        noise: float = 0.0,
        poison: bool = False,
        budget: Budget | None = None,
        same_nat: bool = False,
        same_subnet: bool = False,
        told: tuple[NatFacts, NatFacts] | None = None,
        skew: float = 0.0,
        presample: bool = False,
        ahead: float = 0.0,
        wait: float = 0.0,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        self.clock = Clock()
        self.rng = random.Random(seed)
        self.rtt = rtt
        self.loss = loss
        self.relay = rtt / 2 if relay is None else relay
        self.same_nat = same_nat
        self.strangers: dict[Endpoint, list[bytes]] = {}
        self.seen: list[tuple[Endpoint, Endpoint, bytes]] = []
        nats = [
            NatModel(facts, f"11.{number}.0.1", self.rng, self.clock, poison=poison)
            for number, facts in ((1, one), (2, other))
        ]
        for nat in nats:
            nat.noise = noise
        if same_nat:
            nats[1] = nats[0]
        subnets = ("192.168.1", "192.168.1" if same_nat or same_subnet else "192.168.2")
        self.hosts = [
            Host(
                self, "a", one.external if one.translated is False else f"{subnets[0]}.2", nats[0]
            ),
            Host(
                self,
                "b",
                other.external if other.translated is False else f"{subnets[1]}.3",
                nats[1],
            ),
        ]
        sides = [host.side(budget or Budget()) for host in self.hosts]
        if told is not None:
            sides = [
                Side(facts=(facts,), candidates=side.candidates, budget=side.budget)
                for facts, side in zip(told, sides, strict=True)
            ]
        offers = []
        for host, side in zip(self.hosts, sides, strict=True):
            sample = None
            if presample and side.samples:
                host.socks[PRESAMPLED] = 30000 + PRESAMPLED
                sample = self.outer(host, PRESAMPLED)
            nonce = self.rng.randbytes(NONCE_LEN)
            offer = Offer(attempt=7, nonce=nonce, side=side, sample=sample)
            assert decode_message(offer.encode()) == offer
            offers.append(offer)
        for number, host in enumerate(self.hosts):
            host.puncher = Puncher(
                offers[number],
                offers[1 - number],
                b"s" * 32,
                controlling=number == 0,
                seed=self.rng.randbytes(32),
                rtt=rtt,
                tracer=tracer if number == 0 else NO_TRACE,
            )
        start = ahead + (rtt if presample else 0.0)  # the samples travel with the offers
        self.started = max(start, start + skew)
        self.clock.at(start, lambda: self._begin(0, wait))
        self.clock.at(start + skew, lambda: self._begin(1, 0.0))

    def _begin(self, number: int, wait: float) -> None:
        host = self.hosts[number]
        host.puncher.begin(self.clock.now, wait)
        host.carry_out()
        if number == 0:
            self.tell(host, Started(attempt=7).encode())

    def peer(self, host: Host) -> Host:
        return self.hosts[1 - self.hosts.index(host)]

    # --- the network ---------------------------------------------------------------------------

    def send(self, host: Host, port: int, data: bytes, addr: Endpoint, ttl: int | None) -> None:
        if self.rng.random() < self.loss:
            return
        peer = self.peer(host)
        source = (host.inner, port)
        if self.same_nat and addr[0] == peer.inner:
            self._later(0.001, lambda: self._deliver(peer, addr[1], data, source))
            return
        private = addr[0].startswith("192.168.")
        if private:
            self.strangers.setdefault(addr, []).append(data)
            return
        outer = host.nat.outbound(source, addr)
        if self.same_nat and addr[0] == host.nat.outer:
            if host.nat.facts.hairpin:
                self._later(0.002, lambda: self._arrive(peer, addr, data, outer))
            return
        if (ttl or 64) < HOPS:
            return
        self.seen.append((outer, addr, data))
        if addr[0] == peer.nat.outer or addr[0] == peer.inner:
            self._later(self.rtt / 2, lambda: self._arrive(peer, addr, data, outer))
        else:
            self.strangers.setdefault(addr, []).append(data)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        self.clock.at(self.clock.now + delay, call)

    def _arrive(self, host: Host, addr: Endpoint, data: bytes, source: Endpoint) -> None:
        inner = host.nat.inbound(source, addr[1])
        if inner is not None and inner[0] == host.inner:
            self._deliver(host, inner[1], data, source)

    def _deliver(self, host: Host, port: int, data: bytes, source: Endpoint) -> None:
        for sock, bound in host.socks.items():
            if bound == port:
                host.puncher.receive(self.clock.now, sock, data, source)
                host.carry_out()
                return

    def ask(self, host: Host, sock: int) -> None:
        def answer() -> None:
            host.puncher.sampled(self.clock.now, sock, seen)
            host.carry_out()

        seen = self.outer(host, sock)
        self._later(0.0 if host.nat.keeps else self.rtt, answer)

    def outer(self, host: Host, sock: int) -> Endpoint:
        """As the shell finds it out: a NAT that keeps ports is not asked."""
        if host.nat.keeps:
            return host.nat.outer, host.socks[sock]
        return host.nat.outbound((host.inner, host.socks[sock]), STUN)

    def tell(self, host: Host, body: bytes) -> None:
        def hear() -> None:
            message = decode_message(body)
            if isinstance(message, Started):
                peer.puncher.peer_began(self.clock.now)
            else:
                assert isinstance(message, Sample)
                peer.puncher.told(self.clock.now, message)
            peer.carry_out()

        peer = self.peer(host)
        self._later(self.relay, hear)

    # --- results -------------------------------------------------------------------------------

    def run(self, until: float = 120.0) -> World:
        self.clock.run(until, lambda: all(host.won or host.ended for host in self.hosts))
        return self

    @property
    def direct(self) -> bool:
        return all(host.won is not None for host in self.hosts)

    @property
    def time(self) -> float:
        """Until the controlling side has verified the path."""
        return self.hosts[0].won_at - self.started

    @property
    def packets(self) -> list[int]:
        return [len(host.sent) for host in self.hosts]
