"""STUN servers, a prober and the laboratory's NATs on one virtual clock: no socket, no waiting."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

from pt.errors import PtError
from pt.lab.model import builder
from pt.lab.model.packet import UDP, Packet, address_text
from pt.lab.model.plan import make_plan
from pt.lab.model.world import World
from pt.stun.limits import Allowance
from pt.stun.partner import Partner, partner_key
from pt.stun.probing import Prober, Script
from pt.stun.server import Answer, Place, Server

T = TypeVar("T")
PORTS = (3478, 3479)
KEY = partner_key("the secret of two relays")
Address = tuple[str, int]


class Host:
    """Sockets of a host of the world, which are numbers and ports; 0 is there."""

    def __init__(self, world: StunWorld, name: str, *, six: bool = False) -> None:
        self.world = world
        self.name = name
        addresses = world.addresses[name]
        self.ip = next(each for each in addresses if (":" in each) == six)
        self._ports = random.Random(f"{name} {world.seed}")
        self._numbers = itertools.count()
        self.socks: dict[int, int] = {}
        self.most = 0
        self.open()

    def open(self, *, whole: bool = False) -> int:
        del whole
        port = self._ports.randrange(32768, 61000)
        while port in self.socks.values():
            port += 1
        number = next(self._numbers)
        self.socks[number] = port
        self.most = max(self.most, len(self.socks))
        return number

    def close(self, sock: int) -> None:
        del self.socks[sock]

    def send(self, sock: int, data: bytes, to: Address) -> None:
        self.world.datagram(self.name, (self.ip, self.socks[sock]), to, data)

    def local(self, sock: int, to: Address) -> Address | None:
        del to
        return self.ip, self.socks[sock]


class StunWorld:
    """Public hosts s1 and s2 serve STUN; a is behind a NAT.

    `serve` says how: `alone` with two addresses, `single` with one, `pair`: each has one, and they
    answer for each other.
    """

    def __init__(
        self, nat: str, *, serve: str = "alone", seed: int = 1, six=False, **words
    ) -> None:
        self.seed = seed
        self.now = 1000.0
        plan = make_plan({"a": nat}, **words)
        self.addresses = {host.name: host.addresses for host in plan.hosts}
        self.world = World(plan, lambda name: random.Random(f"{seed} {name}"))
        self.host = Host(self, "a", six=six)
        rng = random.Random(seed)
        self.prober = Prober(self.host, rng.randbytes)
        self.six = six
        self.serve = serve
        self.answers: Callable[[Answer, str], Answer | None] = lambda answer, _: answer
        """May change what a server sends, or drop it."""
        self.asker: Address = ("", 0)
        """Who asked last."""
        self.sent = 0
        self._events: list[tuple[float, Callable[[], None]]] = []
        self._servers: dict[str, Server] = {}
        self._partners: dict[str, Partner] = {}
        for name in ("s1", "s2"):
            own = [each for each in self.addresses[name] if (":" in each) == six]
            hosts = own if serve == "alone" else own[:1]
            places = {
                Place(at, which): (host, port)
                for at, host in enumerate(hosts)
                for which, port in enumerate(PORTS)
            }
            self._servers[name] = Server(places, allowance=Allowance())
            if serve == "pair":
                other = self.address("s2" if name == "s1" else "s1")
                self._partners[name] = Partner(other, KEY, PORTS, rng.randbytes)

    def address(self, name: str, index: int = 0) -> Address:
        own = [each for each in self.addresses[name] if (":" in each) == self.six]
        return own[index], PORTS[0]

    def at(self, delay: float, do: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self._events.append((self.now + delay, do))
        self._events.sort(key=lambda each: each[0])

    def datagram(self, name: str, source: Address, to: Address, data: bytes) -> None:
        ends = [(ip_address(host).packed, port) for host, port in (source, to)]
        packet = builder.udp(ends[0], ends[1], data)
        if len(packet.data) <= 1500:
            self.sent += name == "a"
            self.world.send(name, bytes(packet.data), self.now)

    # --- running -------------------------------------------------------------------------------

    def run(self, script: Script[T], *, most: float = 3600.0) -> T:
        """Run a script to its end."""
        found: list[T] = []
        self._ask_partners()
        self.settle(0.5)
        self.prober.run(script, found.append, self.now, failed=self._failed)
        self._deliver()
        end = self.now + most
        while not found:
            self._turn(end)
        assert self.prober.next_timeout() is None
        assert list(self.host.socks) == [0], "sockets were left open"
        return found[0]

    def _failed(self, error: PtError) -> None:
        raise AssertionError("a script failed") from error

    def settle(self, seconds: float) -> None:
        end = self.now + seconds
        self.at(seconds, lambda: None)
        while self.now < end:
            self._turn(end)

    def _turn(self, end: float) -> None:
        times = [self.prober.next_timeout(), self.world.next_due()]
        times += [self._events[0][0] if self._events else None]
        times += [partner.next_timeout() for partner in self._partners.values()]
        due = min(each for each in times if each is not None)
        assert due <= end, "it does not end"
        self.now = max(self.now, due)
        while self._events and self._events[0][0] <= self.now:
            self._events.pop(0)[1]()
        self._deliver()
        self._ask_partners()
        self.prober.handle_timeout(self.now)
        self._deliver()

    def _deliver(self) -> None:
        """Let arrive what is due now, and what is sent because of it."""
        while arrived := self.world.advance(self.now):
            for host, raw in arrived:
                self._arrived(host, Packet(raw))

    def _ask_partners(self) -> None:
        for name, partner in self._partners.items():
            for data in partner.handle_timeout(self.now):
                self.datagram(name, self.address(name), partner.address, data)

    def _arrived(self, name: str, packet: Packet) -> None:
        if packet.protocol != UDP:
            return
        source = (address_text(packet.source), packet.sport)
        local = (address_text(packet.target), packet.dport)
        data = bytes(packet.payload)[8:] if len(packet.payload) == len(packet.data) else None
        data = bytes(packet.data[packet.l4 + 8 :]) if data is None else data
        if name == "a":
            socks = [sock for sock, port in self.host.socks.items() if port == packet.dport]
            for sock in socks:
                self.prober.receive(sock, data, source, self.now)
        elif name in self._servers:
            self._serve(name, source, local, data)

    def _serve(self, name: str, source: Address, local: Address, data: bytes) -> None:
        server, partner = self._servers[name], self._partners.get(name)
        if partner is not None:
            if source == partner.address:
                found = partner.receive(data, source, self.now)
                if isinstance(found, bytes):
                    self.datagram(name, local, source, found)
                elif found is not None:
                    self._answer(name, found)
                return
            own = {place: each for place, each in server.places.items() if place.ip == 0}
            server.places = {**partner.places(self.now), **own}
        place = next((each for each, where in server.places.items() if where == local), None)
        if place is None:
            return
        self.asker = source
        answer = server.receive(data, source, place, self.now)
        if answer is not None:
            self._answer(name, answer)

    def _answer(self, name: str, answer: Answer) -> None:
        changed = self.answers(answer, name)
        if changed is None:
            return
        partner = self._partners.get(name)
        if partner is not None and changed.place.ip == 1:
            data = partner.forward(changed, self.now)
            assert data is not None
            self.datagram(name, self.address(name), partner.address, data)
            return
        self.datagram(name, self._servers[name].places[changed.place], changed.to, changed.data)
