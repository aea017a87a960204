"""The muxer's contract (`pt.muxer`) over a QUIC connection, which has streams of its own.

Differences of the two are settled here.  QUIC ends directions one by one: RESET_STREAM is taken for
the end of both, as `reset` sends RESET_STREAM and STOP_SENDING.  So is a FIN with a STOP_SENDING,
which is how rust-libp2p drops a stream.  A STOP_SENDING alone means that the peer reads no more:
what is written is dropped, as a yamux peer would do with it.  An engine takes a part of what it is
given; the rest, less than a frame, waits here and closes the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pt.errors import ClosedError
from pt.muxer import StreamHandler
from pt.quic.codes import MAX_CODE, ConnectionCode
from pt.quic.engine import Engine
from pt.quic.events import (
    Event,
    StopSending,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    Writable,
)

__all__ = ["FRAME", "Limits", "Session", "Stream"]

FRAME: Final = 64 * 1024
"""Bytes that senders pass at a time."""
REFUSED_LIMIT: Final = 4096
"""Streams refused for `Limits.streams` before the peer is taken for a flooder."""
WINDOW: Final = 4 * FRAME
"""What a stream that takes anything says it takes."""


@dataclass(slots=True)
class Limits:
    """Bounds of one session; they may be raised while it runs, up to the engine's own."""

    streams: int = 512
    """Inbound streams at a time; more are reset."""


class Stream:
    """See `pt.muxer.Stream`; made by the session."""

    __slots__ = (
        "_handler",
        "consumed",
        "held",
        "id",
        "local_closed",
        "pending",
        "remote_closed",
        "session",
        "stopped",
    )

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.id = number
        self.consumed = 0
        self.held = 0
        """Bytes delivered and not credited."""
        self.pending = bytearray()
        """What the engine had no room for; goes before anything else, and before FIN."""
        self.local_closed = False
        self.remote_closed = False
        self.stopped: int | None = None
        """With which code the peer said that it reads no more."""
        self._handler: StreamHandler | None = None

    @property
    def handler(self) -> StreamHandler | None:
        """Who is told; without one, what comes is dropped."""
        return self._handler

    @handler.setter
    def handler(self, handler: StreamHandler | None) -> None:
        self._handler = handler
        if handler is None:
            self.release()

    @property
    def inbound(self) -> bool:
        """Whether the peer opened the stream."""
        return self.id & 1 == int(self.session.engine.is_client)

    @property
    def send_window(self) -> int:
        """All or nothing."""
        return 0 if self.pending else WINDOW

    @property
    def closed(self) -> bool:
        """Whether the stream is over in both directions."""
        return self.local_closed and self.remote_closed

    def credit(self, count: int) -> None:
        """Let the peer send as much more."""
        self.consumed += count
        if self.consumed > 0:
            done, self.consumed = self.consumed, 0
            self.held -= done
            self.session.consumed(self, done)

    def release(self) -> None:
        """What is held will not be credited any more by whoever has it."""
        if self.held > 0:
            held, self.held = self.held, 0
            self.session.consumed(self, held)

    def close(self) -> None:
        """Send FIN after what was written."""
        self.session.close_stream(self)

    def reset(self, code: int = 0) -> None:
        """Send RESET_STREAM and STOP_SENDING."""
        self.session.reset_stream(self, code)


