"""Tunnelled connections over paths that break at any byte: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pt.tunnel.core.messages import Code
from tests.sim.loop import run
from tests.sim.world import Path, World, abort, lent

BLOCK = hashlib.shake_128(b"payload").digest(1 << 16)


def payload(seed: int, size: int) -> bytes:
    start = seed % 251
    return (BLOCK[start:] + BLOCK * (size // len(BLOCK) + 1))[:size]


@dataclass(frozen=True)
class Talk:
    """One connection: the client says `up` bytes, the server `down`, and who ends when."""

    up: int
    down: int
    piece: int = 30_000
    pause: float = 0.0
    """Seconds between the writes of both."""
    client_slow: float = 0.0
    """Seconds between the client's reads."""
    server_slow: float = 0.0
    reply_after: bool = False
    """The server speaks only when it has seen the client's end."""
    delay: float = 0.0
    """When it starts."""


async def say(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, data: bytes, talk: Talk
) -> None:
    for start in range(0, len(data), talk.piece):
        await loop.sock_sendall(sock, data[start : start + talk.piece])
        if talk.pause:
            await asyncio.sleep(talk.pause)
    sock.shutdown(socket.SHUT_WR)


async def hear(loop: asyncio.AbstractEventLoop, sock: socket.socket, slow: float) -> bytes:
    got = bytearray()
    while data := await loop.sock_recv(sock, 40_000):
        got += data
        if slow:
            await asyncio.sleep(slow)
    return bytes(got)


class Target:
    """The service: finds the talk by the first four bytes of the client."""

    def __init__(self, talks: list[Talk]) -> None:
        self.talks = talks
        self.heard: dict[int, bytes] = {}
        self.errors: list[str] = []
        self.all_heard = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            number = int.from_bytes(await reader.readexactly(4), "big")
            talk = self.talks[number]
            if talk.reply_after:
                self.heard[number] = await self._hear(reader, talk)
                await self._say(writer, talk, number)
            else:
                self.heard[number], _ = await asyncio.gather(
                    self._hear(reader, talk), self._say(writer, talk, number)
                )
        except (OSError, asyncio.IncompleteReadError) as error:
            self.errors.append(repr(error))
        finally:
            if self.errors or len(self.heard) == len(self.talks):
                self.all_heard.set()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _hear(self, reader: asyncio.StreamReader, talk: Talk) -> bytes:
        got = bytearray()
        while data := await reader.read(40_000):
            got += data
            if talk.server_slow:
                await asyncio.sleep(talk.server_slow)
        return bytes(got)

    async def _say(self, writer: asyncio.StreamWriter, talk: Talk, number: int) -> None:
        data = payload(number + 100, talk.down)
        for start in range(0, len(data), talk.piece):
            writer.write(data[start : start + talk.piece])
            await writer.drain()
            if talk.pause:
                await asyncio.sleep(talk.pause)
        writer.write_eof()


async def client(world: World, number: int, talk: Talk) -> bytes:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(talk.delay)
    sock, _ = world.open()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    try:
        data = number.to_bytes(4, "big") + payload(number, talk.up)
        heard, _ = await asyncio.gather(
            hear(loop, sock, talk.client_slow), say(loop, sock, data, talk)
        )
    finally:
        sock.close()
    return heard


async def all_exact(world: World, target: Target, talks: list[Talk]) -> None:
    """Run all talks to their ends, and insist on every byte of them, and on nothing left over."""
    try:
        async with asyncio.timeout(900):
            heard = await asyncio.gather(
                *(client(world, number, talk) for number, talk in enumerate(talks))
            )
    except (OSError, TimeoutError) as error:
        raise AssertionError(world.log) from error
    for number, talk in enumerate(talks):
        assert heard[number] == payload(number + 100, talk.down), (number, len(heard[number]))
    await world.settled()
    async with asyncio.timeout(900):
        await target.all_heard.wait()
    assert target.errors == []
    for number, talk in enumerate(talks):
        assert target.heard[number] == payload(number, talk.up), number
    assert world.log.rejected == []
    assert [code for _, code, _ in world.log.answers] == [Code.OK] * len(talks)
    reasons = {reason for _, _, reason in world.log.forgotten}
    assert reasons <= {""}, reasons


