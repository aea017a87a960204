"""How far the look-ups and stores of one medium have come, as events: few of them.

Calls that run at the same time are told together, from the moment the first one begins until none
is left; what is told at the end is the footprint of all of them. While they run there is an event a
second; of ends there are ENDS at once, and then one a second: what is left out is in the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pt.kad.results import Progress
from pt.tunnel import events

__all__ = ["ENDS", "GAP", "Meter"]

GAP: Final = 1.0
"""Seconds from one event to the next while calls run."""
ENDS: Final = 8


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    asked: int = 0
    answered: int = 0
    failed: int = 0
    stored: int = 0
    carried: int = 0
    cut: bool = False

    def add(self, said: Progress) -> None:
        self.calls += 1
        self.asked += said.asked
        self.answered += said.answered
        self.failed += said.failed
        self.stored += said.stored
        self.carried += said.carried
        self.cut = self.cut or said.cut


class Meter:
    """`take` is told each step of each call; `sockets` says how many were held at most so far."""

    def __init__(
        self,
        medium: str,
        emit: Callable[[events.Event], None],
        sockets: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._medium = medium
        self._emit = emit
        self._sockets = sockets
        self._clock = clock
        self._running: dict[int, Progress] = {}
        self._over = _Sum()
        self._began: float | None = None
        self._told_at = 0.0
        self._ends = float(ENDS)
        self._ended_at = 0.0

    def take(self, said: Progress) -> None:
        """A call has come further, or is over."""
        now = self._clock()
        if self._began is None:
            self._began = self._told_at = now
        if said.done:
            self._running.pop(said.call, None)
            self._over.add(said)
        else:
            self._running[said.call] = said
        if self._running:
            if now - self._told_at >= GAP:
                self._tell(now, self._began, done=False)
        elif self._may_end(now):
            self._tell(now, self._began, done=True)
            self._over, self._began = _Sum(), None

    def _may_end(self, now: float) -> bool:
        self._ends = min(ENDS, self._ends + (now - self._ended_at) / GAP)
        self._ended_at = now
        if self._ends < 1:
            return False
        self._ends -= 1
        return True

    def _tell(self, now: float, began: float, *, done: bool) -> None:
        self._told_at = now
        total = replace(self._over)
        for each in self._running.values():
            total.add(each)
        self._emit(
            events.Progress(
                medium=self._medium,
                calls=total.calls,
                asked=total.asked,
                answered=total.answered,
                failed=total.failed,
                stored=total.stored,
                bytes=total.carried,
                sockets=self._sockets(),
                seconds=round(now - began, 3),
                done=done,
                cut=total.cut,
            )
        )