class Session:
    """All streams of one connection; give it the engine's events, and drive the engine after calls.

    `clock` returns seconds, the engine's; `changed` is called when the engine has something to do.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
        limits: Limits | None = None,
    ) -> None:
        self.engine = engine
        self.limits = limits or Limits()
        self.go_away: int | None = None
        self.churn = 0
        self.on_acked: Callable[[], None] | None = None
        self.on_stream: Callable[[Stream], None] | None = None
        """Told each inbound stream; sets its handler."""
        self._clock = clock
        self._changed = changed
        self._streams: dict[int, Stream] = {}
        self._inbound = 0
        self._refused = 0

    @property
    def rtt(self) -> float | None:
        """The engine's smoothed round trip."""
        return self.engine.stats().rtt

    @property
    def streams(self) -> Mapping[int, Stream]:
        """Those that are not over."""
        return self._streams

    @property
    def can_open(self) -> bool:
        """Whether the peer allows another stream now."""
        return self.go_away is None and self.engine.streams_left > 0

    def open(self) -> Stream:
        """See `pt.muxer.Session`.

        Raises:
            LimitError: the peer allows no more now.
            ClosedError: the connection has ended.

        """
        if self.go_away is not None:
            raise ClosedError("the connection to the peer ended")
        stream = Stream(self, self.engine.open_stream())
        self._streams[stream.id] = stream
        self.churn += 1
        return stream

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self.engine.ping()
        self._changed()

    # --- events --------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take an event of the engine that is about a stream; others are the owner's.

        A stream whose handler raises is reset: what it has missed must not pass for nothing.
        """
        try:
            self._handle(event)
        except BaseException:
            self._peer_reset(getattr(event, "stream", -1), 0)
            raise

    def _handle(self, event: Event) -> None:  # one case an event
        match event:
            case StreamData(number, data, fin):
                self._data(number, data, fin=fin)
            case Writable(number):
                stream = self._streams.get(number)
                if stream is not None:
                    self._writable(stream)
            case StreamOpened(number):
                self._opened(number)
            case StreamReset(number, code):
                self._peer_reset(number, code)
            case StopSending(number, code):
                stream = self._streams.get(number)
                if stream is not None:
                    self._stopped(stream, code)
            case StreamEnded(number):
                stream = self._streams.get(number)
                if stream is not None:
                    self._forget(stream)
            case StreamsAvailable():
                if self.on_acked is not None:
                    self.on_acked()
            case _:
                pass

    def _opened(self, number: int) -> None:
        stream = Stream(self, number)
        full = self._inbound >= self.limits.streams or self.go_away is not None
        if full or self.on_stream is None:
            self.engine.reset(number, 0)
            self.engine.stop(number, 0)
            self._refused += 1
            if self._refused > REFUSED_LIMIT:
                code, reason = ConnectionCode.RESOURCE_LIMIT_EXCEEDED, "a flood of streams"
                self.engine.close(code, reason, self._clock())
            return
        self._streams[number] = stream
        self.churn += 1
        self._inbound += 1
        self.on_stream(stream)

    def _data(self, number: int, data: bytes, *, fin: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if data:
            stream.held += len(data)
            if stream.handler is not None:
                stream.handler.data_received(memoryview(data))
            else:
                stream.release()
        if fin and not stream.remote_closed:
            stream.remote_closed = True
            if stream.handler is not None:
                stream.handler.eof_received()
            if stream.stopped is not None and not stream.local_closed:
                self._peer_reset(number, stream.stopped)

    def _peer_reset(self, number: int, code: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        self._give_up(stream, code)
        handler = stream.handler
        if handler is not None:
            stream.handler = None
            handler.stream_lost(code)

    def _stopped(self, stream: Stream, code: int) -> None:
        if stream.remote_closed and not stream.local_closed:
            self._peer_reset(stream.id, code)
            return
        full = bool(stream.pending)
        stream.stopped = code
        stream.pending.clear()
        if full and not stream.local_closed and stream.handler is not None:
            stream.handler.window_opened()

    def _writable(self, stream: Stream) -> None:
        if not stream.pending:
            return
        with memoryview(stream.pending) as view:
            taken = self.engine.write(stream.id, view)
        del stream.pending[:taken]
        if stream.pending:
            return
        if stream.local_closed:
            self.engine.finish(stream.id)
        elif stream.handler is not None:
            stream.handler.window_opened()

    # --- sending -------------------------------------------------------------------------------

    def send(self, stream: Stream, data: bytes | memoryview) -> None:
        """Take all of `data`, at most `send_window` bytes."""
        if stream.stopped is not None or stream.local_closed:
            return
        if stream.pending:
            stream.pending += data
            return
        taken = self.engine.write(stream.id, data)
        if taken < len(data):
            stream.pending += data[taken:]

    def consumed(self, stream: Stream, count: int) -> None:
        """The application has done away with bytes of a stream."""
        self.engine.consumed(stream.id, count, self._clock())
        self._changed()

    def close_stream(self, stream: Stream) -> None:
        """`Stream.close`."""
        if stream.local_closed:
            return
        stream.local_closed = True
        if not stream.pending and stream.stopped is None:
            self.engine.finish(stream.id)
        self._changed()

    def reset_stream(self, stream: Stream, code: int) -> None:
        """`Stream.reset`."""
        stream.handler = None
        if self._streams.get(stream.id) is stream:
            self._give_up(stream, code)

    def _give_up(self, stream: Stream, code: int) -> None:
        """Both directions are over."""
        code = min(max(code, 0), MAX_CODE)
        stream.local_closed = stream.remote_closed = True
        stream.pending.clear()
        self._forget(stream)
        self.engine.reset(stream.id, code)
        self.engine.stop(stream.id, code)
        self._changed()

    def lost(self) -> None:
        """The connection is gone: tell every stream's handler, once."""
        self.go_away = 0
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.local_closed = stream.remote_closed = True
            stream.pending.clear()
            stream.held = 0
            handler, stream.handler = stream.handler, None
            if handler is not None:
                handler.stream_lost(None)

    def _forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.id, None) is None:
            return
        self.churn += 1
        if stream.inbound:
            self._inbound -= 1
