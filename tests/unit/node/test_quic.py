"""QUIC at a node: one UDP port for all, beside TCP's, and who gets in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from pt.aio.udp import UdpPort
from pt.errors import (
    ClosedError,
    ConnectError,
    DialOutcome,
    LimitError,
    LocalPortError,
    UsageError,
)
from pt.identity.peer_id import PeerMismatchError
from pt.lab.netns import Lan
from pt.muxer import Stream
from pt.node.connection import Connection
from pt.node.limits import NodeLimits
from pt.node.node import Node
from pt.trace import Tracer
from pt.tunnel.session import MAX_STREAMS
from pt.wire.multiaddr import Multiaddr
from tests.contract.carriers import ENGINES, End, accepting, over_quic, quic_node
from tests.sim.loop import run
from tests.unit.quic.shell import Endpoint, Raw, first_datagram

TCP, UDP = Multiaddr.tcp("127.0.0.1", 0), Multiaddr.quic("127.0.0.1", 0)
BOTH = (TCP, UDP)
QUIET = 20.0


@pytest.fixture(autouse=True, scope="module")
def _no_engine_asked_for() -> None:
    assert "PT_QUIC_ENGINE" not in os.environ


def check(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(600):
            await body()

    run(bounded())


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def started(*nodes: Node) -> AsyncIterator[None]:
    try:
        for node in nodes:
            await node.start()
        yield
    finally:
        for node in nodes:
            await node.close()


def ports(node: Node) -> dict[str, set[int | None]]:
    found: dict[str, set[int | None]] = {}
    for address in node.addresses:
        found.setdefault(address.transport, set()).add(address.port)
    return found


async def met(node: Node, count: int = 1) -> Connection:
    """The connection that a node has, once it does: whoever dialed knows first."""
    while len(node.connections) < count:
        await asyncio.sleep(0.001)
    return next(iter(node.connections))


# --- the port ----------------------------------------------------------------------------------


def test_udp_has_the_number_of_tcp() -> None:
    async def body() -> None:
        node = quic_node(1, listen=BOTH)
        async with started(node):
            found = ports(node)
            assert found["tcp"] == found["quic-v1"]
            assert len(found["tcp"]) == 1
            assert node.quic.udp is not None
        assert node.quic.udp is None
        assert node.addresses == ()

    check(body)


def test_or_another_one_if_that_is_taken() -> None:
    async def body() -> None:
        node = quic_node(1, listen=(TCP,))
        async with started(node):
            (number,) = ports(node)["tcp"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(("127.0.0.1", number))
                node.listen((UDP,))
                (other,) = ports(node)["quic-v1"]
                assert other != number

    check(body)


def test_a_port_that_is_taken_is_named_and_nothing_is_left_open() -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            number = taken.getsockname()[1]
            node = quic_node(1, listen=(TCP, Multiaddr.quic("127.0.0.1", number)))
            with pytest.raises(LocalPortError, match=f"UDP port {number} on 127.0.0.1"):
                await node.start()
            assert node.addresses == ()
            await node.close()

    check(body)


@pytest.mark.parametrize(
    "text",
    [
        "/dns4/localhost/udp/4001/quic-v1",
        "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/ip4/127.0.0.1/udp/4001",
        "/ip4/127.0.0.1/udp/4001/quic",
    ],
)
def test_addresses_that_nobody_can_listen_on(text: str) -> None:
    async def body() -> None:
        node = quic_node(1, listen=(TCP, Multiaddr.parse(text)))
        with pytest.raises(UsageError, match="cannot listen on"):
            await node.start()
        assert node.addresses == ()
        await node.close()

    check(body)


def test_a_kernel_without_ipv6_serves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **options)

    async def body() -> None:
        node, other = quic_node(1, listen=(UDP, Multiaddr.quic("::", 0))), quic_node(2)
        monkeypatch.setattr(socket, "socket", Old)
        try:
            async with started(node, other):
                (address,) = node.addresses
                assert address.host == ("ip4", "127.0.0.1")
                await other.connect(address)
                with pytest.raises(LocalPortError):  # nothing else is left
                    quic_node(3).listen((Multiaddr.quic("::", 0),))
        finally:
            monkeypatch.undo()

    check(body)


def test_ipv6_is_served_beside_ipv4() -> None:
    async def body() -> None:
        node = quic_node(1, listen=(UDP, Multiaddr.quic("::1", 0)))
        other = quic_node(2, listen=(Multiaddr.quic("::1", 0),))
        async with started(node, other):
            four, six = node.addresses
            connection = await other.connect(six)
            assert (await connection.identify()).observed == other.addresses[0]
            with pytest.raises(ConnectError) as caught:  # it has no socket for that
                await other.connect(four)
            assert caught.value.attempts[0].outcome is not DialOutcome.SILENT

    check(body)


def test_a_port_that_dials_can_listen_later() -> None:
    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        async with started(one, two):
            connection = await one.connect(two.addresses)
            before = one.addresses
            one.unlisten()
            assert one.addresses == ()
            with pytest.raises(ConnectError):
                await two.connect(before, timeout=2)
            assert await connection.ping() >= 0
            with pytest.raises(LocalPortError, match="another UDP port already"):
                one.listen((Multiaddr.quic("127.0.0.1", 4001),))
            one.listen((UDP,))
            assert one.addresses == before  # what the NAT knows stays
            again = await two.connect(before)
            assert await again.ping() >= 0

    check(body)


def test_a_port_of_somebody_else_is_used_and_left_to_him() -> None:
    async def body() -> None:
        udp = UdpPort(("127.0.0.1", 0))
        heard: list[bytes] = []
        udp.received = lambda data, _: heard.append(data)
        relay, client, raw = quic_node(1, listen=()), quic_node(2), Raw()
        async with started(relay, client):
            relay.quic.share(udp)
            assert relay.quic.udp is udp
            assert relay.addresses == (Multiaddr.quic(*udp.address),)
            connection = await client.connect(relay.addresses)
            raw.send(b"\x00\x01stun", udp.address)
            assert await connection.ping() >= 0
            assert heard == [b"\x00\x01stun"]
        raw.send(b"\x00\x01again", udp.address)
        await asyncio.sleep(0.01)
        assert heard[1:] == [b"\x00\x01again"]
        raw.close()
        udp.close()

    check(body)


def test_a_punched_port_serves_its_connection_and_no_longer() -> None:
    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        near, far = UdpPort(("127.0.0.1", 0)), UdpPort(("127.0.0.1", 0))
        async with started(one, two):
            two.unlisten()
            two.quic.accept_at(far)
            there = Multiaddr.quic(*far.address)
            connection = await one.quic.dial_from(near, there, two.peer_id)
            theirs = await met(two)
            assert connection.local_addr == theirs.remote_addr == Multiaddr.quic(*near.address)
            assert theirs.local_addr == connection.remote_addr == there
            await asyncio.sleep(100)
            assert await connection.ping() < 1
            connection.close()
            await asyncio.sleep(50)
            assert near.addresses == far.addresses == []
            assert len(one.addresses) == 1  # the shared one is still there

    check(body)


def test_punched_ports_are_few() -> None:
    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        async with started(one, two):
            (there,) = two.addresses
            used = UdpPort(("127.0.0.1", 0))
            connection = await one.quic.dial_from(used, there, two.peer_id)
            spare = [UdpPort(("127.0.0.1", 0)) for _ in range(30)]
            for port in spare:
                one.quic.accept_at(port)
            assert [bool(port.addresses) for port in spare] == [False] * 15 + [True] * 15
            assert await connection.ping() < 1
            for port in spare[15:]:
                await two.connect(Multiaddr.quic(*port.address))
            more = UdpPort(("127.0.0.1", 0))
            with pytest.raises(LimitError, match="16 paths"):
                one.quic.accept_at(more)
            assert more.addresses == []
            assert len(one.connections) == 16

    check(body)


def test_an_engine_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PT_QUIC_ENGINE", "quiche")

    async def body() -> None:
        node = quic_node(1, listen=BOTH)
        message = "PT_QUIC_ENGINE: there is no QUIC engine 'quiche' here: use .*aioquic"
        with pytest.raises(UsageError, match=message):
            await node.start()
        assert node.addresses == ()
        udp = UdpPort(("127.0.0.1", 0))
        with pytest.raises(UsageError, match=message):
            node.quic.share(udp)
        assert udp.addresses  # still its owner's
        udp.close()
        with pytest.raises(UsageError, match=message):
            await node.connect(Multiaddr.quic("127.0.0.1", 9))
        await node.close()

    check(body)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("PT_QUIC_ENGINE", engine)

    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        async with started(one, two):
            link: Any = (await one.connect(two.addresses)).link
            assert link.engine.name == engine
            theirs: Any = (await met(two)).link
            assert theirs.engine.name == engine

    check(body)


# --- what a connection says ---------------------------------------------------------------------


def test_both_ends_know_each_other() -> None:
    trace = io.StringIO()

    async def body() -> None:
        one, two = quic_node(1, tracer=Tracer(trace)), quic_node(2)
        async with started(one, two):
            ours = await one.connect(two.addresses, expected=two.peer_id)
            theirs = await met(two)
            assert (ours.peer_id, theirs.peer_id) == (two.peer_id, one.peer_id)
            assert ours.handshake_hash == theirs.handshake_hash
            assert len(ours.handshake_hash) == 32
            assert (ours.path, ours.security, ours.relay) == ("direct/quic", "TLS 1.3", None)
            assert (ours.initiator, theirs.initiator) == (True, False)
            assert ours.remote_addr == theirs.local_addr == two.addresses[0]
            assert theirs.remote_addr == ours.local_addr == one.addresses[0]
            said = await ours.identify()
            assert said.observed == one.addresses[0]
            assert said.listen_addresses == two.addresses
            assert said.signed_record is not None
            assert (await theirs.identify()).observed == two.addresses[0]
            assert await theirs.ping() < 1
            link: Any = theirs.link
            link.on_moved(("127.0.0.1", 5))
            assert str(theirs.remote_addr) == "/ip4/127.0.0.1/udp/5/quic-v1"

    check(body)
    events = [json.loads(line) for line in trace.getvalue().splitlines()]
    (connected,) = [event for event in events if event["event"] == "connected"]
    assert (connected["path"], connected["suite"]) == ("direct/quic", "TLS 1.3")


def test_the_greeting_goes_over_quic_too() -> None:
    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        told: asyncio.Queue[Connection] = asyncio.Queue()
        two.on_identified.append(told.put_nowait)
        async with started(one, two):
            await one.connect(two.addresses)
            connection = await told.get()
            assert connection.identified is not None
            assert connection.identified.listen_addresses == one.addresses

    check(body)


# --- dialing -----------------------------------------------------------------------------------


def test_somebody_else_is_there() -> None:
    async def body() -> None:
        one, two = quic_node(1), quic_node(2)
        async with started(one, two):
            with pytest.raises(PeerMismatchError):
                await one.connect(two.addresses, expected=one.peer_id)
            await asyncio.sleep(QUIET)
            assert not one.connections
            assert not two.connections

    check(body)


def unused(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_where_everybody_refuses_the_dial_ends_at_once() -> None:
    async def body() -> None:
        one = quic_node(1)
        async with started(one):
            began = now()
            with pytest.raises(ConnectError) as caught:
                await one.connect(
                    [
                        Multiaddr.tcp("127.0.0.1", unused(socket.SOCK_STREAM)),
                        Multiaddr.quic("127.0.0.1", unused(socket.SOCK_DGRAM)),
                        Multiaddr.quic("127.0.0.1", unused(socket.SOCK_DGRAM)),
                    ]
                )
            assert now() - began < 1
            assert len(caught.value.attempts) == 3
            assert {dial.outcome for dial in caught.value.attempts} == {DialOutcome.REFUSED}

    check(body)


def test_where_udp_is_blocked_tcp_wins() -> None:
    async def body() -> None:
        one, two, void = quic_node(1, listen=BOTH), quic_node(2, listen=(TCP,)), Raw()
        async with started(one, two):
            began = now()
            connection = await one.connect([Multiaddr.quic(*void.address), *two.addresses])
            assert now() - began < 0.5
            assert connection.path == "direct/tcp"
        void.close()

    check(body)


def test_where_tcp_is_refused_or_silent_quic_wins() -> None:
    async def body() -> None:
        one, two = quic_node(1, listen=BOTH), quic_node(2)
        async with started(one, two):
            refusing = Multiaddr.tcp("127.0.0.1", unused(socket.SOCK_STREAM))
            connection = await one.connect([refusing, *two.addresses])
            assert connection.path == "direct/quic"
            connection.close()
            with socket.create_server(("127.0.0.1", 0)) as mute:  # takes it, and says nothing
                began = now()
                silent = Multiaddr.tcp(*mute.getsockname())
                connection = await one.connect([silent, *two.addresses])
                assert now() - began < 1
                assert connection.path == "direct/quic"

    check(body)


def test_where_both_work_one_is_used_and_the_other_leaves_nothing() -> None:
    async def body() -> None:
        one, two = quic_node(1, listen=BOTH), quic_node(2, listen=BOTH)
        async with started(one, two):
            connection = await one.connect(two.addresses)
            assert connection.path == "direct/tcp"  # it is ahead
            await asyncio.sleep(QUIET)
            assert one.connections == {connection}
            assert len(two.connections) == 1
            assert one.quic.udp is not None

    check(body)


def test_a_silent_peer_has_its_time() -> None:
    async def body() -> None:
        one, void = quic_node(1, limits=NodeLimits(connect_timeout=3.0)), Raw()
        async with started(one):
            began = now()
            with pytest.raises(ConnectError) as caught:
                await one.connect(Multiaddr.quic(*void.address))
            assert 2.9 < now() - began < 3.5
            assert caught.value.attempts[0].outcome is DialOutcome.SILENT
        void.close()

    check(body)


# --- limits ------------------------------------------------------------------------------------


def test_one_host_has_so_many_connections() -> None:
    async def body() -> None:
        server = quic_node(1, limits=NodeLimits(connections_per_host=2))
        clients = [quic_node(seed) for seed in (2, 3, 4)]
        async with started(server, *clients):
            first = await clients[0].connect(server.addresses)
            await clients[1].connect(server.addresses)
            await met(server, 2)
            began = now()
            with pytest.raises(ClosedError, match="too many connections"):
                await clients[2].connect(server.addresses)
            assert now() - began < 1  # it is told, instead of left waiting
            first.close()
            while len(server.connections) > 1:
                await asyncio.sleep(0.001)
            await clients[2].connect(server.addresses)

    check(body)


def test_two_that_come_at_once_for_one_place() -> None:
    async def body() -> None:
        server = quic_node(1, limits=NodeLimits(connections_per_host=1))
        clients = [quic_node(seed) for seed in (2, 3, 4)]
        async with started(server, *clients):
            await asyncio.gather(
                *(client.connect(server.addresses) for client in clients), return_exceptions=True
            )
            await asyncio.sleep(QUIET)
            assert len(server.connections) == 1
            assert sum(len(client.connections) for client in clients) == 1

    check(body)


def test_one_host_has_so_many_handshakes_and_a_table_has_an_end() -> None:
    async def body() -> None:
        server = quic_node(1, limits=NodeLimits(handshakes_per_host=3, connections=1))
        client, raw = quic_node(2), Raw()
        attacker = Endpoint("attacker")
        async with started(server, client):
            udp = server.quic.udp
            assert udp is not None
            for _ in range(10):
                datagram = first_datagram(attacker, Target(udp.address), now())  # type: ignore[arg-type]
                raw.send(datagram, udp.address)
            await asyncio.sleep(0.1)
            assert len(server.quic._port.links) == 3  # type: ignore[union-attr]
            with pytest.raises(ClosedError, match="too many connections"):
                await client.connect(server.addresses)
            await asyncio.sleep(QUIET)
            await client.connect(server.addresses)
            with pytest.raises(ClosedError, match="too many connections"):
                await attacker.dial(udp.address)
        raw.close()
        attacker.close()

    check(body)


class Target:
    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address


def test_handshakes_that_only_claim_an_address_do_not_keep_out_who_is_there() -> None:
    """Thirty-two of the same host, as a spoofer would: whoever answers a Retry gets in."""

    async def body() -> None:
        server, client, raw = quic_node(1), quic_node(2), Raw()
        attacker = Endpoint("attacker")
        async with started(server, client):
            udp = server.quic.udp
            assert udp is not None
            for _ in range(40):
                datagram = first_datagram(attacker, Target(udp.address), now())  # type: ignore[arg-type]
                raw.send(datagram, udp.address)
            await asyncio.sleep(0.1)
            assert len(server.quic._port.links) == 32  # type: ignore[union-attr]
            connection = await client.connect(server.addresses)
            assert await connection.ping() < 1
        raw.close()
        attacker.close()

    check(body)


def test_nobody_gets_in_while_the_node_goes() -> None:
    async def body() -> None:
        server, client = quic_node(1), quic_node(2)
        async with started(server, client):
            connection = await client.connect(server.addresses)
            told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            connection.on_close.append(told.set_result)
            addresses = server.addresses
            await server.close()
            assert "this node shuts down" in await told
            with pytest.raises(ConnectError):
                await client.connect(addresses, timeout=3)

    check(body)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tunnel_has_as_many_streams_as_over_tcp(engine: str) -> None:
    """All at once, and another one beside them goes on."""

    async def body() -> None:
        async with over_quic(engine) as (ours, theirs):
            assert ours.link.session.engine.streams_left >= MAX_STREAMS  # type: ignore[attr-defined]
            theirs.link.session.limits.streams = MAX_STREAMS
            arrived: list[Stream] = []
            accepting(theirs, arrived.append)
            for _ in range(5000):
                ours.link.send_small(ours.new_stream(), b"x")
            ours.link.flush()
            while len(arrived) < 5000:
                await asyncio.sleep(0.001)
            accepting(theirs, lambda stream: arrived.append(End(theirs, stream).stream))
            end = End(ours)
            end.send(bytes(1 << 20), end=True)
            while len(arrived) == 5000:
                await asyncio.sleep(0.001)
            their_end = arrived[-1].handler
            assert isinstance(their_end, End)
            assert len(await their_end.hears_all()) == 1 << 20

    check(body)


def test_a_stranger_has_few_streams_and_a_flood_ends() -> None:
    async def body() -> None:
        async with over_quic("") as (ours, theirs):
            accepting(theirs, lambda _: None)
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            ours.on_close.append(ended.set_result)
            for number in range(6000):
                if ours.link.session.can_open:
                    ours.link.send_small(ours.new_stream(), b"x")
                if number % 100 == 99:
                    ours.link.flush()
                    await asyncio.sleep(0)
                    assert len(theirs.link.session.streams) <= 512
            assert "a flood of streams" in await ended

    check(body)


# --- a network of one's own --------------------------------------------------------------------


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan(hosts=1) as made:
        yield made


@pytest.mark.netns
def test_where_no_route_leads_the_dial_ends_at_once(lan: Lan) -> None:
    async def body() -> None:
        node = quic_node(1, listen=())
        async with started(node):
            began = now()
            with pytest.raises(ConnectError) as caught:
                await node.connect(Multiaddr.quic("2001:db8::1", 9))
            assert now() - began < 1
            assert caught.value.attempts[0].outcome is DialOutcome.NO_ROUTE

    with lan.hosts[0].inside():
        check(body)


@pytest.mark.netns
def test_a_wildcard_stands_for_all_addresses_and_each_connection_knows_its_own(lan: Lan) -> None:
    host = lan.hosts[0]

    async def body() -> None:
        node = quic_node(1, listen=(Multiaddr.quic("0.0.0.0", 0), Multiaddr.quic("::", 0)))
        dialer = quic_node(2, listen=())
        async with started(node, dialer):
            assert {"ip4", "ip6"} == {
                address.host[0] for address in node.addresses if address.host is not None
            }
            for address in node.addresses:
                connection = await dialer.connect(address)
                theirs = await met(node)
                assert connection.remote_addr == theirs.local_addr == address
                assert await connection.ping() < 1
                assert (await connection.identify()).observed == theirs.remote_addr
                connection.close()
                while node.connections:
                    await asyncio.sleep(0.001)
            assert dialer.addresses == ()

    with host.inside():
        check(body)
