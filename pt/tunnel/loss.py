"""When a path loses packets, and the congestion control in use minds each of them.

CUBIC takes a lost packet for a full queue and halves; at a loss of 1 % and 50 ms nothing is left of
a fast line.  Where that is seen, the session goes on over another connection whose congestion
control measures the line instead (BBR).  That engine costs ten times the CPU, so it is not the
first choice: a clean line is faster without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pt.node.data_path import DataPath

__all__ = ["LossJudge", "LossWatch"]

TICK: Final = 1.0
BUSY: Final = 64 * 1024
"""Bytes that wait to be sent in a stretch that says something."""
STRETCHES: Final = 3
"""Such stretches in a row."""
FAR: Final = 0.01
"""Round trip (s) from which on a lost packet costs much."""
LOSS: Final = 0.0002
"""Share of packets; 100 Mbit/s at 50 ms stand a tenth of it under CUBIC (RFC 9438, section 5)."""
FAST: Final = 80e6
"""What the other engine carries about, bit/s: who is faster stays."""
PACKET: Final = 1400


class LossJudge:
    """Fed once a stretch with counters of the path; says when to change."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None
        self._stretches: list[tuple[float, int, int]] = []

    def feed(self, now: float, sent: int, lost: int, backlog: int, rtt: float | None) -> bool:
        """`sent` bytes and `lost` packets so far, bytes of `backlog`; whether loss holds us up."""
        last, self._last = self._last, (now, sent, lost)
        if last is None or backlog < BUSY or rtt is None or rtt < FAR:
            self._stretches.clear()
            return False
        self._stretches.append((now - last[0], sent - last[1], lost - last[2]))
        if len(self._stretches) < STRETCHES:
            return False
        seconds, octets, packets = map(sum, zip(*self._stretches[-STRETCHES:], strict=True))
        self._stretches = self._stretches[-STRETCHES:]
        rate = 8 * octets / max(seconds, 1e-3)
        return rate < FAST and packets >= LOSS * octets / PACKET and packets > 0


class LossWatch:
    """Watches one connection until it ends, or `found` was called once."""

    def __init__(self, link: DataPath, found: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._found = found
        self._judge = LossJudge()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        link = self._link
        stats = link.stats()
        if link.closed or stats is None:
            return
        sent = link.bytes_out
        if self._judge.feed(self._loop.time(), sent, stats.lost, stats.backlog, stats.rtt):
            self._found()
            return
        self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
