"""Two streams joined at a relay: exact bytes, ends, resets, limits and bandwidth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pt.aio.muxed import MuxedStream
from pt.errors import ResetError
from pt.node.buffers import POOL
from pt.node.connection import Connection
from pt.relay.messages import Limit
from pt.relay.shaper import Shaper
from pt.relayd.join import LINGER, PIECE, JoinedCircuit
from pt.relayd.traffic import DATA_UP, Traffic
from tests.sim.loop import run
from tests.sim.world import node
from tests.unit.node.pair import joined

PROTOCOL = "/joined"
DATA = bytes(range(256)) * 4096


@dataclass
class Circuit:
    """The two ends, and what the relay has between them."""

    near: MuxedStream
    far: MuxedStream
    middle: JoinedCircuit
    left: Connection
    right: Connection
    ended: list[str] = field(default_factory=list)

    async def done(self) -> str:
        async with asyncio.timeout(60):
            while not self.ended:
                await asyncio.sleep(0.01)
        return self.ended[0]


@contextlib.asynccontextmanager
async def circuit(
    limit: Limit | None = None, shaper: Shaper | None = None, early: bytes | None = None
) -> AsyncIterator[Circuit]:
    """`early`: both ends say it, and end, before the relay joins them."""
    loop = asyncio.get_running_loop()
    relay_left, relay_right = node(3), node(4)
    async with (
        joined(left=node(1), right=relay_left) as (source, left),
        joined(left=relay_right, right=node(2)) as (right, target),
    ):
        arrived: asyncio.Future[MuxedStream] = loop.create_future()
        reached: asyncio.Future[MuxedStream] = loop.create_future()
        over = asyncio.Event()

        async def take(stream: MuxedStream, connection: Connection) -> None:
            (arrived if connection is left else reached).set_result(stream)
            await over.wait()

        relay_left.handle(PROTOCOL, take)
        target.node.handle(PROTOCOL, take)
        near = await source.open_stream((PROTOCOL,))
        onward = await right.open_stream((PROTOCOL,))
        traffic = Traffic(loop, shaper)
        ended: list[str] = []
        inward, outward = await arrived, await reached
        if early is not None:
            for end, here in ((near, inward), (outward, onward)):
                await say(end, early)
                while not here.at_eof:
                    await asyncio.sleep(0.001)
        middle = JoinedCircuit(
            (left.link, inward),
            (right.link, onward),
            traffic,
            share=traffic.shaper.add("owner"),
            limit=limit,
            on_done=lambda _, reason: ended.append(reason),
        )
        assert not ended  # its owner does not know it yet
        try:
            yield Circuit(near, outward, middle, left, right, ended)
        finally:
            middle.close("over")
            traffic.close()
            over.set()


async def read_all(stream: MuxedStream, slow: float = 0.0) -> bytes:
    got = bytearray()
    while data := await stream.read(40_000):
        got += data
        if slow:
            await asyncio.sleep(slow)
    return bytes(got)


async def say(stream: MuxedStream, data: bytes, piece: int = 1 << 20) -> None:
    for start in range(0, len(data), piece):
        await stream.write(data[start : start + piece])
    await stream.close_write()


def test_both_directions_at_once_and_every_end() -> None:
    async def main() -> None:
        lent = POOL.slots.lent
        async with circuit() as made:
            there, back, _, _ = await asyncio.gather(
                read_all(made.far), read_all(made.near), say(made.near, DATA), say(made.far, DATA)
            )
            assert there == back == DATA
            assert await made.done() == ""
            assert made.middle.bytes == (len(DATA), len(DATA))
            assert made.middle.closed
        assert POOL.slots.lent == lent

    run(main())


def test_an_end_ends_one_direction_alone() -> None:
    async def main() -> None:
        async with circuit() as made:
            await say(made.near, b"request")
            assert await read_all(made.far) == b"request"
            assert not made.middle.closed
            reply, _ = await asyncio.gather(read_all(made.near), say(made.far, DATA))
            assert reply == DATA
            assert await made.done() == ""

    run(main())


@pytest.mark.parametrize("who", ["near", "far"])
def test_a_reset_resets_the_other_end(who: str) -> None:
    async def main() -> None:
        async with circuit() as made:
            one, other = (made.near, made.far) if who == "near" else (made.far, made.near)
            await one.write(b"x")
            assert await other.read(1) == b"x"
            await one.reset()
            with pytest.raises(ResetError):
                await other.read(1)
            assert "reset" in await made.done()

    run(main())


def test_an_end_that_is_gone_resets_the_other() -> None:
    async def main() -> None:
        async with circuit() as made:
            made.left.close("gone")
            with pytest.raises(ResetError):
                await made.far.read(1)
            assert "gone" in await made.done()

    run(main())


def test_a_reader_that_stands_still_holds_one_window_at_most() -> None:
    async def main() -> None:
        async with circuit() as made:
            writing = asyncio.create_task(made.near.write(bytes(16 << 20)))
            await asyncio.sleep(20)
            assert not writing.done()
            (stream,) = made.left.link.session.streams.values()
            side = stream.handler
            held = sum(len(piece) for piece in side.backlog or ())
            assert held <= stream.recv_window
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    run(main())


@pytest.mark.parametrize("size", [1, 65_536, 131_071, 131_072, 131_073, 300_000, 600_000])
def test_a_limit_of_bytes_is_kept_to_the_byte_in_each_direction(size: int) -> None:
    """Beyond it the reader sees an end of stream, as at go-libp2p's relay."""

    async def main() -> None:
        async with circuit(Limit(0, 131_072)) as made:
            data = DATA[:size]
            there, back, *sent = await asyncio.gather(
                read_all(made.far),
                read_all(made.near),
                say(made.near, data),
                say(made.far, data),
                return_exceptions=True,
            )
            assert there == back == data[:131_072]
            assert made.middle.bytes == (len(there), len(back))
            assert await made.done() == ("" if size < 131_072 else DATA_UP)
            beyond = (
                size > 131_072 + 262_144
            )  # what the window takes is sent, the rest comes to a stand
            assert [isinstance(one, ResetError) for one in sent] == [beyond, beyond]
            await asyncio.sleep(2 * LINGER)
            assert not made.left.link.session.streams
            assert not made.right.link.session.streams

    run(main())


