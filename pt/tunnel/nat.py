"""A tunnel's one view of the NATs before it; the relays in use are asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pt.errors import PtError
from pt.node.nat_view import NatView
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.udp import Address
    from pt.node.node import Node

__all__ = ["stun_servers", "view_through"]


def view_through(node: Node, circuits: Callable[[], Sequence[Multiaddr]]) -> NatView:
    """What the relays of these addresses show of the NATs; the caller closes it."""
    return NatView(node, lambda: stun_servers(circuits()))


def stun_servers(circuits: Sequence[Multiaddr]) -> list[Address]:
    """The relays of these addresses, as STUN servers: a `pt relay` is one, at the same number."""
    found: dict[Address, None] = {}
    for address in circuits:
        with contextlib.suppress(PtError):
            relay, _ = address.split_circuit()
            host, port = relay.host, relay.port
            if host is not None and port and host[0] in ("ip4", "ip6") and "%" not in host[1]:
                found[host[1], port] = None
    return list(found)
