"""The default gateways, as Linux tells them in /proc/net/route and /proc/net/ipv6_route."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

__all__ = ["Gateway", "parse_route4", "parse_route6"]

_UP_GATEWAY: Final = 0x3  # RTF_UP, RTF_GATEWAY of linux/route.h
_ZERO6: Final = "0" * 32
MAX_LINES: Final = 4096


@dataclass(frozen=True, slots=True, order=True)
class Gateway:
    """A default route; the one with the lowest metric counts."""

    metric: int
    host: str
    device: str

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4


def parse_route4(lines: Iterable[str]) -> list[Gateway]:
    """Default routes over IPv4, the best first; what cannot be read is left out."""
    found = []
    for line, _ in zip(lines, range(MAX_LINES), strict=False):
        words = line.split()
        try:
            device, target, via, flags, _, _, metric, mask = words[:8]
            if int(target, 16) or int(mask, 16) or int(flags, 16) & _UP_GATEWAY != _UP_GATEWAY:
                continue
            host = IPv4Address(int(via, 16).to_bytes(4, "little"))  # as this machine stores it
            found.append(Gateway(int(metric), str(host), device))
        except (ValueError, OverflowError):
            continue
    return sorted(found)


def parse_route6(lines: Iterable[str]) -> list[Gateway]:
    """Default routes over IPv6, the best first; what cannot be read is left out."""
    found = []
    for line, _ in zip(lines, range(MAX_LINES), strict=False):
        words = line.split()
        try:
            target, length, _, _, via, metric, _, _, flags, device = words[:10]
            if target != _ZERO6 or int(length, 16) or len(via) != 32:
                continue
            if int(flags, 16) & _UP_GATEWAY != _UP_GATEWAY:
                continue
            host = IPv6Address(bytes.fromhex(via))
            found.append(Gateway(int(metric, 16), str(host), device))
        except ValueError:
            continue
    return sorted(found)
