from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket

import pytest

from pt.aio import tcp
from pt.errors import (
    ClosedError,
    ConnectError,
    CryptoFailure,
    DialOutcome,
    LocalPortError,
    UsageError,
)
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import UnsupportedError
from pt.node import node as module
from pt.node.node import Node, NodeLimits
from pt.node.upgrade import PT_SECURITY, SECURITY
from pt.noise.handshake import Suite
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

REFUSED = (ClosedError, ConnectError)  # as early as the reset arrives
ANY_PORT = Multiaddr.tcp("127.0.0.1", 0)


def make(seed: int, **options: object) -> Node:
    return Node(identity=PrivateKey.generate(bytes([seed]) * 32), congestion="", **options)


@contextlib.asynccontextmanager
async def nodes(**options: object):
    """A node that dials and one that listens on loopback."""
    dialer, listener = make(1), make(2, listen=(ANY_PORT,), **options)
    await dialer.start()
    await listener.start()
    try:
        yield dialer, listener
    finally:
        await dialer.close()
        await listener.close()


def port_of(node: Node) -> int:
    (address,) = node.addresses
    assert address.tcp_port
    return address.tcp_port


async def raw_to(node: Node) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port_of(node)))
    return sock


async def closed_by_peer(sock: socket.socket) -> bool:
    """Wait for the end of `sock`."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while await loop.sock_recv(sock, 4096):
            pass
    return True


@contextlib.contextmanager
def dead_address():
    """An address on loopback that never answers: its backlog is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fill = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
            fill.append(sock)
        try:
            yield Multiaddr.tcp("127.0.0.1", server.getsockname()[1])
        finally:
            for sock in fill:
                sock.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# --- listening ---------------------------------------------------------------------------------


def test_a_taken_port_is_said_and_leaves_nothing_open() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = Multiaddr.tcp("127.0.0.1", server.getsockname()[1])
            node = make(1, listen=(ANY_PORT, taken))
            with pytest.raises(LocalPortError, match="choose another"):
                await node.start()
            assert node.addresses == ()
            await node.close()

    run(scenario())


@pytest.mark.parametrize(
    "text", ["/dns4/localhost/tcp/1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/1/ws"]
)
def test_what_cannot_be_listened_on(text: str) -> None:
    async def scenario() -> None:
        node = make(1, listen=(Multiaddr.parse(text),))
        with pytest.raises(UsageError, match="cannot listen"):
            await node.start()
        await node.close()

    run(scenario())


def test_announced_addresses_follow_those_of_the_listeners() -> None:
    async def scenario() -> None:
        async with nodes() as (_, listener):
            listener.announce = (Multiaddr.parse("/ip4/192.0.2.1/tcp/7"), listener.addresses[0])
            assert [str(a) for a in listener.addresses] == [
                f"/ip4/127.0.0.1/tcp/{listener.addresses[0].tcp_port}",
                "/ip4/192.0.2.1/tcp/7",
            ]

    run(scenario())


# --- dialing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "suite"),
    [((SECURITY,), Suite.CHACHAPOLY), ((PT_SECURITY, SECURITY), Suite.AESGCM)],
)
def test_dial_and_talk(security, suite) -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            connection = await dialer.connect(listener.addresses, security=security)
            assert connection.peer_id == listener.peer_id
            assert connection.suite == suite
            assert await connection.ping() >= 0
            (inbound,) = listener.connections
            assert inbound.peer_id == dialer.peer_id
            assert inbound.handshake_hash == connection.handshake_hash
            connection.close()
            await asyncio.sleep(0.1)
            assert dialer.connections == listener.connections == set()

    run(scenario())


def test_identify_both_ways_by_itself() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            connection = await dialer.connect(listener.addresses)
            await asyncio.sleep(1)
            (inbound,) = listener.connections
            assert connection.identified.listen_addresses == listener.addresses
            assert inbound.identified.protocols == dialer.protocols

    run(scenario())


def test_a_stranger_that_speaks_no_suite_of_ours() -> None:
    async def scenario() -> None:
        async with nodes(security=(SECURITY,)) as (dialer, listener):
            with pytest.raises(UnsupportedError):
                await dialer.connect(listener.addresses, security=(PT_SECURITY,))

    run(scenario())


