"""Tunnelled connections whose session moves between living paths: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pt.errors import PtError
from pt.node.connection import Connection
from pt.node.route import Route
from tests.sim.loop import run
from tests.sim.test_resume import TALKS, Talk, Target, all_exact
from tests.sim.world import LOCAL, Path, World, lent

Move = tuple[float, float, str]
"""When after the one before (s), the new path's delay (s), and what becomes of the old one: `keep`
(moved back to, perhaps), `cut` by the network, or `drop` by us."""


async def moving(talks: list[Talk], moves: list[Move], first: float = 0.005) -> World:
    """Run all talks while the session moves as told."""
    before = lent()
    target = Target(talks)
    async with World(lambda: Path(first), target) as world:
        mover = asyncio.create_task(_move(world, moves))
        await all_exact(world, target, talks)
        await mover
    assert lent() == before
    return world


async def _move(world: World, moves: list[Move]) -> None:
    spare: Connection | None = None
    for pause, delay, fate in moves:
        await asyncio.sleep(pause)
        assert world.session is not None
        old = world.session.connection
        if spare is not None and not spare.closed and fate == "keep":
            new = spare
        else:
            new, _ = world.connect(Path(delay))
        path = world.paths[-1]
        if fate == "cut":
            path.budget = path.carried + 4000  # breaks in the middle of the move, or soon after
        with contextlib.suppress(PtError, TimeoutError):
            async with asyncio.timeout(3):
                await world.moves.move(new)
        spare = old if fate == "keep" and old is not new else None
        if fate == "drop" and old is not None and world.session.connection is not old:
            old.close("not needed any more")


BOTH = [Talk(1_000_000, 1_000_000), Talk(400_000, 0), Talk(0, 400_000, reply_after=True)]


@pytest.mark.parametrize("fate", ["keep", "cut", "drop"])
@pytest.mark.parametrize(("first", "second"), [(0.001, 0.2), (0.2, 0.001), (0.01, 0.01)])
def test_moves_in_the_middle_of_transfers(fate: str, first: float, second: float) -> None:
    moves = [(0.3, second if n % 2 else first, fate) for n in range(12)]
    run(moving(BOTH, moves, first))


def test_a_slow_old_path_says_nothing_that_counts() -> None:
    """What was under way on the old path arrives long after the session went on elsewhere."""
    run(moving([*BOTH, Talk(70_000, 70_000, pause=0.1)], [(0.2, 0.001, "keep")] * 6, 0.5))


def test_connections_are_opened_while_the_session_moves() -> None:
    talks = [Talk(3000, 3000, delay=0.01 * n) for n in range(80)]
    run(moving(talks, [(0.05, 0.02, "drop")] * 20, 0.1))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(TALKS, min_size=1, max_size=6),
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.01, 0.1, 0.7]),
            st.sampled_from([0.0, 0.005, 0.1, 0.4]),
            st.sampled_from(["keep", "cut", "drop"]),
        ),
        max_size=10,
    ),
    st.sampled_from([0.0, 0.005, 0.1]),
)
def test_moved_at_any_time(talks: list[Talk], moves: list[Move], first: float) -> None:
    run(moving(talks, moves, first))


def test_an_exposer_that_speaks_into_the_void_says_so_over_the_standby() -> None:
    """The binder hears nothing and says nothing: only the exposer can know that it is dead."""

    async def scenario() -> None:
        said: asyncio.Event = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            await said.wait()
            writer.write(b"late news")
            await writer.drain()
            await reader.read()
            writer.close()

        loop = asyncio.get_running_loop()
        async with World(lambda: Path(0.005), serve) as world:
            application, _ = world.open()
            await loop.sock_sendall(application, b"?")
            await asyncio.sleep(1)
            assert world.session is not None
            assert world.session.connection is not None
            relayed = Route(LOCAL, path="relay/raw", relay=world.binder.peer_id)
            world.session.connection.route = relayed
            theirs = world.exposer_session.connection
            assert theirs is not None
            theirs.route = relayed
            direct, _ = world.connect(Path(0.005))
            await world.moves.move(direct)
            await asyncio.sleep(30)  # nobody says anything for long
            world.paths[-1].cut("none")
            said.set()
            began = loop.time()
            assert await loop.sock_recv(application, 100) == b"late news"
            assert loop.time() - began < 1.6
            assert world.session.connection is not direct
            application.close()
            await world.settled()

    run(scenario())
