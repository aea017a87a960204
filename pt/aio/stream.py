"""The byte stream that every control-plane shell reads and writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from pt.errors import ClosedError

__all__ = ["ByteStream", "ResetOnError", "read_exactly"]


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


class ResetOnError:
    """`async with`: a stream whose block is left by an exception, a cancellation too, is reset."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            await self._stream.reset()


async def read_exactly(read: Callable[[int], Awaitable[bytes]], count: int) -> bytes:
    """Exactly `count` bytes of a stream whose `ByteStream.read` this is.

    Raises:
        ClosedError: the stream ends before.
        Whatever `read` raises.

    """
    parts = []
    while count:
        data = await read(count)
        if not data:
            raise ClosedError("the peer closed in the middle of a message")
        parts.append(data)
        count -= len(data)
    return b"".join(parts)
