"""What the user is told of relays and of circuits with limits, and when these are replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pt.tunnel import events

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.node.relays import RelayNews

__all__ = ["lasts", "limit_warning", "reservation", "used_up"]

RENEW_AT: Final = 0.75
"""Share of a limited circuit's bytes or seconds after which it is replaced."""
HOURS: Final = 7200
"""Seconds beyond which a relay's time limit is not believed to be in seconds."""


def limit_warning(connection: Connection) -> str:
    """What the user should know of a limited path."""
    limit, pace = connection.limit, connection.link.pace
    assert limit is not None
    allowed = [f"{limit.data / 1024:g} KiB"] if limit.data else []
    allowed += [f"{limit.duration} s"] if limit.duration else []
    slow = f"; bulk goes at about {pace.rate / 1024:.1f} KiB/s" if pace is not None else ""
    return (
        f"the path runs through somebody's relay, which allows {' and '.join(allowed) or 'little'} "
        f"a circuit{slow}. For full speed run pt relay on a machine that both sides reach, and "
        "give its address with --relay"
    )


def reservation(news: RelayNews) -> events.Published | None:
    """A reservation stands, or is lost; None: one is lost that nobody had asked for by name."""
    if news.held:
        limit = ""
        if news.limit is not None:
            limit = f" ({news.limit.data // 1024} KiB and {news.limit.duration} s a circuit)"
        detail = f"{news.addresses[0]}{limit}" if news.addresses else str(news.relay)
    elif news.given:
        detail = f"{news.relay}: {news.detail}"
    else:
        return None
    return events.Published(
        medium="relay", ok=news.held, detail=detail, seconds=round(news.seconds, 3)
    )


def used_up(connection: Connection) -> bool:
    """Whether it is time for another one."""
    limit, pace = connection.limit, connection.link.pace
    assert limit is not None
    if limit.duration:
        age = asyncio.get_running_loop().time() - connection.since
        last = lasts(limit.duration)
        if age > min(last * RENEW_AT, max(last - 20, last * 0.5)):
            return True
    if limit.data and pace is not None:
        return pace.left < limit.data * (1 - RENEW_AT)
    return False


def lasts(duration: int) -> float:
    """Seconds that a circuit lasts whose relay says `duration`: js-libp2p says milliseconds.

    What would be hours is therefore taken for less, and replaced too early at the worst.
    """
    return duration if duration <= HOURS else max(60.0, duration / 1000)
