"""The close look at a busy path, on virtual time, with a connection that only counts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pt.tunnel.watch import BUSY_FOR, GIVE_UP, PathWatch
from tests.sim.loop import run


class Line:
    """What the watch looks at: a link whose other end answers as long as `alive`."""

    def __init__(self, rtt: float | None = 0.01) -> None:
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
            self.last_rx = self.loop.time()
            self.bytes_in += 30

    def flush(self) -> None:
        self.bytes_out += 30

    def lose(self, reason: str, *, abort: bool = False) -> None:
        assert "another path" in reason
        assert abort
        self.lost_at = self.loop.time()


def watched(line: Line, *, alternative: bool = True) -> PathWatch:
    connection = SimpleNamespace(link=line, closed=False)
    session = SimpleNamespace(
        connection=connection, pumps={1: None}, ledger=SimpleNamespace(held=0)
    )
    line.ledger = session.ledger
    watch = PathWatch(line.loop, session, lambda: alternative)  # type: ignore[arg-type]
    watch.start()
    return watch


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
