"""A stream whose bytes go to and come from a socket: nothing said, nothing added.

What a raw tunnel is made of, and how a circuit becomes a connection: the relayed stream is bridged
to one end of a socket pair, and the other end is secured and multiplexed like any TCP connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.muxed import MuxedStream
from pt.muxer import FRAME_HEADROOM, Carrier, Stream
from pt.node.buffers import POOL
from pt.node.pump import BURST, SocketPump, send_from_slot

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch

__all__ = ["StreamBridge", "socket_on"]

FAREWELL: Final = 2.0
"""Seconds the peer of a circuit has to end its direction when ours was closed."""
PAIR_BUFFER: Final = 512 * 1024
"""Bytes the kernel may keep of each direction of a socket pair."""


class StreamBridge(SocketPump):
    """`on_done(bridge, reason)` is called once, with an empty reason after an orderly end."""

    __slots__ = ("_on_done", "started")

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        hangups: HangupWatch,
        *,
        on_done: Callable[[StreamBridge, str], None],
    ) -> None:
        super().__init__(sock, loop, hangups)
        self._on_done = on_done
        self.started = loop.time()

    def attach(self, link: Carrier, stream: Stream) -> None:
        """Begin to move bytes."""
        self.link = link
        self.stream = stream
        stream.handler = self

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
                room = min(window, link.frame)
                count = self._read(slot[FRAME_HEADROOM : FRAME_HEADROOM + room])
                if count > 0:
                    self.bytes_in += count
                    self._moved()
                    send_from_slot(link, stream, slot, count)
                    if count < room // 2:
                        self._wait_readable()
                        break
                    continue
                if count == -1:
                    self._wait_readable()
                elif count == 0:
                    self.local_eof = True
                    self._pause()
                    self._hangups.add(self.fd, self._hung_up)
                    self._local_ended()
                break
            else:
                self._wait_readable()
        finally:
            POOL.slots.give(slot)
        link.flush()

    def _moved(self) -> None:
        """Bytes were moved, in one direction or the other."""

    def _local_ended(self) -> None:
        """The socket's other side ended its direction."""
        self._send_fin()

    def _send_fin(self) -> None:
        if self.stream is not None and self.link is not None:
            self.stream.close()
            self.link.flush()
        self._maybe_finished()

    def data_received(self, data: memoryview) -> None:
        """Deliver."""
        self._moved()
        self._deliver(data)

    def eof_received(self) -> None:
        """The peer ended its direction."""
        self._remote_ended()

    def stream_lost(self, code: int | None) -> None:
        """A reset, or the connection to the peer ended: the local connection is reset."""
        self.stream = None
        self._finish("reset by the peer" if code is not None else "connection lost", reset=True)

    def _local_reset(self) -> None:
        self._fail("reset by the application")

    def _fail(self, reason: str) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and self.link is not None:
            self.link.flush()  # what was read before the reset
            stream.reset()
            self.link.flush()
        self._finish(reason, reset=True)

    def refuse(self, reason: str) -> None:
        """Reset both sides: all that can be said without a protocol."""
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
        self._close_socket(reset=reset)
        self._on_done(self, reason)


class _PairBridge(StreamBridge):
    """A bridge to one end of a socket pair, whose other end may be closed at any time."""

    __slots__ = ()

    def _hung_up(self) -> None:
        """Nobody reads or writes the other end any more: the peer gets a moment to end, too."""
        if not self.closed:
            self._loop.call_later(FAREWELL, self._give_up)

    def _give_up(self) -> None:
        if not self.closed:
            self._fail("the connection over the circuit was closed")


def socket_on(stream: MuxedStream, link: Carrier, hangups: HangupWatch) -> socket.socket:
    """A non-blocking socket that carries the bytes of `stream`, which it takes over.

    Closing the socket ends the stream, and the other way round.
    """
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BUFFER)
    bridge = _PairBridge(
        ours, asyncio.get_running_loop(), hangups, on_done=lambda _bridge, _reason: None
    )
    early = stream.take_buffered()
    bridge.attach(link, stream.stream)
    if early:
        stream.stream.consumed -= len(early)
        bridge.data_received(memoryview(early))
    if stream.ended:
        bridge.stream_lost(None)
    elif stream.at_eof:
        bridge.eof_received()
    bridge.pump()
    return theirs
