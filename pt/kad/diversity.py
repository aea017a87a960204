"""Whose addresses count as one owner's, so that one owner cannot be most of what we know.

Addresses are grouped by /16 (IPv4; networks of the old class A by /8) and by /32 (IPv6), as
go-libp2p-kbucket does where it knows no AS number. Names belong to no group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from typing import Final

from pt.identity.peer_id import PeerId
from pt.kad.messages import PeerInfo
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_IN_BUCKET", "MAX_IN_REPLY", "MAX_IN_TABLE", "crowded", "groups", "public"]

MAX_IN_BUCKET: Final = 2  # peers of a group in a bucket of the routing table
MAX_IN_TABLE: Final = 3  # and in all of it
MAX_IN_REPLY: Final = 3  # and among the closer peers of one reply

# /8 networks that belong to one owner each, as in go-libp2p-kbucket
_CLASS_A: Final = frozenset((12, 17, 19, 38, 48, 53, 56, 73))


def groups(addresses: Iterable[Multiaddr]) -> frozenset[tuple[int, int]]:
    """The groups of a peer's addresses, as (prefix length, prefix)."""
    found = set()
    for address in addresses:
        host = address.host
        if host is None or host[0] not in ("ip4", "ip6"):
            continue
        ip = ip_address(host[1].partition("%")[0])
        if not isinstance(ip, IPv4Address):
            mapped = ip.ipv4_mapped
            if mapped is None:
                found.add((32, int(ip) >> 96))
                continue
            ip = mapped
        first = int(ip) >> 24
        found.add((8, first) if first in _CLASS_A else (16, int(ip) >> 16))
    return frozenset(found)


def public(addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Those that the Internet routes to, without relays: what makes a peer a server to ask."""
    return tuple(each for each in addresses if each.is_public and not each.is_circuit)


def crowded(peers: Iterable[PeerInfo]) -> set[PeerId]:
    """The peers of one reply that are of a group with more than MAX_IN_REPLY peers."""
    of = {peer.id: groups(peer.addresses) for peer in peers}
    count = Counter(group for found in of.values() for group in found)
    return {peer for peer, found in of.items() if any(count[one] > MAX_IN_REPLY for one in found)}
