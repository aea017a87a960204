"""Typed trace records as JSON lines: what a node tried, when, and how it ended.

One record a line: `{"t": seconds on one monotonic clock, "event": name, …facts}`.  The first line
is `trace_start` with the wall-clock time, so that traces of two machines can be laid side by side.
The sink belongs to whoever opened it; a tracer without a sink costs one test a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ["NO_TRACE", "Tracer"]

Fact = str | int | float | bool | None | list[str]


class Tracer:
    """Writes records to `sink`; `clock` is in monotonic seconds, `wall` is epoch time."""

    __slots__ = ("_clock", "_sink", "_zero", "path", "wall")

    def __init__(
        self,
        sink: TextIO | None,
        clock: Callable[[], float] | None = None,
        wall: float = 0.0,
        path: str | None = None,
    ) -> None:
        self.path = path
        """The sink's file, beside which others may be written; None: there is none."""
        self.wall = wall
        self._sink = sink
        self._clock = clock
        self._zero = clock() if clock is not None else 0.0
        if sink is not None:
            self.emit("trace_start", version=1, wall=wall)

    @property
    def enabled(self) -> bool:
        """Whether records go anywhere: test it before building an expensive fact."""
        return self._sink is not None

    def since(self, now: float) -> float:
        """Seconds since the trace began, for what is on its clock."""
        return now - self._zero

    def emit(self, event: str, **facts: Fact) -> None:
        """Write one record.  A full disk ends the trace, never the tunnel."""
        sink = self._sink
        if sink is None:
            return
        now = self._clock() - self._zero if self._clock is not None else 0.0
        try:
            sink.write(json.dumps({"t": round(now, 6), "event": event, **facts}) + "\n")
            sink.flush()
        except OSError:
            self._sink = None


NO_TRACE: Final = Tracer(None)
