"""One local TCP socket joined to one stream: the tunnel's data path, in callbacks.

`SocketPump` owns the socket and moves bytes both ways with back-pressure, exact FIN and RST.
What is said on the stream before and around the bytes belongs to its two subclasses: `v1` (raw
bytes, as the Go program) and `v2` (answers, offsets, resume).

Rules that keep it exact:
  * a byte is credited to the peer when the local socket took it, not when it arrived;
  * the local socket is read only when the stream's window and the link have room;
  * every reason to wait has exactly one event that calls `pump` again: readable, window opened,
    link ready, acknowledged.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.tcp import abort, abort_on_exit, close_in_order
from pt.muxer import FRAME_HEADROOM, Carrier, Stream

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch

__all__ = ["BURST", "SMALL", "SocketPump", "send_from_slot"]

BURST: Final = 8
"""Frames read from one socket before others get their turn."""
SMALL: Final = 4096
"""Payloads up to so long are coalesced with other short frames of the same wake-up."""


class SocketPump:
    """See the module's text.  `hangups` watches sockets that are not being read."""

    __slots__ = (
        "_backlog",
        "_hangups",
        "_loop",
        "_reading",
        "_waiting_link",
        "_writing",
        "bytes_in",
        "bytes_out",
        "closed",
        "connected",
        "fd",
        "give_up_dial",
        "link",
        "local_eof",
        "remote_eof",
        "sock",
        "stream",
        "write_closed",
    )

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, hangups: HangupWatch
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        abort_on_exit(sock)
        self.stream: Stream | None = None
        self.link: Carrier | None = None
        self.bytes_in = 0  # local socket → peer
        self.bytes_out = 0  # peer → local socket
        self.connected = True
        self.give_up_dial: Callable[[], None] | None = None  # while the socket is connecting
        self.local_eof = False
        self.remote_eof = False
        self.write_closed = False
        self.closed = False
        self._loop = loop
        self._hangups = hangups
        self._backlog: deque[memoryview | bytes] | None = None
        self._reading = False
        self._writing = False
        self._waiting_link = False

    # --- local socket → stream -----------------------------------------------------------------

    def pump(self) -> None:
        """Move bytes from the local socket to the stream until something has to be waited for."""
        raise NotImplementedError

    def _wait_readable(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self.fd, self.pump)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)

    def _wait_window(self) -> None:
        """The peer has to give credit: `window_opened` will call."""
        self._pause()
        if not self.closed:
            self._hangups.add(self.fd, self._hung_up)

    def _wait_link(self) -> None:
        """The network has to take bytes: `link_ready` will call."""
        self._pause()
        if not self._waiting_link:
            self._waiting_link = True
            assert self.link is not None
            self.link.wait_room(self)

    def _read(self, into: memoryview) -> int:
        """Read local bytes: their count, 0 at the end, -1 for nothing now, -2 after a reset."""
        try:
            return self.sock.recv_into(into)
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError:
            self._local_reset()
            return -2

    def link_ready(self) -> None:
        """The network took bytes."""
        self._waiting_link = False
        if not self.closed:
            self.pump()

    def window_opened(self) -> None:
        """The peer gave credit."""
        if not self.closed:
            self.pump()

    def stream_acked(self) -> None:
        """Nothing depends on the muxer's acknowledgement."""

    # --- stream → local socket -----------------------------------------------------------------

    def _deliver(self, data: memoryview) -> None:
        """Write bytes from the peer to the local socket; keep what it does not take."""
        backlog = self._backlog
        if backlog is not None or not self.connected:
            if backlog is None:
                backlog = self._backlog = deque()
            backlog.append(bytes(data))
            return
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        self.bytes_out += sent
        if sent:
            self._credit(sent)
        if sent < len(data):
            self._backlog = deque((bytes(data[sent:]),))
            self._wait_writable()

    def _credit(self, count: int) -> None:
        if self.stream is not None:
            self.stream.credit(count)

    def _wait_writable(self) -> None:
        if not self._writing and not self.closed:
            self._writing = True
            self._loop.add_writer(self.fd, self._on_writable)

    def _on_writable(self) -> None:
        backlog = self._backlog
        while backlog:
            piece = backlog[0]
            try:
                sent = self.sock.send(piece)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._send_failed(error)
                return
            self.bytes_out += sent
            self._credit(sent)
            if sent < len(piece):
                backlog[0] = memoryview(piece)[sent:]
                break
            backlog.popleft()
        if not backlog:
            self._backlog = None
            self._writing = False
            self._loop.remove_writer(self.fd)
            if self.remote_eof:
                self._shutdown_write()
        if self.link is not None:
            self.link.nudge()

    def _remote_ended(self) -> None:
        """The peer sends no more: pass it on once everything before is written."""
        self.remote_eof = True
        if self._backlog is None and self.connected:
            self._shutdown_write()

    def _shutdown_write(self) -> None:
        if self.write_closed or self.closed:
            return
        self.write_closed = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self._local_reset()
                return
        self._maybe_finished()

    # --- ends ----------------------------------------------------------------------------------

    def _send_failed(self, error: OSError) -> None:
        """The local socket is broken; EPIPE after the application closed is a reset, too."""
        del error
        self._local_reset()

    def _hung_up(self) -> None:
        """The watched socket got an error or is closed both ways."""
        if not self.closed and self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._local_reset()

    def _local_reset(self) -> None:
        """The application reset its connection: the peer's has to be reset."""
        raise NotImplementedError

    def _maybe_finished(self) -> None:
        """Both directions may have ended."""
        raise NotImplementedError

    def _close_socket(self, *, reset: bool) -> None:
        """Let go of the local socket, with FIN (already sent) or RST.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self.give_up_dial is not None:
            self.give_up_dial()
            self.give_up_dial = None
        self._pause()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)
        self._hangups.discard(self.fd)
        self._backlog = None
        if reset:
            abort(self.sock)
        else:
            close_in_order(self.sock)


def send_from_slot(link: Carrier, stream: Stream, slot: memoryview, count: int) -> None:
    """Send `count` bytes that lie at `slot[12:]`, coalescing short ones."""
    if count <= SMALL:
        link.send_small(stream, slot[FRAME_HEADROOM : FRAME_HEADROOM + count])
    else:
        link.send_slot(stream, slot, count)
