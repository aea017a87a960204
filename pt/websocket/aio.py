"""libp2p's WebSocket transport on sockets: /ws, and with TLS below it /wss.

The rest of the node knows sockets only.  So an upgraded connection is handed out as one end of a
socketpair that carries its payload as a plain byte stream; a bridge moves the bytes between the
other end and the network.

    wire (TCP, TLS) ── asyncio transport ── WebSocket ── asyncio transport ── socketpair ── caller

Either transport that cannot write stops the other's reading.  A bridge holds at most
`HIGH_WATER + CHUNK` bytes each way, one unfinished frame of the peer's (`MAX_FRAME`) and, under
TLS, what asyncio decrypted ahead (256 KiB).

WebSocket has no half-closed connections: when the caller stops sending, a Close frame is sent, and
what the peer sent before its own Close still arrives.  A connection that ends without one looks
the same to the caller; what is cut off is told apart by the protocols above.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from pt.aio.tcp import tune_network_socket
from pt.errors import ClosedError, LimitError, PtError
from pt.websocket.adapter import Payload, WebSocket, WebSocketError

__all__ = ["WebSockets"]

CHUNK: Final = 64 * 1024
"""Bytes read from either side at once."""
HIGH_WATER: Final = 64 * 1024
"""Bytes waiting to be written beyond which the other side is not read."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds a peer has to end the connection after our Close frame."""
REFUSE_TIMEOUT: Final = 1.0
"""Seconds a client that is no WebSocket has to read its answer."""


class WebSockets:
    """Upgrades sockets and owns the bridges; at most `limit` at a time.

    Not thread-safe; everything runs on one loop.
    """

    def __init__(self, *, limit: int = 1024) -> None:
        self._limit = limit
        self._bridges: set[_Bridge] = set()
        self._closed = False
        self._all_gone: asyncio.Future[None] | None = None
        self._buffer = memoryview(bytearray(CHUNK))  # filled and used up within one callback

    def __len__(self) -> int:
        return len(self._bridges)

    async def accept(self, sock: socket.socket, *, tls: ssl.SSLContext | None) -> socket.socket:
        """Answer a client's TLS handshake, if `tls` is given, and its upgrade.

        `sock` is owned from here on.  The caller bounds the time.  Returns the non-blocking socket
        that carries the payload.

        Raises:
            WebSocketError: the client is none; one that asked by HTTP was answered.
            ClosedError, OSError: the connection or the TLS handshake failed.
            LimitError: there are too many; `sock` is closed.

        """
        bridge = self._bridge(WebSocket.server(), sock)
        loop = asyncio.get_running_loop()
        return await bridge.upgrade(
            loop.connect_accepted_socket(lambda: bridge.wire, sock, ssl=tls)
        )

    async def dial(
        self, sock: socket.socket, *, host: str, tls: ssl.SSLContext | None
    ) -> socket.socket:
        """Upgrade a connection that we made to `host`, the name or literal that was dialed.

        `sock` is owned from here on.  The caller bounds the time.  Returns the non-blocking socket
        that carries the payload.

        Raises:
            WebSocketError: the server does not speak WebSocket.
            ClosedError, OSError: the connection or the TLS handshake failed.
            LimitError: there are too many; `sock` is closed.

        """
        try:
            port = sock.getpeername()[1]
        except OSError:  # it was reset already
            sock.close()
            raise
        bridge = self._bridge(WebSocket.client(host, port, secure=tls is not None), sock)
        loop = asyncio.get_running_loop()
        name = host if tls is not None else None
        return await bridge.upgrade(
            loop.create_connection(lambda: bridge.wire, sock=sock, ssl=tls, server_hostname=name)
        )

    async def aclose(self, *, grace: float = 0.5) -> None:
        """End all connections: in order within `grace` seconds, by force then."""
        self._closed = True
        loop = asyncio.get_running_loop()
        for ask in (_Bridge.close, _Bridge.abort):
            for bridge in list(self._bridges):
                ask(bridge)
            if self._bridges:
                self._all_gone = loop.create_future()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._all_gone, grace)

    def _bridge(self, websocket: WebSocket, sock: socket.socket) -> _Bridge:
        if self._closed or len(self._bridges) >= self._limit:
            sock.close()
            raise LimitError(f"no more than {self._limit} WebSocket connections at a time")
        try:
            tune_network_socket(sock)  # asyncio does so only where a socket names its protocol
        except OSError:
            sock.close()
            raise
        bridge = _Bridge(websocket, sock, self._buffer, self._gone)
        self._bridges.add(bridge)
        return bridge

    def _gone(self, bridge: _Bridge) -> None:
        self._bridges.discard(bridge)
        if not self._bridges and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)


