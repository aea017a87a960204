"""What strangers may have of a STUN server, by the address that its answers go to.

Nobody who asks over UDP has proved to be where it says, so that answers may hit a bystander.
What one address, or one IPv6 /64, gets is therefore bounded: `BURST` answers at once, and `RATE` a
second after that, none of which is longer than the request, or than `MAX_ANSWER` bytes if that is
more.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

__all__ = [
    "BACK_BURST",
    "BACK_RATE",
    "BURST",
    "MAX_ANSWER",
    "MAX_HELD",
    "MAX_HELD_EACH",
    "MAX_SILENCE",
    "MAX_SOURCES",
    "RATE",
    "Allowance",
    "Held",
    "network_of",
]

BURST: Final = 256
"""A full discovery asks about 70 times; the users behind one carrier NAT share an address."""
RATE: Final = 32.0
MAX_ANSWER: Final = 192
"""Bytes of the longest answer without PADDING: four IPv6 addresses, name and signature."""
BACK_RATE: Final = 0.5
BACK_BURST: Final = 8.0
"""Connections to one source, which has proved by its own that it is there."""
TOTAL_RATE: Final = 2000.0
TOTAL_BURST: Final = 4000.0
"""Of all together: a flood from invented addresses costs STUN, not what else a relay does."""
MAX_SOURCES: Final = 4096
MAX_SILENCE: Final = 3600.0
"""Seconds for which a connection is held in silence, to say something at the end (LATER)."""
MAX_HELD: Final = 256
"""Connections held at a time, """
MAX_HELD_EACH: Final = 32
"""and of one source: a measurement holds about ten."""


@functools.lru_cache(maxsize=MAX_SOURCES)
def network_of(host: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64."""
    ip = ip_address(host)
    if isinstance(ip, IPv6Address):
        return str(IPv6Address(int(ip) >> 64 << 64))
    return str(ip)


class Allowance:
    """Counts answers by destination. The table is bounded: who asked longest ago is forgotten."""

    def __init__(
        self,
        rate: float = RATE,
        burst: float = BURST,
        *,
        total: tuple[float, float] = (TOTAL_RATE, TOTAL_BURST),
    ) -> None:
        """`total`: of all destinations together, a second and at once."""
        self._rate = rate
        self._burst = burst
        self._total_rate, self._total_burst = total
        self._total: tuple[float, float] = (self._total_burst, 0.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def room(self, now: float) -> bool:
        """Whether anybody may have an answer now; it is not counted."""
        left, at = self._total
        left = min(self._total_burst, left + max(0.0, now - at) * self._total_rate)
        self._total = (left, now)
        return left >= 1

    def take(self, host: str, now: float) -> bool:
        """Count an answer to `host`; whether it may be sent."""
        if not self.room(now):
            return False
        source = network_of(host)
        left, at = self._left.get(source, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._rate)
        allowed = left >= 1
        if allowed:
            self._total = (self._total[0] - 1, now)
        self._left[source] = (left - 1 if allowed else left, now)
        self._left.move_to_end(source)
        if len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)
        return allowed


class Held:
    """Counts connections that are held in silence, by the source that asked for it."""

    def __init__(self, most: int = MAX_HELD, each: int = MAX_HELD_EACH) -> None:
        self._most = most
        self._each = each
        self._count: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def take(self, host: str, seconds: float) -> bool:
        """Count one more, of so many seconds, until `release`; whether it may be held."""
        source = network_of(host)
        if seconds > MAX_SILENCE or self._total >= self._most or self._count[source] >= self._each:
            return False
        self._count[source] += 1
        self._total += 1
        return True

    def release(self, host: str) -> None:
        """One of that source has ended."""
        source = network_of(host)
        self._total -= 1
        self._count[source] -= 1
        if not self._count[source]:
            del self._count[source]
