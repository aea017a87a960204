from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise

import pytest

from pt.errors import ConnectError, IdentityChangedError, RefusedError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.tunnel.hunt import AT_ONCE, HEAD_START, MOST, hunt, worse
from pt.tunnel.lookup import Candidate
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

PEERS = [PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in range(20)]
DEAD = 10.0


def candidate(number: int, port: int = 1) -> Candidate:
    return Candidate(PEERS[number], (Multiaddr.tcp("11.0.0.1", port),), "memory")


class FakeConnection:
    def __init__(self, who: Candidate) -> None:
        self.who = who
        self.closed = ""

    def close(self, reason: str) -> None:
        self.closed = reason


class World:
    """Peers that answer after so many seconds; the others fail after DEAD."""

    def __init__(self, answers: dict[int, float], failing_after: float = DEAD) -> None:
        self.answers = {PEERS[number]: after for number, after in answers.items()}
        self.failing_after = failing_after
        self.dialed: list[tuple[float, Candidate]] = []
        self.made: list[FakeConnection] = []
        self.under_way = 0
        self.most = 0
        self.start = asyncio.get_running_loop().time()
        self.known: list[Candidate] = []
        self.news = asyncio.Event()

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.start

    async def dial(self, who: Candidate) -> FakeConnection:
        self.dialed.append((self.now(), who))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            after = self.answers.get(who.peer_id) if who.addresses[0].tcp_port == 1 else None
            await asyncio.sleep(self.failing_after if after is None else after)
            if after is None:
                raise ConnectError("it is dead")
        finally:
            self.under_way -= 1
        self.made.append(FakeConnection(who))
        return self.made[-1]

    def hunt(self):
        return contextlib.aclosing(hunt(lambda: self.known, self.dial, self.news))  # type: ignore[arg-type]


def test_a_dead_one_first_in_the_list_does_not_delay_a_living_one() -> None:
    async def scenario() -> None:
        world = World({3: 0.1})
        world.known = [candidate(number) for number in range(4)]
        async with world.hunt() as results:
            async for who, result in results:
                assert (who.peer_id, result.who) == (PEERS[3], who)
                break
        assert world.now() == pytest.approx(3 * HEAD_START + 0.1, abs=0.01)
        assert world.under_way == 0

    run(scenario())


def test_the_next_one_is_dialed_at_once_when_one_fails() -> None:
    async def scenario() -> None:
        world = World({2: 0.0}, failing_after=0.01)
        world.known = [candidate(number) for number in range(3)]
        async with world.hunt() as results:
            seen = [
                (who.peer_id, isinstance(result, ConnectError)) async for who, result in results
            ]
        assert seen == [(PEERS[0], True), (PEERS[1], True), (PEERS[2], False)]
        assert world.now() < HEAD_START

    run(scenario())


def test_who_answers_too_late_is_hung_up_on() -> None:
    async def scenario() -> None:
        world = World({0: HEAD_START + 0.05, 1: 0.05})
        world.known = [candidate(0), candidate(1)]
        async with world.hunt() as results:
            async for who, _ in results:
                assert who.peer_id in PEERS[:2]
                await asyncio.sleep(0.5)
                break
        assert len(world.made) == 2
        assert sorted(made.closed for made in world.made) == ["", "another one answered first"]

    run(scenario())


def test_news_are_dialed_while_others_are_under_way() -> None:
    async def scenario() -> None:
        world = World({1: 0.2, 2: 0.2})
        world.known = [candidate(0)]

        def learn(*more: Candidate) -> None:
            world.known = [*world.known, *more]
            world.news.set()

        loop = asyncio.get_running_loop()
        loop.call_later(1.0, learn, candidate(1))
        # the same peer somewhere else
        loop.call_later(1.5, learn, candidate(2, port=9), candidate(2))
        seen = []
        async with world.hunt() as results:
            async for who, _ in results:
                seen.append((round(world.now(), 1), who))
                if len(seen) == 2:
                    break
        assert [who for _, who in seen] == [candidate(1), candidate(2)]
        assert seen[0][0] == pytest.approx(1.2, abs=0.1)
        assert seen[1][0] < 1.5 + 2 * HEAD_START + 0.3

    run(scenario())


def test_not_all_are_dialed_together_and_each_once() -> None:
    async def scenario() -> None:
        world = World({})
        world.known = [candidate(number) for number in range(20)]
        async with world.hunt() as results:
            seen = [who async for who, _ in results]
        assert len(seen) == len(world.dialed) == 20
        assert world.most == AT_ONCE

    run(scenario())


def test_ever_new_addresses_of_somebody_do_not_make_it_endless() -> None:
    """Another one, which failed at first, has its second turn in the next hunt."""

    async def scenario() -> None:
        world = World({}, failing_after=0.01)
        number = 0

        def ever_new() -> list[Candidate]:
            nonlocal number
            number += 1
            return [candidate(0, 1 + number % 60_000)]

        async with contextlib.aclosing(hunt(ever_new, world.dial, world.news)) as results:  # type: ignore[arg-type]
            seen = [who async for who, _ in results]
        assert len(seen) == MOST

    run(scenario())


def test_which_of_several_failures_says_most() -> None:
    somebody_else, refused = IdentityChangedError("x"), RefusedError("x")
    dead, silent = ConnectError("x"), TimeoutError()
    for weak, strong in pairwise((None, silent, dead, refused, somebody_else)):
        assert worse(weak, strong) is strong
        if weak is not None:
            assert worse(strong, weak) is strong
    later = ConnectError("y")
    assert worse(dead, later) is later