def test_a_limit_of_time_ends_both() -> None:
    async def main() -> None:
        async with circuit(Limit(10, 0)) as made:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(ResetError):
                await made.near.read(1)
            assert 10 <= loop.time() - began < 11
            with pytest.raises(ResetError):
                await made.far.read(1)

    run(main())


def test_bandwidth_is_shaped_both_ways_together() -> None:
    async def main() -> None:
        async with circuit(shaper=Shaper(rate=1_000_000)) as made:
            loop = asyncio.get_running_loop()
            began = loop.time()
            size = 2_000_000
            there, back, _, _ = await asyncio.gather(
                read_all(made.far),
                read_all(made.near),
                say(made.near, (DATA * 2)[:size]),
                say(made.far, (DATA * 2)[:size]),
            )
            assert len(there) == len(back) == size
            assert 3.7 < loop.time() - began < 4.3

    run(main())


@pytest.mark.parametrize("early", [b"", b"x", DATA[:200_000]])
def test_what_was_said_before_is_passed_on_and_the_owner_is_told_later(early: bytes) -> None:
    async def main() -> None:
        async with circuit(early=early) as made:
            there, back = await asyncio.gather(read_all(made.far), read_all(made.near))
            assert there == back == early
            assert await made.done() == ""

    run(main())


def test_an_end_that_is_gone_already_is_noticed() -> None:
    async def main() -> None:
        async with circuit() as made:
            traffic = Traffic(asyncio.get_running_loop())
            ended: list[str] = []
            made.left.close("gone")
            stream = MuxedStream(made.right.new_stream(), made.right.link)
            lost = MuxedStream(made.near.stream, made.left.link)
            lost.stream_lost(None)
            JoinedCircuit(
                (made.left.link, lost),
                (made.right.link, stream),
                traffic,
                share=traffic.shaper.add("owner"),
                limit=None,
                on_done=lambda _, reason: ended.append(reason),
            )
            assert ended == []
            await asyncio.sleep(0.01)
            assert ended == ["an end is gone"]
            assert len(traffic.shaper) == 0

    run(main())


def test_a_sender_of_single_bytes_costs_no_more_than_its_window() -> None:
    async def main() -> None:
        async with circuit() as made:
            writing = asyncio.create_task(made.far.write(bytes(4 << 20)))  # nobody reads it
            await asyncio.sleep(1)
            (stream,) = made.right.link.session.streams.values()
            side = stream.handler
            backlog = side.backlog
            assert backlog is not None
            before = len(backlog)
            view = memoryview(b"x")
            for _ in range(100_000):
                side.data_received(view)
            assert len(backlog) - before <= 100_000 // PIECE + 2
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    run(main())


def test_when_bandwidth_is_short_both_directions_get_some() -> None:
    async def main() -> None:
        async with circuit(shaper=Shaper(rate=100_000)) as made:
            tasks = [
                asyncio.create_task(one)
                for one in (
                    say(made.near, DATA * 4),
                    say(made.far, DATA * 4),
                    read_all(made.near),
                    read_all(made.far),
                )
            ]
            await asyncio.sleep(20)
            there, back = made.middle.bytes
            assert 0.7 < there / back < 1.4
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run(main())


def test_a_link_that_is_lost_while_it_is_written_to_ends_the_circuit() -> None:
    async def main() -> None:
        async with circuit() as made:
            reading = asyncio.create_task(read_all(made.far))
            writing = asyncio.create_task(made.near.write(DATA * 8))
            while made.middle.bytes[0] < len(DATA):
                await asyncio.sleep(0)
            made.right.link.session.overflowed = True  # the next flush closes it
            with pytest.raises(ResetError):
                await writing
            with pytest.raises(ResetError):
                await reading
            assert await made.done() == "an end is gone"

    run(main())


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.tuples(st.integers(0, 700_000), st.integers(0, 700_000)),
    st.tuples(st.sampled_from([1, 999, 65_536]), st.sampled_from([4097, 100_000])),
    st.tuples(st.sampled_from([0.0, 0.01]), st.sampled_from([0.0, 0.05])),
    st.sampled_from([0, 300_000]),
)
def test_any_sizes_any_pieces_any_readers(
    sizes: tuple[int, int],
    pieces: tuple[int, int],
    slow: tuple[float, float],
    rate: int,
) -> None:
    async def main() -> None:
        lent = POOL.slots.lent
        async with circuit(shaper=Shaper(rate=rate)) as made:
            up = DATA[: sizes[0] if pieces[0] > 1 else min(sizes[0], 3000)]
            down = DATA[: sizes[1]][::-1]
            there, back, _, _ = await asyncio.gather(
                read_all(made.far, slow[0]),
                read_all(made.near, slow[1]),
                say(made.near, up, pieces[0]),
                say(made.far, down, pieces[1]),
            )
            assert (there, back) == (up, down)
            assert await made.done() == ""
        assert POOL.slots.lent == lent

    run(main())
