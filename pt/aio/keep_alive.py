"""How a connection notices that its path is dead: it asks after silence, then gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["KeepAlive", "SilenceWatch"]


class KeepAlive:
    """A ping after `interval` s of silence, given up after `timeout` s without a byte."""

    __slots__ = ("interval", "timeout")

    def __init__(self, interval: float, timeout: float) -> None:
        self.interval = interval
        self.timeout = timeout


class SilenceWatch:
    """Looks every `interval`; `heard` says when something came last, on the loop's clock."""

    __slots__ = ("_ask", "_forgiven", "_heard", "_keep_alive", "_last", "_loop", "_lose", "_timer")

    def __init__(
        self,
        keep_alive: KeepAlive,
        *,
        heard: Callable[[], float],
        ask: Callable[[], None],
        lose: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._keep_alive = keep_alive
        self._heard = heard
        self._ask = ask
        self._lose = lose
        self._last = self._forgiven = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(
            keep_alive.interval, self._tick
        )

    def _tick(self) -> None:
        now = self._loop.time()
        interval, timeout = self._keep_alive.interval, self._keep_alive.timeout
        if now - self._last > interval + timeout / 2:
            self._forgiven = now  # this process slept (suspend, overload): a new chance
        self._last = now
        silent = now - max(self._heard(), self._forgiven)
        if silent > timeout:
            self._timer = None
            self._lose(f"no sign of life for {silent:.0f} s")
            return
        self._timer = self._loop.call_later(interval, self._tick)
        if silent > interval * 0.5:
            self._ask()

    def set(self, keep_alive: KeepAlive) -> None:
        """Change the rhythm."""
        self._keep_alive = keep_alive
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(keep_alive.interval, self._tick)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
