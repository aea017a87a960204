"""All streams of one connection: bytes in, handler calls out, control bytes to send.

Source: libp2p specs `yamux/README.md`; where implementations differ, go-yamux v5 and rust-yamux.

The session never copies bulk data: `receive` passes slices of the caller's buffer to handlers, and
`write_header` puts a DATA header in front of a payload that the caller already holds.  Everything
small (control frames, short data) is collected in `outgoing`, which the caller seals and sends
before any later bulk frame, so that order is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pt.errors import ClosedError, LimitError
from pt.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    HEADER,
    HEADER_LEN,
    INITIAL_WINDOW,
    MAX_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxError,
)
from pt.yamux.stream import Stream

__all__ = ["Limits", "Session"]

ACCEPT_BACKLOG: Final = 256
"""Streams opened and not yet acknowledged; go and rust reset what goes beyond."""

OUTGOING_LIMIT: Final = 4 * 1024 * 1024
"""Bytes that may wait for the socket; a peer that floods us and does not read is cut off."""

GROW_WITHIN_RTTS: Final = 4
"""A window that was half used up within so many round trips is doubled (go-yamux)."""

REFUSED_LIMIT: Final = 4096
"""Streams refused for `Limits.streams` before the peer is taken for a flooder."""
SKIPPED_LIMIT: Final = 512
"""Stream ids a peer may still use after a higher one: Go takes ids and sends SYNs concurrently, so
up to its backlog of 256 SYNs arrive out of order; ids of cancelled opens never arrive."""

_PACK_INTO: Final = HEADER.pack_into
_UNPACK: Final = HEADER.unpack_from


@dataclass(slots=True)
class Limits:
    """Bounds of one session; they may be raised while it runs, once the peer is trusted."""

    streams: int = 512
    """Inbound streams at a time; more are reset."""
    window: int = MAX_WINDOW
    """Receive window of one stream, bytes."""
    total_window: int = 64 * 1024 * 1024
    """Sum over all streams of what windows grew beyond the initial one, bytes."""


class Session:
    """One yamux session.

    `clock` returns seconds, monotonic.  `on_stream` is told each inbound stream and sets its
    handler.  Not thread-safe; calls may nest (a handler may send, close or reset).
    """

    def __init__(
        self,
        *,
        initiator: bool,
        clock: Callable[[], float],
        on_stream: Callable[[Stream], None],
        limits: Limits | None = None,
    ) -> None:
        self.initiator = initiator
        self.limits = limits or Limits()
        self.outgoing = bytearray()
        self.rtt: float | None = None
        self.streams: dict[int, Stream] = {}
        self.go_away: int | None = None
        self.churn = 0
        """Counts streams that came and went: whoever watches it can tell set-up from a dialogue."""
        self.overflowed = False
        """The peer makes us answer and does not read the answers: close the connection."""
        self.on_acked: Callable[[], None] | None = None
        self.on_rtt: Callable[[float], None] | None = None
        self._clock = clock
        self._on_stream = on_stream
        self._next_id = 1 if initiator else 2
        self._remote_parity = 0 if initiator else 1
        self._highest_remote = -1 if self._remote_parity else 0  # the first id less 2
        self._skipped: set[int] = set()
        self._inbound = 0
        self._unacked = 0
        self._refused = 0
        self._grown = 0
        self._head = bytearray()
        self._left = 0  # payload bytes of the current frame still to come
        self._current: Stream | None = None
        self._end_flags = 0
        self._ack_queue: list[Stream] = []
        self._pings: deque[tuple[int, float]] = deque(maxlen=8)
        self._ping_id = 0

    # --- receiving -----------------------------------------------------------------------------

    def receive(self, data: memoryview) -> None:
        """Take decrypted bytes, any split.

        Raises:
            YamuxError: the peer broke a rule; send `fail(error)` and close.

        """
        pos = 0
        end = len(data)
        while pos < end:
            left = self._left
            if left:
                take = min(left, end - pos)
                self._left = left - take
                stream = self._current
                if stream is not None and stream.handler is not None:
                    stream.handler.data_received(data[pos : pos + take])
                pos += take
                if take == left and self._end_flags:
                    self._finish_frame()
                continue
            if self._head:
                take = min(HEADER_LEN - len(self._head), end - pos)
                self._head += data[pos : pos + take]
                pos += take
                if len(self._head) < HEADER_LEN:
                    return
                fields = _UNPACK(self._head)
                self._head.clear()
            elif end - pos < HEADER_LEN:
                self._head += data[pos:end]
                return
            else:
                fields = _UNPACK(data, pos)
                pos += HEADER_LEN
            version, kind, flags, stream_id, length = fields
            if version:
                raise YamuxError(f"yamux version {version}, only 0 is known")
            if kind == DATA:
                self._data_header(flags, stream_id, length)
            elif kind == WINDOW_UPDATE:
                self._window_update(flags, stream_id, length)
            elif kind == PING:
                self._ping(flags, length)
            elif kind == GO_AWAY:
                self.go_away = length
            else:
                raise YamuxError(f"unknown yamux frame type {kind}")

    def end_batch(self) -> None:
        """Acknowledge streams whose handler has not sent anything yet; call after `receive`."""
        if self._ack_queue:
            for stream in self._ack_queue:
                if stream.ack_pending and not stream.local_closed:
                    stream.ack_pending = False
                    self._control(WINDOW_UPDATE, ACK, stream.id, 0)
            self._ack_queue.clear()

    def _data_header(self, flags: int, stream_id: int, length: int) -> None:
        stream = self.streams.get(stream_id)
        if flags:
            if flags & SYN:
                stream = self._syn(stream_id)
            if flags & ACK and stream is not None:
                self._acked(stream)
        if stream is None:
            self._check_known(stream_id)
        elif length > stream.recv_left:
            raise YamuxError(f"stream {stream_id}: {length} bytes exceed the receive window")
        elif stream.remote_closed and length:
            raise YamuxError(f"stream {stream_id}: data after FIN")
        else:
            stream.recv_left -= length
        self._current = stream
        self._left = length
        self._end_flags = flags & (FIN | RST)
        if not length and self._end_flags:
            self._finish_frame()

    def _finish_frame(self) -> None:
        stream, flags = self._current, self._end_flags
        self._end_flags = 0
        if stream is not None:
            if flags & RST:
                self._remote_reset(stream, 0)
            else:
                self._remote_fin(stream)

    def _window_update(self, flags: int, stream_id: int, delta: int) -> None:
        stream = self.streams.get(stream_id)
        if flags:
            if flags & SYN:
                stream = self._syn(stream_id)
            if flags & ACK and stream is not None:
                self._acked(stream)
        if stream is None:
            self._check_known(stream_id)
            return
        if flags & RST:
            self._remote_reset(stream, delta)
            return
        if delta:
            before = stream.send_window
            if before + delta > 0xFFFFFFFF:
                raise YamuxError(f"stream {stream_id}: send window above 2^32")
            stream.send_window = before + delta
            if not before and stream.handler is not None and not stream.local_closed:
                stream.handler.window_opened()
        if flags & FIN:
            self._remote_fin(stream)

    def _ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self._control(PING, ACK, 0, value)
        elif flags & ACK:
            now = self._clock()
            while self._pings:
                ping_id, sent = self._pings.popleft()
                if ping_id == value:
                    sample = max(now - sent, 1e-6)
                    self.rtt = sample if self.rtt is None else min(sample, self.rtt * 1.25)
                    if self.on_rtt is not None:
                        self.on_rtt(self.rtt)
                    return

    def _check_known(self, stream_id: int) -> None:
        """Frames for streams that ended a moment ago are normal; for others they are an error."""
        ours = (stream_id & 1) != self._remote_parity
        known = stream_id < self._next_id if ours else stream_id <= self._highest_remote
        if not known or not stream_id:
            raise YamuxError(f"frame for stream {stream_id}, which was never opened")

    def _syn(self, stream_id: int) -> Stream | None:
        if stream_id & 1 != self._remote_parity or not stream_id:
            raise YamuxError(f"the peer may not open stream {stream_id}: wrong parity")
        if stream_id > self._highest_remote:
            self._skip_to(stream_id)
        elif stream_id in self._skipped:
            self._skipped.remove(stream_id)
        else:
            raise YamuxError(f"stream {stream_id} opened twice")
        if self._inbound >= self.limits.streams or self.go_away is not None:
            self._refused += 1
            if self._refused > REFUSED_LIMIT:
                raise YamuxError("the peer floods us with streams")
            self._control(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = Stream(self, stream_id, inbound=True)
        self.streams[stream_id] = stream
        self.churn += 1
        self._inbound += 1
        self._ack_queue.append(stream)
        self._on_stream(stream)
        return stream if stream_id in self.streams else None

    def _skip_to(self, stream_id: int) -> None:
        """Note the ids between the highest so far and this one: their SYNs may come later."""
        first = max(self._highest_remote + 2, stream_id - 2 * SKIPPED_LIMIT)
        self._highest_remote = stream_id
        if first < stream_id:
            self._skipped.update(range(first, stream_id, 2))
            for old in sorted(self._skipped)[:-SKIPPED_LIMIT]:
                self._skipped.remove(old)

    def _acked(self, stream: Stream) -> None:
        if not stream.open_acked:
            stream.open_acked = True
            self._unacked -= 1
            if stream.handler is not None:
                stream.handler.stream_acked()
            if self.on_acked is not None:
                self.on_acked()

    def _remote_fin(self, stream: Stream) -> None:
        if stream.remote_closed:
            return
        stream.remote_closed = True
        handler = stream.handler
        if stream.local_closed:
            self._forget(stream)
        if handler is not None:
            handler.eof_received()

    def _remote_reset(self, stream: Stream, code: int) -> None:
        handler = stream.handler
        stream.remote_closed = stream.local_closed = True
        self._forget(stream)
        if handler is not None:
            handler.stream_lost(code)

    # --- sending -------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether another stream may be opened now (else wait for `on_acked`)."""
        return self._unacked < ACCEPT_BACKLOG and self.go_away is None

    def open(self) -> Stream:
        """Open a stream; its SYN rides on the first frame sent on it (or on `announce`).

        Raises:
            LimitError: 256 streams wait for the peer's acknowledgement.
            ClosedError: the peer said it takes no more streams.

        """
        if self.go_away is not None:
            raise ClosedError("the peer takes no more streams on this connection")
        if self._unacked >= ACCEPT_BACKLOG:
            raise LimitError(f"{ACCEPT_BACKLOG} streams wait for the peer's acknowledgement")
        stream = Stream(self, self._next_id, inbound=False)
        self._next_id += 2
        self._unacked += 1
        self.churn += 1
        self.streams[stream.id] = stream
        return stream

    def announce(self, stream: Stream) -> None:
        """Send the SYN or ACK of a stream by itself when it has no data to ride on."""
        if stream.syn_pending or stream.ack_pending:
            self._control(WINDOW_UPDATE, self._open_flags(stream), stream.id, 0)

    def write_header(self, stream: Stream, buffer: bytearray | memoryview, length: int) -> None:
        """Write the 12-byte header of a DATA frame of `length` bytes at `buffer[0:12]`.

        `length` must be ≤ `stream.send_window` and ≤ MAX_PAYLOAD; the caller sends header and
        payload next, before anything queued later.
        """
        flags = 0
        if stream.syn_pending or stream.ack_pending:
            flags = self._open_flags(stream)
        stream.send_window -= length
        _PACK_INTO(buffer, 0, 0, DATA, flags, stream.id, length)

    def queue_data(self, stream: Stream, data: bytes | bytearray | memoryview) -> None:
        """Queue a short DATA frame in `outgoing`; same bounds as `write_header`."""
        flags = 0
        if stream.syn_pending or stream.ack_pending:
            flags = self._open_flags(stream)
        length = len(data)
        stream.send_window -= length
        self.outgoing += HEADER.pack(0, DATA, flags, stream.id, length)
        self.outgoing += data

    def update_window(self, stream: Stream) -> None:
        """Give consumed bytes back as credit, growing the window while it is used up fast."""
        now = self._clock()
        window = stream.recv_window
        delta = stream.consumed
        if (
            self.rtt is not None
            and window < self.limits.window
            and now - stream.last_update < GROW_WITHIN_RTTS * self.rtt
        ):
            grown = min(window * 2, self.limits.window)
            if self._grown + grown - window <= self.limits.total_window:
                self._grown += grown - window
                delta += grown - window
                stream.recv_window = grown
        stream.last_update = now
        stream.consumed = 0
        stream.recv_left += delta
        self._control(WINDOW_UPDATE, self._open_flags(stream), stream.id, delta)

    def close_stream(self, stream: Stream) -> None:
        """Send FIN (`Stream.close`)."""
        if stream.local_closed:
            return
        flags = self._open_flags(stream) | FIN
        stream.local_closed = True
        self._control(WINDOW_UPDATE, flags, stream.id, 0)
        if stream.remote_closed:
            self._forget(stream)

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Send RST (`Stream.reset`)."""
        if self.streams.get(stream.id) is not stream:
            return
        flags = self._open_flags(stream) | RST
        stream.local_closed = stream.remote_closed = True
        stream.handler = None
        self._forget(stream)
        self._control(WINDOW_UPDATE, flags, stream.id, code)

    def ping(self) -> None:
        """Queue a ping; its answer sets `rtt`."""
        self._ping_id = (self._ping_id + 1) & 0xFFFFFFFF
        self._pings.append((self._ping_id, self._clock()))
        self._control(PING, SYN, 0, self._ping_id)

    def fail(self, error: YamuxError) -> None:
        """Queue the GO_AWAY that tells the peer what it did wrong."""
        self._control(GO_AWAY, 0, 0, error.code if error.code is not None else GO_AWAY_NORMAL)

    def lost(self) -> None:
        """The connection is gone: tell every stream's handler, once."""
        self.go_away = GO_AWAY_NORMAL
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.local_closed = stream.remote_closed = True
            handler, stream.handler = stream.handler, None
            if handler is not None:
                handler.stream_lost(None)

    # --- helpers -------------------------------------------------------------------------------

    def _open_flags(self, stream: Stream) -> int:
        if stream.syn_pending:
            stream.syn_pending = False
            return SYN
        if stream.ack_pending:
            stream.ack_pending = False
            return ACK
        return 0

    def _control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if len(self.outgoing) > OUTGOING_LIMIT:
            self.overflowed = True
            return
        self.outgoing += HEADER.pack(0, kind, flags, stream_id, length)

    def _forget(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        self.churn += 1
        self._grown -= stream.recv_window - INITIAL_WINDOW
        if stream.inbound:
            self._inbound -= 1
        elif not stream.open_acked:
            self._unacked -= 1
            stream.open_acked = True
            if self.on_acked is not None:
                self.on_acked()
