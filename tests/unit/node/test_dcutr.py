"""Punching of a node: with whom, from where, how often, and over what."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest

from pt.aio import tcp
from pt.aio.muxed import MuxedStream
from pt.dcutr.messages import HolePunch, Kind
from pt.errors import ConnectError, PtError
from pt.identify.messages import Identify
from pt.identity.keys import PrivateKey
from pt.node import dcutr as module
from pt.node import punch_dial
from pt.node.connection import Connection
from pt.node.dcutr import PROTOCOL, Dcutr, direct_of
from pt.node.node import Node
from pt.node.route import Route
from pt.relay.messages import Limit
from pt.trace import Tracer
from pt.wire import ipranges
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.node.pair import joined

RELAY = Multiaddr.parse("/ip4/9.9.9.9/tcp/4001")
TCP = Multiaddr.tcp("127.0.0.1", 0)
QUIC = Multiaddr.quic("127.0.0.1", 0)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 127.0.0.1 were an address of the Internet."""
    monkeypatch.setattr(ipranges, "is_public", lambda _: True)


def make(seed: int, *listen: Multiaddr) -> Node:
    trace = Tracer(io.StringIO())
    identity = PrivateKey.generate(bytes([seed]) * 32)
    return Node(identity=identity, listen=listen, congestion="", tracer=trace)


def traced(node: Node, event: str) -> list[dict[str, object]]:
    sink = node.tracer._sink
    assert isinstance(sink, io.StringIO)
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    return [each for each in lines if each["event"] == event]


@dataclass
class End:
    """A node that punches, its end of the relayed connection, and what it was told."""

    node: Node
    dcutr: Dcutr
    connection: Connection
    direct: asyncio.Future[Connection]
    failures: list[str] = field(default_factory=list)
    failed: asyncio.Event = field(default_factory=asyncio.Event)


def relayed(connection: Connection) -> Connection:
    relay = make(9).peer_id
    limit = Limit(120, 128 * 1024)
    connection.route = Route(RELAY.through_circuit(), path="relay/raw", relay=relay, limit=limit)
    return connection


@contextlib.asynccontextmanager
async def pair(
    *listen: Multiaddr, wanted: Callable[[Connection], bool] = lambda _: True
) -> AsyncIterator[tuple[End, End]]:
    """A, who has dialed through the relay, and B; both listen there, and have not begun yet."""
    nodes = [make(1, *listen), make(2, *listen)]
    made: list[tuple[Dcutr, asyncio.Future[Connection], list[str], asyncio.Event]] = []
    loop = asyncio.get_running_loop()
    for node in nodes:
        future, failures, failed = loop.create_future(), [], asyncio.Event()

        def direct(
            connection: Connection,
            seconds: float,
            future: asyncio.Future[Connection] = future,
        ) -> None:
            assert 0 <= seconds < 20
            if not future.done():
                future.set_result(connection)

        def fail(
            _: Connection,
            reason: str,
            failures: list[str] = failures,
            failed: asyncio.Event = failed,
        ) -> None:
            failures.append(reason)
            failed.set()

        made.append(
            (
                Dcutr(node, wanted=wanted, first=nothing, on_direct=direct, on_failed=fail),
                future,
                failures,
                failed,
            )
        )
        await node.start()
    async with joined(left=nodes[0], right=nodes[1]) as connections:
        ends = [
            End(node, dcutr, relayed(connection), future, failures, failed)
            for node, connection, (dcutr, future, failures, failed) in zip(
                nodes, connections, made, strict=True
            )
        ]
        yield ends[0], ends[1]
        for end in ends:
            await end.dcutr.close()


async def nothing(_: Connection) -> None:
    """Nobody dials back: that is another module's."""


def say(end: End, *protocols: str, observed: Multiaddr | None = None) -> None:
    """The peer of this end says who it is."""
    end.connection.identified = Identify(protocols=protocols, observed=observed)
    for told in end.node.on_identified:
        told(end.connection)


async def ask(stream: MuxedStream, *told: Multiaddr) -> None:
    """Say CONNECT as the peer that was dialed, and wait for an answer."""
    await stream.write(HolePunch(Kind.CONNECT, told).encode())
    await stream.read_exactly(1)


@pytest.mark.parametrize(("where", "path"), [(TCP, "direct/tcp"), (QUIC, "direct/quic")])
def test_both_come_together(loopback: None, where: Multiaddr, path: str) -> None:
    async def main() -> None:
        async with pair(where) as (a, b):
            say(b, PROTOCOL)
            async with asyncio.timeout(10):
                ours, theirs = await asyncio.gather(a.direct, b.direct)
            assert (ours.path, theirs.path) == (path, path)
            assert (ours.initiator, theirs.initiator) == (True, False)
            assert (ours.peer_id, theirs.peer_id) == (b.node.peer_id, a.node.peer_id)
            assert direct_of(a.node, b.node.peer_id) is ours
            assert await ours.ping() >= 0
            assert [each["role"] for each in traced(a.node, "dcutr_dial")] == ["client"]
            assert [each["role"] for each in traced(b.node, "dcutr_dial")] == ["server"]
            assert not a.failures + b.failures
            assert not b.dcutr._busy
            say(b, PROTOCOL)  # who has a direct connection needs no other
            assert not b.dcutr._busy

    run(main())


