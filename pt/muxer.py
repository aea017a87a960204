"""The contract of a stream multiplexer, whichever protocol does it: yamux, or QUIC by itself.

A carrier moves the bytes of one connection, its session has the streams, a stream has one handler.
Everything happens in callbacks on one loop; calls may nest (a handler may send, close or reset).
The hot calls exchange buffers: `data_received` lends a view that is valid only during the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

__all__ = ["FRAME_HEADROOM", "Carrier", "RoomWaiter", "Session", "Stream", "StreamHandler"]

FRAME_HEADROOM = 12
"""Bytes that `Carrier.send_slot` wants free before a payload: room for a muxer's header."""


class StreamHandler(Protocol):
    """Who a stream's events are told to.  No method may raise because of what a peer sent."""

    def data_received(self, data: memoryview) -> None:
        """Bytes arrived; the view is valid only during this call.  Give credit when consumed."""

    def eof_received(self) -> None:
        """The peer will send no more."""

    def window_opened(self) -> None:
        """`send_window` was 0 and is not any more."""

    def stream_acked(self) -> None:
        """The peer accepted the stream that we opened."""

    def stream_lost(self, code: int | None) -> None:
        """The stream is over: reset by the peer with `code`, or None when the connection ended."""


class Stream(Protocol):
    """One stream; a handler is set by whoever uses it."""

    handler: StreamHandler | None
    consumed: int
    """Bytes credited and not told to the peer yet.  Taking some off undoes a credit."""
    local_closed: bool
    """We sent FIN or RST."""
    remote_closed: bool
    """We received FIN or RST."""

    @property
    def id(self) -> int:
        """The muxer's number for it."""
        ...

    @property
    def inbound(self) -> bool:
        """Whether the peer opened it."""
        ...

    @property
    def send_window(self) -> int:
        """Bytes that may be sent now; 0: `window_opened` will be called."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the stream is over in both directions."""
        ...

    def credit(self, count: int) -> None:
        """Say that `count` received bytes were consumed."""

    def close(self) -> None:
        """Send FIN: no more data from us.  Idempotent."""

    def reset(self, code: int = 0) -> None:
        """Kill both directions at once.  Idempotent; the handler is not called back."""


class StreamLimits(Protocol):
    """Bounds of a session that may be raised while it runs, once the peer is trusted."""

    streams: int
    """Inbound streams at a time; more are reset."""


class Session(Protocol):
    """All streams of one connection."""

    go_away: int | None
    """Set once the peer takes no more streams."""
    churn: int
    """Counts streams that came and went: whoever watches it can tell set-up from a dialogue."""
    on_acked: Callable[[], None] | None
    """Called when `can_open` may have become true."""

    @property
    def rtt(self) -> float | None:
        """Round-trip time in seconds, once measured."""
        ...

    @property
    def streams(self) -> Mapping[int, Stream]:
        """Those that are not over."""
        ...

    @property
    def limits(self) -> StreamLimits:
        """What the peer may do."""
        ...

    @property
    def can_open(self) -> bool:
        """Whether another stream may be opened now."""
        ...

    def open(self) -> Stream:
        """Open a stream; the peer learns of it with its first bytes.

        Raises:
            LimitError: not now; `on_acked` tells when.
            ClosedError: the peer takes no more streams.

        """
        ...

    def ping(self) -> None:
        """Ask for a sign of life; the answer sets `rtt`."""


class RoomWaiter(Protocol):
    """Who wants to be called when the carrier can take frames again."""

    def link_ready(self) -> None:
        """There is room; called once for each `wait_room`."""
        ...


class Carrier(Protocol):
    """What carries a session's bytes: the connection's data path."""

    frame: int
    """The longest payload that is sent at once."""
    closed: bool
    """The connection has ended."""

    @property
    def session(self) -> Session:
        """Its streams."""
        ...

    @property
    def room(self) -> bool:
        """Whether a full frame can be taken now."""
        ...

    def send_slot(self, stream: Stream, slot: memoryview, length: int) -> None:
        """Send `length` bytes that lie at `slot[FRAME_HEADROOM:]`; the space before is overwritten.

        The caller checked `room` and the stream's window.  The slot may be reused at once.
        """

    def send_small(self, stream: Stream, data: bytes | memoryview) -> None:
        """Queue a few bytes for the next `flush`; same conditions."""

    def wait_room(self, waiter: RoomWaiter) -> None:
        """Call `waiter.link_ready()` once when there is room."""

    def flush(self) -> None:
        """Hand what is queued to the network."""

    def nudge(self) -> None:
        """`flush`, if something is queued."""
