"""The pace of look-ups, on a clock of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine

import pytest

from pt.tunnel.media.rounds import MIN_GAP, REST, SOON, Rounds
from tests.sim.loop import run


class Counting(Rounds):
    """Rounds of a second; `soon` is what they say."""

    first, most = 1.0, 45.0

    def __init__(self, soon: bool = False) -> None:
        super().__init__()
        self.began: list[float] = []
        self.soon = soon

    async def _round(self) -> bool:
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        return self.soon

    @property
    def gaps(self) -> list[float]:
        return [late - early for early, late in itertools.pairwise(self.began)]


def with_rounds(
    scenario: Callable[[Counting], Coroutine[object, object, None]], *, now: bool = True, **options
) -> None:
    async def main() -> None:
        rounds = Counting(**options)
        rounds.start(now=now)
        await scenario(rounds)
        await rounds.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_they_come_ever_later() -> None:
    async def scenario(rounds: Counting) -> None:
        await asyncio.sleep(1800)
        gaps = rounds.gaps
        assert gaps[0] <= 1 + MIN_GAP + 1
        assert all(early < late + 20 for early, late in itertools.pairwise(gaps))
        assert all(45 * 0.7 <= gap <= 1 + MIN_GAP + 45 for gap in gaps[8:])

    with_rounds(scenario)


@pytest.mark.parametrize("ask", ["hurry", "resume", "pause and resume"])
def test_whoever_asks_all_the_time_gets_no_more_than_a_few_early_ones(ask: str) -> None:
    """An exposer that is found and never answers, or a session that comes and goes."""

    async def scenario(rounds: Counting) -> None:
        for _ in range(900):
            if "pause" in ask:
                rounds.pause()
            getattr(rounds, ask.rpartition(" ")[2])()
            await asyncio.sleep(2)
        assert len(rounds.began) <= 1800 / (45 * 0.85) + 7 + SOON

    with_rounds(scenario)


def test_what_servers_answer_does_not_make_them_come_for_ever() -> None:
    async def scenario(rounds: Counting) -> None:
        await asyncio.sleep(3600)
        assert len(rounds.began) <= 3600 / (45 * 0.85) + 7 + SOON
        assert all(gap <= 1 + MIN_GAP + 1 for gap in rounds.gaps[:SOON])

    with_rounds(scenario, soon=True)


def test_a_rest_begins_them_anew() -> None:
    async def scenario(rounds: Counting) -> None:
        await asyncio.sleep(600)
        rounds.pause()
        await asyncio.sleep(60)
        before = len(rounds.began)
        await asyncio.sleep(3600)
        assert len(rounds.began) == before
        asked = asyncio.get_running_loop().time()
        rounds.resume()
        await asyncio.sleep(10)
        assert rounds.began[before] == pytest.approx(asked, abs=0.01)
        assert len(rounds.began) >= before + 3

    with_rounds(scenario)


def test_a_pause_that_was_short_is_over_at_once() -> None:
    async def scenario(rounds: Counting) -> None:
        await asyncio.sleep(600)
        rounds.pause()
        await asyncio.sleep(1)
        before = len(rounds.began)
        rounds.resume()
        await asyncio.sleep(1.5)
        assert len(rounds.began) == before + 1

    with_rounds(scenario)


def test_they_may_begin_later() -> None:
    async def scenario(rounds: Counting) -> None:
        told: list[int] = []
        rounds.on_round = lambda: told.append(rounds.rounds)
        await asyncio.sleep(2 * REST)
        assert not rounds.began
        rounds.resume()
        await asyncio.sleep(4)
        assert told[:2] == [1, 2]

    with_rounds(scenario, now=False)


def test_the_end_in_the_middle_of_one() -> None:
    async def scenario(rounds: Counting) -> None:
        await asyncio.sleep(0.5)
        assert rounds.began
        assert not rounds.rounds

    with_rounds(scenario)


def test_a_bug_in_a_round_is_told() -> None:
    class Broken(Rounds):
        first, most = 1.0, 2.0

        async def _round(self) -> bool:
            raise ValueError("a bug")

    async def main() -> None:
        rounds = Broken()
        rounds.start()
        await asyncio.sleep(1)
        await rounds.close()

    with pytest.raises(AssertionError, match="background task"):
        run(main())
