"""The data path of one connection: socket ↔ Noise ↔ yamux, in callbacks, without copies.

Receiving: one `recv_into` of up to 1 MiB, each Noise message opened in place, its plaintext passed
to yamux as a view.  Sending: full frames are sealed from the caller's slot straight into the send
buffer; short frames are collected in `Session.outgoing` and sealed together.  No task, future or
event object is made a chunk.  See docs/design.md, "Performance".
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from pt.aio.keep_alive import KeepAlive, SilenceWatch
from pt.aio.loop import DIALOGUE, Dialogue
from pt.errors import PtError
from pt.muxer import RoomWaiter
from pt.muxer import Stream as AnyStream
from pt.node.buffers import NOISE_MESSAGE_LEN, POOL, TX_LEN
from pt.node.pace import FRAME, Pace
from pt.noise.transport import Opener, Sealer
from pt.yamux.frames import HEADER_LEN, MAX_PAYLOAD, YamuxError
from pt.yamux.session import Session

if TYPE_CHECKING:
    from pt.yamux.stream import Stream

__all__ = ["Link"]

ROOM: Final = TX_LEN - 2 * NOISE_MESSAGE_LEN
"""Fill level up to which a full frame, and the short frames before it, still fit."""
SMALL_ROOM: Final = 256 * 1024
"""Bytes of short frames that may wait before senders are held back."""
MAX_PLAIN: Final = 65519
MESSAGE_OVERHEAD: Final = 18
"""Bytes that Noise adds to a message: its length and its tag."""
RX_KEEP_LEN: Final = 4096
"""A half-received message up to so long is set aside, so that no idle link holds 1 MiB."""


class Link:
    """One secured and multiplexed connection.

    `on_lost(reason)` is called once, after every stream was told.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        sealer: Sealer,
        opener: Opener,
        session: Session,
        keep_alive: KeepAlive,
        on_lost: Callable[[str], None],
    ) -> None:
        self.session = session
        self.bytes_in = 0
        """What the socket has brought, the hand-shake too, as far as it could be opened."""
        self.bytes_out = 0
        self.closed = False
        self.last_rx = 0.0
        self._sock = sock
        self._fd = sock.fileno()
        self._seal = sealer.seal_into
        self._open = opener.open
        self._loop = asyncio.get_running_loop()
        self._dialogue = Dialogue()
        self._keep_alive = keep_alive
        self._on_lost = on_lost
        self._rx: memoryview | None = None  # borrowed while a long message is half there
        self._rx_have = 0
        self._rx_part = b""  # a short half message, set aside
        self._tx: memoryview | None = None  # borrowed while ciphertext waits
        self._tx_start = 0
        self._tx_end = 0
        self._blocked = False
        self._writer_on = False
        self._waiters: deque[RoomWaiter] = deque()
        self._silence: SilenceWatch | None = None
        self.frame = MAX_PAYLOAD
        """The longest payload that senders put into one frame."""
        self._pace: Pace | None = None
        self._pace_timer: asyncio.TimerHandle | None = None

    def limit(self, data: int) -> None:
        """Send so that a relay which ends the connection after `data` bytes is not abused."""
        self._pace = Pace(data, self._loop.time())
        self.frame = FRAME

    @property
    def pace(self) -> Pace | None:
        """How what we send is spread, on a limited connection."""
        return self._pace

    @property
    def minds_loss(self) -> bool:
        """What TCP does about loss is the kernel's."""
        return False

    def stats(self) -> None:
        """TCP's are the kernel's."""
        return

    def start(self, early: bytes = b"", plain: bytes = b"") -> None:
        """Begin to read; `early` is ciphertext that arrived with the hand-shake, `plain` what of it
        was opened already.
        """  # noqa: D205
        self.last_rx = self._loop.time()
        self._loop.add_reader(self._fd, self._on_readable)
        self.session.ping()
        self._silence = SilenceWatch(
            self._keep_alive,
            heard=lambda: self.last_rx,
            ask=self._ask,
            lose=lambda reason: self.lose(reason, abort=True),
        )
        if plain:
            try:
                self.session.receive(memoryview(plain))
            except YamuxError as error:
                self._loop.call_soon(self.lose, f"protocol error: {error}")
                return
            self.session.end_batch()
        if early:
            buffer = POOL.rx.take()
            buffer[: len(early)] = early
            self._received(buffer, len(early))
        else:
            self.flush()

    # --- receiving -----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        buffer = self._rx
        have = self._rx_have
        if buffer is None:
            buffer = POOL.rx.take()
            if self._rx_part:
                have = len(self._rx_part)
                buffer[:have] = self._rx_part
                self._rx_part = b""
        else:
            self._rx = None
            self._rx_have = 0
        try:
            count = self._sock.recv_into(buffer[have:])
        except (BlockingIOError, InterruptedError):
            self._set_aside(buffer, 0, have)
            return
        except OSError as error:
            POOL.rx.give(buffer)
            self.lose(error.strerror or str(error))
            return
        if not count:
            POOL.rx.give(buffer)
            self.lose("the peer closed the connection")
            return
        self._received(buffer, have + count)

    def _received(self, buffer: memoryview, end: int) -> None:
        """Open and deliver every whole message of `buffer[:end]`; keep the rest."""
        self.last_rx = self._loop.time()
        pos = 0
        session = self.session
        receive = session.receive
        open_message = self._open
        try:
            while end - pos >= 2:
                stop = pos + 2 + (buffer[pos] << 8 | buffer[pos + 1])
                if stop > end:
                    break
                receive(open_message(buffer[pos + 2 : stop]))
                pos = stop
        except YamuxError as error:
            POOL.rx.give(buffer)
            session.fail(error)
            self.flush()
            self.lose(f"protocol error: {error}")
            return
        except PtError as error:
            POOL.rx.give(buffer)
            self.lose(str(error))
            return
        self.bytes_in += pos
        if self._pace is not None:
            self._pace.received(pos)
        if end < DIALOGUE:
            self._dialogue.short(self.last_rx, session.churn)
        session.end_batch()
        if self.closed:
            POOL.rx.give(buffer)
            return
        if pos == end:
            POOL.rx.give(buffer)
        else:
            self._set_aside(buffer, pos, end)
        if session.outgoing or self._tx is not None:
            self.flush()
        if session.go_away is not None and not session.streams:
            self.lose("the peer went away")

    def _set_aside(self, buffer: memoryview, start: int, end: int) -> None:
        """Keep `buffer[start:end]` for the next read."""
        left = end - start
        if left <= RX_KEEP_LEN or POOL.rx.lent > 8:
            self._rx_part = bytes(buffer[start:end])
            self._rx_have = 0
            POOL.rx.give(buffer)
            return
        if start:
            buffer[:left] = buffer[start:end]
        self._rx = buffer
        self._rx_have = left

    # --- sending -------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether a full frame can be taken now."""
        return (
            self._tx_end <= ROOM
            and not self._blocked
            and len(self.session.outgoing) < SMALL_ROOM
            and (self._pace is None or self._paced(self._pace))
        )

    def _paced(self, pace: Pace) -> bool:
        """Whether the pace allows a frame; what waits to be sealed counts as sent."""
        return len(self.session.outgoing) < FRAME and pace.allows(self._loop.time())

    def send_slot(self, stream: AnyStream, slot: memoryview, length: int) -> None:
        """Send `length` payload bytes that lie at `slot[12:]`; the header space is overwritten.

        The caller checked `room` and the stream's window.  The slot may be reused at once.
        """
        session = self.session
        if session.outgoing:
            self._seal_outgoing()
        session.write_header(cast("Stream", stream), slot, length)
        if self._pace is not None:
            self._pace.spend(HEADER_LEN + length, self._loop.time())
        tx = self._tx
        if tx is None:
            tx = self._tx = POOL.tx.take()
        end = self._tx_end
        self._tx_end = end + self._seal(slot[: HEADER_LEN + length], tx[end:])

    def send_small(self, stream: AnyStream, data: bytes | memoryview) -> None:
        """Queue a short frame; same conditions as `send_slot`."""
        self.session.queue_data(cast("Stream", stream), data)

    def wait_room(self, waiter: RoomWaiter) -> None:
        """Call `waiter.link_ready()` when there is room again."""
        self._waiters.append(waiter)
        if not self._blocked:
            self.flush()
            if self.room:  # nothing is under way whose end would wake the waiter
                self._loop.call_soon(self._wake)
            elif self._pace is not None:
                self._wake_in_time(self._pace)

    def _wake_in_time(self, pace: Pace) -> None:
        """Wake waiters when the pace allows the next frame; if it never will, a new path does."""
        pause = pace.ready_in(self._loop.time())
        if pause is not None and self._pace_timer is None:
            self._pace_timer = self._loop.call_later(max(pause, 0.01), self._pace_due)

    def _pace_due(self) -> None:
        self._pace_timer = None
        self._wake()

    def flush(self) -> None:
        """Seal what is queued and hand it to the socket."""
        if self.closed:
            return
        outgoing = self.session.outgoing
        while True:
            if outgoing:
                self._seal_outgoing()
            if self._tx_end > self._tx_start and not self._blocked:
                self._send()
            if not outgoing or self._blocked:  # else: there was more than one buffer holds
                break
        if self.session.overflowed:
            self.lose("the peer sends requests and does not read the answers")

    def nudge(self) -> None:
        """`flush`, if something is queued."""
        if self.session.outgoing:
            self.flush()

    def _seal_outgoing(self) -> None:
        outgoing = self.session.outgoing
        if self._pace is not None:
            self._pace.spend(len(outgoing) + MESSAGE_OVERHEAD, self._loop.time())
        tx = self._tx
        if tx is None:
            tx = self._tx = POOL.tx.take()
        end = self._tx_end
        if len(outgoing) <= MAX_PLAIN and TX_LEN - end >= NOISE_MESSAGE_LEN:
            self._tx_end = end + self._seal(outgoing, tx[end:])
            outgoing.clear()
            return
        while outgoing and TX_LEN - end >= NOISE_MESSAGE_LEN:
            with memoryview(outgoing) as view:
                length = min(len(view), MAX_PLAIN)
                end += self._seal(view[:length], tx[end:])
            del outgoing[:length]
        self._tx_end = end

    def _send(self) -> None:
        tx = self._tx
        assert tx is not None
        try:
            sent = self._sock.send(tx[self._tx_start : self._tx_end])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._loop.call_soon(self.lose, error.strerror or str(error))
            self._tx_start = self._tx_end = 0
            return
        self.bytes_out += sent
        self._tx_start += sent
        if sent < DIALOGUE:
            self._dialogue.short(self.last_rx, self.session.churn)
        if self._tx_start < self._tx_end:
            self._blocked = True
            if not self._writer_on:
                self._writer_on = True
                self._loop.add_writer(self._fd, self._on_writable)
            return
        self._tx_start = self._tx_end = 0
        self._tx = None
        POOL.tx.give(tx)
        if self._waiters and not self._blocked:
            self._loop.call_soon(self._wake)

    def _on_writable(self) -> None:
        self._send()
        if self.closed or self._tx_start < self._tx_end:
            return
        self._blocked = False
        self._wake()
        self.flush()
        if not self._blocked and not self.closed:
            self._writer_on = False
            self._loop.remove_writer(self._fd)

    def _wake(self) -> None:
        """Let waiters send, each once at most, while there is room."""
        waiters = self._waiters
        for _ in range(len(waiters)):
            if self.closed:
                return
            if not self.room:
                if self._pace is not None and not self._blocked:
                    self._wake_in_time(self._pace)
                return
            waiters.popleft().link_ready()

    # --- life ----------------------------------------------------------------------------------

    def _ask(self) -> None:
        self.session.ping()
        self.flush()

    def set_keep_alive(self, keep_alive: KeepAlive) -> None:
        """Change the rhythm, for instance once the peer is known to be one of ours."""
        self._keep_alive = keep_alive
        if self._silence is not None:
            self._silence.set(keep_alive)

    def lose(self, reason: str, *, abort: bool = False) -> None:
        """End the connection: tell all streams, close the socket.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._silence is not None:
            self._silence.stop()
        if self._pace_timer is not None:
            self._pace_timer.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if not abort and self._tx is not None and self._tx_end > self._tx_start:
            try:
                self._sock.send(self._tx[self._tx_start : self._tx_end])
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EPIPE, errno.ECONNRESET):
                    reason = f"{reason} ({error.strerror})"
        for pool, buffer in ((POOL.rx, self._rx), (POOL.tx, self._tx)):
            if buffer is not None:
                pool.give(buffer)
        self._rx = self._tx = None
        self._sock.close()
        self._waiters.clear()
        self.session.lost()
        self._on_lost(reason)
