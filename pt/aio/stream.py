"""The byte stream that every control-plane shell reads and writes."""

from __future__ import annotations

from typing import Protocol

__all__ = ["ByteStream"]


class ByteStream(Protocol):
    """An ordered, reliable, bidirectional stream of bytes with half-close.

    One reader and one writer at a time.  Reads raise `pt.errors.ResetError` when the peer reset
    the stream or the connection ended; writes do so as soon as that is known.
    """

    async def read(self, max_len: int) -> bytes:
        """Return 1 to `max_len` bytes, or b"" at the peer's end of stream."""
        ...

    async def read_exactly(self, count: int) -> bytes:
        """Return exactly `count` bytes; raises `ClosedError` when the stream ends before."""
        ...

    def unread(self, data: bytes) -> None:
        """Push bytes back: they are the next ones read."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer or the network is slow."""
        ...

    async def close_write(self) -> None:
        """End our direction."""
        ...

    async def reset(self, code: int = 0) -> None:
        """Abort both directions; the peer sees a reset with `code` where the transport can."""
        ...
