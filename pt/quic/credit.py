"""MAX_STREAM_DATA frames of an engine whose core neither sends nor acknowledges them for us.

A limit is told once, and again while the peer may be waiting for it: when it has used up an older
limit exactly, or says STREAM_DATA_BLOCKED.  That is all the reliability these frames need, since a
later one supersedes them.
"""

from __future__ import annotations

from typing import Final

from pt.quic.packets import put_varint

__all__ = ["Credit"]

MAX_STREAM_DATA: Final = b"\x11"
MAX_BACKOFF: Final = 5.0
"""Seconds between repetitions to a peer that has perhaps nothing more to send."""


class _Told:
    """Limits of one stream that the peer may not know yet; the first is what it surely knows."""

    __slots__ = ("again", "delay", "limits")

    def __init__(self, known: int) -> None:
        self.limits = [known]
        self.again: float | None = None
        self.delay = 0.0


class Credit:
    """All streams' of one connection; `initial` is what transport parameters have told."""

    def __init__(self, initial: int) -> None:
        self._initial = initial
        self._told: dict[int, _Told] = {}
        self._due: dict[int, int] = {}
        self._waiting: set[int] = set()

    def tell(self, stream: int, limit: int, offset: int, now: float, interval: float) -> None:
        """Let the peer, which has sent up to `offset`, send up to `limit`."""
        told = self._told.get(stream)
        if told is None:
            told = self._told[stream] = _Told(self._initial)
        told.limits.append(limit)
        told.again = None
        self._due[stream] = limit
        self.received(stream, offset, now, interval)

    def received(self, stream: int, offset: int, now: float, interval: float) -> None:
        """The peer has sent up to `offset`: it knows of a limit at least so high."""
        told = self._told.get(stream)
        if told is None:
            return
        while len(told.limits) > 1 and offset > told.limits[0]:
            del told.limits[0]
        if len(told.limits) > 1 and offset == told.limits[0]:
            if told.again is None:
                told.delay = interval
                told.again = now + interval
                self._waiting.add(stream)
        else:
            told.again = None
            self._waiting.discard(stream)

    def blocked(self, stream: int, limit: int) -> None:
        """The peer says that it waits at `limit`."""
        told = self._told.get(stream)
        if told is not None and limit < told.limits[-1]:
            self._due[stream] = told.limits[-1]

    def close(self, stream: int) -> None:
        """Nothing more comes on a stream."""
        self._told.pop(stream, None)
        self._due.pop(stream, None)
        self._waiting.discard(stream)

    def next_timeout(self) -> float | None:
        """When something is to be repeated."""
        return min((t for t in map(self._again, self._waiting) if t is not None), default=None)

    def expire(self, now: float) -> None:
        """Repeat what may have been lost."""
        for stream in self._waiting:
            told = self._told[stream]
            if told.again is not None and told.again <= now:
                told.delay = min(2 * told.delay, MAX_BACKOFF)
                told.again = now + told.delay
                self._due[stream] = told.limits[-1]

    @property
    def due(self) -> bool:
        """Whether `frames` has something to tell."""
        return bool(self._due)

    def frames(self, room: int) -> bytes:
        """Frames to send now, at most `room` bytes; what does not fit stays."""
        out = b""
        for stream, limit in list(self._due.items()):
            frame = MAX_STREAM_DATA + put_varint(stream) + put_varint(limit)
            if len(out) + len(frame) > room:
                break
            out += frame
            del self._due[stream]
        return out

    def _again(self, stream: int) -> float | None:
        return self._told[stream].again
