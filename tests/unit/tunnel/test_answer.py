"""Whose turn it is to prove the name."""

from __future__ import annotations

import asyncio

import pytest

from pt.tunnel.answer import PATIENCE, Turns
from tests.sim.loop import run


async def prove(turns: Turns, seconds: float, log: list[tuple[str, float]], who: str) -> None:
    loop = asyncio.get_running_loop()
    async with turns.one():
        log.append((who, loop.time()))
        await asyncio.sleep(seconds)


def began(*seconds: float) -> dict[str, float]:
    """When each of some has its turn, that come at the same time and take so long."""
    log: list[tuple[str, float]] = []

    async def scenario() -> None:
        turns = Turns()
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(seconds):
                group.create_task(prove(turns, each, log, str(number)))
        log[:] = [(who, at - start) for who, at in log]

    run(scenario())
    return dict(log)


def test_one_after_the_other() -> None:
    times = sorted(began(0.5, 0.5, 0.5).values())
    assert times == pytest.approx([0, 0.5, 1.0], abs=0.01)


def test_one_that_takes_long_holds_up_the_others_for_a_while_only() -> None:
    times = began(15.0, 0.5, 15.0, 0.5)
    expected = [0, PATIENCE, PATIENCE + 0.5, 2 * PATIENCE + 0.5]
    assert sorted(times.values()) == pytest.approx(expected, abs=0.01)


def test_the_end_of_one_that_was_passed_by_is_nobodys_turn() -> None:
    """It ends while another one has the turn, which goes on to have it."""
    times = began(PATIENCE + 0.5, 1.5, 1.5)
    assert sorted(times.values()) == pytest.approx([0, PATIENCE, PATIENCE + 1.5], abs=0.01)


def test_whoever_is_cancelled_leaves_the_turn_to_others() -> None:
    log: list[tuple[str, float]] = []

    async def scenario() -> None:
        turns = Turns()
        start = asyncio.get_running_loop().time()
        first, second, third = (
            asyncio.create_task(prove(turns, seconds, log, who))
            for who, seconds in (("first", 9.0), ("second", 9.0), ("third", 0.1))
        )
        await asyncio.sleep(0.5)
        second.cancel()
        first.cancel()
        await third
        await asyncio.wait([first, second])
        assert dict(log)["third"] - start == pytest.approx(0.5, abs=0.01)
        assert "second" not in dict(log)

    run(scenario())