def test_who_begins_and_with_whom(loopback: None) -> None:
    async def main() -> None:
        unwanted: set[Connection] = set()
        async with pair(TCP, wanted=lambda each: each not in unwanted) as (a, b):
            say(b, "/ipfs/ping/1.0.0")  # does not speak it
            say(a, PROTOCOL)  # we have dialed: the peer begins
            unwanted.add(b.connection)
            say(b, PROTOCOL)
            unwanted.clear()
            b.connection.route = replace(b.connection.route, relay=None)
            say(b, PROTOCOL)  # direct already
            assert not a.dcutr._busy
            assert not b.dcutr._busy
            relayed(b.connection)
            say(b, PROTOCOL)
            say(b, PROTOCOL)  # at once again: one attempt a peer
            assert len(b.dcutr._busy) == 1
            await b.direct

    run(main())


def test_without_a_public_address_there_is_no_attempt() -> None:
    async def main() -> None:
        async with pair(TCP) as (a, b):
            say(b, PROTOCOL)
            await b.failed.wait()
            assert "nobody has told where" in b.failures[0]
            assert not traced(a.node, "dcutr_dial") + traced(b.node, "dcutr_dial")

    run(main())


def test_private_addresses_are_not_dialed_on_a_strangers_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer's own are public; what it tells is our own network."""

    async def main() -> None:
        async with pair(TCP) as (a, b):
            inside = (*a.node.addresses, Multiaddr.parse("/ip4/192.168.1.1/tcp/80"))
            monkeypatch.setattr(
                Dcutr, "addresses", property(lambda _: (Multiaddr.parse("/ip4/11.1.1.1/tcp/1"),))
            )
            stream = await b.connection.open_stream((PROTOCOL,), limited=True)
            await ask(stream, *inside)
            await stream.write(HolePunch(Kind.SYNC).encode())
            await a.failed.wait()
            assert "the peer tells no public address" in a.failures[0]
            assert [each["addresses"] for each in traced(a.node, "dcutr_dial")] == [[]]
            assert not traced(a.node, "dial_failed")

    run(main())


def test_a_peer_without_an_address_comes_by_itself(loopback: None) -> None:
    """js-libp2p behind a NAT, while ours lets everybody in."""

    async def main() -> None:
        async with pair(TCP) as (a, b):
            stream = await b.connection.open_stream((PROTOCOL,), limited=True)
            await ask(stream)
            await stream.write(HolePunch(Kind.SYNC).encode())
            came = await b.node.connect(a.node.addresses, expected=a.node.peer_id)
            async with asyncio.timeout(10):
                assert not (await a.direct).initiator
            assert came.relay is None

    run(main())


def test_when_both_begin_we_answer_the_next_time(loopback: None) -> None:
    """js-libp2p begins the handshakes although it was dialed."""

    async def attempt(a: End, b: End) -> Connection:
        with tcp.listen("127.0.0.1", 0) as listener:
            told = tcp.address_of(listener.getsockname())
            stream = await b.connection.open_stream((PROTOCOL,), limited=True)
            await ask(stream, told)
            await stream.write(HolePunch(Kind.SYNC).encode())
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        sock.setblocking(False)
        try:
            return await b.node.adopt(
                sock, Route(told), initiator=True, expected=a.node.peer_id, security=None
            )
        except PtError:
            sock.close()
            raise

    async def main() -> None:
        async with pair(TCP) as (a, b), asyncio.timeout(10):
            with pytest.raises(PtError):
                await attempt(a, b)
            await a.failed.wait()
            await attempt(a, b)
            assert not (await a.direct).initiator
            roles = [each["role"] for each in traced(a.node, "dcutr_dial")]
            assert roles == ["client", "server"]
            a.connection.close()
            await asyncio.sleep(0)
            assert not a.dcutr._crossed

    run(main())


def test_a_peer_that_may_not_ask_is_reset(loopback: None) -> None:
    async def main() -> None:
        async with pair(TCP) as (a, b):
            for opener in (a, b):  # towards B, which did not dial; over no relay at all
                stream = await opener.connection.open_stream((PROTOCOL,), limited=True)
                with pytest.raises(PtError):
                    await ask(stream, *opener.node.addresses)
                a.connection.route = replace(a.connection.route, relay=None)
            assert not a.dcutr._busy
            assert not b.dcutr._busy

    run(main())


