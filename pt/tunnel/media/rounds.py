"""A look-up that is repeated for as long as somebody wants it, ever later.

The pace is the owner's to slow down, not to speed up: however often it asks, however often sessions
come and go, and whatever servers answer, there are SOON early rounds between two rests. A public
network must not feel that many of us wait for an exposer that does not come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final

from pt.aio.scope import Scope

__all__ = ["MIN_GAP", "REST", "SOON", "Rounds"]

MIN_GAP: Final = 1.0
"""Seconds from one round to the next, at the least."""
REST: Final = 120.0
"""Seconds without a round after which the pace begins anew."""
SOON: Final = 8
"""Rounds that may come before their time."""


class Rounds(ABC):
    """Calls `_round` every `first` to `most` seconds; `on_round` is told each time it has ended."""

    first: ClassVar[float]
    most: ClassVar[float]

    def __init__(self) -> None:
        self.on_round: Callable[[], None] = lambda: None
        self.rounds = 0
        """How many have ended."""
        self._wanted = asyncio.Event()
        self._hurried = asyncio.Event()
        self._early = 0
        self._scope = Scope(limit=1)

    @abstractmethod
    async def _round(self) -> bool:
        """Look once; whether the next round should come soon. Raises nothing."""

    def start(self, *, now: bool = True) -> None:
        """Look from now on, in the background, or when `resume` says so."""
        if now:
            self._wanted.set()
        self._scope.start(self._run())

    def pause(self) -> None:
        """Look no more after the round under way."""
        self._wanted.clear()

    def resume(self) -> None:
        """Look again: at once, if there was a pause."""
        if not self._wanted.is_set():
            self._wanted.set()
            self.hurry()

    def hurry(self) -> None:
        """Have the next round now, if that has not been asked for too often."""
        if self._early < SOON and not self._hurried.is_set():
            self._early += 1
            self._hurried.set()

    async def close(self) -> None:
        """Stop."""
        await self._scope.aclose()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        delay, ended = self.first, loop.time()
        while True:
            await self._wanted.wait()
            if loop.time() - ended > REST:
                delay, self._early = self.first, 0
            self._hurried.clear()
            if await self._round() and self._early < SOON:
                self._early += 1
                delay = self.first
            ended = loop.time()
            self.rounds += 1
            self.on_round()
            await asyncio.sleep(MIN_GAP)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay * random.uniform(0.7, 1.0)):  # noqa: S311  # jitter
                    await self._hurried.wait()
            delay = self.first if self._hurried.is_set() else min(delay * 2, self.most)
