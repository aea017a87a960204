from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import pytest

from pt.aio.muxed import CHUNK, MuxedStream
from pt.errors import ClosedError, ResetError
from pt.yamux.frames import FIN, INITIAL_WINDOW, RST, SYN, WINDOW_UPDATE
from pt.yamux.session import Session
from pt.yamux.stream import Stream
from tests.unit.yamux.memory import Clock, frame


class MemoryCarrier:
    """Carries a session's frames to another's by hand; `room` as the test sets it."""

    def __init__(self, *, initiator: bool) -> None:
        self.session = Session(initiator=initiator, clock=Clock(), on_stream=self._accept)
        self.other: MemoryCarrier = self
        self.room = True
        self.paused = False
        self.waiters: deque[MuxedStream] = deque()
        self.accepted: list[MuxedStream] = []
        self.chunks: list[int] = []

    def _accept(self, stream: Stream) -> None:
        self.accepted.append(MuxedStream(stream, self))

    def send_small(self, stream: Stream, data: bytes | memoryview) -> None:
        assert self.room
        self.chunks.append(len(data))
        self.session.queue_data(stream, data)

    def flush(self) -> None:
        while self.session.outgoing and not self.paused:
            wire = bytes(self.session.outgoing)
            self.session.outgoing.clear()
            self.other.session.receive(memoryview(wire))
            self.other.session.end_batch()
            self.other.flush()

    def nudge(self) -> None:
        self.flush()

    def wait_room(self, waiter: MuxedStream) -> None:
        self.waiters.append(waiter)


def carriers() -> tuple[MemoryCarrier, MemoryCarrier]:
    left, right = MemoryCarrier(initiator=True), MemoryCarrier(initiator=False)
    left.other, right.other = right, left
    return left, right


async def pair() -> tuple[MuxedStream, MuxedStream, MemoryCarrier, MemoryCarrier]:
    left, right = carriers()
    ours = MuxedStream(left.session.open(), left)
    left.session.announce(ours.stream)
    left.flush()
    return ours, right.accepted[0], left, right


def test_long_writes_are_cut_so_that_others_keep_their_turn() -> None:
    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        payload = bytes(range(256)) * 256
        await ours.write(payload)
        assert max(left.chunks) == CHUNK
        assert await theirs.read_exactly(len(payload)) == payload

    asyncio.run(scenario())


def test_a_writer_waits_for_credit_and_the_reader_gives_it() -> None:
    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        payload = bytes(INITIAL_WINDOW + 1000)
        writing = asyncio.create_task(ours.write(payload))
        await asyncio.sleep(0)
        assert not writing.done()
        assert sum(left.chunks) == INITIAL_WINDOW
        assert len(theirs._buffer) == INITIAL_WINDOW  # bounded by the window
        got = await theirs.read_exactly(len(payload))
        await writing
        assert got == payload

    asyncio.run(scenario())


def test_a_writer_waits_for_room() -> None:
    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        left.room = False
        writing = asyncio.create_task(ours.write(b"hello"))
        await asyncio.sleep(0)
        assert left.waiters == deque((ours,))
        assert left.chunks == []
        left.room = True
        left.waiters.popleft().link_ready()
        await writing
        assert await theirs.read(10) == b"hello"

    asyncio.run(scenario())


def test_who_waits_for_room_sends_as_soon_as_there_is_some() -> None:
    """A bulk stream that fills the room again at once leaves none to who runs a moment later."""

    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        left.room = False
        writing = asyncio.create_task(ours.write(b"hello"))
        await asyncio.sleep(0)
        left.room = True
        left.waiters.popleft().link_ready()
        left.room = False
        await writing
        assert await theirs.read(10) == b"hello"
        assert not left.waiters

    asyncio.run(scenario())


def test_writers_are_served_in_order() -> None:
    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        left.room = False
        texts = (b"one", b"given up", b"two", b"three")
        writing = [asyncio.create_task(ours.write(text)) for text in texts]
        await asyncio.sleep(0)
        writing[1].cancel()
        left.room = True
        left.waiters.popleft().link_ready()
        done = await asyncio.gather(*writing, return_exceptions=True)
        assert [type(each) for each in done if each is not None] == [asyncio.CancelledError]
        assert await theirs.read(100) == b"onetwothree"
        assert not left.waiters

    asyncio.run(scenario())


@pytest.mark.parametrize("close", [MuxedStream.close_write, MuxedStream.reset])
def test_whoever_waits_is_told_that_we_end_it(
    close: Callable[[MuxedStream], Awaitable[None]],
) -> None:
    async def scenario() -> None:
        ours, _, left, _ = await pair()
        left.room = False
        writing = [asyncio.create_task(ours.write(b"never")) for _ in range(2)]
        await asyncio.sleep(0)
        await close(ours)
        for each in writing:
            with pytest.raises((ClosedError, ResetError)):
                await each

    asyncio.run(scenario())


