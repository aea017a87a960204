"""The binder's side of the open protocol (version 1, the Go program's): raw streams.

There is no session: what is open when the path is lost is reset.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio import tcp
from pt.errors import ConnectError, LimitedError, PtError
from pt.multistream.negotiation import accept_reply, lazy_open
from pt.noise.handshake import Suite
from pt.tunnel import events
from pt.tunnel.core.messages import PROTOCOL_V1
from pt.tunnel.paths import connected
from pt.tunnel.v1 import BINDER_HOLD, RawPump

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch
    from pt.identify.messages import Identify
    from pt.node.bridge import StreamBridge
    from pt.node.connection import Connection

__all__ = ["LIMITED", "OpenTunnel", "check_offered"]

LIMITED: Final = (
    "the relay on the way limits connections, which the open protocol would not "
    "survive: use one without limits (pt relay), or leave --open out on both sides"
)


async def check_offered(connection: Connection, *, limited: bool = False) -> Identify:
    """Make sure that the peer speaks our protocol, without a connection to its service; else close.

    `limited`: a relay may limit this connection, which will not carry the tunnel.

    Raises:
        LimitedError: it is not for this connection.
        ConnectError: the peer does not.
        PtError, TimeoutError: it does not say.

    """
    try:
        if not limited:
            _check_unlimited(connection)
        said = connection.identified or await connection.identify()
        if PROTOCOL_V1 not in said.protocols:
            raise ConnectError(
                f"{connection.peer_id} offers no open tunnel: start pt tcp with --open there, too, "
                "or leave it out here"
            )
    except (PtError, TimeoutError, asyncio.CancelledError):
        connection.close("no open tunnel")
        raise
    return said


def _check_unlimited(connection: Connection) -> None:
    if connection.limited:
        raise LimitedError(LIMITED)


class OpenTunnel:
    """Raw streams to one peer; `on_room` is told when more can be opened.

    New ones go over the connection that came last; what was opened on another one stays there.
    `on_lost` is told when there is none any more.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        hangups: HangupWatch,
        emit: Callable[[events.Event], None],
        on_room: Callable[[], None],
        on_idle: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self._paths: list[Connection] = []
        self._hangups = hangups
        self._emit = emit
        self._on_idle = on_idle
        self._on_room = on_room
        self._on_lost = on_lost
        self._pumps: set[StreamBridge] = set()
        self.move(connection)

    def move(self, connection: Connection) -> None:
        """Open what comes from now on over this connection.

        Raises:
            LimitedError: its relay limits it.
            ClosedError: it has ended.

        """
        _check_unlimited(connection)
        connection.check_open()

        def acked() -> None:
            connection.wake_openers()
            self._on_room()

        connection.on_close.append(lambda reason: self._lost(connection, reason))
        connection.link.session.on_acked = acked
        self._paths.append(connection)
        self._use(connection)

    def _use(self, connection: Connection) -> None:
        self.connection = connection
        self._emit(connected(connection))

    def _lost(self, connection: Connection, reason: str) -> None:
        self._paths.remove(connection)
        if not self._paths:
            self._on_lost(reason)
        elif connection is self.connection:
            self._use(self._paths[-1])
            self._on_room()

    @property
    def carries(self) -> bool:
        """Whether any connection is open."""
        return bool(self._pumps)

    @property
    def can_open(self) -> bool:
        """Whether another one may be opened now."""
        return self.connection.link.session.can_open

    def open(self, sock: socket.socket) -> None:
        """Forward a local connection."""
        connection = self.connection
        try:
            stream = connection.new_stream()
        except PtError:
            tcp.abort(sock)
            return
        hold = None if connection.suite is Suite.AESGCM else BINDER_HOLD
        pump = RawPump(
            sock,
            asyncio.get_running_loop(),
            self._hangups,
            hold=hold,
            skip=accept_reply(PROTOCOL_V1),
            on_done=self._done,
        )
        self._pumps.add(pump)
        pump.attach(connection.link, stream)
        connection.link.send_small(stream, lazy_open(PROTOCOL_V1))
        pump.pump()

    def close(self, reason: str) -> None:
        """Reset what is open."""
        for pump in list(self._pumps):
            pump.refuse(reason)

    def _done(self, pump: StreamBridge, reason: str) -> None:
        self._pumps.discard(pump)
        self._emit(
            events.StreamClosed(
                stream=0,
                sent=pump.bytes_in,
                received=pump.bytes_out,
                seconds=round(asyncio.get_running_loop().time() - pump.started, 3),
                reason=reason,
            )
        )
        self._on_idle()
