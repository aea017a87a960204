"""Direct paths of open tunnels, whose peers may be anybody's: holes are punched as libp2p does it.

There is no session that could tell addresses, and none that could be resumed: streams stay on the
path that they were opened on, and those that are opened after a hole was punched go through it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from pt.errors import LimitedError, LocalPortError, PtError, UsageError
from pt.node.dcutr import PROTOCOL, Dcutr, direct_of
from pt.tunnel import events
from pt.tunnel.config import default_listen
from pt.tunnel.open_binder import LIMITED, check_offered

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.tunnel.open_binder import OpenTunnel
    from pt.tunnel.reversal import Reversal
    from pt.wire.multiaddr import Multiaddr

__all__ = ["OpenPaths", "punch_for_binders"]

Emit = Callable[[events.Event], None]

PATIENCE: Final = 12.0
"""Seconds that a peer has to get through to us when its relay limits the connection."""
RACE_OVER: Final = 0.02
"""Seconds, and a round trip, after which who dialed us has chosen among its dials."""


def punch_for_binders(
    node: Node, reversal: Reversal, allow: frozenset[PeerId], emit: Emit
) -> Dcutr:
    """The exposer's side: begins once dialing back has led nowhere."""
    return Dcutr(
        node,
        wanted=lambda connection: not allow or connection.peer_id in allow,
        first=lambda connection: reversal.settled(connection.peer_id),
        on_direct=lambda connection, seconds: emit(_punched(connection, seconds)),
        on_failed=lambda _, reason: emit(_failed(reason)),
    )


def _punched(connection: Connection, seconds: float) -> events.Punched:
    return events.Punched(
        ok=True,
        strategy="dcutr",
        seconds=round(seconds, 3),
        detail=str(connection.remote_addr),
    )


def _failed(reason: str) -> events.Punched:
    return events.Punched(ok=False, strategy="", seconds=0.0, detail=reason)


class OpenPaths:
    """The binder's side; make it before the node has connections.  `punch`: whether to take part.

    A tunnel on a relay without limits goes on there when nothing better comes.
    """

    def __init__(self, node: Node, emit: Emit, *, punch: bool) -> None:
        self._node = node
        self._emit = emit
        self._listening = False
        self._tunnel: OpenTunnel | None = None
        self._reason = ""
        self._dcutr: Dcutr | None = None
        if punch:
            self._dcutr = Dcutr(node, on_direct=self._direct, on_failed=self._failed)
        node.on_connection.append(self._connected)

    async def close(self) -> None:
        """Punch no more."""
        if self._dcutr is not None:
            await self._dcutr.close()

    def prepare(self, addresses: Iterable[Multiaddr]) -> None:
        """Before dialing: what leads to public relays has to leave from a port that we listen on.

        It is the relay's word on where it sees this port that the peer dials.
        """
        public = any(each.is_circuit and each.is_public for each in addresses)
        if self._dcutr is not None and public and not self._listening:
            self._listening = True
            with contextlib.suppress(LocalPortError, UsageError):
                self._node.listen(default_listen())

    async def usable(self, connection: Connection) -> Connection:
        """The connection, or on a relay that limits it a direct one instead, once there is one.

        Raises:
            LimitedError: there is none.
            ConnectError: the peer offers no open tunnel.
            PtError, TimeoutError: it does not say what it offers.

        """
        if not connection.limited or self._dcutr is None:
            await check_offered(connection)
            return connection
        try:
            return await self._instead(connection)
        finally:
            connection.close("nothing is to run on this relay")

    async def _instead(self, relayed: Connection) -> Connection:
        said = await check_offered(relayed, limited=True)
        self._reason = "the peer does not speak DCUtR"
        if PROTOCOL in said.protocols:
            self._reason = "no direct connection in time"
            with contextlib.suppress(TimeoutError):
                return await self._wait_direct(relayed.peer_id)
        raise LimitedError(f"{LIMITED} (hole punching: {self._reason})")

    async def _wait_direct(self, peer: PeerId) -> Connection:
        arrived = asyncio.Event()

        def told(connection: Connection) -> None:
            if connection.peer_id == peer and connection.relay is None:
                arrived.set()

        self._node.on_connection.append(told)
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = direct_of(self._node, peer)
                    if found is not None:
                        await self._race_over(found)
                        if not found.closed:
                            return found
                    arrived.clear()
                    if direct_of(self._node, peer) is None:
                        await arrived.wait()
        finally:
            self._node.on_connection.remove(told)

    # --- a tunnel on a relay without limits ------------------------------------------------------

    def follow(self, tunnel: OpenTunnel) -> None:
        """Move this tunnel, which replaces the one before."""
        self._tunnel = tunnel

    def _connected(self, connection: Connection) -> None:
        """There is another connection: it may be a direct one of the tunnel's peer."""
        if self._wants(connection):
            self._node.spawn(self._take(connection))

    def _wants(self, connection: Connection) -> bool:
        tunnel = self._tunnel
        return (
            tunnel is not None
            and tunnel.connection.relay is not None
            and connection.relay is None
            and connection.peer_id == tunnel.connection.peer_id
        )

    async def _take(self, connection: Connection) -> None:
        await self._race_over(connection)
        if self._wants(connection) and not connection.closed:
            assert self._tunnel is not None
            with contextlib.suppress(PtError):
                self._tunnel.move(connection)

    async def _race_over(self, connection: Connection) -> None:
        """Another dial of the peer's may have won, which closes this connection."""
        if not connection.initiator:
            await asyncio.sleep(RACE_OVER + min(connection.rtt or 0.1, 0.5))

    # --- what happened ---------------------------------------------------------------------------

    def _direct(self, connection: Connection, seconds: float) -> None:
        self._emit(_punched(connection, seconds))

    def _failed(self, _: Connection, reason: str) -> None:
        self._reason = reason
        self._emit(_failed(reason))
