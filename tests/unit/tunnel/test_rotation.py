"""A path is replaced before its mapping is too old, once that age is known; on virtual time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from pt.errors import ConnectError
from pt.node.connection import Connection
from pt.tunnel.rotation import ATTEMPTS, LEAST, MAX_AGES, Ages, rotate
from tests.sim.loop import run


class World:
    """Paths through a NAT that drops mappings at an age; `rotate` works on them."""

    def __init__(self, *, fails: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.ages = Ages(self.loop.time)
        self.fails = fails
        self.attempts = 0
        self.replaced: list[float] = []
        self.current = self.path()

    def path(self, kind: str = "direct/quic") -> Connection:
        now = self.loop.time()
        found = SimpleNamespace(
            path=kind,
            since=now,
            link=SimpleNamespace(last_rx=now),
            node=SimpleNamespace(tracer=SimpleNamespace(emit=lambda *_, **__: None)),
        )
        return cast(Connection, found)

    async def punch(self, current: Connection, attempt: int) -> Connection:
        assert current is self.current
        self.attempts += 1
        if attempt <= self.fails:
            raise ConnectError("no path")
        return self.path()

    async def take(self, fresh: Connection) -> bool:
        self.replaced.append(self.loop.time() - self.current.since)
        self.current = fresh
        return True

    async def rotate(self) -> None:
        await rotate(self.current, self.ages, self.punch, self.take)


def test_an_age_is_learnt_from_two_deaths_and_kept_clear_of() -> None:
    async def main() -> None:
        world = World()
        world.ages.died(60.0)
        await world.rotate()
        assert not world.attempts
        world.ages.died(58.0)
        for _ in range(3):
            await world.rotate()
        assert world.replaced == [pytest.approx(43.5, abs=0.1)] * 3

    run(main())


def test_ages_that_differ_say_nothing() -> None:
    ages = Ages(lambda: 0.0)
    for age in (10.0, 100.0, 1000.0, LEAST / 2, LEAST / 2):
        ages.died(age)
    assert ages.rotate_after is None
    ages.died(950.0)
    assert ages.limit == 950.0
    for number in range(MAX_AGES):
        ages.died(10.0 * 3**number)
    assert ages.rotate_after is None  # what is old is forgotten


def test_only_a_quic_path_that_was_silent_counts() -> None:
    async def main() -> None:
        world = World()
        quic, tcp = world.path(), world.path("direct/tcp")
        await asyncio.sleep(30)
        for path in (quic, tcp):
            path.link.last_rx = world.loop.time()  # type: ignore[misc]
        world.ages.dead(quic)
        assert not world.ages.suspected
        await asyncio.sleep(1)
        world.ages.dead(tcp)
        assert not world.ages.suspected
        world.ages.dead(quic)
        world.ages.dead(quic)
        assert world.ages.suspected
        assert world.ages.limit == pytest.approx(30, abs=0.1)

    run(main())


@pytest.mark.parametrize("fails", range(ATTEMPTS + 1))
def test_an_attempt_that_fails_is_made_again_and_not_for_ever(fails: int) -> None:
    async def main() -> None:
        world = World(fails=fails)
        world.ages.died(20.0)
        world.ages.died(20.0)
        await world.rotate()
        assert world.attempts == min(fails + 1, ATTEMPTS)
        assert len(world.replaced) == (fails < ATTEMPTS)

    run(main())
