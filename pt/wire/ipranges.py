"""Which addresses are reachable from the Internet (IANA special-purpose registries, RFC 6890).

The lists are those go-libp2p applies, since they decide what other peers keep of what we announce.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

__all__ = ["IpAddress", "is_loopback", "is_private", "is_public", "is_public_name"]

IpAddress: TypeAlias = IPv4Address | IPv6Address
_Range: TypeAlias = tuple[int, int]  # first address as a number, bits after the prefix


def _ranges(*cidrs: str) -> tuple[_Range, ...]:
    found = []
    for cidr in cidrs:
        network, _, length = cidr.partition("/")
        address = ip_address(network)
        spare = address.max_prefixlen - int(length)
        found.append((int(address) >> spare, spare))
    return tuple(found)


_PRIVATE4: Final = _ranges(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
_UNROUTABLE4: Final = _ranges(
    "0.0.0.0/8",
    "192.0.0.0/26",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
_PRIVATE6: Final = _ranges("::1/128", "fc00::/7", "fe80::/10")
_GLOBAL6: Final = _ranges("2000::/3", "64:ff9b::/96", "64:ff9b:1::/48")
_DOCUMENTATION6: Final = _ranges("2001:db8::/32")

# RFC 6761, RFC 6762, RFC 8375: names that no public resolver answers
_LOCAL_NAMES: Final = frozenset({"localhost", "local", "test", "invalid"})
_LOCAL_SUFFIXES: Final = ("home.arpa", "in-addr.arpa", "ip6.arpa")


def is_public(address: IpAddress) -> bool:
    """Whether the Internet routes to `address`."""
    address = _unmapped(address)
    if isinstance(address, IPv4Address):
        return not _within(address, _PRIVATE4) and not _within(address, _UNROUTABLE4)
    return _within(address, _GLOBAL6) and not _within(address, _DOCUMENTATION6)


def is_private(address: IpAddress) -> bool:
    """Whether `address` is of a private, shared, link-local or loopback network."""
    address = _unmapped(address)
    return _within(address, _PRIVATE4 if isinstance(address, IPv4Address) else _PRIVATE6)


def is_loopback(address: IpAddress) -> bool:
    """Whether `address` is this host's own."""
    return _unmapped(address).is_loopback


def is_public_name(name: str) -> bool:
    """Whether the DNS name `name` can resolve outside a local network."""
    labels = name.lower().rstrip(".").split(".")
    return labels[-1] not in _LOCAL_NAMES and ".".join(labels[-2:]) not in _LOCAL_SUFFIXES


def _unmapped(address: IpAddress) -> IpAddress:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: IpAddress, ranges: tuple[_Range, ...]) -> bool:
    number = int(address)
    return any(number >> spare == first for first, spare in ranges)
