"""When to try again, and how a path that was found is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.wire.nat_facts import Dependence, NatFacts

__all__ = ["Attempts", "Upkeep", "upkeep"]

RETRIES: Final = (3.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds after failed attempts in a row: a network that comes back is met soon, one that lets
nothing through is left alone."""
MAX_RETRY: Final = 600.0
UNKNOWN_INTERVAL: Final = 15.0
"""Seconds between packets where the lifetime of a mapping is not known (RFC 8445: 15 s)."""
MIN_INTERVAL: Final = 3.0
MAX_INTERVAL: Final = 60.0
_SAFETY: Final = 0.5
_ROTATE: Final = 0.75


class Attempts:
    """The schedule of attempts while a session is relayed.

    The first is due at once, and so is one when the network has changed; after failures the next
    waits for longer and longer, up to ten minutes.
    """

    def __init__(self, now: float) -> None:
        self.due: float | None = now
        """When the next attempt begins; None: there is a direct path."""
        self._failed = 0

    def failed(self, now: float) -> None:
        """An attempt is over without a path."""
        self.due = now + (RETRIES[self._failed] if self._failed < len(RETRIES) else MAX_RETRY)
        self._failed = min(self._failed + 1, len(RETRIES))

    def succeeded(self) -> None:
        """There is a direct path."""
        self.due = None
        self._failed = 0

    def changed(self, now: float) -> None:
        """The network of either side is another one, or the direct path is lost."""
        self.due = now
        self._failed = 0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How a path through our NAT is kept."""

    interval: float
    """Seconds of silence after which we send something; each side does so for its own NAT."""
    rotate_after: float | None
    """Seconds after which a path through fresh mappings replaces this one."""


def upkeep(ours: NatFacts, theirs: NatFacts) -> Upkeep:
    """What both sides' facts ask for.

    A packet of the peer may keep our mapping, too, but not every NAT counts it (RFC 4787, REQ-6),
    so that both sides send.
    """
    ages = [facts.max_age for facts in (ours, theirs) if facts.max_age is not None]
    rotate = min(ages) * _ROTATE if ages else None
    if ours.lifetime is not None:
        interval = max(MIN_INTERVAL, min(ours.lifetime * _SAFETY, MAX_INTERVAL))
    elif ours.translated is False and ours.filtering is Dependence.INDEPENDENT:
        interval = MAX_INTERVAL
    else:
        interval = UNKNOWN_INTERVAL
    return Upkeep(interval, rotate)
