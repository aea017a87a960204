"""In which order, and how far apart, the addresses of a peer are dialed.  A pure function.

Happy Eyeballs (RFC 8305) over libp2p addresses: families alternate, the next attempt starts when
the previous one has failed or has had its head start.  Loopback and LAN addresses come first with a
short stagger: they answer at once or not at all.  TCP and QUIC race, TCP a little ahead.  Relays
come last, and soon: the first byte goes through one while direct paths are still being tried, and a
direct path replaces it later. Those that are reached over TCP are before others: only their
circuits are raw.
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
QUIC_AFTER: Final = 0.1
"""Seconds that TCP is ahead of QUIC at the same distance: where both get through it is faster."""
QUIC_RELAY_AFTER: Final = 1.5
"""Seconds that relays on TCP have before the first one on QUIC, if there are any."""
RELAY_AFTER: Final = 0.4
"""Seconds after which the first relay is tried, however many direct addresses still wait."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Dial `address` no later than `delay` s after the start."""

    delay: float
    address: Multiaddr


def plan(
    addresses: Iterable[Multiaddr],
    transports: frozenset[str] = frozenset(),
    relay_after: float | None = None,
) -> tuple[Attempt, ...]:
    """Order the addresses of TCP and of `transports`; others and repeated ones are left out.

    `relay_after` is when the first relay is tried at the latest, in seconds.
    """
    direct: list[Multiaddr] = []
    relayed: list[Multiaddr] = []
    for address in addresses:
        if address.is_circuit:
            if "circuit" in transports and address not in relayed:
                relayed.append(address)
            continue
        bare = address.without_peer()
        if bare is None or not bare.port or bare in direct:
            continue
        if bare.transport == "tcp" or bare.transport in transports:
            direct.append(bare)
    near = [address for address in direct if address.is_loopback or address.is_private]
    far = [address for address in direct if address not in near]
    attempts: list[Attempt] = []
    delay = 0.0
    for group, stagger in ((near, LAN_STAGGER), (far, PUBLIC_STAGGER)):
        end = delay
        over_udp = [address for address in group if address.udp_port is not None]
        others = [address for address in group if address.udp_port is None]
        start = delay + QUIC_AFTER if others else delay
        for kind, first in ((others, delay), (over_udp, start)):
            for index, address in enumerate(_interleave(kind)):
                attempts.append(Attempt(round(first + index * stagger, 3), address))
                end = max(end, first + (index + 1) * stagger)
        delay = end
    delay = min(delay, RELAY_AFTER if relay_after is None else relay_after)
    over_tcp = [address for address in relayed if address.udp_port is None]
    over_udp = [address for address in relayed if address.udp_port is not None]
    late = delay + QUIC_RELAY_AFTER if over_tcp else delay
    for address in (*over_tcp, *over_udp):
        if address in over_udp:
            delay = max(delay, late)
        attempts.append(Attempt(round(delay, 3), address))
        delay += PUBLIC_STAGGER
    attempts.sort(key=lambda attempt: attempt.delay)
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