def test_attempts_on_one_connection_are_counted(loopback: None) -> None:
    async def main() -> None:
        async with pair(TCP) as (a, b):
            answers = 0
            for _ in range(8):
                stream = await b.connection.open_stream((PROTOCOL,), limited=True)
                with contextlib.suppress(PtError):
                    await ask(stream, *b.node.addresses)
                    answers += 1
            assert answers == module.MAX_ATTEMPTS + 1
            assert len(a.dcutr._busy) == 1  # each replaced the one before
            a.connection.close()
            await asyncio.sleep(0)
            assert not a.dcutr._attempts

    run(main())


@pytest.mark.parametrize("bound", ["MAX_AT_ONCE", "PER_SOURCE"])
def test_others_are_refused_when_there_are_enough(
    loopback: None, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(module, bound, 0)

    async def main() -> None:
        async with pair(TCP) as (a, b):
            say(b, PROTOCOL)
            assert not b.dcutr._busy
            stream = await b.connection.open_stream((PROTOCOL,), limited=True)
            with pytest.raises(PtError):
                await ask(stream, *b.node.addresses)
            assert not a.dcutr._busy

    run(main())


def test_where_others_see_our_listening_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with pair(TCP) as (a, _):
            observer = a.connection
            observer.route = Route(RELAY)
            port = a.node.points[0][1]
            seen = Multiaddr.parse("/ip4/11.2.3.4/tcp/55")
            observer.local_addr = Multiaddr.tcp("127.0.0.1", port + 1)  # from another port of ours
            say(a, observed=seen)
            assert a.dcutr.addresses == ()
            observer.local_addr = Multiaddr.tcp("127.0.0.1", port)
            say(a, observed=Multiaddr.parse("/ip4/192.168.1.2/tcp/55"))
            assert a.dcutr.addresses == ()
            say(a, observed=seen)
            say(a, observed=seen)
            assert a.dcutr.addresses == (seen,)
            assert len(observer.on_close) == 1
            observer.close()
            await asyncio.sleep(0)
            assert a.dcutr.addresses == ()

    run(main())


def test_an_attempt_that_leads_nowhere_is_told(
    loopback: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_dial, "AGAIN", (0.0, 0.0))
    monkeypatch.setattr(punch_dial, "LINGER", 0.01)

    async def main() -> None:
        async with pair(TCP) as (a, b):
            tried: list[tuple[str, int]] = []

            async def refused(host: str, port: int, _: object) -> None:
                tried.append((host, port))
                raise ConnectionRefusedError(111, "Connection refused")

            monkeypatch.setattr(punch_dial.tcp, "dial_from", refused)
            say(b, PROTOCOL)
            await b.failed.wait()
            while len(a.failures) < 3:
                await asyncio.sleep(0.001)
            assert "no direct connection in 3 attempts" in b.failures[0]
            assert "refused" in b.failures[0]
            assert len(b.failures) == 1
            assert len(a.failures) == 3
            assert len(tried) == 2 * 3 * 3  # sides, attempts, and dials of an address in each
            assert direct_of(a.node, b.node.peer_id) is None

    run(main())


def test_nobody_listens_so_nothing_is_dialed(
    loopback: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_dial, "LINGER", 0.0)

    async def main() -> None:
        node = make(3)
        await node.start()
        async with joined(left=make(4), right=node) as (_, connection):
            relayed(connection)
            scope = module.Scope()
            dial = punch_dial.PunchDial(node, connection, module.Role.CLIENT, scope)
            with pytest.raises(ConnectError, match="no TCP port of ours listens"):
                async with dial:
                    await dial.run((Multiaddr.parse("/ip4/11.1.1.1/tcp/1"),))
            await scope.aclose()

    run(main())


def test_a_further_connection_that_nobody_uses_is_closed(
    loopback: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_dial, "UNUSED", 0.5)

    async def main() -> None:
        async with pair(TCP, QUIC) as (a, b):
            say(b, PROTOCOL)
            async with asyncio.timeout(10):
                await asyncio.gather(a.direct, b.direct)
                # Whether both transports got through depends on who was faster; one is left.
                while len([each for each in a.node.connections if each.relay is None]) != 1:
                    await asyncio.sleep(0.01)
            assert direct_of(a.node, b.node.peer_id) is not None

    run(main())


def test_closing_gives_up_what_is_under_way(
    loopback: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with pair(TCP) as (a, b):

            async def hang(*_: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(punch_dial.tcp, "dial_from", hang)
            say(b, PROTOCOL)
            while not (traced(a.node, "dcutr_dial") and traced(b.node, "dcutr_dial")):
                await asyncio.sleep(0.001)
            await a.dcutr.close()
            await b.dcutr.close()
            assert not a.dcutr._busy
            assert not b.dcutr._busy

    run(main())
