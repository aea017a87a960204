"""Two `ByteStream`s joined in memory, for the tests of the shells."""

from __future__ import annotations

import asyncio

from pt.aio.stream import read_exactly
from pt.errors import ResetError


class MemoryStream:
    """One end; `chunk` bounds what one read returns, to split data in awkward places."""

    def __init__(self, chunk: int = 1 << 16) -> None:
        self.chunk = chunk
        self.pushed_back = b""
        self.written = b""
        self.closed = False
        self.reset_code: int | None = None
        self._in = bytearray()
        self._ended = False
        self._changed = asyncio.Event()
        self.other: MemoryStream = self

    async def read(self, max_len: int) -> bytes:
        while not self._in and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self.other.reset_code is not None:
            raise ResetError("reset by the peer", self.other.reset_code)
        data = bytes(self._in[: min(max_len, self.chunk)])
        del self._in[: len(data)]
        return data

    async def read_exactly(self, count: int) -> bytes:
        return await read_exactly(self.read, count)

    def unread(self, data: bytes) -> None:
        self.pushed_back += data
        self._in[:0] = data

    async def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data
        self.other._in += data
        self.other._changed.set()
        await asyncio.sleep(0)

    async def close_write(self) -> None:
        self.closed = True
        self.other._ended = True
        self.other._changed.set()

    async def reset(self, code: int = 0) -> None:
        self.reset_code = code
        await self.close_write()


def stream_pair(chunk: int = 1 << 16) -> tuple[MemoryStream, MemoryStream]:
    left, right = MemoryStream(chunk), MemoryStream(chunk)
    left.other, right.other = right, left
    return left, right
