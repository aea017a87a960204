"""Whether a gateway has lost its mappings: its clock, told in every answer, began anew.

RFC 6887, section 8.5, for both PCP and NAT-PMP (RFC 6886, 3.6, allows a little more drift).
"""

from __future__ import annotations

from typing import Final

__all__ = ["Epoch"]

_DRIFT: Final = 16
_SLACK: Final = 2.0


class Epoch:
    """The clock of one gateway."""

    def __init__(self) -> None:
        self._server: int | None = None
        self._client = 0.0

    def seen(self, server: int, now: float) -> bool:
        """Take the clock of an answer; whether it fits those before."""
        before, then = self._server, self._client
        self._server, self._client = server, now
        if before is None:
            return True
        if server + 1 < before:
            return False
        here, there = now - then, server - before
        slow = here + _SLACK < there - there / _DRIFT
        fast = there + _SLACK < here - here / _DRIFT
        return not slow and not fast
