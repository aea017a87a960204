"""Which stream numbers of a session were used, by the rules of `pt.tunnel.core.messages`.

A binder counts up, but a path that breaks takes some OPENs with it and lets later ones arrive on
the next path.  The exposer therefore remembers the numbers it was never told below the highest one:
those may still be opened; all others up to the highest are over or running.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

__all__ = ["MAX_SKIPPED", "Numbers"]

MAX_SKIPPED: Final = 40_000
"""Numbers remembered as never seen: what two full sessions lose at once.  The lowest go first."""


class Numbers:
    """The numbers that one peer uses."""

    __slots__ = ("_highest", "_skipped")

    def __init__(self) -> None:
        self._highest = 0
        self._skipped: set[int] = set()

    def __contains__(self, number: int) -> bool:
        """Whether `number` was used."""
        return number <= self._highest and number not in self._skipped

    def use(self, number: int) -> bool:
        """Take `number`; False if it was used before."""
        if number in self:
            return False
        if number <= self._highest:
            self._skipped.discard(number)
            return True
        skipped = self._skipped
        skipped.update(range(max(self._highest + 1, number - MAX_SKIPPED), number))
        self._highest = number
        if len(skipped) > MAX_SKIPPED:
            self._skipped = set(sorted(skipped)[-MAX_SKIPPED:])
        return True

    def settle(self, live: AbstractSet[int]) -> None:
        """The peer still has `live`: other skipped numbers will never be used."""
        self._skipped &= live
