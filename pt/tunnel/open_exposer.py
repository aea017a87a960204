"""The exposer's side of the open protocol (version 1, the Go program's): no authentication."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from pt.aio.hangup import HangupWatch
from pt.aio.tcp import ip_family
from pt.identity.peer_id import PeerId
from pt.muxer import Stream
from pt.node.bridge import StreamBridge
from pt.node.connection import Connection
from pt.noise.handshake import Suite
from pt.tunnel import events
from pt.tunnel.exposer_session import TargetDial, failure
from pt.tunnel.targets import Targets
from pt.tunnel.v1 import EXPOSER_HOLD, RawPump

__all__ = ["OpenService"]

MAX_OPEN_STREAMS: Final = 4096
"""Connections of the open (unauthenticated) protocol at a time."""


class OpenService:
    """Each stream is one connection to the first service."""

    def __init__(
        self,
        targets: Targets,
        *,
        allow: frozenset[PeerId],
        hangups: HangupWatch,
        emit: Callable[[events.Event], None],
        on_reject: Callable[[Connection, str], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.closing = False
        self._targets = targets
        self._allow = allow
        self._hangups = hangups
        self._emit = emit
        self._on_reject = on_reject
        self._on_idle = on_idle
        self._pumps: set[StreamBridge] = set()

    @property
    def carries(self) -> bool:
        """Whether any connection is open."""
        return bool(self._pumps)

    def close(self, reason: str) -> None:
        """Reset what is open."""
        for pump in list(self._pumps):
            pump.refuse(reason)

    def accept(self, connection: Connection, stream: Stream, reply: bytes, data: bytes) -> None:
        """A `RawHandler`."""
        found = self._targets.find(0)
        allowed = not self._allow or connection.peer_id in self._allow
        if not allowed or self.closing or found is None or len(self._pumps) >= MAX_OPEN_STREAMS:
            stream.reset()
            self._on_reject(connection, "not allowed, or too many connections")
            return
        connection.link.send_small(stream, reply)
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(ip_family(found[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            stream.reset()
            self._on_reject(connection, failure(error.errno or 0)[1])
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = self._targets.ports[0]
        hold = None if connection.suite is Suite.AESGCM else EXPOSER_HOLD
        pump = RawPump(sock, loop, self._hangups, hold=hold, on_done=self._done)
        pump.connected = False
        pump.attach(connection.link, stream)
        self._pumps.add(pump)

        def connected(result: int) -> None:
            if pump.closed:
                return
            if result:
                code, reason = failure(result)
                self._targets.failed(port)
                self._emit(
                    events.StreamRefused(
                        stream=stream.id, port=port, code=code.name.lower(), reason=reason
                    )
                )
                pump.refuse(reason)
            else:
                self._emit(
                    events.StreamOpened(stream=stream.id, peer_id=connection.peer_id, port=port)
                )
                pump.target_connected()

        dial = TargetDial(loop, sock, found, connected)
        if not pump.connected:
            pump.give_up_dial = dial.cancel
        if data and not pump.closed:
            stream.consumed -= len(data)
            pump.data_received(memoryview(data))

    def _done(self, pump: StreamBridge, reason: str) -> None:
        self._pumps.discard(pump)
        if pump.connected:
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
