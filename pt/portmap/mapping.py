"""What all three services deal in: a port of ours, and what a gateway grants for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple, TypeAlias
from typing import Protocol as Interface

from pt.errors import RefusedError, RemoteProtocolError
from pt.wire import ipranges
from pt.wire.nat_facts import Protocol

__all__ = [
    "LIFETIME",
    "SHORTEST",
    "Address",
    "MapRefusedError",
    "Mapper",
    "Mapping",
    "Outer",
    "PortmapError",
    "Service",
    "Wanted",
    "checked_external",
    "outer",
]

Address: TypeAlias = tuple[str, int]

LIFETIME: Final = 7200
"""Seconds that are asked for, as RFC 6886 recommends."""
SHORTEST: Final = 30
"""Seconds below which a mapping is of no use: it would be gone before it is published."""
_SHARED: Final = ip_network("100.64.0.0/10")


class PortmapError(RemoteProtocolError):
    """The gateway's answer breaks its protocol."""


class MapRefusedError(RefusedError):
    """The gateway grants no mapping; `retry_after` is when it wants to be asked again (s)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Service(Enum):
    """By what a gateway is asked, the best first: the first two tell when it has rebooted."""

    PCP = "pcp"
    NAT_PMP = "nat-pmp"
    UPNP = "upnp"

    @property
    def label(self) -> str:
        """Its name for people."""
        return _LABELS[self]


_LABELS: Final = {Service.PCP: "PCP", Service.NAT_PMP: "NAT-PMP", Service.UPNP: "UPnP"}


class Wanted(NamedTuple):
    """A port of ours that should be reachable."""

    protocol: Protocol
    port: int


class Outer(Enum):
    """What the external address of a mapping is."""

    PUBLIC = "public"
    CARRIER = "carrier"
    """Of 100.64.0.0/10: the gateway is behind a carrier's NAT."""
    PRIVATE = "private"
    """The gateway is behind another NAT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """What a gateway has granted; packets to `external` come to `internal`, it says."""

    service: Service
    wanted: Wanted
    internal: Address
    external: Address
    lifetime: float
    """Seconds; 0: until it is deleted, or the gateway reboots."""

    @property
    def pinhole(self) -> bool:
        """Whether nothing is translated: it is a firewall that lets in."""
        return self.external == self.internal

    @property
    def outer(self) -> Outer:
        """What its external address is."""
        return outer(self.external[0])


def outer(host: str) -> Outer:
    """Judge an external address: only a public one leads here from everywhere."""
    address = ip_address(host)
    if ipranges.is_public(address):
        return Outer.PUBLIC
    return Outer.CARRIER if address.version == 4 and address in _SHARED else Outer.PRIVATE


def checked_external(host: str) -> str:
    """The external address in its usual spelling.

    Raises:
        PortmapError: no host can have it.

    """
    try:
        address = ip_address(host)
    except ValueError:
        raise PortmapError(f"the gateway calls {host[:64]!r} its external address") from None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bad = address.is_unspecified or address.is_loopback or address.is_multicast
    if bad or str(address) == "255.255.255.255" or address.is_link_local:
        raise PortmapError(
            f"the gateway calls {address} its external address: it is not connected itself"
        )
    return str(address)


class Mapper(Interface):
    """One service of one gateway."""

    service: Service
    rebooted: bool
    """Set when the gateway has lost what it knew; whoever acts on it clears it."""

    @property
    def external(self) -> str:
        """The gateway's external address, where it tells that without a mapping; else empty."""
        ...

    @property
    def detail(self) -> str:
        """What is known of it, for people."""
        ...

    async def probe(self) -> None:
        """Whether it is there.

        Raises:
            PtError: it is not, and why.

        """
        ...

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """Ask for a mapping, or renew it; to the external `port` if possible.

        Raises:
            MapRefusedError: the gateway does not grant it.
            PortmapError: its answer makes no sense.
            NetworkError, WaitTimeoutError: it does not answer.

        """
        ...

    async def unmap(self, mapping: Mapping) -> None:
        """Give a mapping back.  Raises as `map`."""
        ...

    async def check(self, mapping: Mapping) -> bool:
        """Whether the gateway still knows it, as far as it tells.  Raises as `map`."""
        ...
