"""The default gateways and our IPv6 addresses, as Linux tells them in files of /proc/net.

These are `route`, `ipv6_route` and `if_inet6`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pt.wire import ipranges

__all__ = ["Gateway", "parse_addresses6", "parse_route4", "parse_route6"]

_UP_GATEWAY: Final = 0x3  # RTF_UP, RTF_GATEWAY of linux/route.h
_ZERO6: Final = "0" * 32
_UNFIT: Final = 0x68
"""IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE of linux/if_addr.h."""
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


def parse_addresses6(lines: Iterable[str], device: str) -> list[str]:
    """Public IPv6 addresses of a device that are in use; what cannot be read is left out."""
    found: dict[str, None] = {}
    for line, _ in zip(lines, range(MAX_LINES), strict=False):
        words = line.split()
        try:
            text, _, _, _, flags, name = words
            if name != device or int(flags, 16) & _UNFIT or len(text) != 32:
                continue
            address = IPv6Address(bytes.fromhex(text))
        except ValueError:
            continue
        if ipranges.is_public(address):
            found[str(address)] = None
    return list(found)
