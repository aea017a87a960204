"""Receive windows of a connection's streams, driven by what the application has consumed.

A stream may send up to its limit.  When half of its window is used up and consumed, the limit
moves; a window used up within a few round trips is doubled first, so that it never is what slows a
fast reader down.  A stream that nobody reads keeps its window's worth of bytes, and no more.
"""

from __future__ import annotations

from typing import Final

from pt.quic.limits import Limits

__all__ = ["Window", "Windows"]

GROW_WITHIN_RTTS: Final = 4
_DEFAULT_RTT: Final = 0.1


class Window:
    """One stream's: offsets in its bytes."""

    __slots__ = ("consumed", "discard", "limit", "moved", "received", "size")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.received = 0
        """Bytes that came, in order."""
        self.consumed = 0
        self.limit = size
        """What the peer may send up to."""
        self.moved = now
        self.discard = False
        """The application does not want what still comes."""

    @property
    def held(self) -> int:
        """Bytes delivered and not consumed."""
        return self.received - self.consumed


class Windows:
    """Those of one connection; ids of streams are the keys."""

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        """Bytes delivered and not consumed, all streams."""
        self.freed = 0
        """Bytes of which nothing is held any more: consumed, or never to come after a reset."""
        self.streams: dict[int, Window] = {}
        self._limits = limits
        self._grown = 0
        self._may_grow = limits.connection_window // 2

    def open(self, stream: int, now: float) -> None:
        """A stream begins."""
        self.streams[stream] = Window(self._limits.stream_window, now)

    def received(self, stream: int, count: int) -> bool:
        """`count` bytes came; False: more than the peer was allowed."""
        window = self.streams[stream]
        window.received += count
        if window.discard:
            window.consumed += count
            self.freed += count
        else:
            self.held += count
        return window.received <= window.limit

    def consumed(self, stream: int, count: int, now: float, rtt: float | None) -> int | None:
        """`count` bytes are done with; returns the new limit, if it is time to tell the peer."""
        window = self.streams.get(stream)
        if window is None:
            return None
        count = min(count, window.held)
        window.consumed += count
        self.held -= count
        self.freed += count
        return self._move(window, now, rtt)

    def moved(self, stream: int, now: float, rtt: float | None) -> int | None:
        """As `consumed`, for bytes that were not kept."""
        window = self.streams.get(stream)
        return None if window is None else self._move(window, now, rtt)

    def discard(self, stream: int) -> None:
        """Nothing of the stream is wanted any more; what is held counts as consumed."""
        window = self.streams.get(stream)
        if window is None or window.discard:
            return
        window.discard = True
        self.held -= window.held
        self.freed += window.held
        window.consumed = window.received

    def reset(self, stream: int, final: int) -> None:
        """The peer reset the stream after `final` bytes, of which those not delivered are gone."""
        window = self.streams.get(stream)
        if window is not None and final > window.received:
            self.freed += final - window.received

    def close(self, stream: int) -> None:
        """The stream is over.  What is held of it stays held until it is consumed."""
        window = self.streams.get(stream)
        if window is not None:
            self._grown -= window.size - self._limits.stream_window
            window.size = self._limits.stream_window
            if not window.held:
                del self.streams[stream]

    def drop_if_consumed(self, stream: int) -> None:
        """Forget a stream that is over, once nothing of it is held."""
        window = self.streams.get(stream)
        if window is not None and not window.held:
            del self.streams[stream]

    def _move(self, window: Window, now: float, rtt: float | None) -> int | None:
        limit = window.consumed + window.size
        if limit - window.limit < window.size // 2:
            return None
        if now - window.moved < GROW_WITHIN_RTTS * (rtt or _DEFAULT_RTT):
            self._grow(window)
            limit = window.consumed + window.size
        window.moved = now
        window.limit = limit
        return limit

    def _grow(self, window: Window) -> None:
        size = min(window.size * 2, self._limits.max_stream_window)
        more = size - window.size
        if more > 0 and self._grown + more <= self._may_grow:
            self._grown += more
            window.size = size
