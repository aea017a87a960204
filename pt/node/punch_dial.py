"""Dialing a peer that dials us at the same time: all its addresses at once, from our own ports.

The first direct connection of the peer counts, whoever has opened it.  What is connected by then
finishes its handshakes nevertheless, since the peer may have chosen that one; a connection that
neither side uses is closed after a while.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from pt.aio import tcp
from pt.dcutr.aio import open_udp
from pt.dcutr.machine import Role
from pt.errors import ConnectError, CryptoFailure, Dial, LimitError, PtError
from pt.node.diagnosis import outcome_of, reason_of
from pt.node.route import Route
from pt.node.upgrade import PT_SECURITY, SECURITY
from pt.noise.handshake import Suite

if TYPE_CHECKING:
    from types import TracebackType

    from pt.aio.scope import Scope
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.wire.multiaddr import Multiaddr

__all__ = ["PunchDial"]

HANDSHAKE: Final = 5.0
"""Seconds for the handshakes; if both sides wait for the other's, nothing comes at all."""
AGAIN: Final = (0.05, 0.2, 0.6)
"""Seconds until an address is dialed again that refused: a NAT did, to which we came too early."""
LINGER: Final = 2.0
"""Seconds to wait for the peer's own connection when all of our dials have failed."""
UNUSED: Final = 30.0
IDENTIFY_CHURN: Final = 8
"""Streams that come and go although nobody uses a connection: identify, both ways."""


class PunchDial:
    """One dial, in a `with` block; `scope` runs the handshakes, which may outlast it."""

    def __init__(self, node: Node, relayed: Connection, role: Role, scope: Scope) -> None:
        self._node = node
        self._peer = relayed.peer_id
        self._role = role
        self._scope = scope
        is_pt = relayed.suite is Suite.AESGCM
        self._security = (PT_SECURITY, SECURITY) if is_pt else (SECURITY,)
        self._loop = asyncio.get_running_loop()
        self._came: asyncio.Future[Connection] = self._loop.create_future()
        self._open = 0
        self.crossed = False
        """Whether the peer began the handshakes, too, of a connection that both have opened."""
        self._all_failed = asyncio.Event()
        self._failures: list[Dial] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._meetings: dict[Multiaddr, Callable[[socket.socket], None]] = {}

    async def __aenter__(self) -> Self:
        self._node.on_connection.append(self._arrived)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._node.on_connection.remove(self._arrived)
        for address, meet in self._meetings.items():
            if self._node.meetings.get(address) is meet:
                del self._node.meetings[address]
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def run(self, addresses: tuple[Multiaddr, ...]) -> Connection:
        """Dial all of them; the caller bounds the time.

        Raises:
            ConnectError: none works, and the peer has not come, either.

        """
        for address in addresses:
            over_udp = address.udp_port is not None
            self._start(address, self._quic(address) if over_udp else self._tcp(address))
        if not addresses:
            self._all_failed.set()
        failed = self._loop.create_task(self._all_failed.wait())
        try:
            await asyncio.wait((self._came, failed), return_when=asyncio.FIRST_COMPLETED)
            if not self._came.done():
                await asyncio.wait((self._came,), timeout=LINGER)
        finally:
            failed.cancel()
        if self._came.done():
            return self._came.result()
        if not addresses:
            raise ConnectError("the peer tells no public address, and does not reach ours")
        reasons = "; ".join(f"{each.address}: {each.reason}" for each in self._failures[:3])
        raise ConnectError(
            f"no way through both NATs ({reasons or 'no address can be dialed here'})",
            self._failures,
        )

    def _arrived(self, connection: Connection) -> None:
        if connection.peer_id != self._peer or connection.relay is not None:
            return
        if not self._came.done():
            self._came.set_result(connection)
        elif self._came.result() is not connection:
            self._unless_used(connection)

    # --- attempts --------------------------------------------------------------------------------

    def _start(self, address: Multiaddr, coro: Coroutine[object, object, None]) -> None:
        self._open += 1

        async def attempt() -> None:
            try:
                await coro
            except (PtError, OSError, TimeoutError) as error:
                self._failed(address, error)

        task = self._loop.create_task(attempt())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _failed(self, address: Multiaddr, error: BaseException) -> None:
        self._failures.append(
            Dial(str(address), reason_of(error), outcome_of(error), str(self._peer))
        )
        self._node.tracer.emit(
            "dial_failed", address=str(address), reason=reason_of(error), punch=True
        )
        self._open -= 1
        if not self._open:
            self._all_failed.set()

    async def _tcp(self, address: Multiaddr) -> None:
        host, port = address.host, address.tcp_port
        assert host is not None
        assert port is not None
        local = self._local_for(host[1])
        if local is None:
            raise ConnectError("no TCP port of ours listens, from which to dial")
        if self._role is Role.CLIENT:  # also on what its SYN opens that is here before ours
            meet = partial(self._meet, address)
            self._node.meetings[address] = self._meetings[address] = meet
        self._meet(address, await self._connect(host[1], port, local))

    def _meet(self, address: Multiaddr, sock: socket.socket) -> None:
        try:
            self._scope.start(self._secure(sock, address))
        except LimitError:
            sock.close()
            raise

    async def _connect(self, host: str, port: int, local: tuple[str, int]) -> socket.socket:
        for pause in AGAIN:
            try:
                return await tcp.dial_from(host, port, local)
            except ConnectionError:
                await asyncio.sleep(pause)
        return await tcp.dial_from(host, port, local)

    def _local_for(self, host: str) -> tuple[str, int] | None:
        """Where we listen, and others have seen us: a wildcard address if there is one."""
        family = tcp.ip_family(host)
        points = [each for each in self._node.points if tcp.ip_family(each[0]) == family]
        wild = [each for each in points if each[0] in ("0.0.0.0", "::")]
        return next(iter(wild + points), None)

    async def _secure(self, sock: socket.socket, address: Multiaddr) -> None:
        client = self._role is Role.CLIENT
        try:
            async with asyncio.timeout(HANDSHAKE):
                connection = await self._node.adopt(
                    sock,
                    Route(address),
                    initiator=client,
                    expected=self._peer,
                    security=self._security if client else None,
                )
        except (PtError, OSError, TimeoutError) as error:
            sock.close()
            self.crossed |= client and type(error) is CryptoFailure  # not another peer's
            self._failed(address, error)
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            self._arrived(connection)

    async def _quic(self, address: Multiaddr) -> None:
        host, port = address.host, address.udp_port
        assert host is not None
        assert port is not None
        quic = self._node.quic
        udp = quic.ready()
        if self._role is Role.CLIENT:
            await quic.dial_from(None, address, self._peer)
            return
        quic.accept_at(udp)
        await open_udp(udp, (host[1], port))
        raise ConnectError("no QUIC connection of the peer came in time")

    # --- what is too much ------------------------------------------------------------------------

    def _unless_used(self, connection: Connection) -> None:
        """Close a further connection that neither side uses."""
        before = connection.link.session.churn

        def look() -> None:
            muxer = connection.link.session
            others = [
                each
                for each in self._node.connections_of(self._peer)
                if each.relay is None and each is not connection
            ]
            idle = not muxer.streams and muxer.churn - before <= IDENTIFY_CHURN
            if idle and others and not connection.closed:
                connection.close("another direct connection is used")

        self._loop.call_later(UNUSED, look)
