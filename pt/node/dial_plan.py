"""In which order, and how far apart, the addresses of a peer are dialed.  A pure function.

Happy Eyeballs (RFC 8305) over libp2p addresses: families alternate, the next attempt starts when
the previous one has failed or has had its head start.  Loopback and LAN addresses come first with a
short stagger: they answer at once or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_ADDRESSES", "Attempt", "plan"]

MAX_ADDRESSES: Final = 25
"""Addresses dialed for one peer at the most; a record may list more to waste our time."""
LAN_STAGGER: Final = 0.05
PUBLIC_STAGGER: Final = 0.25
"""RFC 8305 section 5: "Connection Attempt Delay" of 250 ms."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Dial `address` no later than `delay` s after the start."""

    delay: float
    address: Multiaddr


def plan(addresses: Iterable[Multiaddr]) -> tuple[Attempt, ...]:
    """Order the TCP addresses among `addresses`; others, relayed and repeated ones are left out."""
    usable: list[Multiaddr] = []
    for address in addresses:
        bare = address.without_peer()
        if bare is not None and bare.is_plain_tcp and bare.tcp_port and bare not in usable:
            usable.append(bare)
    near = [address for address in usable if address.is_loopback or address.is_private]
    far = [address for address in usable if address not in near]
    attempts: list[Attempt] = []
    delay = 0.0
    for group, stagger in ((near, LAN_STAGGER), (far, PUBLIC_STAGGER)):
        for address in _interleave(group):
            attempts.append(Attempt(round(delay, 3), address))
            delay += stagger
    return tuple(attempts[:MAX_ADDRESSES])


def _interleave(addresses: list[Multiaddr]) -> list[Multiaddr]:
    """IPv6 and others in turn, IPv6 first, each family in the given order."""
    six = [
        address for address in addresses if address.host is not None and address.host[0] == "ip6"
    ]
    other = [address for address in addresses if address not in six]
    mixed: list[Multiaddr] = []
    for index in range(max(len(six), len(other))):
        mixed += six[index : index + 1] + other[index : index + 1]
    return mixed
