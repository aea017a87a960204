"""When attempts are made, and whom they ask; what they do is in tests/e2e/test_nat_pairs.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pt.errors import ClosedError
from pt.multistream.negotiation import UnsupportedError
from pt.relay.messages import Limit
from pt.trace import NO_TRACE
from pt.tunnel.nat import stun_servers
from pt.tunnel.punching import MIN_BYTES, until_through
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

RELAY = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def circuits(*relays: str) -> list[Multiaddr]:
    return [Multiaddr.parse(f"{relay}/p2p/{RELAY}/p2p-circuit") for relay in relays]


@pytest.mark.parametrize(
    ("relays", "servers"),
    [
        ((), []),
        (("/ip4/11.0.0.1/tcp/4001",), [("11.0.0.1", 4001)]),
        (
            ("/ip4/11.0.0.1/tcp/4001", "/ip4/11.0.0.1/udp/4001/quic-v1", "/ip6/2600::1/tcp/9"),
            [("11.0.0.1", 4001), ("2600::1", 9)],
        ),
        (("/dns4/relay.example/tcp/4001",), []),
    ],
)
def test_relays_are_stun_servers(relays: tuple[str, ...], servers: list[object]) -> None:
    assert stun_servers(circuits(*relays)) == servers


def test_what_is_no_circuit_is_no_server() -> None:
    assert stun_servers([Multiaddr.parse("/ip4/11.0.0.1/tcp/4001")]) == []


class World:
    """Attempts end as `outcomes` say; the last one is repeated."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.times: list[float] = []
        self.numbers: list[int] = []
        self.taken: list[object] = []
        self.moved = asyncio.Event()
        self.wanted = True
        self.own = False
        self.takes = True
        self.start = asyncio.get_running_loop().time()

    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self.start)

    async def punch(self, relayed, secret, attempt, *, own):
        assert own is self.own
        self.times.append(self.now())
        self.numbers.append(attempt)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def take(self, connection) -> bool:
        self.taken.append(connection)
        return self.takes

    async def go(self, seconds: float, limit: Limit | None = None) -> bool:
        """Whether it ended by itself."""
        relayed = SimpleNamespace(limit=limit, node=SimpleNamespace(tracer=NO_TRACE))
        try:
            async with asyncio.timeout(seconds):
                await until_through(
                    self,  # type: ignore[arg-type]
                    relayed,  # type: ignore[arg-type]
                    b"secret",
                    moved=self.moved,
                    wanted=lambda: self.wanted,
                    own=lambda: self.own,
                    take=self.take,
                )
        except TimeoutError:
            return False
        return True


def test_attempts_go_on_until_one_is_taken() -> None:
    async def main() -> None:
        world = World(ClosedError("no"), TimeoutError(), OSError(), "direct")
        assert await world.go(1000)
        assert world.times == [0, 3, 13, 43]
        assert world.numbers == [1, 2, 3, 4]
        assert world.taken == ["direct"]

    run(main())


def test_a_path_that_the_session_does_not_take_is_tried_for_again() -> None:
    async def main() -> None:
        world = World("direct")
        world.takes = False
        assert not await world.go(20)
        assert world.times == [0, 3, 13]

    run(main())


def test_news_of_the_peer_begin_anew() -> None:
    async def main() -> None:
        world = World(ClosedError("no"))
        asyncio.get_running_loop().call_later(30, world.moved.set)
        assert not await world.go(50)
        assert world.times == [0, 3, 13, 30, 33, 43]

    run(main())


def test_a_peer_that_does_not_punch_is_left_alone() -> None:
    async def main() -> None:
        world = World(UnsupportedError("no such protocol"))
        assert await world.go(100)
        assert world.times == [0]

    run(main())


def test_a_session_that_has_left_the_relay_needs_none() -> None:
    async def main() -> None:
        world = World("direct")
        world.wanted = False
        assert await world.go(100)
        assert world.times == []

    run(main())


@pytest.mark.parametrize(("data", "tried"), [(MIN_BYTES - 1, False), (MIN_BYTES, True), (0, True)])
def test_a_circuit_with_little_left_is_not_used_up(data: int, tried: bool) -> None:
    async def main() -> None:
        world = World("direct")
        assert await world.go(100, Limit(duration=120, data=data))
        assert bool(world.times) is tried

    run(main())
