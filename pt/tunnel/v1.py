"""Tunnel protocol 1, the Go PeerTunnel's: one raw stream a connection, nothing else said.

The Go program closes both its sockets at the first end of stream, in either direction, and so
destroys a reply that follows a half-close.  Towards a peer that may be Go we therefore hold our
FIN back: the binder until the other direction has ended (or was silent for a long time), the
exposer until the client has been silent for a moment.  Another `pt` gets every FIN at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.node.buffers import POOL
from pt.node.link import Link
from pt.tunnel.pump import BURST, SocketPump, send_from_slot
from pt.yamux.frames import HEADER_LEN, MAX_PAYLOAD
from pt.yamux.stream import Stream

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch

__all__ = ["RawPump"]

BINDER_HOLD: Final = 900.0
"""Seconds of silence after which a binder's held FIN is sent all the same."""
EXPOSER_HOLD: Final = 0.25
DISCARD_AFTER: Final = 30.0
"""Seconds a Go peer that sent FIN may leave our bytes uncredited before we reset."""


class RawPump(SocketPump):
    """`hold` is how long (s) our FIN waits for the other direction's; None sends it at once.

    `skip` bytes of the peer's negotiation answer precede the data.  `on_done(pump, reason)` is
    called once.
    """

    __slots__ = ("_hold", "_on_done", "_quiet_since", "_skip", "_timer", "started")

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        hangups: HangupWatch,
        *,
        hold: float | None,
        skip: bytes = b"",
        on_done: Callable[[RawPump, str], None],
    ) -> None:
        super().__init__(sock, loop, hangups)
        self._hold = hold
        self._skip = skip
        self._on_done = on_done
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_since = loop.time()
        self.started = loop.time()

    def attach(self, link: Link, stream: Stream) -> None:
        """Begin to move bytes."""
        self.link = link
        self.stream = stream
        stream.handler = self

    def target_connected(self) -> None:
        """The exposer's connection to its target is there."""
        self.connected = True
        self.give_up_dial = None
        if self._backlog is not None:
            self._wait_writable()
        elif self.remote_eof:
            self._shutdown_write()
        self.pump()

    def pump(self) -> None:
        """See `SocketPump.pump`."""
        stream, link = self.stream, self.link
        if stream is None or link is None or self.local_eof or self.closed or not self.connected:
            return
        slot = POOL.slots.take()
        try:
            for _ in range(BURST):
                window = stream.send_window
                if not window:
                    self._wait_window()
                    break
                if not link.room:
                    self._wait_link()
                    break
                room = min(window, MAX_PAYLOAD)
                count = self._read(slot[HEADER_LEN : HEADER_LEN + room])
                if count > 0:
                    self.bytes_in += count
                    self._quiet_since = self._loop.time()
                    send_from_slot(link, stream, slot, count)
                    if count < room:
                        self._wait_readable()
                        break
                    continue
                if count == -1:
                    self._wait_readable()
                elif count == 0:
                    self._local_ended()
                break
            else:
                self._wait_readable()
        finally:
            POOL.slots.give(slot)
        link.flush()

    def _local_ended(self) -> None:
        self.local_eof = True
        self._pause()
        self._hangups.add(self.fd, self._hung_up)
        if self._hold is None or self.remote_eof:
            self._send_fin()
        else:
            self._timer = self._loop.call_later(self._hold, self._hold_over)

    def _hold_over(self) -> None:
        if self.closed or self.stream is None or self._hold is None:
            return
        quiet = self._loop.time() - self._quiet_since
        if quiet < self._hold:
            self._timer = self._loop.call_later(self._hold - quiet, self._hold_over)
        else:
            self._send_fin()

    def _send_fin(self) -> None:
        if self.stream is not None and self.link is not None:
            self.stream.close()
            self.link.flush()
        self._maybe_finished()

    def data_received(self, data: memoryview) -> None:
        """Deliver; first the peer's negotiation answer has to match."""
        if self._skip:
            part = len(data[: len(self._skip)])
            if data[:part] != self._skip[:part]:
                self._fail("the peer does not offer an open tunnel")
                return
            self._skip = self._skip[part:]
            self._credit(part)
            data = data[part:]
            if not len(data):
                return
        self._quiet_since = self._loop.time()
        self._deliver(data)

    def eof_received(self) -> None:
        """The peer ended: so may we, and what it does not take any more is given up in time."""
        self._remote_ended()
        if self.closed:
            return
        if self.local_eof:
            self._send_fin()
        elif self._hold is not None:
            self._timer = self._loop.call_later(DISCARD_AFTER, self._discarded)

    def _discarded(self) -> None:
        if not self.closed and self.stream is not None and not self.stream.send_window:
            self._fail("the peer takes no more bytes")

    def stream_lost(self, code: int | None) -> None:
        """A reset, or the connection to the peer ended: the local connection is reset."""
        self.stream = None
        self._finish("reset by the peer" if code is not None else "connection lost", reset=True)

    def _local_reset(self) -> None:
        self._fail("reset by the application")

    def _fail(self, reason: str) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and self.link is not None:
            stream.reset()
            self.link.flush()
        self._finish(reason, reset=True)

    def refuse(self, reason: str) -> None:
        """The target cannot be reached: all that this protocol can say is a reset."""
        self._fail(reason)

    def _maybe_finished(self) -> None:
        if self.local_eof and self.write_closed and not self.closed:
            stream = self.stream
            if stream is not None and stream.local_closed:
                stream.handler = None
                self._finish("", reset=False)

    def _finish(self, reason: str, *, reset: bool) -> None:
        if self.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._close_socket(reset=reset)
        self._on_done(self, reason)
