"""The virtual clock of the other tests."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.sim import loop as module
from tests.sim.loop import run


def test_a_timer_takes_no_real_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began, really = loop.time(), time.monotonic()
        await asyncio.sleep(86_400)
        assert loop.time() - began == pytest.approx(86_400, abs=0.1)
        assert time.monotonic() - really < 3600

    run(main())


def test_the_clock_stands_while_a_thread_works() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        go_on = threading.Event()
        began = loop.time()
        work = asyncio.create_task(asyncio.to_thread(go_on.wait))
        threading.Timer(0.1, go_on.set).start()  # in real time
        done, _ = await asyncio.wait({work}, timeout=3600)
        assert done
        assert loop.time() - began < 0.01
        await asyncio.sleep(60)
        assert loop.time() - began == pytest.approx(60, abs=0.1)

    run(main())


def test_work_given_up_does_not_stop_the_clock() -> None:
    async def main() -> None:
        go_on = threading.Event()
        work = asyncio.create_task(asyncio.to_thread(go_on.wait))
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.sleep(60)
        go_on.set()

    run(main())


def test_a_thread_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(module, "WORK", 0.05)

    async def main() -> None:
        try:
            await asyncio.wait_for(asyncio.to_thread(go_on.wait), 60)
        finally:
            go_on.set()

    threading.Timer(1, go_on.set).start()
    with pytest.raises(RuntimeError, match="works on and on"):
        run(main())


def test_a_loop_with_nothing_to_wait_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.01)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run(main())
