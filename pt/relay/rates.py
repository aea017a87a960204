"""Token buckets by source: how often strangers may ask a relay for something.

A bucket holds as many attempts as a minute allows, and fills steadily. The table is bounded; the
source that asked longest ago is forgotten first, which is the one whose bucket is fullest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

__all__ = ["MAX_SOURCES", "Buckets"]

MAX_SOURCES: Final = 4096
_MINUTE: Final = 60.0


class Buckets:
    """Allows each source `per_minute` attempts a minute, all of them at once if it likes."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def allows(self, source: Hashable, now: float) -> bool:
        """Whether an attempt of `source` is allowed now; it is not counted."""
        return self._now_left(source, now) >= 1

    def count(self, source: Hashable, now: float) -> None:
        """Count an attempt of `source`."""
        self._left[source] = max(0.0, self._now_left(source, now) - 1), now
        self._left.move_to_end(source)
        if len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)

    def _now_left(self, source: Hashable, now: float) -> float:
        left, at = self._left.get(source, (float(self.per_minute), now))
        return min(self.per_minute, left + max(0.0, now - at) * self.per_minute / _MINUTE)
