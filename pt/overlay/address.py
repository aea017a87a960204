"""Where a relay serves the overlay: at the host and port number of its TCP listener, on UDP."""

from __future__ import annotations

from typing import Final

from pt.overlay.adapter import Address
from pt.wire.multiaddr import Multiaddr

__all__ = ["overlay_address", "overlay_host"]

_NAMES: Final = frozenset({"dns", "dns4", "dns6"})


def overlay_address(relay: Multiaddr) -> Address | None:
    """The overlay's IP address and UDP port at a relay with an address of TCP, WebSocket or UDP.

    None: there is none, because its host is a name that is still to be resolved (`overlay_host`),
    it leads through a relay, or it has no port.
    """
    found = overlay_host(relay)
    return None if found is None or found[0] in _NAMES else found[1:]


def overlay_host(relay: Multiaddr) -> tuple[str, str, int] | None:
    """The same with names: kind (`ip4`, `ip6`, `dns`, `dns4`, `dns6`), host and port."""
    host = relay.host
    port = relay.udp_port if relay.udp_port is not None else relay.tcp_port
    if host is None or not port or relay.is_circuit or relay.components[0][0] != host[0]:
        return None
    kind, name = host
    if "%" in name or kind not in _NAMES | {"ip4", "ip6"}:
        return None  # a link-local address is of one interface, and no server's
    return kind, name, port
