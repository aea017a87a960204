"""Connections on UDP sockets that others share: begin, end, and what comes between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pt.aio import udp as aio_udp
from pt.aio.keep_alive import KeepAlive
from pt.errors import ClosedError, LimitError
from pt.identity.peer_id import PeerMismatchError
from pt.muxer import Stream
from pt.quic.aio import QuicLink
from pt.quic.engine import EngineFactory
from pt.quic.events import HandshakeDone
from pt.quic.limits import Limits
from tests.contract.carriers import End
from tests.sim.loop import run
from tests.unit.quic.shell import ENGINES, Endpoint, Raw, Side, streams, talk

pytestmark = pytest.mark.timeout(60)

KIB, MIB = 1024, 1024 * 1024
QUIET = 20.0


@pytest.fixture(params=ENGINES, ids=[engine.name for engine in ENGINES])
def engine(request: pytest.FixtureRequest) -> EngineFactory:
    return request.param


@contextlib.asynccontextmanager
async def two(engine: EngineFactory | None = None) -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    """A client and a server; nothing of either is left afterwards."""
    client, server = Endpoint("client", engine), Endpoint("server", engine)
    try:
        yield client, server
    finally:
        for endpoint in (client, server):
            endpoint.close()
            assert not endpoint.port.links
            assert not any(vars(endpoint.port.routes).values())


def check(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(600):
            await body()

    run(bounded())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_port_dials_and_listens_at_once(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (one, other):
            out, back = await asyncio.gather(one.dial(other), other.dial(one))
            await one.until(lambda: len(one.links) == 2)
            await other.until(lambda: len(other.links) == 2)
            await asyncio.gather(talk(out, other), talk(back, one))
            assert out.address == other.address
            assert out.bytes_out > 10_000
            assert out.bytes_in > 10_000
            out.lose("done")
            await other.until(lambda: len(other.reasons) == 1)
            assert "done" in next(iter(other.reasons.values()))
            await talk(back, one)

    check(body)


def test_what_is_not_quic_goes_to_whom_it_is_for() -> None:
    async def body() -> None:
        async with two() as (client, server):
            link, _ = await client.joined(server)
            raw = Raw()
            stun = b"\x00\x01\x00\x00" + bytes(16)
            raw.send(stun, server)
            await talk(link, server)
            assert server.port.counts["not QUIC"] == 1
            heard = []
            server.udp.received = lambda data, address: heard.append((data, address))
            raw.send(stun, server)
            raw.send(b"", server)
            await talk(link, server)
            assert heard == [(stun, raw.address)]
            raw.close()

    check(body)


# --- dialing -----------------------------------------------------------------------------------


def test_nobody_at_the_port(engine: EngineFactory) -> None:
    async def body() -> None:
        client = Endpoint("client", engine)
        raw = Raw()
        nobody = raw.address
        raw.close()
        began = now()
        with pytest.raises(ConnectionRefusedError):
            await client.dial(nobody)
        assert now() - began < 1
        await asyncio.sleep(QUIET)
        assert not client.port.links
        client.close()

    check(body)


def test_an_address_that_no_socket_of_ours_reaches() -> None:
    async def body() -> None:
        client = Endpoint("client")
        began = now()
        for address in (("::1", 9), ("127.0.0.1", 0)):
            with pytest.raises(OSError, match=r"family|argument") as caught:
                await client.dial(address)
            assert caught.value.errno in (errno.EAFNOSUPPORT, errno.EINVAL)
        assert now() - began < 1
        client.close()

    check(body)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400\r\n\r\n", b"\xc0" + bytes(1300)])
def test_nobody_who_speaks_quic(engine: EngineFactory, answer: bytes) -> None:
    async def body() -> None:
        client, raw = Endpoint("client", engine), Raw()
        began = now()
        dialing = asyncio.ensure_future(client.dial(raw.address))
        await asyncio.sleep(0.1)
        assert raw.got()
        if answer:
            raw.send(answer, client)
        with pytest.raises(TimeoutError, match="handshake timed out"):
            await dialing
        assert 9 < now() - began < 11
        await asyncio.sleep(QUIET)
        assert not client.port.links
        raw.close()
        client.close()

    check(body)


def test_a_dial_that_is_given_up_leaves_nothing(engine: EngineFactory) -> None:
    async def body() -> None:
        client, raw = Endpoint("client", engine), Raw()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.dial(raw.address)
        await asyncio.sleep(QUIET)
        assert not client.port.links
        raw.close()
        client.close()

    check(body)


def test_somebody_else_is_there(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            with pytest.raises(PeerMismatchError):
                await client.dial(server, expected=client.peer_id)
            await asyncio.sleep(QUIET)
            assert not client.links
            assert not client.port.links
            assert not server.port.links

    check(body)


def test_who_does_not_listen_is_silent(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            server.port.accept = None
            with pytest.raises(TimeoutError):
                await client.dial(server)
            assert server.port.counts["unknown connection"]

    check(body)


def test_who_refuses_says_why(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):

            def refuse(link: QuicLink, event: HandshakeDone) -> None:
                raise LimitError("too many connections")

            server.port.accept = refuse
            with contextlib.suppress(ClosedError):  # before or after the handshake is done
                await client.dial(server)
            await client.until(lambda: not client.links or bool(client.reasons))
            assert all("too many connections" in why for why in client.reasons.values())
            await asyncio.sleep(QUIET)
            assert not server.port.links

    check(body)


def test_a_dialer_that_does_not_want_its_peer() -> None:
    async def body() -> None:
        async with two() as (client, server):

            def refuse(link: QuicLink, event: HandshakeDone) -> None:
                raise ClosedError("this node shuts down")

            with pytest.raises(ClosedError, match="shuts down"):
                await client.port.dial(server.address, server.peer_id, refuse)
            await asyncio.sleep(QUIET)
            assert not client.port.links
            assert not server.port.links

    check(body)


def test_listening_ends_during_a_handshake(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            accept = server.port._admit

            def admit(address: object, others: object) -> bool:
                asyncio.get_running_loop().call_soon(setattr, server.port, "accept", None)
                return accept(address, others)  # type: ignore[arg-type]

            server.port._admit = admit  # type: ignore[assignment]
            with contextlib.suppress(ClosedError):
                await client.dial(server)
            await client.until(lambda: not client.links or bool(client.reasons))
            assert all("no connections any more" in why for why in client.reasons.values())
            assert not server.links

    check(body)


# --- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_alive", "least", "most"), [(None, 25, 36), (KeepAlive(2.0, 8.0), 7, 11)]
)
def test_a_peer_that_vanishes_is_noticed(
    engine: EngineFactory, keep_alive: KeepAlive | None, least: float, most: float
) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            link, _ = await client.joined(server)
            ours, _ = await streams(link, server)
            if keep_alive is not None:
                link.set_keep_alive(KeepAlive(15.0, 40.0))
                link.set_keep_alive(keep_alive)
            await asyncio.sleep(100)
            assert not client.reasons
            server.vanish()
            began = now()
            await client.until(lambda: bool(client.reasons))
            assert least < now() - began < most
            assert client.reasons[link].startswith("no sign of life")
            assert ours.lost == [None]

    check(body)


@pytest.mark.parametrize("back", [False, True])
def test_a_server_that_was_restarted_says_so(engine: EngineFactory, back: bool) -> None:
    """At once, also if the client has come back before it noticed, from the same address."""

    async def body() -> None:
        client, before = Endpoint("client", engine), Endpoint("server", engine)
        old, _ = await client.joined(before)
        ours, _ = await streams(old, before)
        at = before.address
        before.vanish()
        before.udp.close()
        after = Endpoint("server", engine, at=at)
        if back:
            await talk(await client.dial(after), after)
        assert not client.reasons
        ours.send(b"anybody there?")
        began = now()
        await client.until(lambda: bool(client.reasons))
        assert now() - began < 1
        assert list(client.reasons) == [old]
        assert "forgotten" in client.reasons[old]
        assert ours.lost == [None]
        if back:
            await talk(client.links[-1], after)
        before.port.close()
        client.close()
        after.close()

    check(body)


def test_who_aborts_leaves_the_peer_to_a_reset(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            link, theirs = await client.joined(server)
            theirs.lose("no word of it", abort=True)
            assert server.reasons[theirs] == "no word of it"
            assert not server.port.links
            assert not client.reasons
            link.session.ping()
            link.nudge()
            await client.until(lambda: bool(client.reasons))
            assert "forgotten" in client.reasons[link]

    check(body)


def test_the_end_of_a_port_is_told_to_everybody(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            for _ in range(3):
                await client.joined(server)
            server.close()
            await client.until(lambda: len(client.reasons) == 3)
            assert all("this node shuts down" in why for why in client.reasons.values())
            await asyncio.sleep(QUIET)
            assert not client.port.links

    check(body)


# --- within calls ------------------------------------------------------------------------------


def crashes() -> list[BaseException | None]:
    """What callbacks of this loop raise from now on."""
    told: list[BaseException | None] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    return told


@pytest.mark.parametrize("where", ["data", "eof", "window", "opened", "room"])
def test_a_handler_that_raises_harms_nobody_else(engine: EngineFactory, where: str) -> None:
    class BugError(Exception):
        pass

    def bug(*_: object) -> None:
        raise BugError

    async def body() -> None:
        async with two(engine) as (client, server):
            told = crashes()
            link, theirs = await client.joined(server)
            other, _ = await client.joined(server)
            ours, their_end = await streams(link, server, reading=where != "window")
            if where == "data":
                their_end.data_received = bug  # type: ignore[method-assign]
                ours.send(bytes(300_000))
            elif where == "eof":
                their_end.eof_received = bug  # type: ignore[method-assign]
                ours.send(b"", end=True)
            elif where == "window":
                ours.window_opened = bug  # type: ignore[method-assign]
                ours.send(bytes(MIB))
                await asyncio.sleep(1)
                their_end.read()
                their_end.link.nudge()
            elif where == "opened":
                welcome, theirs.session.on_stream = theirs.session.on_stream, bug
                ours = End(Side(link=link))  # type: ignore[arg-type]
                ours.send(b"!")
                await ours.until(lambda: bool(ours.lost))
                theirs.session.on_stream = welcome
            else:
                their_end.link_ready = bug  # type: ignore[method-assign]
                theirs.wait_room(their_end)
            await talk(other, server, 500_000)
            await talk(link, server, 500_000)
            assert [type(error) for error in told] == [BugError]
            if where in ("data", "eof", "window"):
                assert ours.lost == [0]
                assert their_end.lost == [0]

    check(body)


def test_one_handler_that_raises_does_not_keep_the_next_connection_waiting() -> None:
    """Also when datagrams of several are handled in one turn."""

    async def body() -> None:
        async with two() as (client, server):
            told = crashes()
            ends = []
            for _ in range(5):
                link, _ = await client.joined(server)
                ends.append(await streams(link, server))

            def bug(data: memoryview) -> None:
                raise RuntimeError("a bug")

            for _, theirs in ends[:-1]:
                theirs.data_received = bug  # type: ignore[method-assign]
            began = now()
            for ours, _ in ends:
                ours.send(b"hello", end=True)
            assert await ends[-1][1].hears_all() == b"hello"
            assert now() - began < 0.02  # not by a timer of the engine
            assert len(told) == 4

    check(body)


@pytest.mark.parametrize("abort", [False, True])
def test_nothing_comes_of_a_connection_that_a_handler_ended(
    engine: EngineFactory, abort: bool
) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            link, theirs = await client.joined(server)
            ours, their_end = await streams(link, server)

            def end(data: memoryview) -> None:
                theirs.lose("enough", abort=abort)
                theirs.lose("again", abort=abort)

            their_end.data_received = end  # type: ignore[method-assign]
            ours.link.send_small(ours.stream, b"go")
            for _ in range(5):  # in the same datagram
                more = link.session.open()
                link.send_small(more, b"one more")
                more.close()
            link.flush()
            await server.until(lambda: bool(server.reasons))
            await asyncio.sleep(QUIET)
            assert server.reasons[theirs] == "enough"
            assert not server.port.links
            assert not theirs.session.streams
            late = server.inbound.qsize()
            for _ in range(late):
                assert (await server.inbound.get()).lost == [None]

    check(body)


# --- sockets -----------------------------------------------------------------------------------


def test_a_full_socket_costs_nothing(
    engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, turns = aio_udp._send, Counter[str]()

    def sometimes(*args: object) -> None:
        turns["all"] += 1
        if turns["all"] % 3 == 0:
            turns["full"] += 1
            raise BlockingIOError
        real(*args)  # type: ignore[arg-type]

    async def body() -> None:
        async with two(engine) as (client, server):
            link, theirs = await client.joined(server)
            monkeypatch.setattr(aio_udp, "_send", sometimes)
            await asyncio.gather(talk(link, server, 2 * MIB), talk(theirs, client, MIB))
            assert turns["full"] > 10
            assert link.engine.stats().lost == theirs.engine.stats().lost == 0

    check(body)


def test_one_train_for_several_connections_and_stun(engine: EngineFactory) -> None:
    """What the kernel puts together is told apart again."""

    async def body() -> None:
        async with two(engine) as (client, server):
            links = [(await client.joined(server))[0] for _ in range(3)]
            ends = [await streams(link, server) for link in links]
            heard: list[bytes] = []
            trains: list[tuple[bytes, int]] = []
            server.udp.received = lambda data, _: heard.append(data)
            received = server.port._received

            def count(data: bytes, size: int, address: tuple[str, int]) -> None:
                trains.append((data, size))
                received(data, size, address)

            server.udp.use_trains(count, server.port._drained)
            send_train, kept = client.udp.send_train, list[bytes]()
            client.udp.send_train = lambda segments, _: kept.extend(segments)  # type: ignore[method-assign]
            for ours, _ in ends:
                ours.send(bytes(9000), end=True)
            await asyncio.sleep(0.01)
            client.udp.send_train = send_train  # type: ignore[method-assign]
            size, _ = Counter(map(len, kept)).most_common(1)[0]
            full = [segment for segment in kept if len(segment) == size]
            stun = b"\x00\x01" + bytes(size - 2)
            mixed: list[bytes] = []
            while full:  # neighbours are of different connections
                mixed += [full.pop(0), stun, *([full.pop()] if full else [])]
            send_train(mixed, server.address)
            for segment in kept:
                if len(segment) != size:
                    send_train([segment], server.address)
            for _, theirs in ends:
                assert await theirs.hears_all() == bytes(9000)
            assert heard == [stun] * mixed.count(stun)
            assert any(len(data) > 2 * size for data, size in trains), "no GRO here"

    check(body)


# --- memory ------------------------------------------------------------------------------------


def test_streams_that_nobody_reads_hold_their_windows_and_no_more(engine: EngineFactory) -> None:
    async def body() -> None:
        async with two(engine) as (client, server):
            link, theirs = await client.joined(server)
            ends = [await streams(link, server, reading=False) for _ in range(8)]
            supply = bytes(16 * MIB)
            for _, their_end in ends:  # keeps nothing but what a reader has to
                their_end.received = bytearray(Limits().stream_window)
                their_end.received.clear()
            await asyncio.sleep(1)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for ours, _ in ends:
                ours.send(supply)
            await asyncio.sleep(QUIET)
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            windows = 8 * Limits().stream_window
            held = theirs.engine.stats().held
            assert windows - 8 * 64 * KIB <= held <= windows
            assert sum(len(their_end.received) for _, their_end in ends) == held
            assert link.engine.stats().backlog == 0
            assert grown < windows * 1.2 + 8 * 64 * KIB + MIB
            assert sum(ours.accepted for ours, _ in ends) <= held + 8 * 64 * KIB

    check(body)


def test_the_session_of_a_port_counts_as_the_contract_says() -> None:
    """`churn` moves with every stream that comes or goes, `rtt` is measured by itself."""

    async def body() -> None:
        async with two() as (client, server):
            link, theirs = await client.joined(server)
            churn = theirs.session.churn
            await talk(link, server)
            await asyncio.sleep(1)
            assert theirs.session.churn == churn + 2
            assert link.session.rtt is not None
            stream: Stream = link.session.open()
            assert link.session.streams == {stream.id: stream}

    check(body)
