"""The event loop of `pt`'s own processes: asyncio's, with a selector that waits eagerly.

A process that goes to sleep between the bytes of a dialogue pays for it twice: the wake-up itself
and cold caches afterwards.  So after small messages the selector polls for a moment before it
blocks, as the schedulers of Go and of most brokers do.  It gives way to every other runnable task
between two polls, does nothing of the kind for bulk data or timers, and stops trying, longer and
longer, while nothing comes.  `PT_POLL_US` sets the moment (microseconds, 0: never).
"""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["DIALOGUE", "Dialogue", "EagerSelector", "Loop", "run"]

T = TypeVar("T")

POLL_US: Final = 250
MAX_POLL_US: Final = 10_000
MAX_SKIP: Final = 64
"""Waits that are let pass after polling failed again and again."""
DIALOGUE: Final = 2048
"""Fewer bytes than this at a time look like a dialogue."""
CALM: Final = 0.02
"""Seconds without a stream opened or ended after which short messages are a dialogue."""


class EagerSelector(selectors.DefaultSelector):
    """`eager` asks the next wait to poll first; whoever handled a small message sets it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.eager = False
        self._seconds = seconds
        self._skip = 0
        self._failures = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the base class, after polling for a moment if that is promising."""
        if not self.eager or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        self.eager = False
        if self._skip:
            self._skip -= 1
            return super().select(timeout)
        clock = time.perf_counter
        end = clock() + (self._seconds if timeout is None else min(self._seconds, timeout))
        while True:
            ready = super().select(0)
            if ready:
                self._failures = 0
                return ready
            if clock() >= end:
                break
            os.sched_yield()
        self._failures = min(self._failures + 1, 12)
        self._skip = min(self._failures * self._failures // 2, MAX_SKIP)
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """A selector event loop whose `poller` may be told that a dialogue is going on."""

    def __init__(self, seconds: float) -> None:
        self.poller = EagerSelector(seconds)
        super().__init__(self.poller)


class Dialogue:
    """Tells the running loop's poller, if it has one, of one connection's short messages."""

    __slots__ = ("_calm_from", "_churn", "_poller")

    def __init__(self) -> None:
        self._poller: EagerSelector | None = getattr(asyncio.get_running_loop(), "poller", None)
        self._churn = 0
        self._calm_from = 0.0

    def short(self, now: float, churn: int) -> None:
        """A short message: worth polling for the answer, unless streams just come and go."""
        if churn != self._churn:
            self._churn = churn
            self._calm_from = now + CALM
        elif now >= self._calm_from and self._poller is not None:
            self._poller.eager = True


def _seconds() -> float:
    try:
        return min(max(0, int(os.environ.get("PT_POLL_US", POLL_US))), MAX_POLL_US) / 1e6
    except ValueError:
        return POLL_US / 1e6


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a `Loop`, where the system has what that needs."""
    seconds = _seconds()
    if not seconds or not hasattr(os, "sched_yield"):
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=lambda: Loop(seconds)) as runner:
        return runner.run(main)
