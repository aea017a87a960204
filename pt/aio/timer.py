"""A timer for a machine that says itself when it wants to be called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Timer"]


class Timer:
    """Calls `fire` and `then` when `when` says so; `arm` after what may have changed that."""

    def __init__(
        self,
        when: Callable[[], float | None],
        fire: Callable[[], None],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._fire = fire
        self._then = then
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def arm(self) -> None:
        """Look at `when` anew; a deadline that has moved back is noticed when the old one fires."""
        at = None if self._closed else self._when()
        if self._handle is not None:
            if at is not None and self._handle.when() <= at:
                return  # fires early, which does no harm
            self._handle.cancel()
        self._handle = None if at is None else self._loop.call_at(at, self._fired)

    def _fired(self) -> None:
        self._handle = None
        try:
            self._fire()
            self._then()
        finally:
            self.arm()

    def close(self) -> None:
        """Fire no more."""
        self._closed = True
        self.arm()
