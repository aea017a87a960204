"""How a connection reaches its peer: directly, or through a relay, and what the relay allows."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.relay.messages import Limit

__all__ = ["Route", "source_of"]


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one connection; `source` is what its limits on strangers are counted by."""

    remote: Multiaddr
    """Where the peer is; through a relay it is the relay's address with /p2p-circuit."""
    local: Multiaddr | None = None
    """Our end; None: as the socket says."""
    path: str = "direct/tcp"
    """`direct/tcp`, `direct/ws`, `relay/raw` (bytes the relay's kernel moves), `relay/circuit`."""
    relay: PeerId | None = None
    limit: Limit | None = None
    """What the relay lets through before it ends the circuit; None: no limit was named."""

    @property
    def source(self) -> str:
        """The host, or the relay, that answers for whoever comes this way."""
        if self.relay is not None:
            return f"relay {self.relay}"
        host = self.remote.host
        return source_of(host[1]) if host is not None else ""


def source_of(host: str) -> str:
    """What an IP address counts as: itself, or the /64 of an IPv6 one, all of which a host has."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return host  # a name that we dialed
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Address(int(address) >> 64 << 64))
        address = address.ipv4_mapped
    return str(address)
