"""What strangers may have of a STUN server, by the address that its answers go to.

Nobody who asks over UDP has proved to be where it says, so that answers may hit a bystander.
What one address, or one IPv6 /64, gets is therefore bounded: `BURST` answers at once, and `RATE` a
second after that, none of which is longer than the request, or than `MAX_ANSWER` bytes if that is
more.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

__all__ = ["BURST", "MAX_ANSWER", "MAX_SOURCES", "RATE", "Allowance", "network_of"]

BURST: Final = 256
"""A full discovery asks about 70 times; the users behind one carrier NAT share an address."""
RATE: Final = 32.0
MAX_ANSWER: Final = 192
"""Bytes of the longest answer without PADDING: four IPv6 addresses, name and signature."""
MAX_SOURCES: Final = 4096


def network_of(host: str) -> str:
    """What counts as one source: an IPv4 address, an IPv6 /64."""
    ip = ip_address(host)
    if isinstance(ip, IPv6Address):
        return str(IPv6Address(int(ip) >> 64 << 64))
    return str(ip)


class Allowance:
    """Counts answers by destination. The table is bounded: who asked longest ago is forgotten."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, host: str, now: float) -> bool:
        """Count an answer to `host`; whether it may be sent."""
        source = network_of(host)
        left, at = self._left.get(source, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._rate)
        allowed = left >= 1
        self._left[source] = (left - 1 if allowed else left, now)
        self._left.move_to_end(source)
        if len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)
        return allowed