@pytest.mark.parametrize("reason", ["reset", "lost"])
def test_a_waiting_writer_is_told_of_the_end(reason: str) -> None:
    async def scenario() -> None:
        ours, theirs, left, _ = await pair()
        writing = asyncio.create_task(ours.write(bytes(2 * INITIAL_WINDOW)))
        await asyncio.sleep(0)
        if reason == "reset":
            await theirs.reset(9)
        else:
            left.session.lost()
        with pytest.raises(ResetError) as caught:
            await writing
        assert caught.value.code == (9 if reason == "reset" else 0)

    asyncio.run(scenario())


def test_a_waiting_reader_is_told_of_the_end() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        reading = asyncio.create_task(theirs.read(10))
        await asyncio.sleep(0)
        await ours.reset(5)
        with pytest.raises(ResetError) as caught:
            await reading
        assert caught.value.code == 5
        with pytest.raises(ResetError):
            await theirs.write(b"x")

    asyncio.run(scenario())


def test_what_arrived_before_a_reset_is_still_read() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await ours.write(b"last words")
        await ours.reset()
        assert await theirs.read(100) == b"last words"
        with pytest.raises(ResetError):
            await theirs.read(100)

    asyncio.run(scenario())


def test_our_own_reset_fails_our_own_calls() -> None:
    async def scenario() -> None:
        ours, _, _, _ = await pair()
        reading = asyncio.create_task(ours.read(10))
        await asyncio.sleep(0)
        await ours.reset()
        with pytest.raises(ResetError):
            await reading
        with pytest.raises(ResetError):
            await ours.write(b"x")
        await ours.close_write()  # nothing more to do

    asyncio.run(scenario())


def test_writing_after_the_end_is_our_mistake() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await ours.close_write()
        with pytest.raises(ClosedError, match="closed for writing"):
            await ours.write(b"x")
        assert await theirs.read(1) == b""
        await theirs.write(b"the other way is open")
        assert await ours.read(100) == b"the other way is open"

    asyncio.run(scenario())


def test_an_end_in_the_middle_of_a_message() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await ours.write(b"1234")
        await ours.close_write()
        with pytest.raises(ClosedError, match="middle"):
            await theirs.read_exactly(5)

    asyncio.run(scenario())


def test_unread_bytes_come_first_and_are_credited_once() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await ours.write(b"abcdef")
        theirs.unread(await theirs.read(4))
        assert theirs.stream.consumed == 0
        assert await theirs.read(2) == b"ab"
        assert await theirs.read_exactly(4) == b"cdef"
        assert theirs.stream.consumed == 6
        theirs.unread(b"")
        assert theirs.stream.consumed == 6

    asyncio.run(scenario())


def test_taking_the_buffer_over() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await ours.write(b"abc")
        await ours.write(b"def")
        assert theirs.take_buffered() == b"abcdef"
        assert theirs.stream.consumed == 6
        assert theirs.take_buffered() == b""

    asyncio.run(scenario())


def test_a_cancelled_read_loses_nothing() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        reading = asyncio.create_task(theirs.read(10))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await ours.write(b"kept")
        assert await theirs.read(10) == b"kept"

    asyncio.run(scenario())


def test_a_cancelled_write_leaves_the_stream_usable() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        writing = asyncio.create_task(ours.write(bytes(INITIAL_WINDOW + 1)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await theirs.read_exactly(INITIAL_WINDOW)
        await ours.write(b"next")
        assert await theirs.read(10) == b"next"

    asyncio.run(scenario())


def test_frames_on_the_wire() -> None:
    async def scenario() -> None:
        left, _ = carriers()
        left.paused = True
        ours = MuxedStream(left.session.open(), left)
        await ours.write(b"hi")
        await ours.close_write()
        expected = frame(0, SYN, 1, 2, b"hi") + frame(WINDOW_UPDATE, FIN, 1)
        assert bytes(left.session.outgoing) == expected
        left.session.outgoing.clear()
        await ours.reset(8)
        assert bytes(left.session.outgoing) == frame(WINDOW_UPDATE, RST, 1, 8)

    asyncio.run(scenario())


def test_what_came_before_the_end_is_read_although_a_loss_follows() -> None:
    async def scenario() -> None:
        ours, theirs, _, _ = await pair()
        await theirs.write(b"answer")
        await theirs.close_write()
        ours.stream_lost(0)
        assert await ours.read(100) == b"answer"
        assert await ours.read(100) == b""
        with pytest.raises(ResetError):
            await ours.write(b"x")

    asyncio.run(scenario())
