"""From a relayed session to a direct connection through both NATs.

Over a stream of the session both sides tell each other what their NATs do, `pt.punch` finds a path,
and the binder opens a connection over it: QUIC at the UDP ports that met, or TCP with the socket
that both opened.  The session then moves as to any other direct connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from pt.aio.udp import UdpPort
from pt.errors import ClosedError, PtError, message_of
from pt.multistream.negotiation import UnsupportedError
from pt.node.nat_view import NatView, free_tcp_port
from pt.node.route import Route
from pt.punch.aio import Conversation, Direct, Local, Probes, PunchError
from pt.punch.upkeep import Attempts
from pt.tunnel import events
from pt.tunnel.core.messages import PROTOCOL_PUNCH
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["MAX_AT_ONCE", "Punching", "until_through"]

MAX_AT_ONCE: Final = 4
"""Attempts of an exposer with all its binders."""
PATIENCE: Final = 40.0
"""Seconds that one attempt may take in all; plans are bounded by their budgets."""
CONNECT: Final = 5.0
"""Seconds for the handshake over a path that works."""
DEFAULT_RTT: Final = 0.2
MIN_BYTES: Final = 16 * 1024
"""A circuit with less than this has better to do than to carry an attempt."""


class Punching:
    """One side's attempts; `view` is of its NATs, `security` what TCP connections offer."""

    def __init__(
        self,
        node: Node,
        view: NatView,
        emit: Callable[[events.Event], None],
        *,
        security: tuple[str, ...],
    ) -> None:
        self.view = view
        self._node = node
        self._emit = emit
        self._security = security
        self._serving = 0
        self._own: set[UdpPort] = set()
        """Ports opened for attempts that are under way."""

    # --- the binder ----------------------------------------------------------------------------

    async def punch(
        self, relayed: Connection, secret: bytes, attempt: int, *, own: bool = False
    ) -> Connection:
        """Make one attempt with the peer at the end of `relayed`; the direct connection.

        `own`: from a UDP port of its own, which has a mapping of its own. If `relayed` is a direct
        path, which is to be replaced, the exposer has one, too.

        Raises:
            UnsupportedError: the peer does not punch.
            PunchError: there is no path, and why.
            PtError, TimeoutError: something broke on the way.

        """
        async with self._local(relayed, secret, own=own) as local:
            stream = await relayed.open_stream((PROTOCOL_PUNCH,), limited=True)
            async with self._talk(stream, local, controlling=True) as talk:
                direct = await talk.punch(attempt)
                self._used(direct)
                async with asyncio.timeout(CONNECT):
                    connection = await self._connect(direct, relayed)
        self._tell(direct, connection)
        return connection

    async def _connect(self, direct: Direct, relayed: Connection) -> Connection:
        remote = _remote(direct)
        if direct.tcp is not None:
            return await self._adopt(direct, relayed, initiator=True)
        assert direct.port is not None
        port = None if direct.port is self.view.udp else direct.port
        return await self._node.quic.dial_from(port, remote, relayed.peer_id)

    async def _adopt(self, direct: Direct, relayed: Connection, *, initiator: bool) -> Connection:
        assert direct.tcp is not None
        try:
            return await self._node.adopt(
                direct.tcp,
                Route(_remote(direct)),
                initiator=initiator,
                expected=relayed.peer_id,
                security=self._security,
            )
        except BaseException:
            direct.tcp.close()
            raise

    # --- either side ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _local(
        self, relayed: Connection, secret: bytes, *, own: bool
    ) -> AsyncIterator[Local]:
        tcp_port = None if relayed.relay is None else free_tcp_port()
        port = UdpPort(("0.0.0.0", 0)) if own else None
        if port is not None:
            self._own.add(port)
        try:
            yield Local(
                side=await self.view.side(tcp_port, port),
                probes=self.view.probes if port is None else _probes(port),
                secret=secret,
                rtt=relayed.rtt or DEFAULT_RTT,
                ask=self.view.ask,
                tcp_port=tcp_port,
                tracer=self._node.tracer,
            )
        finally:
            if port is not None and port in self._own:  # no path begins there
                self._own.discard(port)
                port.close()

    def _used(self, direct: Direct) -> None:
        """The port that met is the node's now."""
        if direct.port is not None:
            self._own.discard(direct.port)

    @contextlib.asynccontextmanager
    async def _talk(
        self, stream: MuxedStream, local: Local, *, controlling: bool
    ) -> AsyncIterator[Conversation]:
        try:
            async with (
                asyncio.timeout(PATIENCE),
                Conversation(stream, local, controlling=controlling) as talk,
            ):
                yield talk
        except PunchError as error:
            self._emit(events.Punched(ok=False, strategy="", seconds=0.0, detail=str(error)))
            raise

    # --- the exposer ---------------------------------------------------------------------------

    async def serve(self, stream: MuxedStream, relayed: Connection, secret: bytes) -> None:
        """Take part in an attempt of the binder's.

        Raises:
            ClosedError: too many attempts at a time.
            PtError, TimeoutError: there is no path, or something broke.

        """
        if self._serving >= MAX_AT_ONCE:
            raise ClosedError("too many attempts at a time")
        self._serving += 1
        try:
            async with (
                self._local(relayed, secret, own=relayed.relay is None) as local,
                self._talk(stream, local, controlling=False) as talk,
            ):
                direct = await talk.punch()
                if direct.tcp is not None:
                    async with asyncio.timeout(CONNECT):
                        await self._adopt(direct, relayed, initiator=False)
                elif direct.port is not None:
                    self._used(direct)
                    self._node.quic.accept_at(direct.port)
        finally:
            self._serving -= 1
        self._tell(direct, None)

    def _tell(self, direct: Direct, connection: Connection | None) -> None:
        self._emit(
            events.Punched(
                ok=True,
                strategy=direct.strategy.value,
                seconds=round(max(direct.seconds, 0.0), 3),
                detail=str(_remote(direct) if connection is None else connection.remote_addr),
            )
        )


async def until_through(
    punching: Punching,
    relayed: Connection,
    secret: bytes,
    *,
    moved: asyncio.Event,
    wanted: Callable[[], bool],
    own: Callable[[], bool],
    take: Callable[[Connection], Awaitable[bool]],
) -> None:
    """The binder's attempts, at once, from time to time, and when either side has `moved`.

    `own`: whether from a port of its own.  Ends when `take` took a connection, none is `wanted` any
    more, or the peer does not punch.
    """
    if relayed.limit is not None and 0 < relayed.limit.data < MIN_BYTES:
        return
    clock = asyncio.get_running_loop().time
    attempts = Attempts(clock())
    for number in count(1):
        while attempts.due is not None and clock() < attempts.due:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(attempts.due - clock()):
                    await moved.wait()
            if moved.is_set():
                moved.clear()
                attempts.changed(clock())
        if not wanted():
            return
        try:
            fresh = await punching.punch(relayed, secret, number, own=own())
        except UnsupportedError:
            return
        except (PtError, OSError, TimeoutError) as error:
            relayed.node.tracer.emit("punch_failed", attempt=number, reason=message_of(error))
            attempts.failed(clock())
            continue
        if await take(fresh):
            return
        attempts.failed(clock())


def _probes(port: UdpPort) -> Probes:
    """Those of a port that nobody else reads."""
    probes = Probes(port)
    probes.read()
    return probes


def _remote(direct: Direct) -> Multiaddr:
    host, port = direct.address
    return Multiaddr.quic(host, port) if direct.tcp is None else Multiaddr.tcp(host, port)