class _Side(asyncio.BufferedProtocol):
    """What a bridge hears from one of its two transports."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.transport: asyncio.Transport | None = None
        self.full = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(self._buffer[:nbytes]))

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def pause_writing(self) -> None:
        self.full = True

    def close(self) -> None:
        """Close once everything is written.

        Once only: TLS closed twice cannot be aborted any more, which Python 3.11.2 raises for.
        """
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        """Close now."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.lost = True

    def read(self, *, on: bool) -> None:
        """Go on reading or pause."""
        if self.transport is None or self.transport.is_closing():
            return
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class _Wire(_Side):
    """The network: TCP or TLS."""

    def __init__(self, bridge: _Bridge, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._bridge = bridge

    def received(self, data: bytes) -> None:
        self._bridge.wire_received(data)

    def eof_received(self) -> bool:
        self._bridge.wire_ended()
        return False

    def resume_writing(self) -> None:
        self.full = False
        self._bridge.wire_has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._bridge.wire_lost()


class _Inner(_Side):
    """Our end of the socketpair; the caller has the other."""

    def __init__(self, bridge: _Bridge, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._bridge = bridge

    def received(self, data: bytes) -> None:
        self._bridge.inner_received(data)

    def eof_received(self) -> bool:
        self._bridge.close()
        return True  # what the peer still sends can be read

    def resume_writing(self) -> None:
        self.full = False
        self._bridge.wire.read(on=True)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._bridge.inner_lost()


class _Bridge:
    """One connection; `on_gone` is called when nothing of it is left."""

    def __init__(
        self,
        websocket: WebSocket,
        sock: socket.socket,
        buffer: memoryview,
        on_gone: Callable[[_Bridge], None],
    ) -> None:
        self.wire = _Wire(self, buffer)
        self._inner = _Inner(self, buffer)
        self._websocket = websocket
        self._sock = sock
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._upgraded: asyncio.Future[None] = self._loop.create_future()
        self._refusal: PtError | None = None
        self._early: list[Payload] = []
        self._timer: asyncio.TimerHandle | None = None

    async def upgrade(self, connecting: Coroutine[object, object, object]) -> socket.socket:
        """Make the wire's transport, upgrade, and return the caller's end of the socketpair."""
        try:
            await connecting
            self._flush()
            await self._upgraded
            return await self._join()
        except BaseException:
            if self._upgraded.done() and not self._upgraded.cancelled():
                self._upgraded.exception()  # it was told, or nobody waits for it any more
            self.abort()
            raise

    async def _join(self) -> socket.socket:
        outer, inner = socket.socketpair()
        try:
            outer.setblocking(False)
            await self._loop.create_unix_connection(lambda: self._inner, sock=inner)
        except BaseException:
            outer.close()
            inner.close()
            raise
        early, self._early = self._early, []
        self.wire.read(on=True)
        self._deliver(early)
        self._end_if_over()
        return outer

    # --- from the network ----------------------------------------------------------------------

    def wire_received(self, data: bytes) -> None:
        """Bytes came; the transport is not paused."""
        try:
            payload = self._websocket.receive_data(data)
        except WebSocketError as error:
            self._flush()
            self._refuse(error)
            return
        self._flush()
        if self._websocket.opened and not self._upgraded.done():
            self.wire.read(on=False)  # until there is somebody to deliver to
            self._upgraded.set_result(None)
        self._deliver(payload)
        self._end_if_over()

    def _deliver(self, payload: Sequence[Payload]) -> None:
        inner = self._inner
        if inner.lost or not payload:
            return
        if inner.transport is None:
            self._early += payload
            return
        inner.transport.write(b"".join(payload))
        if inner.full:
            self.wire.read(on=False)

    def _refuse(self, error: WebSocketError) -> None:
        """Let the peer read what it did wrong, then close."""
        if self._upgraded.done():
            self._inner.abort()
            self._end_if_over()
            self._end_within(CLOSE_TIMEOUT)
            return
        self._refusal = error
        wire = self.wire.transport
        assert wire is not None
        if wire.can_write_eof():
            wire.write_eof()  # closing with bytes unread would take the answer back
        else:
            self.wire.close()
        self._end_within(REFUSE_TIMEOUT)

    def wire_ended(self) -> None:
        """The peer sends no more; its transport closes by itself."""
        self._websocket.receive_eof()
        self._end_if_over()

    def wire_lost(self) -> None:
        """The network's end is closed."""
        self._websocket.receive_eof()
        if not self._upgraded.done():
            reason = self._refusal or ClosedError("the connection ended during the upgrade")
            self._upgraded.set_exception(reason)
        self._end_if_over()
        self._gone_if_over()

    # --- from the caller -----------------------------------------------------------------------

    def inner_received(self, data: bytes) -> None:
        """Payload came; the transport is not paused."""
        self._websocket.send(data)
        self._flush()
        if self.wire.full:
            self._inner.read(on=False)

    def inner_lost(self) -> None:
        """The caller closed its end."""
        self.wire.read(on=True)  # the peer's Close frame is behind what nobody wants
        self.close()
        self._gone_if_over()

    # --- to the network ------------------------------------------------------------------------

    def _flush(self) -> None:
        wire = self.wire
        if wire.transport is not None and not wire.lost:
            data = self._websocket.data_to_send(room=not wire.full)
            if data and not wire.transport.is_closing():
                wire.transport.write(b"".join(data))

    def wire_has_room(self) -> None:
        """The network took bytes."""
        self._flush()
        self._inner.read(on=True)

    # --- ends ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Send no more; the peer has its time to end, too."""
        if not self._upgraded.done():
            self.abort()
            return
        self._websocket.close()
        self._flush()
        self._end_if_over()
        self._end_within(CLOSE_TIMEOUT)

    def abort(self) -> None:
        """End now."""
        if self.wire.transport is None:  # the TLS handshake still runs, if it has not failed
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self.wire.abort()
        self._inner.abort()
        self._gone_if_over()

    def _end_if_over(self) -> None:
        if self._websocket.ended and self._upgraded.done():
            self._inner.close()
            self._end_within(CLOSE_TIMEOUT)
        if self._websocket.over:
            self.wire.close()

    def _end_within(self, seconds: float) -> None:
        if self._timer is None and not self.wire.lost:
            self._timer = self._loop.call_later(seconds, self.wire.abort)

    def _gone_if_over(self) -> None:
        if not (self.wire.lost and self._inner.lost):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._on_gone(self)