def test_the_peer_of_the_address_is_the_one_that_has_to_answer() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            other = PeerId.from_public_key(PrivateKey.generate(b"x" * 32).public)
            (address,) = listener.addresses
            with pytest.raises(CryptoFailure):
                await dialer.connect(address.with_peer(other.raw))
            assert dialer.connections == set()
            await asyncio.sleep(0.1)
            assert listener.connections == set()
            right = await dialer.connect(address.with_peer(listener.peer_id.raw))
            assert right.peer_id == listener.peer_id

    run(scenario())


def test_addresses_of_different_peers_are_not_one_peer() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            (address,) = listener.addresses
            both = [address.with_peer(dialer.peer_id.raw), address.with_peer(listener.peer_id.raw)]
            with pytest.raises(UsageError, match="different peers"):
                await dialer.connect(both)

    run(scenario())


@pytest.mark.parametrize("text", ["/ip4/127.0.0.1/udp/1/quic", "/ip4/127.0.0.1/tcp/0"])
def test_nothing_to_dial(text: str) -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, _):
            with pytest.raises(ConnectError, match="can be dialed"):
                await dialer.connect(Multiaddr.parse(text))

    run(scenario())


def test_a_dead_first_address_costs_its_head_start_alone() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (dialer, listener):
            with dead_address() as dead:
                started = loop.time()
                connection = await dialer.connect((dead, *listener.addresses))
                assert loop.time() - started == pytest.approx(0.05, abs=0.02)
                assert connection.remote_addr == listener.addresses[0]

    run(scenario())


def test_a_refusing_first_address_costs_nothing() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (dialer, listener):
            started = loop.time()
            await dialer.connect((Multiaddr.tcp("127.0.0.1", free_port()), *listener.addresses))
            assert loop.time() - started < 0.05

    run(scenario())


def test_every_failure_is_told() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (dialer, _):
            with dead_address() as dead:
                refused = Multiaddr.tcp("127.0.0.1", free_port())
                with pytest.raises(ConnectError) as caught:
                    await dialer.connect((refused, dead), timeout=30)
            assert (
                caught.value.attempts
                == dialer.dials.recent(loop.time())
                == (
                    (str(refused), "connection refused", DialOutcome.REFUSED, ""),
                    (str(dead), "no answer in time", DialOutcome.SILENT, ""),
                )
            )

    run(scenario())


def test_a_dial_has_its_time() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (dialer, _):
            with dead_address() as dead:
                started = loop.time()
                with pytest.raises(ConnectError, match="no answer in time"):
                    await dialer.connect(dead, timeout=4)
                assert loop.time() - started == pytest.approx(4, abs=0.1)

    run(scenario())


def test_a_cancelled_dial_leaves_nothing() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            for pause in (0, 0, 0, 0.001):
                dialing = asyncio.ensure_future(dialer.connect(listener.addresses))
                await asyncio.sleep(pause)
                dialing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await dialing).close()
            await asyncio.sleep(20)
            assert dialer.connections == listener.connections == set()

    run(scenario())


def test_dials_leave_from_the_listening_port(monkeypatch) -> None:
    """So that a hole punched by a dial is the listener's; a listener of one address has its own."""

    async def scenario() -> None:
        node = make(1)
        with (
            tcp.listen("127.0.0.1", 0, share_port=True) as ours,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            port = ours.getsockname()[1]
            monkeypatch.setattr(module.tcp, "dial_from", _from_loopback(module.tcp.dial_from))
            sock = await tcp.dial("127.0.0.1", other.getsockname()[1], local_port=port)
            with sock, other.accept()[0]:
                assert sock.getsockname()[1] == port
            assert node._listeners.port_for("127.0.0.1") is None

    run(scenario())


def _from_loopback(original):
    """`dial_from` bound to 127.0.0.1: these tests may not bind the wildcard address."""

    class Loopback(socket.socket):
        def bind(self, address):
            super().bind(("127.0.0.1", address[1]))

    async def dial(host, port, local):
        real, tcp.socket.socket = tcp.socket.socket, Loopback
        try:
            return await original(host, port, local)
        finally:
            tcp.socket.socket = real

    return dial


# --- strangers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"\x13/multi", b"GET / HTTP/1.1\r\n", b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20"],
)
def test_a_stranger_that_stalls_is_dropped_in_time(said: bytes) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (_, listener):
            with await raw_to(listener) as sock:
                await loop.sock_sendall(sock, said)
                started = loop.time()
                assert await closed_by_peer(sock)
                assert loop.time() - started <= listener.limits.handshake_timeout + 0.1
            await asyncio.sleep(0.1)
            assert listener._handshakes.total() == 0

    run(scenario())


