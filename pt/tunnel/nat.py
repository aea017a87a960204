"""What either end of a tunnel has for the NATs before it, made when it is needed first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pt.errors import PtError
from pt.tunnel import events
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.udp import Address
    from pt.node.nat_view import NatView
    from pt.node.node import Node
    from pt.tunnel.punching import Punching

__all__ = ["Nats", "stun_servers"]


class Nats:
    """One view of them, and the punching that goes by it; the relays of `circuits` are asked."""

    def __init__(
        self,
        node: Node,
        circuits: Callable[[], Sequence[Multiaddr]],
        emit: Callable[[events.Event], None],
        *,
        security: tuple[str, ...],
    ) -> None:
        self._node = node
        self._circuits = circuits
        self._emit = emit
        self._security = security
        self._view: NatView | None = None
        self._punching: Punching | None = None

    @property
    def view(self) -> NatView:
        """For punching and port mappings together."""
        from pt.node.nat_view import NatView  # noqa: PLC0415  # many tunnels need none

        if self._view is None:
            self._view = NatView(self._node, lambda: stun_servers(self._circuits()))
        return self._view

    @property
    def punching(self) -> Punching:
        """Attempts of our side."""
        from pt.tunnel.punching import Punching  # noqa: PLC0415  # for the same reason

        if self._punching is None:
            self._punching = Punching(self._node, self.view, self._emit, security=self._security)
        return self._punching

    async def close(self) -> None:
        """Look no more; attempts are their callers' to end first."""
        if self._view is not None:
            await self._view.close()


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
