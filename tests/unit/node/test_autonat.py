"""Which servers a node asks about which of its addresses, and when; on virtual time.

Servers are `pt.autonat.aio.serve` on streams in memory; they dial what is in `open`.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from pt.aio.tcp import SocketStream
from pt.autonat.aio import deliver, serve
from pt.autonat.messages import DIAL_BACK, DIAL_REQUEST, DialStatus
from pt.autonat.reachability import BUDGET, REFRESH, SAME_SERVER, State
from pt.autonat.server import Rates
from pt.errors import ClosedError, ConnectError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.autonat import LOOK, AutoNat
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run as on_virtual_time

HOST = "11.0.1.2"
TCP, QUIC = Multiaddr.tcp(HOST, 4001), Multiaddr.quic(HOST, 4001)
SIX = Multiaddr.tcp("2a00:6000::2", 4001)
ELSEWHERE = Multiaddr.tcp("11.0.9.9", 4001)
LAN = Multiaddr.tcp("192.168.1.2", 4001)
CIRCUIT = Multiaddr.tcp("11.1.0.1", 4001).through_circuit()
WEBSOCKET = Multiaddr.parse(f"{TCP}/ws")
NAMED = Multiaddr.parse("/dns4/host.example/tcp/4001")


class Peer(SimpleNamespace):
    __hash__ = object.__hash__


class World:
    """A node that has only what it takes, and servers around it."""

    def __init__(self) -> None:
        self.open: set[Multiaddr] = set()
        self.dialed: list[tuple[int, Multiaddr, float]] = []
        self.told: list[tuple[Multiaddr, State]] = []
        self.sink = io.StringIO()
        self.handlers: dict[str, Callable[..., Awaitable[None]]] = {}
        self.seen: list[Multiaddr] = []
        self.mapped: list[Multiaddr] = []
        self.looks = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.sockets: list[socket.socket] = []
        self.node = SimpleNamespace(
            announce=(),
            listening=(),
            connections=set(),
            on_identified=[],
            confirmed=(),
            unreachable=frozenset(),
            observed=SimpleNamespace(by_dialed=self.seen),
            tracer=Tracer(self.sink),
            handle=self.handlers.__setitem__,
        )

    def make(self) -> AutoNat:
        def mapped() -> list[Multiaddr]:
            self.looks += 1
            return self.mapped

        self.autonat = AutoNat(
            self.node,  # type: ignore[arg-type]
            mapped=mapped,
            changed=lambda *news: self.told.append(news),
        )
        self.autonat.start()
        return self.autonat

    def server(
        self, number: int, *protocols: str, listen: tuple[Multiaddr, ...] = (), **facts: object
    ) -> Peer:
        """Meet a server."""
        rates = Rates()
        peer_id = PeerId.from_public_key(PrivateKey.generate(bytes([number]) * 32).public)

        async def dial_back(address: Multiaddr, nonce: int) -> DialStatus:
            self.dialed.append((number, address, asyncio.get_running_loop().time()))
            if address not in self.open:
                raise ConnectError("filtered")
            ours, theirs = self.streams()
            inbound = SimpleNamespace(local_addr=address)
            self.spawn(self.handlers[DIAL_BACK](theirs, inbound))
            return await deliver(ours, nonce)

        async def open_stream(_: object) -> SocketStream:
            ours, theirs = self.streams()
            self.spawn(serve(theirs, HOST, b"us", rates, dials=lambda _: True, dial_back=dial_back))
            return ours

        facts = {
            "peer_id": peer_id,
            "initiator": True,
            "relay": None,
            "closed": False,
            "remote_addr": Multiaddr.tcp(f"11.{number}.0.1", 4001),
            "uses": 0,
            "open_stream": open_stream,
            "identified": SimpleNamespace(
                protocols=protocols or (DIAL_REQUEST,), listen_addresses=listen, observed=TCP
            ),
        } | facts
        connection = Peer(**facts)
        self.node.connections.add(connection)
        for told in self.node.on_identified:
            told(connection)
        return connection

    def streams(self) -> tuple[SocketStream, SocketStream]:
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self.sockets += ends
        return SocketStream(ends[0]), SocketStream(ends[1])

    def spawn(self, coro: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coro)
        self.tasks.add(task)

    def traced(self, event: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.sink.getvalue().splitlines()]
        return [each for each in lines if each["event"] == event]

    def asked(self) -> list[Multiaddr]:
        return [address for _, address, _ in self.dialed]


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.autonat.close()
            await asyncio.gather(*world.tasks, return_exceptions=True)
            for each in world.sockets:
                each.close()

    on_virtual_time(main())


def test_an_address_that_servers_can_dial_is_confirmed_and_asked_about_hourly() -> None:
    async def test(world: World) -> None:
        world.node.listening, world.open = (LAN, TCP), {TCP}
        world.make()
        for number in (1, 2, 3):
            world.server(number)
        await asyncio.sleep(30)
        assert world.told == [(TCP, State.REACHABLE)]
        assert world.node.confirmed == (TCP,)
        assert {number for number, _, _ in world.dialed} == {1, 2, 3}
        await asyncio.sleep(REFRESH - 60)
        assert world.asked() == [TCP] * 3
        await asyncio.sleep(90)
        assert world.asked() == [TCP] * 4
        assert len(world.traced("autonat_verdict")) == 4

    run(test)


def test_one_server_is_enough_and_takes_its_time() -> None:
    async def test(world: World) -> None:
        world.node.listening, world.open = (TCP, QUIC), {TCP}
        world.make()
        world.server(1)
        await asyncio.sleep(SAME_SERVER - 10)
        assert world.asked() == [TCP, QUIC]
        assert world.told == []
        await asyncio.sleep(30)
        assert dict(world.told) == {TCP: State.REACHABLE, QUIC: State.UNREACHABLE}
        assert (world.node.confirmed, world.node.unreachable) == ((TCP,), {QUIC})
        await world.autonat.close()
        assert (world.node.confirmed, world.node.unreachable) == ((), frozenset())
        assert world.node.on_identified == []

    run(test)


def test_where_peers_see_us_and_what_routers_map_is_asked_about() -> None:
    async def test(world: World) -> None:
        world.seen.append(QUIC)
        world.mapped, world.open = [TCP], {TCP, QUIC}
        world.make()
        for number in (1, 2):
            world.server(number)
        await asyncio.sleep(30)
        assert set(world.node.confirmed) == {TCP, QUIC}
        world.seen.clear()
        await asyncio.sleep(LOOK + 2)
        assert world.told[-1] == (QUIC, State.UNKNOWN)
        assert world.node.confirmed == (TCP,)

    run(test)


def test_nothing_happens_without_a_server() -> None:
    async def test(world: World) -> None:
        world.node.listening = (TCP,)
        world.make()
        world.server(1, "/ipfs/id/1.0.0")
        world.server(2, initiator=False)
        world.server(3, relay=b"relay")
        world.server(4, remote_addr=Multiaddr.tcp("192.168.1.1", 4001))
        world.server(5, closed=True)
        world.server(6, identified=None)
        await asyncio.sleep(2 * REFRESH)
        assert world.looks == 0
        assert world.dialed == []
        world.server(7)
        await asyncio.sleep(2)
        assert world.asked() == [TCP]

    run(test)


def test_what_is_of_no_use_to_others_is_never_asked_about() -> None:
    async def test(world: World) -> None:
        world.node.listening = (LAN, WEBSOCKET, Multiaddr.tcp("100.64.0.2", 1))
        world.node.announce = (NAMED, CIRCUIT)
        world.make()
        world.server(1)
        await asyncio.sleep(300)
        assert world.looks > 1
        assert world.dialed == []

    run(test)


def test_an_address_that_is_new_is_asked_about_soon() -> None:
    async def test(world: World) -> None:
        world.node.listening = (TCP,)
        world.make()
        world.server(1)
        await asyncio.sleep(5)
        world.node.listening = (TCP, QUIC)
        await asyncio.sleep(LOOK)
        assert world.asked() == [TCP, QUIC]
        third = Multiaddr.tcp(HOST, 4003)
        world.node.listening = (TCP, QUIC, third)
        await asyncio.sleep(10)
        world.autonat.recheck()
        await asyncio.sleep(2)
        assert world.asked() == [TCP, QUIC, third]

    run(test)


def test_a_server_is_asked_about_what_it_can_dial() -> None:
    async def test(world: World) -> None:
        world.node.listening, world.open = (SIX,), {SIX}
        world.make()
        world.server(1)
        await asyncio.sleep(60)
        assert world.dialed == []
        assert world.looks < 10
        world.server(2, listen=(Multiaddr.tcp("2a00:6000::1", 4001),))
        await asyncio.sleep(60)
        assert [number for number, _, _ in world.dialed] == [2]

    run(test)


def test_dials_elsewhere_cost_no_more_than_the_budget() -> None:
    async def test(world: World) -> None:
        world.node.listening = (ELSEWHERE,)
        world.make()
        servers = [world.server(number) for number in range(1, 31)]
        await asyncio.sleep(REFRESH / 2)
        paid = world.autonat._known._paid
        assert 0 < paid <= BUDGET
        count = len(world.dialed)
        world.autonat._known._paid = BUDGET
        world.node.listening = (Multiaddr.tcp("11.0.9.8", 4001), TCP)
        await asyncio.sleep(60)
        assert set(world.asked()[count:]) == {TCP}
        assert not any(each.uses for each in servers)

    run(test)


def test_what_the_user_announces_is_never_withheld() -> None:
    async def test(world: World) -> None:
        world.node.announce = (TCP,)
        world.make()
        for number in (1, 2):
            world.server(number)
        await asyncio.sleep(30)
        assert world.told == [(TCP, State.UNREACHABLE)]
        assert world.node.unreachable == frozenset()

    run(test)


@pytest.mark.parametrize("error", [ClosedError("gone"), TimeoutError()])
def test_a_server_that_fails_is_left_alone_for_a_while(error: BaseException) -> None:
    async def test(world: World) -> None:
        async def refuse(_: object) -> SocketStream:
            raise error

        world.node.listening, world.open = (TCP,), {TCP}
        world.make()
        bad = world.server(1, open_stream=refuse)
        await asyncio.sleep(SAME_SERVER - 10)
        assert len(world.traced("autonat_failed")) == 1
        assert bad.uses == 0
        for number in (2, 3):
            world.server(number)
        await asyncio.sleep(60)
        assert world.node.confirmed == (TCP,)

    run(test)
