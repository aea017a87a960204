"""What streams do (`pt.muxer`), over each carrier: yamux on a socket, QUIC with either engine."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from pt.aio.hangup import HangupWatch
from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, LimitError, ResetError
from pt.muxer import Stream
from pt.node import quic as node_quic
from pt.node.bridge import StreamBridge, socket_on
from pt.node.buffers import POOL
from pt.node.connection import Connection
from tests.contract.carriers import CARRIERS, End, Joined, accepting
from tests.sim.loop import run
from tests.sim.world import tcp_pair

KIB, MIB = 1024, 1024 * 1024
WINDOW = 256 * KIB
"""What each carrier lets a stream send before any of it was read."""
SPARE = MIB
"""What a sender may have handed over beyond that: frames, and buffers of the carrier."""
QUIET = 20.0
"""Virtual seconds in which whatever can still happen has happened."""

pytestmark = pytest.mark.timeout(120)
Body = Callable[["Pair"], Awaitable[None]]


class Pair:
    """Both ends of one connection, and the streams that come in at the right one."""

    def __init__(self, left: Connection, right: Connection) -> None:
        self.left, self.right = left, right
        self.inbound: asyncio.Queue[End] = asyncio.Queue()
        self.reading = True
        accepting(right, self._accepted)

    def _accepted(self, stream: Stream) -> None:
        assert stream.inbound
        self.inbound.put_nowait(End(self.right, stream, reading=self.reading))

    async def streams(self, first: bytes = b"hi", *, reading: bool = True) -> tuple[End, End]:
        """Both ends of a new stream, of which the right one has got `first`."""
        self.reading = reading
        ours = End(self.left)
        assert not ours.stream.inbound
        ours.send(first)
        theirs = await self.inbound.get()
        await theirs.hears(len(first))
        theirs.received.clear()
        return ours, theirs

    async def standing(self, count: int) -> list[tuple[End, End]]:
        """Streams whose left end writes without end, and whose right end reads nothing."""
        streams = [await self.streams(reading=False) for _ in range(count)]
        for ours, _ in streams:
            ours.send(bytes(64 * MIB))
        await asyncio.sleep(QUIET)
        self.reading = True
        return streams


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> Joined:
    return CARRIERS[request.param]


def check(carrier: Joined, body: Body) -> None:
    async def scenario() -> None:
        lent = POOL.rx.lent, POOL.tx.lent, POOL.slots.lent
        async with asyncio.timeout(600), carrier() as (left, right):
            await body(Pair(left, right))
        assert (POOL.rx.lent, POOL.tx.lent, POOL.slots.lent) == lent

    run(scenario())


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- bytes and ends -------------------------------------------------------------------------------


def test_bytes_come_in_order_both_ways_at_once(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        up, down = noise(3 * MIB, 1), noise(2 * MIB, 2)
        ours.send(up, end=True)
        theirs.send(down, end=True)
        assert await theirs.hears_all() == up
        assert await ours.hears_all() == down
        assert ours.lost == theirs.lost == []

    check(carrier, body)


def test_many_small_writes(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        chance = random.Random(3)
        whole = b""
        for turn in range(200):
            pieces = [chance.randbytes(chance.randrange(1, 20)) for _ in range(25)]
            for piece in pieces:
                ours.link.send_small(ours.stream, piece)
            whole += b"".join(pieces)
            ours.link.flush()
            if not turn % 20:
                await asyncio.sleep(0)
        assert await theirs.hears(len(whole)) == whole

    check(carrier, body)


def test_each_direction_ends_by_itself(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        ours.send(b"question", end=True)
        assert await theirs.hears_all() == b"question"
        assert ours.stream.local_closed
        assert theirs.stream.remote_closed
        assert not ours.stream.closed
        assert not theirs.stream.closed
        theirs.send(noise(MIB), end=True)
        assert await ours.hears_all() == noise(MIB)
        assert ours.stream.closed
        assert theirs.stream.closed
        ours.stream.close()
        ours.link.flush()
        await asyncio.sleep(QUIET)
        assert not pair.left.link.session.streams
        assert not pair.right.link.session.streams
        assert ours.events.count("eof") == theirs.events.count("eof") == 1
        assert ours.lost == theirs.lost == []

    check(carrier, body)


def test_a_stream_may_end_without_a_byte(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours = End(pair.left)
        ours.send(b"", end=True)
        theirs = await pair.inbound.get()
        assert await theirs.hears_all() == b""
        theirs.send(b"bye", end=True)
        assert await ours.hears_all() == b"bye"

    check(carrier, body)


# --- resets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["opener", "acceptor"])
def test_a_reset_ends_both_directions_with_its_code(carrier: Joined, who: str) -> None:
    async def body(pair: Pair) -> None:
        others = await pair.streams()
        one, two = await pair.streams()
        if who == "acceptor":
            one, two = two, one
        one.stream.reset(7)
        one.stream.reset(8)
        one.stream.close()
        one.link.flush()
        await two.until(lambda: bool(two.lost))
        two.stream.reset(9)
        two.link.flush()
        await asyncio.sleep(QUIET)
        assert two.lost == [7]
        assert one.events == []  # who resets knows
        assert one.stream.closed
        assert two.stream.closed
        assert len(pair.left.link.session.streams) == len(pair.right.link.session.streams) == 1
        others[0].send(b"still here")
        assert await others[1].hears(10) == b"still here"

    check(carrier, body)


def test_a_reset_after_our_own_end(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        ours.send(b"all", end=True)
        await theirs.hears_all()
        theirs.stream.reset(3)
        theirs.link.flush()
        await ours.until(lambda: bool(ours.lost))
        assert ours.lost == [3]

    check(carrier, body)


@pytest.mark.parametrize("who", ["writer", "reader"])
def test_a_reset_frees_a_writer_that_is_blocked(carrier: Joined, who: str) -> None:
    async def body(pair: Pair) -> None:
        ((ours, theirs),) = await pair.standing(1)
        assert not ours.sent
        one, two = (ours, theirs) if who == "writer" else (theirs, ours)
        one.stream.reset(5)
        one.link.flush()
        await two.until(lambda: bool(two.lost))
        assert two.lost == [5]
        await asyncio.sleep(QUIET)
        assert not pair.left.link.session.streams
        assert not pair.right.link.session.streams

    check(carrier, body)


# --- back-pressure --------------------------------------------------------------------------------


def test_a_reader_that_stands_still_bounds_its_writer_and_nobody_else(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ((ours, theirs),) = await pair.standing(1)
        assert len(theirs.received) <= WINDOW
        assert ours.accepted <= WINDOW + SPARE
        before = ours.accepted
        up, down = await pair.streams()
        up.send(noise(4 * MIB), end=True)
        down.send(noise(2 * MIB), end=True)
        assert await down.hears_all() == noise(4 * MIB)
        assert await up.hears_all() == noise(2 * MIB)
        assert ours.accepted == before

    check(carrier, body)


@pytest.mark.parametrize("count", [8, 60])
def test_many_that_stand_still_hold_up_nobody(carrier: Joined, count: int) -> None:
    async def body(pair: Pair) -> None:
        for _, theirs in await pair.standing(count):
            assert len(theirs.received) <= WINDOW
        ours, theirs = await pair.streams()
        ours.send(noise(MIB), end=True)
        assert await theirs.hears_all() == noise(MIB)

    check(carrier, body)


def test_the_window_opens_when_the_reader_goes_on(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ((ours, theirs),) = await pair.standing(1)
        assert ours.stream.send_window == 0
        ours.events.clear()
        theirs.reading = True
        theirs.read()
        theirs.link.nudge()
        await theirs.hears(2 * MIB)
        assert "window" in ours.events
        assert bytes(theirs.received) == bytes(len(theirs.received))

    check(carrier, body)


def test_what_is_credited_in_crumbs_comes_all_the_same(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams(reading=False)
        ours.send(noise(MIB), end=True)
        while "eof" not in theirs.events:
            if theirs.unread:
                theirs.read(10_000)
                theirs.link.nudge()
                await asyncio.sleep(0)
            else:
                theirs.changed.clear()
                await theirs.changed.wait()
        assert theirs.received == noise(MIB)

    check(carrier, body)


def test_a_credit_that_is_taken_back_lets_nobody_send(carrier: Joined) -> None:
    class Undecided(End):
        def data_received(self, data: memoryview) -> None:
            self.stream.credit(len(data))
            self.stream.consumed -= len(data)
            super().data_received(data)

    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams(reading=False)
        theirs = Undecided(pair.right, theirs.stream, reading=False)
        ours.send(bytes(4 * MIB), end=True)
        await asyncio.sleep(QUIET)
        assert len(theirs.received) <= 2 * WINDOW
        theirs.reading = True
        theirs.read()
        theirs.link.flush()
        assert len(await theirs.hears_all()) == 4 * MIB

    check(carrier, body)


def test_bytes_without_a_handler_are_dropped_and_hold_up_nobody(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        theirs.stream.handler = None
        ours.send(bytes(WINDOW))
        up, down = await pair.streams()
        up.send(noise(MIB), end=True)
        assert await down.hears_all() == noise(MIB)
        assert theirs.received == b""
        theirs.stream.reset(1)
        theirs.link.flush()
        await ours.until(lambda: bool(ours.lost))

    check(carrier, body)


# --- the carrier's room ---------------------------------------------------------------------------


class Waiter:
    def __init__(self) -> None:
        self.called = 0

    def link_ready(self) -> None:
        self.called += 1


def test_who_waits_for_room_is_called_once(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        link, waiter = pair.left.link, Waiter()
        assert link.room
        link.wait_room(waiter)
        await asyncio.sleep(QUIET)
        assert waiter.called == 1
        link.wait_room(waiter)
        link.wait_room(waiter)
        await asyncio.sleep(QUIET)
        assert waiter.called == 3

    check(carrier, body)


def test_a_full_carrier_says_when_it_takes_more(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        link = pair.left.link
        streams = [await pair.streams() for _ in range(30)]
        payload = noise(300 * KIB)
        for ours, _ in streams:  # more than fits, without giving the loop a turn
            ours.send(payload, end=True)
        assert not link.room
        assert not all(ours.sent for ours, _ in streams)
        waiter = Waiter()
        link.wait_room(waiter)
        for _, theirs in streams:
            assert await theirs.hears_all() == payload
        await asyncio.sleep(QUIET)
        assert waiter.called == 1
        assert link.room

    check(carrier, body)


# --- limits ---------------------------------------------------------------------------------------


def test_streams_beyond_the_limit_are_reset(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        pair.right.link.session.limits.streams = 3
        first = [await pair.streams() for _ in range(3)]
        more = [End(pair.left) for _ in range(2)]
        for each in more:
            each.send(b"one too many")
            await each.until(lambda each=each: bool(each.lost))
            assert each.lost == [0]
        first[0][0].stream.reset()
        first[1][1].stream.reset()
        pair.left.link.flush()
        pair.right.link.flush()
        await asyncio.sleep(QUIET)
        again = [await pair.streams() for _ in range(2)]
        again[0][0].send(b"well")
        assert await again[0][1].hears(4) == b"well"
        assert not pair.inbound.qsize()

    check(carrier, body)


def test_more_streams_than_may_be_opened_wait_their_turn(
    carrier: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_quic, "STREAMS", 20)

    async def body(pair: Pair) -> None:
        accepting(pair.right, pair.right.accept_stream)

        async def echo(stream: MuxedStream, connection: Connection) -> None:
            await stream.write(await stream.read_exactly(5))

        pair.right.node.handle("/echo", echo)
        session = pair.left.link.session
        full = []

        async def ask(number: int) -> None:
            if not session.can_open:
                full.append(number)
                with pytest.raises(LimitError):
                    session.open()
            stream = await pair.left.open_stream(("/echo",), timeout=500)
            await stream.write(b"%5d" % number)
            assert await stream.read_exactly(5) == b"%5d" % number
            await stream.close_write()
            assert await stream.read(1) == b""

        await asyncio.gather(*map(ask, range(400)))
        assert full
        await asyncio.sleep(QUIET)
        assert not session.streams
        assert session.can_open

    check(carrier, body)


def test_two_hundred_streams_at_once(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        streams = [await pair.streams() for _ in range(200)]
        for number, (ours, theirs) in enumerate(streams):
            ours.send(noise(20 * KIB, number), end=True)
            theirs.send(noise(10 * KIB, -number), end=True)
        for number, (ours, theirs) in enumerate(streams):
            assert await theirs.hears_all() == noise(20 * KIB, number)
            assert await ours.hears_all() == noise(10 * KIB, -number)

    check(carrier, body)


# --- the end of the connection --------------------------------------------------------------------


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_the_end_of_the_connection_is_told_to_every_stream_once(carrier: Joined, who: str) -> None:
    async def body(pair: Pair) -> None:
        streams = [await pair.streams() for _ in range(3)]
        (blocked, _) = (await pair.standing(1))[0]
        seen: list[tuple[str, bool]] = []
        ended = asyncio.Event()

        def told(reason: str) -> None:
            seen.append((reason, all(one.lost for one, _ in streams)))
            ended.set()

        pair.left.on_close.append(told)
        closer = pair.left if who == "ours" else pair.right
        closer.close("that was all")
        closer.close("again")
        await ended.wait()
        await asyncio.sleep(QUIET)
        assert len(seen) == 1
        assert seen[0][1]  # streams first
        for one, two in streams:
            assert one.lost == two.lost == [None]
            assert one.stream.closed
        assert blocked.lost == [None]
        session = pair.left.link.session
        assert not session.can_open
        assert not session.streams
        with pytest.raises(ClosedError):
            session.open()
        streams[0][0].stream.reset()
        streams[0][0].stream.close()
        streams[0][0].link.flush()
        streams[0][0].link.nudge()

    check(carrier, body)


# --- calls within calls ---------------------------------------------------------------------------


@contextlib.contextmanager
def acts(end: End, act: Callable[[], None]) -> Iterator[None]:
    """Let `act` run within the next `data_received` of an end."""
    heard = end.data_received

    def data_received(data: memoryview) -> None:
        heard(data)
        act()

    end.data_received = data_received  # type: ignore[method-assign]
    yield
    end.data_received = heard  # type: ignore[method-assign]


def test_a_handler_may_write_and_end(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        with acts(theirs, lambda: theirs.send(b"answer", end=True)):
            ours.send(b"question")
            assert await ours.hears_all() == b"answer"

    check(carrier, body)


def test_a_handler_may_reset(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        with acts(theirs, lambda: theirs.stream.reset(4)):
            ours.send(noise(MIB), end=True)
            await ours.until(lambda: bool(ours.lost))
        assert ours.lost == [4]
        assert "eof" not in theirs.events
        one, two = await pair.streams()
        one.send(b"more", end=True)
        assert await two.hears_all() == b"more"

    check(carrier, body)


def test_a_handler_may_open_another_stream(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        back: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        accepting(pair.left, lambda stream: back.set_result(End(pair.left, stream)))
        with acts(theirs, lambda: End(pair.right).send(b"from within", end=True)):
            ours.send(b"go")
            assert await (await back).hears_all() == b"from within"

    check(carrier, body)


def test_a_handler_may_end_the_connection(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        other = await pair.streams()
        with acts(theirs, lambda: pair.right.close("enough")):
            ours.send(b"go")
            await ours.until(lambda: bool(ours.lost))
        assert theirs.lost == other[0].lost == other[1].lost == [None]

    check(carrier, body)


def test_a_handler_may_hand_the_stream_on(carrier: Joined) -> None:
    """As after a negotiation: what came too early is taken back and given to the next."""

    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        handed: list[MuxedStream] = []

        def hand_on() -> None:
            stream = theirs.stream
            muxed = MuxedStream(stream, pair.right.link)
            early = bytes(theirs.received)
            muxed.unread(early)
            handed.append(muxed)

        with acts(theirs, hand_on):
            ours.send(noise(MIB), end=True)
            await theirs.hears(1)
        got = bytearray()
        while data := await handed[0].read(100_000):
            got += data
        assert got == noise(MIB)

    check(carrier, body)


# --- what stands on it ----------------------------------------------------------------------------


def test_streams_for_coroutines(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        ours, theirs = await pair.streams()
        near = MuxedStream(ours.stream, pair.left.link)
        far = MuxedStream(theirs.stream, pair.right.link)

        async def echo() -> None:
            while data := await far.read(50_000):
                await far.write(data)
            await far.close_write()

        async def say() -> None:
            for at in range(0, 2 * MIB, 77_777):
                await near.write(noise(2 * MIB)[at : at + 77_777])
            await near.close_write()

        async def hear() -> bytes:
            got = bytearray()
            while data := await near.read(MIB):
                got += data
            return bytes(got)

        _, _, got = await asyncio.gather(echo(), say(), hear())
        assert got == noise(2 * MIB)
        lost = MuxedStream((await pair.streams())[0].stream, pair.left.link)
        pair.left.close()
        with pytest.raises(ResetError, match="the connection to the peer ended"):
            await lost.read(1)

    check(carrier, body)


@contextlib.asynccontextmanager
async def bridged(pair: Pair) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """Applications' sockets at both ends of a stream."""
    loop = asyncio.get_running_loop()
    watch = HangupWatch(loop)
    ours, theirs = await pair.streams()
    near, local = tcp_pair()
    bridge = StreamBridge(local, loop, watch, on_done=lambda _bridge, _reason: None)
    bridge.attach(pair.left.link, ours.stream)
    bridge.pump()
    far = socket_on(MuxedStream(theirs.stream, pair.right.link), pair.right.link, watch)
    try:
        with near, far:
            yield near, far
    finally:
        watch.close()


async def read_all(sock: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(sock, 200_000):
        got += data
    return bytes(got)


def test_sockets_joined_by_a_stream(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        async with bridged(pair) as (near, far):

            async def say(sock: socket.socket, data: bytes) -> None:
                await loop.sock_sendall(sock, data)
                sock.shutdown(socket.SHUT_WR)

            _, _, down, up = await asyncio.gather(
                say(near, noise(4 * MIB, 1)),
                say(far, noise(3 * MIB, 2)),
                read_all(near),
                read_all(far),
            )
            assert up == noise(4 * MIB, 1)
            assert down == noise(3 * MIB, 2)

    check(carrier, body)


def test_a_socket_that_is_not_read_holds_up_its_own_stream_alone(carrier: Joined) -> None:
    async def body(pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        async with bridged(pair) as (near, far):
            taken = 0
            payload = noise(64 * KIB)
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(1):
                        await loop.sock_sendall(near, payload)
                    taken += len(payload)
            assert taken < 16 * MIB
            up, down = await pair.streams()
            up.send(noise(MIB), end=True)
            assert await down.hears_all() == noise(MIB)
            got = 0
            while got < taken:
                got += len(await loop.sock_recv(far, MIB))

    check(carrier, body)
