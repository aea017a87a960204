"""What every `ByteStream` does, whatever carries it: also the one the other tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable

import pytest

from pt.aio.muxed import MuxedStream
from pt.aio.stream import ByteStream
from pt.aio.tcp import SocketStream
from pt.errors import ClosedError, ResetError
from tests.contract import carriers
from tests.sim.loop import run
from tests.sim.world import tcp_pair
from tests.unit.memory import stream_pair
from tests.unit.node.pair import joined

Pair = contextlib.AbstractAsyncContextManager[tuple[ByteStream, ByteStream]]


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    yield stream_pair()


@contextlib.asynccontextmanager
async def sockets() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    left, right = tcp_pair()
    with left, right:
        yield SocketStream(left), SocketStream(right)


@contextlib.asynccontextmanager
async def muxed() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with joined() as (left, right):
        accepted: asyncio.Future[MuxedStream] = asyncio.get_running_loop().create_future()
        right.link.session._on_stream = lambda stream: accepted.set_result(
            MuxedStream(stream, right.link)
        )
        ours = MuxedStream(left.new_stream(), left.link)
        left.link.session.announce(ours.stream)
        left.link.flush()
        yield ours, await accepted


@contextlib.asynccontextmanager
async def over_quic() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with carriers.over_quic("") as (left, right):
        accepted: asyncio.Future[MuxedStream] = asyncio.get_running_loop().create_future()
        carriers.accepting(
            right, lambda stream: accepted.set_result(MuxedStream(stream, right.link))
        )
        ours = MuxedStream(left.new_stream(), left.link)
        await ours.write(b"!")  # a stream of QUIC begins with its first bytes
        theirs = await accepted
        await theirs.read_exactly(1)
        yield ours, theirs


each = pytest.mark.parametrize("pair", [memory, sockets, muxed, over_quic])
Maker = Callable[[], Pair]


def check(pair: Maker, body: Callable[[ByteStream, ByteStream], object]) -> None:
    async def scenario() -> None:
        async with pair() as (left, right), asyncio.timeout(60):
            await body(left, right)  # type: ignore[misc]

    run(scenario())


@each
def test_bytes_arrive_in_order_whatever_the_pieces(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        payload = os.urandom(700_000)

        async def say() -> None:
            for start in range(0, len(payload), 33_333):
                await left.write(payload[start : start + 33_333])
            await left.close_write()

        async def hear() -> bytes:
            got = bytearray()
            while data := await right.read(10_000):
                assert len(data) <= 10_000
                got += data
            return bytes(got)

        _, got = await asyncio.gather(say(), hear())
        assert got == payload

    check(pair, body)


@each
def test_an_empty_write_is_nothing(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        await left.write(b"")
        await left.write(b"x")
        assert await right.read(10) == b"x"

    check(pair, body)


@each
def test_the_end_stays_the_end(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        await left.write(b"bye")
        await left.close_write()
        assert await right.read_exactly(3) == b"bye"
        assert [await right.read(1) for _ in range(3)] == [b""] * 3

    check(pair, body)


@each
def test_one_direction_may_end_alone(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        await left.close_write()
        assert await right.read(1) == b""
        await right.write(b"reply")
        assert await left.read_exactly(5) == b"reply"

    check(pair, body)


@each
def test_read_exactly_waits_for_all_of_it(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        reading = asyncio.ensure_future(right.read_exactly(6))
        for piece in (b"ab", b"cd", b"ef"):
            await left.write(piece)
            await asyncio.sleep(0.01)
        assert await reading == b"abcdef"
        assert await right.read_exactly(0) == b""

    check(pair, body)


@each
def test_read_exactly_says_when_the_end_comes_before(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        await left.write(b"abc")
        await left.close_write()
        with pytest.raises(ClosedError):
            await right.read_exactly(4)

    check(pair, body)


@each
def test_what_was_pushed_back_is_read_next(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        await left.write(b"abcdef")
        right.unread(await right.read_exactly(6))
        assert await right.read(2) == b"ab"
        right.unread(b"AB")
        assert await right.read_exactly(6) == b"ABcdef"

    check(pair, body)


@each
def test_a_reset_fails_the_other_reader(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        reading = asyncio.ensure_future(right.read(1))
        await asyncio.sleep(0.01)
        await left.reset(3)
        with pytest.raises(ResetError):
            await reading

    check(pair, body)


@pytest.mark.parametrize("pair", [sockets, muxed, over_quic])
def test_a_writer_waits_for_its_reader(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        payload = bytes(16 << 20)
        writing = asyncio.ensure_future(left.write(payload))
        await asyncio.sleep(0.1)
        assert not writing.done()
        got = 0
        while got < len(payload):
            got += len(await right.read(1 << 20))
        await writing

    check(pair, body)


@pytest.mark.parametrize("pair", [sockets, muxed, over_quic])
def test_a_reset_fails_the_other_writer(pair: Maker) -> None:
    async def body(left: ByteStream, right: ByteStream) -> None:
        writing = asyncio.ensure_future(left.write(bytes(16 << 20)))
        await asyncio.sleep(0.1)
        await right.reset()
        with pytest.raises(ResetError):
            await writing

    check(pair, body)
