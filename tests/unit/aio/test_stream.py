from __future__ import annotations

import asyncio

import pytest

from pt.aio.stream import ResetOnError
from pt.errors import ResetError
from tests.sim.loop import run
from tests.unit.memory import stream_pair


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_a_block_left_by_an_exception_resets_its_stream(error: type[BaseException]) -> None:
    async def main() -> None:
        left, right = stream_pair()
        with pytest.raises(error):
            async with ResetOnError(left):
                raise error
        with pytest.raises(ResetError):
            await right.read(1)

    run(main())


def test_a_block_that_ends_leaves_it() -> None:
    async def main() -> None:
        left, right = stream_pair()
        async with ResetOnError(left):
            await left.write(b"a")
        await left.write(b"b")
        assert await right.read_exactly(2) == b"ab"

    run(main())
