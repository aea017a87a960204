"""Some NATs drop a mapping at an age, whatever the traffic: a path through a fresh one comes first.

The age is learnt: paths that fell silent for good at about the same age had it in common.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pt.errors import PtError, message_of

if TYPE_CHECKING:
    from pt.node.connection import Connection

__all__ = ["Ages", "rotate"]

SHARE: Final = 0.75
"""Of the age, after which the path is replaced."""
ALIKE: Final = 0.25
"""Ages that differ by no more than this share of the greater are one."""
LEAST: Final = 2.0
"""Seconds below which a path was not dropped for its age."""
MOST: Final = 24 * 3600.0
MAX_AGES: Final = 4
SILENT: Final = 0.5
"""Seconds: who ends a path in any other way says so."""
RETRY: Final = 0.5
ATTEMPTS: Final = 2


class Ages:
    """How old direct paths became that died in silence."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ages: deque[float] = deque(maxlen=MAX_AGES)
        self.suspected = False
        """Whether paths should have mappings of their own, which are as old as the paths."""

    def dead(self, connection: Connection) -> None:
        """The session has lost this path; its age counts if it was silent in the end."""
        heard = connection.link.last_rx
        if connection.path == "direct/quic" and self._clock() - heard > SILENT:
            self.suspected = True
            self.died(heard - connection.since)

    def died(self, age: float) -> None:
        """A path that carried traffic is dead for good."""
        if LEAST <= age <= MOST:
            self._ages.append(age)

    @property
    def limit(self) -> float | None:
        """The age that a mapping reaches, if two paths agree on one."""
        pairs = pairwise(sorted(self._ages))
        return next((low for low, high in pairs if high - low <= ALIKE * high), None)

    @property
    def rotate_after(self) -> float | None:
        """Seconds after which a path should be replaced."""
        limit = self.limit
        return None if limit is None else SHARE * limit


async def rotate(
    current: Connection,
    ages: Ages,
    punch: Callable[[Connection, int], Awaitable[Connection]],
    take: Callable[[Connection], Awaitable[bool]],
) -> None:
    """Replace `current` in time; ends when the session has moved, or could not."""
    after = ages.rotate_after
    if after is None:
        return
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(max(0.0, current.since + after - clock()))
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fresh = await punch(current, attempt)
        except (PtError, OSError, TimeoutError) as error:
            current.node.tracer.emit("rotation_failed", attempt=attempt, reason=message_of(error))
        else:
            if await take(fresh):
                return
        await asyncio.sleep(RETRY)
