"""An event loop on virtual time: real local sockets, a clock that never makes a test wait.

When no socket is ready, the clock jumps to the next timer. What would take minutes of keep-alives
and timeouts takes milliseconds, and always the same way. While a thread of the loop works, the
clock stands: what it does takes no time, however busy the machine is. A loop that has neither a
ready socket nor a timer would hang for ever: that is an error here, after a moment for the kernel.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
START = 1000.0
TURN = 1e-7  # what a turn of the loop takes: time never stands still
LONG = 0.05  # virtual seconds; before a longer jump the kernel gets a moment of its own,
KERNEL = 0.001  # in real seconds: TCP on loopback has timers, too, when a reader is slow
GRACE = 0.5  # real seconds for the kernel, when there is no timer to jump to
WORK = 10.0  # real seconds for a thread


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.working = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += TURN
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.working or timeout is None:
            ready = super().select(WORK if self.working else GRACE)
            if not ready and self.working:
                raise RuntimeError("a thread works on and on, and the clock waits for it")
            if not ready:
                raise RuntimeError("nothing will ever happen again in this loop")
            return ready
        if timeout > LONG and (ready := super().select(KERNEL)):
            return ready
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; a thread that works in it must not wait for a timer of it."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        work = super().run_in_executor(executor, func, *args)
        self._virtual.working += 1
        work.add_done_callback(self._worked)
        return work

    async def shutdown_default_executor(self, *limit: float | None) -> None:
        """Join the threads; since Python 3.12 there is a limit of time to it."""
        self._virtual.working += 1
        try:
            await super().shutdown_default_executor(*limit)
        finally:
            self._virtual.working -= 1

    def _worked(self, _: asyncio.Future[Any]) -> None:
        self._virtual.working -= 1


def run(coro: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on virtual time; a callback that raised fails the test."""
    crashes: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: crashes.append(context))
        result = runner.run(coro)
    for context in crashes:
        raise AssertionError(context["message"]) from context.get("exception")
    return result
