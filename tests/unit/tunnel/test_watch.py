"""The close look at a busy path, on virtual time, with a connection that only counts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pt.tunnel.suspicion import GIVE_UP
from pt.tunnel.watch import BUSY_FOR, PathWatch
from tests.sim.loop import run


class Line:
    """What the watch looks at: a link whose other end answers as long as `alive`."""

    def __init__(self, rtt: float | None = 0.01, delay: float = 0.0) -> None:
        self.delay = delay
        self.loop = asyncio.get_running_loop()
        self.alive = True
        self.bytes_in = self.bytes_out = 0
        self.last_rx = self.loop.time()
        self.pings = 0
        self.lost_at = 0.0
        self.session = SimpleNamespace(rtt=rtt, ping=self.ping)
        self.ledger: SimpleNamespace

    def ping(self) -> None:
        self.pings += 1
        if self.alive:
            self.loop.call_later(self.delay, self.answer)

    def answer(self) -> None:
        self.last_rx = self.loop.time()
        self.bytes_in += 30

    def flush(self) -> None:
        self.bytes_out += 30

    def lose(self, reason: str, *, abort: bool = False) -> None:
        assert "another path" in reason
        assert abort
        self.lost_at = self.loop.time()


class Watched:
    """A watch on one line, and perhaps another line as its standby."""

    def __init__(self, line: Line, *, alternative: bool = True, spare: Line | None = None) -> None:
        self.line = line
        self.left: list[float] = []
        self.session = SimpleNamespace(
            connection=SimpleNamespace(
                link=line, closed=False, remote_addr=SimpleNamespace(host=("ip4", "192.0.2.1"))
            ),
            pumps={1: None},
            ledger=SimpleNamespace(held=0),
            moved_at=0.0,
        )
        line.ledger = self.session.ledger
        other = None if spare is None else SimpleNamespace(link=spare)
        self.watch = PathWatch(
            line.loop,
            self.session,  # type: ignore[arg-type]
            lambda: alternative,
            spare=lambda: other,  # type: ignore[arg-type, return-value]
            leave=lambda: self.left.append(line.loop.time()),
        )
        self.watch.start()

    async def die(self) -> float:
        """The line falls silent; after how many seconds it is left, once."""
        self.line.alive = False
        died = self.line.loop.time()
        await asyncio.sleep(0.3)
        (left,) = self.left
        return left - died

    async def receive(self, seconds: float) -> None:
        """Bytes come all the time."""
        end = self.line.loop.time() + seconds
        while self.line.loop.time() < end:
            await asyncio.sleep(0.01)
            self.line.bytes_in += 1000
            self.line.last_rx = self.session.moved_at = self.line.loop.time()


def watched(line: Line, *, alternative: bool = True) -> PathWatch:
    return Watched(line, alternative=alternative).watch


@pytest.mark.parametrize(("rtt", "most"), [(0.01, 0.9), (0.1, 1.2), (None, 1.2)])
def test_a_dead_path_is_given_up_within_a_second(rtt: float | None, most: float) -> None:
    async def scenario() -> None:
        line = Line(rtt)
        watched(line)
        await asyncio.sleep(2)
        line.alive = False
        died = line.loop.time()
        await asyncio.sleep(2)
        assert GIVE_UP - 0.2 < line.lost_at - died < most

    run(scenario())


def test_a_living_path_is_kept_and_an_idle_one_left_in_peace() -> None:
    async def scenario() -> None:
        line = Line()
        watch = watched(line)
        await asyncio.sleep(BUSY_FOR + 2)
        asked = line.pings
        await asyncio.sleep(60)
        assert line.pings == asked
        assert not line.lost_at
        line.bytes_out += 33  # an application speaks again, into the void
        line.ledger.held = 1
        line.alive = False
        spoke = line.loop.time()
        await asyncio.sleep(4)
        assert GIVE_UP < line.lost_at - spoke < 1.2
        watch.stop()

    run(scenario())


def test_without_another_path_the_watch_is_patient() -> None:
    async def scenario() -> None:
        line = Line()
        line.alive = False
        watch = watched(line, alternative=False)
        await asyncio.sleep(30)
        assert not line.lost_at
        assert not line.pings
        watch.stop()

    run(scenario())


def test_a_process_that_was_held_up_blames_itself() -> None:
    async def scenario() -> None:
        line = Line()
        watch = watched(line)
        await asyncio.sleep(1)
        line.alive = False
        line.loop._virtual.now += 5.0  # type: ignore[attr-defined]  # nothing ran for so long
        line.loop.call_later(0.1, setattr, line, "alive", True)
        await asyncio.sleep(3)
        assert not line.lost_at
        watch.stop()

    run(scenario())


def test_a_running_download_leaves_a_dead_path_for_a_standby_that_answers() -> None:
    async def scenario() -> None:
        line = Line()
        rig = Watched(line, spare=Line(delay=0.04))
        await rig.receive(3)
        assert not line.pings
        assert await rig.die() < 0.18
        assert not line.lost_at
        rig.watch.stop()

    run(scenario())


def test_a_running_upload_does_so_when_acknowledgements_stay_away() -> None:
    async def scenario() -> None:
        line = Line()
        rig = Watched(line, spare=Line(delay=0.04))
        for _ in range(301):
            line.ledger.held = 5000 - line.ledger.held
            line.bytes_out += 1000
            line.last_rx = line.loop.time()
            await asyncio.sleep(0.01)
        assert not line.pings
        assert await rig.die() < 0.18
        rig.watch.stop()

    run(scenario())


def test_a_peer_that_is_held_up_is_silent_on_both_paths() -> None:
    async def scenario() -> None:
        line, spare = Line(), Line()
        rig = Watched(line, spare=spare)
        await rig.receive(1)
        line.alive = spare.alive = False
        await asyncio.sleep(0.5)
        line.alive = spare.alive = True
        await asyncio.sleep(2)
        assert not rig.left
        assert not line.lost_at
        rig.watch.stop()

    run(scenario())


def test_after_the_last_bytes_one_answer_is_enough() -> None:
    async def scenario() -> None:
        line, spare = Line(), Line()
        rig = Watched(line, spare=spare)
        await rig.receive(1)
        await asyncio.sleep(0.14)
        assert line.pings == spare.pings == 1
        await asyncio.sleep(BUSY_FOR + 2)
        pings = line.pings
        await asyncio.sleep(60)
        assert line.pings == pings
        rig.watch.stop()

    run(scenario())
