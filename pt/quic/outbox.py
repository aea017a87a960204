"""What streams have to send, for a core that must not be given too much at once.

qh3's core cuts a frame from every stream with data, up to sixteen, before it knows whether they may
be sent; and what is cut stands before every acknowledgement.  Two sides that both fill their
congestion windows then wait for each other.  So streams take turns here, and the core gets one
stream's bytes at a time, or a few short messages, within what the peer's windows take.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Outbox"]

MERGE: Final = 16 * 1024
"""Pieces up to which small writes are joined."""


class _Queue:
    __slots__ = ("fin", "limit", "offset", "pieces", "ready", "size", "start")

    def __init__(self, limit: int) -> None:
        self.pieces: deque[bytearray | bytes] = deque()
        self.start = 0
        """Bytes of the first piece that are gone."""
        self.size = 0
        self.fin = False
        self.offset = 0
        """How far the stream has been handed out."""
        self.limit = limit
        """How far the peer's window goes."""
        self.ready = False


class Outbox:
    """All streams of one connection."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._turns: deque[int] = deque()
        self.end = 0
        """The offset in its stream at which what `take` yielded ends."""

    def open(self, stream: int, limit: int) -> None:
        """A stream begins; the peer takes bytes up to the offset `limit`."""
        self._queues[stream] = _Queue(limit)

    @property
    def waiting(self) -> bool:
        """Whether `take` would yield something."""
        return bool(self._turns)

    def size(self, stream: int) -> int:
        """Bytes that wait here."""
        queue = self._queues.get(stream)
        return 0 if queue is None else queue.size

    def room(self, stream: int) -> int:
        """Bytes that the peer's window takes beyond what waits here."""
        queue = self._queues.get(stream)
        return 0 if queue is None else queue.limit - queue.offset - queue.size

    def put(self, stream: int, data: bytes | memoryview, *, fin: bool) -> None:
        """Append a copy of `data`; nothing follows `fin`."""
        queue = self._queues.get(stream)
        if queue is None:
            return
        if len(data):
            # Not to one that is handed out in part: whoever has it would see it move.
            last = queue.pieces[-1] if len(queue.pieces) > (queue.start > 0) else None
            if isinstance(last, bytearray) and len(last) + len(data) <= MERGE:
                last += data
            elif len(data) < MERGE // 2:
                queue.pieces.append(bytearray(data))
            else:
                queue.pieces.append(bytes(data))
            queue.size += len(data)
        queue.fin |= fin
        self._consider(stream, queue)

    def allow(self, stream: int, limit: int) -> None:
        """The peer's window has moved."""
        queue = self._queues.get(stream)
        if queue is not None and limit > queue.limit:
            queue.limit = limit
            self._consider(stream, queue)

    def take(self, most: int) -> tuple[int, list[memoryview], bool] | None:
        """The next stream's turn: (stream, up to `most` bytes, whether it ends); None: nothing."""
        if not self._turns:
            return None
        stream = self._turns.popleft()
        queue = self._queues[stream]
        queue.ready = False
        pieces: list[memoryview] = []
        left = min(most, queue.size, queue.limit - queue.offset)
        queue.size -= left
        queue.offset += left
        while left:
            piece = queue.pieces[0]
            count = min(left, len(piece) - queue.start)
            pieces.append(memoryview(piece)[queue.start : queue.start + count])
            left -= count
            queue.start += count
            if queue.start == len(piece):
                queue.pieces.popleft()
                queue.start = 0
        self.end = queue.offset
        fin = queue.fin and not queue.size
        if fin:
            del self._queues[stream]
        else:
            self._consider(stream, queue)
        return stream, pieces, fin

    def close(self, stream: int) -> None:
        """Nothing more is sent on a stream."""
        queue = self._queues.pop(stream, None)
        if queue is not None and queue.ready:
            self._turns.remove(stream)

    def _consider(self, stream: int, queue: _Queue) -> None:
        sendable = queue.limit > queue.offset if queue.size else queue.fin
        if sendable and not queue.ready:
            queue.ready = True
            self._turns.append(stream)
