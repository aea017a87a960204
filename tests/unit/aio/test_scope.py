from __future__ import annotations

import asyncio
import contextlib

import pytest

from pt.aio.scope import Scope
from pt.errors import ClosedError, LimitError


async def fail(error: BaseException) -> None:
    raise error


async def wait(event: asyncio.Event) -> None:
    await event.wait()


@pytest.mark.parametrize("error", [ClosedError("x"), OSError("x"), TimeoutError()])
def test_expected_failures_end_their_task_alone(error: BaseException) -> None:
    async def scenario() -> None:
        crashes: list[BaseException] = []
        scope, event = Scope(on_crash=crashes.append), asyncio.Event()
        other = scope.start(wait(event))
        scope.start(fail(error))
        await asyncio.sleep(0.01)
        assert crashes == []
        assert len(scope) == 1
        event.set()
        await other
        await scope.aclose()

    asyncio.run(scenario())


def test_a_bug_is_told() -> None:
    async def scenario() -> None:
        crashes: list[BaseException] = []
        scope, bug = Scope(on_crash=crashes.append), ValueError("bug")
        scope.start(fail(bug))
        await asyncio.sleep(0.01)
        assert crashes == [bug]
        contexts: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: contexts.append(c))
        Scope().start(fail(bug))
        await asyncio.sleep(0.01)
        assert contexts[0]["exception"] is bug

    asyncio.run(scenario())


def test_the_limit_and_the_end() -> None:
    async def scenario() -> None:
        scope, event = Scope(limit=2), asyncio.Event()
        tasks = [scope.start(wait(event)) for _ in range(2)]
        with pytest.raises(LimitError):
            scope.start(wait(event))
        await scope.aclose()
        await asyncio.sleep(0)
        assert all(task.cancelled() for task in tasks)
        assert len(scope) == 0
        with pytest.raises(LimitError):
            scope.start(wait(event))

    asyncio.run(scenario())


def test_a_task_may_close_its_own_scope() -> None:
    async def scenario() -> None:
        scope = Scope()
        done = asyncio.Event()

        async def closes() -> None:
            await scope.aclose()
            done.set()

        scope.start(closes())
        async with asyncio.timeout(5):
            await done.wait()

    asyncio.run(scenario())


def test_who_waits_for_the_end_of_a_task_that_does_not_end_can_be_cancelled() -> None:
    async def scenario() -> None:
        scope, event = Scope(), asyncio.Event()

        async def stubborn() -> None:
            while not event.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await event.wait()

        scope.start(stubborn())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await scope.aclose()
        event.set()
        await scope.aclose()
        assert len(scope) == 0

    asyncio.run(asyncio.wait_for(scenario(), 5))
