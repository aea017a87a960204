"""How fast a connection may send over a relay that ends it after so many bytes.  A pure policy.

A limited circuit is renewed before it is used up, and renewing it all the time would be abuse of
somebody's free relay.  So what we send over one is spread over at least `SPREAD` seconds: short
messages pass at once, bulk goes at the rate that follows.  For the usual 128 KiB that is some
7 KiB a second in each direction.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FRAME", "SPREAD", "Pace"]

SPREAD: Final = 12.0
"""Seconds over which one circuit's bytes are spread."""
FRAME: Final = 2048
"""Bytes a frame on a limited connection, so that the pace is felt in small steps."""
RESERVE: Final = 16 * 1024
BURST: Final = 24 * 1024


class Pace:
    """`data` is the relay's limit in bytes; `now` is in monotonic seconds.

    Go's relay and ours count each direction, rust's and js's both together: what is received
    counts, too, so that neither cuts us off.  A quarter of the limit, at the most `RESERVE`, is
    kept for what must not wait: acknowledgements, keep-alive, the farewell.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate", "_reserve", "_tokens")

    def __init__(self, data: int, now: float) -> None:
        self._reserve = min(RESERVE, data // 4)
        self._burst = float(min(BURST, data // 4))
        self._left = data
        self._rate = max(64.0, (data - self._reserve - self._burst) / SPREAD)
        self._tokens = self._burst
        self._at = now

    @property
    def rate(self) -> float:
        """Bytes a second that bulk gets."""
        return self._rate

    @property
    def left(self) -> int:
        """Bytes until the relay's limit, at the least."""
        return self._left

    def spend(self, count: int, now: float) -> None:
        """Note `count` bytes as sent; what may not wait is sent even on credit."""
        self._refill(now)
        self._tokens -= count
        self._left -= count

    def received(self, count: int) -> None:
        """Note `count` bytes as received."""
        self._left -= count

    def allows(self, now: float) -> bool:
        """Whether another frame may be sent now."""
        self._refill(now)
        return self._tokens > 0 and self._left > self._reserve

    def ready_in(self, now: float) -> float | None:
        """Seconds until it may; None: on another circuit only."""
        if self._left <= self._reserve:
            return None
        self._refill(now)
        return 0.0 if self._tokens > 0 else (1.0 - self._tokens) / self._rate

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
