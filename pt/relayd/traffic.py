"""What all circuits of a relay share: the bandwidth's clock, and how long each may last.

One timer drives the shaper, one sweep ends the circuits whose time is up; a circuit has neither of
its own, so that thousands of idle ones cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from pt.relay.shaper import Shaper, Share

__all__ = ["DATA_UP", "SWEEP", "TIME_UP", "Bounded", "Traffic"]

SWEEP: Final = 0.5
"""Seconds by which a circuit may outlast its limit."""
STEP: Final = 0.001
"""Seconds between two turns of the shaper, at the least; its bucket holds a hundred times that."""
DATA_UP: Final = "it carried all the bytes it may"
TIME_UP: Final = "its time was up"


class Bounded(Protocol):
    """A circuit, as far as its time limit is concerned."""

    def close(self, reason: str) -> None:
        """End it at once, both ways."""
        ...


class Traffic:
    """`shaper` hands out the bandwidth of all circuits; see the module's text."""

    def __init__(self, loop: asyncio.AbstractEventLoop, shaper: Shaper | None = None) -> None:
        self.loop = loop
        self.shaper = shaper if shaper is not None else Shaper()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._ends: dict[Bounded, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._batch: list[Callable[[], None]] = []

    def set_rates(self, rate: float, circuit_rate: float) -> None:
        """Bytes a second for all circuits and for each one, from now on; 0: not bounded."""
        self.shaper.set_rates(rate, circuit_rate, self.loop.time())
        self._schedule()

    def close(self) -> None:
        """Stop the timers; circuits that wait are not woken any more."""
        for timer in (self._timer, self._sweep):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep = None
        self._running = True

    # --- bandwidth -----------------------------------------------------------------------------

    def take(self, share: Share, want: int) -> int:
        """How much of `want` may be moved now; 0: `park`."""
        if self.shaper.unlimited:
            return want
        return share.take(want, self.loop.time())

    def refund(self, share: Share, count: int) -> None:
        """Give back what was taken and could not be moved."""
        if not self.shaper.unlimited:
            share.refund(count)

    def park(self, share: Share, wake: Callable[[], None]) -> None:
        """Call `wake` once, when it is this share's turn."""
        self.shaper.park(share, wake)
        self._schedule()

    def _schedule(self) -> None:
        if self._running:
            return
        now = self.loop.time()
        due = self.shaper.due(now)
        if due is None:
            return
        at = max(due, now + STEP)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(at, self._run)

    def _run(self) -> None:
        self._timer = None
        self._running = True
        try:
            self.shaper.run(self.loop.time())
        finally:
            self._running = False
        self._schedule()

    # --- turns ---------------------------------------------------------------------------------

    def soon(self, call: Callable[[], None]) -> None:
        """Call `call` before the loop waits again, after what is being received now."""
        if not self._batch:
            self.loop.call_soon(self._run_batch)
        self._batch.append(call)

    def _run_batch(self) -> None:
        batch, self._batch = iter(self._batch), []
        try:
            for call in batch:
                call()
        finally:
            for call in batch:  # one that raised does not cost the others their turn
                self.soon(call)

    # --- time ----------------------------------------------------------------------------------

    def end_in(self, circuit: Bounded, seconds: float) -> None:
        """Close `circuit` in so many seconds, unless it is forgotten before."""
        self._ends[circuit] = self.loop.time() + seconds
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP, self._sweep_ends)

    def forget(self, circuit: Bounded) -> None:
        """The circuit has ended."""
        self._ends.pop(circuit, None)

    def _sweep_ends(self) -> None:
        now = self.loop.time()
        for circuit in [one for one, end in self._ends.items() if end <= now]:
            circuit.close(TIME_UP)
        self._sweep = self.loop.call_later(SWEEP, self._sweep_ends) if self._ends else None
