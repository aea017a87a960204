from __future__ import annotations

import asyncio
import time

import pytest

from pt.aio.keep_alive import KeepAlive, SilenceWatch
from tests.sim.loop import run


class Peer:
    """Answers when asked, a moment later, as long as it lives."""

    def __init__(self, interval: float = 2.0, timeout: float = 8.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        self.alive = True
        self.heard = self.loop.time()
        self.asked: list[float] = []
        self.lost: list[tuple[float, str]] = []
        self.watch = SilenceWatch(
            KeepAlive(interval, timeout), heard=lambda: self.heard, ask=self.ask, lose=self.lose
        )

    @property
    def now(self) -> float:
        return self.loop.time() - self.start

    def says(self) -> None:
        self.heard = self.loop.time()

    def ask(self) -> None:
        self.asked.append(self.now)
        if self.alive:
            self.loop.call_later(0.01, self.says)

    def lose(self, reason: str) -> None:
        self.lost.append((self.now, reason))


def test_a_quiet_peer_is_asked_and_kept() -> None:
    async def main() -> None:
        peer = Peer()
        await asyncio.sleep(100)
        assert peer.lost == []
        assert 45 <= len(peer.asked) <= 50
        peer.watch.stop()

    run(main())


def test_one_that_talks_is_not_asked() -> None:
    async def main() -> None:
        peer = Peer()
        for _ in range(100):
            await asyncio.sleep(0.5)
            peer.says()
        assert peer.asked == []
        peer.watch.stop()

    run(main())


@pytest.mark.parametrize(("interval", "timeout"), [(2.0, 8.0), (15.0, 40.0)])
def test_one_that_vanishes_is_lost_once(interval: float, timeout: float) -> None:
    async def main() -> None:
        peer = Peer(interval, timeout)
        await asyncio.sleep(50)
        peer.alive = False
        since = peer.heard - peer.start
        await asyncio.sleep(200)
        ((at, reason),) = peer.lost
        assert timeout < at - since <= timeout + interval + 0.1
        assert reason.startswith("no sign of life for ")
        asked = len(peer.asked)
        await asyncio.sleep(100)
        assert len(peer.asked) == asked

    run(main())


def test_the_rhythm_may_change() -> None:
    async def main() -> None:
        peer = Peer(15.0, 40.0)
        await asyncio.sleep(1)
        peer.watch.set(KeepAlive(2.0, 8.0))
        peer.alive = False
        await asyncio.sleep(100)
        ((at, _),) = peer.lost
        assert 8 < at < 12
        peer.watch.set(KeepAlive(1.0, 2.0))  # over is over
        await asyncio.sleep(100)
        assert len(peer.lost) == 1

    run(main())


def test_a_watch_that_is_stopped_loses_nobody() -> None:
    async def main() -> None:
        peer = Peer()
        peer.alive = False
        peer.watch.stop()
        peer.watch.stop()
        await asyncio.sleep(100)
        assert (peer.asked, peer.lost) == ([], [])

    run(main())


def test_a_process_that_slept_gives_a_new_chance() -> None:
    """Nothing could be heard while we did not run: whose fault it was is found out first."""

    async def main() -> None:
        peer = Peer(0.04, 0.2)
        await asyncio.sleep(0.1)
        time.sleep(0.5)  # noqa: ASYNC251  # as a suspended machine does
        await asyncio.sleep(0.3)
        assert peer.lost == []
        peer.alive = False
        await asyncio.sleep(0.5)
        assert len(peer.lost) == 1

    asyncio.run(main())