async def exact(talks: list[Talk], paths: list[tuple[int, str]], delay: float = 0.005) -> World:
    """Run all talks while each path breaks after so many bytes; then a last one holds."""
    before = lent()
    plans = iter(paths)

    def next_path() -> Path:
        budget, mode = next(plans, (None, "both"))
        path = Path(delay, None if budget is None else budget)
        path.mode = mode
        return path

    target = Target(talks)
    async with World(next_path, target) as world:
        await all_exact(world, target, talks)
    assert lent() == before
    return world


def test_a_path_that_holds() -> None:
    world = run(exact([Talk(300_000, 500_000), Talk(0, 0), Talk(1, 70_000)], []))
    assert len(world.paths) == 1


@pytest.mark.parametrize("mode", ["both", "left", "right", "none"])
def test_cut_again_and_again(mode: str) -> None:
    talks = [Talk(1_000_000, 1_000_000), Talk(400_000, 0), Talk(0, 400_000, reply_after=True)]
    world = run(exact(talks, [(150_000, mode)] * 10))
    assert len(world.paths) == 11


def test_connections_opened_while_there_is_no_path() -> None:
    """Some were announced on the dead path, some never: the numbers must not get in the way."""
    talks = [Talk(5000, 5000, delay=0.4 * n) for n in range(60)]
    run(exact(talks, [(9_000, "none"), (9_000, "none"), (15_000, "right"), (15_000, "left")]))


def test_a_slow_reader_gets_all_though_both_sides_have_ended() -> None:
    """Everything has arrived and ended on the wire, and the application has not read it yet."""
    slow = Talk(10, 200_000, client_slow=1.0)
    other = Talk(10, 100_000, delay=3.0)
    run(exact([slow, other], [(240_000, "both")]))


def test_a_slow_target_gets_all_though_both_sides_have_ended() -> None:
    slow = Talk(600_000, 10, server_slow=1.0)
    other = Talk(100_000, 10, delay=3.0)
    run(exact([slow, other], [(640_000, "both")]))


TALKS = st.builds(
    Talk,
    up=st.sampled_from([0, 1, 3000, 66_000, 300_000]),
    down=st.sampled_from([0, 1, 3000, 66_000, 300_000]),
    piece=st.sampled_from([1000, 4096, 30_000, 200_000]),
    pause=st.sampled_from([0.0, 0.0, 0.01, 0.3]),
    client_slow=st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    server_slow=st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    reply_after=st.booleans(),
    delay=st.sampled_from([0.0, 0.0, 0.05, 1.0, 5.0]),
)
CUTS = st.tuples(
    st.one_of(st.integers(600, 5000), st.integers(5000, 400_000)),
    st.sampled_from(["both", "both", "left", "right", "none"]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(TALKS, min_size=1, max_size=6),
    st.lists(CUTS, max_size=12),
    st.sampled_from([0.0, 0.005, 0.1]),
)
@example(  # an end of stream on the last turn of a burst, the other direction ended before
    [
        Talk(3000, 3000, piece=1000, pause=0.3),
        Talk(3000, 66_000, piece=4096, pause=0.3, reply_after=True),
        Talk(66_000, 3000, piece=4096, pause=0.3, reply_after=True, delay=5.0),
        Talk(66_000, 1, piece=4096),
        Talk(1, 3000),
    ],
    [
        (16309, "right"),
        (81389, "both"),
        (3318, "none"),
        (39614, "left"),
        (257048, "both"),
        (4542, "both"),
    ],
    0.005,
)
def test_cut_anywhere(talks: list[Talk], paths: list[tuple[int, str]], delay: float) -> None:
    run(exact(talks, paths, delay))


@pytest.mark.parametrize("seed", range(4))
def test_resets_pass_while_paths_break(seed: int) -> None:
    """Applications that abort: the target's connection is reset, and nothing is left behind."""
    dice = random.Random(seed)

    async def scenario() -> None:
        before = lent()
        ends: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.read(1000):
                    pass
                ends.append("end")
            except ConnectionResetError:
                ends.append("reset")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        budgets = [dice.randint(700, 6000) for _ in range(8)]
        plans = iter(budgets)
        async with World(lambda: Path(0.01, next(plans, None)), serve) as world:
            for _ in range(20):
                sock, _ = world.open()
                sock.send(b"x" * dice.randint(1, 500))
                await asyncio.sleep(dice.choice([0.0, 0.05, 0.5]))
                abort(sock)
            await world.settled()
            assert "end" not in ends
            assert world.log.rejected == []
        assert lent() == before

    run(scenario())
