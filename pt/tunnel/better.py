"""From a direct path to a better one: from QUIC to TCP, or to QUIC that does not mind loss.

TCP carries three times what QUIC does here, at a third of the CPU, and the kernel's BBR does not
mind loss; but QUIC may have won the race, or TCP may not have got through at first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from pt.errors import PtError

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.wire.multiaddr import Multiaddr

__all__ = ["is_better", "over_loss", "to_tcp"]

TCP_AFTER: Final = (1.0, 60.0)
"""Seconds after which TCP is tried beside a QUIC path, then every `TCP_EVERY`."""
TCP_EVERY: Final = 600.0
TCP_TIMEOUT: Final = 5.0
QUIC_TIMEOUT: Final = 5.0
SETTLE: Final = 0.05
"""Seconds, and two round trips, in which the peer hears what the next connection is for."""

Dial = Callable[[Sequence["Multiaddr"], float], Awaitable["Connection"]]
"""(addresses, seconds): a new connection to the exposer."""
Take = Callable[["Connection"], Awaitable[bool]]
"""Moves the session, or closes the connection."""


def is_better(tcp_rtt: float | None, quic_rtt: float | None) -> bool:
    """Whether a TCP connection is the better place for bulk, by round trips in seconds.

    One that takes a detour (a proxy, another family's tunnel) is not.
    """
    if tcp_rtt is None or quic_rtt is None:
        return True
    return tcp_rtt <= 1.5 * quic_rtt + 0.005


async def to_tcp(
    current: Connection, addresses: Callable[[], list[Multiaddr]], dial: Dial, take: Take
) -> None:
    """Try TCP now and then; ends when the session has moved."""
    for pause in chain(TCP_AFTER, repeat(TCP_EVERY)):
        await asyncio.sleep(pause)
        if await _try_tcp(current, addresses(), dial, take):
            return


async def _try_tcp(current: Connection, addresses: list[Multiaddr], dial: Dial, take: Take) -> bool:
    wanted = [each for each in addresses if each.transport == "tcp"]
    if not wanted:
        return False
    try:
        fresh = await dial(wanted, TCP_TIMEOUT)
    except (PtError, OSError, TimeoutError):
        return False
    try:
        rtt = await fresh.ping()
    except (PtError, OSError, TimeoutError):
        fresh.close("it does not answer")
        return False
    except asyncio.CancelledError:
        fresh.close("given up")
        raise
    if not is_better(rtt, current.rtt):
        fresh.close("QUIC is the shorter way")
        return False
    return await take(fresh)


async def over_loss(
    current: Connection, addresses: Callable[[], list[Multiaddr]], dial: Dial, take: Take
) -> None:
    """The path loses packets: go on over TCP if that gets through, else over QUIC anew."""
    await asyncio.sleep(SETTLE + 2 * min(current.rtt or 0.1, 1.0))
    if await _try_tcp(current, addresses(), dial, take):
        return
    try:
        fresh = await dial([current.remote_addr], QUIC_TIMEOUT)
    except (PtError, OSError, TimeoutError):
        return
    if fresh.link.minds_loss:  # as with PT_CONGESTION=cubic
        fresh.close("it would bear the loss no better")
        return
    await take(fresh)
