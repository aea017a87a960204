from __future__ import annotations

import asyncio

import pytest

from pt.aio.together import together
from pt.errors import NetworkError, RefusedError
from tests.sim.loop import run


async def after(seconds: float, result: object) -> object:
    await asyncio.sleep(seconds)
    if isinstance(result, Exception):
        raise result
    return result


def test_what_they_return_in_their_order() -> None:
    assert run(together(after(2, "one"), after(1, 2))) == ("one", 2)


def test_nothing_runs_on_when_one_has_failed() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def slow() -> None:
            await asyncio.sleep(5)
            ended.append("slow")

        with pytest.raises(NetworkError):
            await together(after(1, NetworkError("no way")), slow())
        assert ended == ["slow"]

    run(main())


def test_of_two_failures_the_first_in_order_is_told() -> None:
    with pytest.raises(RefusedError):
        run(together(after(2, RefusedError("no service")), after(1, NetworkError("no way"))))


def test_cancelled_it_cancels_all() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def endless(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(name)

        task = asyncio.ensure_future(together(endless("one"), endless("two")))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == ["one", "two"]

    run(main())
