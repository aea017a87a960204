"""Whether a direct path that was left because it fell silent is alive and worth going back to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pt.errors import PtError

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.tunnel.suspicion import Alarms

__all__ = ["answers", "came_back"]

FALSE_ALARM: Final = 0.6
"""Seconds within which a path answers that was never dead."""
STEADY: Final = 0.5
"""Seconds for the answer to a second question."""


async def answers(connection: Connection, within: float | None) -> bool:
    """Whether the peer answers on `connection`, in `within` seconds or before it is lost."""
    try:
        async with asyncio.timeout(within):
            await connection.ping()
    except (PtError, OSError, TimeoutError):
        return False
    return True


async def came_back(suspect: Connection, alarms: Alarms, *, soon: bool) -> bool:
    """Whether it answers, twice. `soon`: at once, which makes it a false alarm."""
    clock = asyncio.get_running_loop().time
    if not await answers(suspect, FALSE_ALARM if soon else None):
        return False
    if soon:
        alarms.false(clock())
    await asyncio.sleep(alarms.hold(clock()))
    return await answers(suspect, STEADY)
