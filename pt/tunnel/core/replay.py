"""What was sent and is not acknowledged: the bytes a lost path must not take with it.

Offsets count bytes from the stream's beginning; the end of the stream is one more.  The buffer
keeps references, never copies: a frame's slot goes back to its pool when the peer has it.

    0 ........ acked ........ sent ........ end
               └── kept ─────────────────────┘
    `sent` runs behind `end` only after a rewind, while old bytes are sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pt.errors import RemoteProtocolError

__all__ = ["Ledger", "Replay"]


class Ledger:
    """What all streams of a session keep together, bytes of memory, against one limit."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether streams that keep something already must wait for acknowledgements."""
        return self.held >= self.limit


class Replay:
    """The send side of one stream.

    `release(slot)` is called for each borrowed slot that is not needed any more.
    """

    __slots__ = ("_chunks", "_ledger", "_release", "acked", "end", "fin", "sent")

    def __init__(self, ledger: Ledger, release: Callable[[memoryview], None]) -> None:
        self.acked = 0
        self.sent = 0
        self.end = 0
        self.fin = False
        self._ledger = ledger
        self._release = release
        # (offset of the first byte, bytes, slot to release or None)
        self._chunks: deque[tuple[int, memoryview | bytes, memoryview | None]] = deque()

    @property
    def keeps(self) -> bool:
        """Whether anything waits for an acknowledgement."""
        return self.acked < self.end

    @property
    def done(self) -> bool:
        """Whether the peer has everything including the end."""
        return self.fin and self.acked == self.end

    def append_sent(self, data: memoryview | bytes, slot: memoryview | None = None) -> None:
        """Note bytes that were just sent for the first time.

        `slot` is the borrowed buffer that `data` lies in, or None when `data` is its own.
        """
        self._chunks.append((self.end, data, slot))
        self.end += len(data)
        self.sent = self.end
        self._ledger.held += len(data) if slot is None else len(slot)

    def append_fin(self) -> None:
        """Note the end of the stream; `sent` stays, the caller sends it when `unsent` is empty."""
        if not self.fin:
            self.fin = True
            self.end += 1

    @property
    def fin_next(self) -> bool:
        """Whether all bytes are sent and only the end is left to send."""
        return self.fin and self.sent == self.end - 1

    def fin_sent(self) -> None:
        """Note that the end was sent."""
        self.sent = self.end

    def ack(self, received: int) -> None:
        """Forget what the peer has.

        Raises:
            RemoteProtocolError: the peer acknowledges what was never sent.

        """
        if received > self.end:
            raise RemoteProtocolError(f"{received} bytes acknowledged, {self.end} exist")
        if received <= self.acked:
            return
        self.acked = received
        self.sent = max(self.sent, received)
        chunks = self._chunks
        while chunks:
            start, data, slot = chunks[0]
            if start + len(data) > received:
                break
            chunks.popleft()
            if slot is None:
                self._ledger.held -= len(data)
            else:
                self._ledger.held -= len(slot)
                self._release(slot)

    def rewind(self, received: int) -> None:
        """The path is new and the peer has `received`: send again from there.

        Raises:
            RemoteProtocolError: those bytes are gone, or never existed.

        """
        if received < self.acked:
            raise RemoteProtocolError(f"the peer lost bytes it had: {received} < {self.acked}")
        self.ack(received)
        self.sent = received

    def next_unsent(self, limit: int) -> memoryview:
        """Up to `limit` bytes to send again; empty when `sent` has caught up."""
        sent = self.sent
        for start, data, _ in self._chunks:
            if sent < start + len(data):
                return memoryview(data)[sent - start : sent - start + limit]
        return memoryview(b"")

    @property
    def unsent(self) -> bool:
        """Whether kept bytes wait to be sent again."""
        return self.sent < (self.end - 1 if self.fin else self.end)

    def resent(self, count: int) -> None:
        """Note that `count` of the bytes of `next_unsent` were sent."""
        self.sent += count

    def drop(self) -> None:
        """The stream is over: give everything back."""
        for _, data, slot in self._chunks:
            if slot is None:
                self._ledger.held -= len(data)
            else:
                self._ledger.held -= len(slot)
                self._release(slot)
        self._chunks.clear()
        self.acked = self.sent = self.end