def test_a_byte_a_second_is_no_progress() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with nodes() as (_, listener):
            with await raw_to(listener) as sock:
                started = loop.time()
                with pytest.raises(OSError):
                    for byte in b"\x13/multistream/1.0.0\n\x07/noise\n" * 3:
                        await loop.sock_sendall(sock, bytes([byte]))
                        await asyncio.sleep(1)
                assert loop.time() - started <= listener.limits.handshake_timeout + 3
                assert listener._handshakes.total() == 0

    run(scenario())


def test_hand_shakes_are_bounded_and_come_free_again() -> None:
    async def scenario() -> None:
        async with nodes(limits=NodeLimits(handshakes=3)) as (dialer, listener):
            socks = [await raw_to(listener) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert listener._handshakes.total() == 3
            with pytest.raises(REFUSED):
                await dialer.connect(listener.addresses)
            for sock in socks:
                sock.close()
            await asyncio.sleep(0.1)
            assert (await dialer.connect(listener.addresses)).peer_id == listener.peer_id

    run(scenario())


@pytest.mark.parametrize("limit", ["connections", "connections_per_host"])
def test_connections_are_bounded_and_come_free_again(limit: str) -> None:
    async def scenario() -> None:
        async with nodes(limits=NodeLimits(**{limit: 2})) as (dialer, listener):
            first = await dialer.connect(listener.addresses)
            await dialer.connect(listener.addresses)
            await asyncio.sleep(0.1)
            with pytest.raises(REFUSED):
                await dialer.connect(listener.addresses)
            first.close()
            await asyncio.sleep(0.1)
            await dialer.connect(listener.addresses)

    run(scenario())


def test_more_streams_than_handlers_are_reset() -> None:
    async def scenario() -> None:
        async with nodes(limits=NodeLimits(handlers=4)) as (dialer, listener):
            connection = await dialer.connect(listener.addresses)
            results = await asyncio.gather(
                *(connection.open_stream(("/ipfs/ping/1.0.0",)) for _ in range(10)),
                return_exceptions=True,
            )
            await asyncio.sleep(0.1)
            (inbound,) = listener.connections
            assert len(inbound.link.session.streams) <= 4
            assert not inbound.closed
            assert len(results) == 10

    run(scenario())


def test_streams_of_one_peer_are_bounded() -> None:
    async def scenario() -> None:
        async with nodes(limits=NodeLimits(inbound_streams=5)) as (dialer, listener):
            connection = await dialer.connect(listener.addresses)
            results = await asyncio.gather(
                *(connection.open_stream(("/ipfs/ping/1.0.0",)) for _ in range(9)),
                return_exceptions=True,
            )
            assert sum(isinstance(result, ClosedError) for result in results) == 4

    run(scenario())


# --- the end -----------------------------------------------------------------------------------


def test_closing_ends_everything() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            connection = await dialer.connect(listener.addresses)
            stalled = await raw_to(listener)
            port = port_of(listener)
            await asyncio.sleep(0.1)
            await listener.close()
            assert await closed_by_peer(stalled)
            stalled.close()
            await asyncio.sleep(0.1)
            assert connection.closed
            assert listener.connections == set()
            assert len(listener._scope) == 0
            with pytest.raises(ConnectError):
                await dialer.connect((Multiaddr.tcp("127.0.0.1", port),) * 2)

    run(scenario())


def test_a_dial_that_finishes_after_the_end_is_closed() -> None:
    async def scenario() -> None:
        async with nodes() as (dialer, listener):
            dialing = asyncio.ensure_future(dialer.connect(listener.addresses))
            await asyncio.sleep(0)
            await dialer.close()
            with pytest.raises(ClosedError):
                await dialing
            await asyncio.sleep(0.1)
            assert listener.connections == set()

    run(scenario())


def test_the_trace_tells_the_story() -> None:
    async def scenario() -> None:
        sink = io.StringIO()
        async with nodes(tracer=Tracer(sink)) as (dialer, listener):
            connection = await dialer.connect(listener.addresses)
            with await raw_to(listener) as sock:
                sock.send(b"\xff" * 100)
                await asyncio.sleep(0.1)
            connection.close()
            await asyncio.sleep(0.1)
        events = [json.loads(line)["event"] for line in sink.getvalue().splitlines()]
        assert events == ["trace_start", "connected", "inbound_failed", "connection_lost"]

    run(scenario())
