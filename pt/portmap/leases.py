"""When to ask for mappings, to renew them, and to try again: decisions without I/O.

A mapping is renewed at half its life, and again at ever shorter intervals until it ends.  All that
are past that are renewed together: some daemons (miniupnpd with nftables) open the firewall for one
protocol at the cost of the other's mapping of the same port, until that is renewed, too.  What is
refused is tried again after half a minute, then ever more seldom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pt.portmap.mapping import Mapping, Wanted

__all__ = ["MAX_WANTED", "Leases"]

MAX_WANTED: Final = 8
FIRST_RETRY: Final = 30.0
LAST_RETRY: Final = 1800.0
LONGEST: Final = 86400.0
"""Seconds of a mapping's life that are believed (RFC 6887, 15)."""
PERMANENT: Final = 1800.0
"""Seconds after which one without an end is asked for again: the gateway may have forgotten it."""
SOONEST: Final = 5.0
"""Seconds between two attempts for one mapping, whatever a gateway says."""
AGAIN: Final = 60.0
"""Seconds from one loss of all mappings to what the next one brings about."""
MAX_FAILURES: Final = 3
"""After which a mapping without an end is taken for gone."""


@dataclass(slots=True)
class _Lease:
    due: float
    early: float
    """From when on it is renewed beside others."""
    mapping: Mapping | None = None
    last: Mapping | None = None
    """What the gateway may have still, even if it is not counted on any more."""
    ends: float = 0.0
    failures: int = 0


class Leases:
    """The mappings of one gateway; `random` gives a number from 0 to 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._leases: dict[Wanted, _Lease] = {}
        self._lost_next = float("-inf")

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """Those that stand."""
        return tuple(each.mapping for each in self._leases.values() if each.mapping is not None)

    @property
    def owed(self) -> tuple[Mapping, ...]:
        """What is to be given back: those that stand, and those that the gateway may have still."""
        return tuple(each.last for each in self._leases.values() if each.last is not None)

    def wants(self, wanted: Wanted) -> bool:
        """Whether it is wanted still."""
        return wanted in self._leases

    def want(self, wanted: Iterable[Wanted], now: float) -> list[Mapping]:
        """Have these from now on; what is owed of ports that are not wanted any more."""
        new = list(wanted)[:MAX_WANTED]
        gone = [self._leases.pop(each) for each in list(self._leases) if each not in new]
        for each in new:
            self._leases.setdefault(each, _Lease(now, now))
        return [each.last for each in gone if each.last is not None]

    def due(self, now: float) -> list[Wanted]:
        """What is to be asked for now, and what stood has ended meanwhile if it is over."""
        for lease in self._leases.values():
            if lease.last is not None and lease.last.lifetime and lease.ends <= now:
                lease.mapping = lease.last = None
        if not any(lease.due <= now for lease in self._leases.values()):
            return []
        return [each for each, lease in self._leases.items() if lease.early <= now]

    def next_due(self) -> float | None:
        """When to call `due` again."""
        return min((each.due for each in self._leases.values()), default=None)

    def granted(self, mapping: Mapping, now: float) -> bool:
        """A gateway has granted one; whether it is another than before."""
        lease = self._leases.get(mapping.wanted)
        if lease is None:
            return False
        before, lease.failures = lease.mapping, 0
        lease.mapping = lease.last = mapping
        life = min(mapping.lifetime, LONGEST)
        lease.ends = now + life
        half, spread = (life * 0.5, life * 0.125) if life else (PERMANENT, 0.0)
        lease.early = now + max(half, SOONEST)
        lease.due = now + max(half + spread * self._random(), SOONEST)
        return before is None or before.external != mapping.external

    def failed(self, wanted: Wanted, now: float, retry_after: float | None = None) -> None:
        """It was refused, or nobody answered."""
        lease = self._leases.get(wanted)
        if lease is None:
            return
        lease.failures = min(lease.failures + 1, 16)
        if lease.mapping is not None and lease.mapping.lifetime:
            wait = max((lease.ends - now) / 4, SOONEST)
            lease.due = now + (wait if now + wait < lease.ends else max(0.0, lease.ends - now))
            lease.early = lease.due
            return
        if lease.failures >= MAX_FAILURES:
            lease.mapping = None
        wait = min(FIRST_RETRY * 2 ** (lease.failures - 1), LAST_RETRY)
        if retry_after is not None:
            wait = min(max(retry_after, wait, SOONEST), LAST_RETRY)
        lease.due = lease.early = now + wait * (1 + 0.1 * self._random())

    def lost(self, now: float) -> None:
        """The gateway has forgotten all: what stood is asked for at once, and counts no more.

        One that says so again and again is asked only now and then.
        """
        due = max(now, self._lost_next)
        self._lost_next = due + AGAIN
        for lease in self._leases.values():
            lease.mapping, lease.failures = None, 0
            lease.due = lease.early = due
