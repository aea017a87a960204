"""A multiplexed stream for coroutines: `MuxedStream`, on any carrier.

Bulk data of tunnels does not come this way; it has handlers of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Final

from pt.aio.stream import read_exactly
from pt.errors import ClosedError, ResetError
from pt.muxer import Carrier, Stream

__all__ = ["MuxedStream"]

CHUNK: Final = 16 * 1024
"""Bytes a frame for control-plane writes; small, so that bulk streams keep their turn."""


@dataclass(eq=False, slots=True)
class _Write:
    """What one coroutine writes; `done` is cancelled with it."""

    rest: memoryview
    done: asyncio.Future[None]


class MuxedStream:
    """`pt.aio.stream.ByteStream` over one stream of a muxer.

    The receive buffer is bounded by the stream's window: bytes are credited when they are read.
    """

    def __init__(self, stream: Stream, carrier: Carrier) -> None:
        self.stream = stream
        self.protocol = ""
        """What was agreed on for it, where the opener proposed several."""
        self._carrier = carrier
        self._buffer = bytearray()  # not pieces: a peer may send its window byte by byte
        self._eof = False
        self._lost: int | None = None
        self._ended = False
        self._readable: asyncio.Future[None] | None = None
        self._writes: deque[_Write] = deque()
        self._waiting_link = False
        stream.handler = self

    # --- StreamHandler -------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Buffer what arrived."""
        self._buffer += data
        self._wake_reader()

    def eof_received(self) -> None:
        """Note the end."""
        self._eof = True
        self._wake_reader()

    def window_opened(self) -> None:
        """Let writers go on."""
        self._go_on()

    def stream_acked(self) -> None:
        """Nothing to do: writes need no acknowledgement."""

    def stream_lost(self, code: int | None) -> None:
        """Fail reader and writers."""
        self._ended = True
        self._lost = code
        self._wake_reader()
        self._go_on()

    def link_ready(self) -> None:
        """Send now: by the time that a coroutine runs, others have taken the room again."""
        self._waiting_link = False
        self._go_on()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    @property
    def at_eof(self) -> bool:
        """Whether the peer has ended its direction."""
        return self._eof

    @property
    def ended(self) -> bool:
        """Whether the stream was reset, or its connection lost."""
        return self._ended

    # --- ByteStream ----------------------------------------------------------------------------

    def unread(self, data: bytes) -> None:
        """Push bytes back in front."""
        if data:
            self._buffer[:0] = data
            self.stream.consumed -= len(data)

    def take_buffered(self) -> bytes:
        """All bytes received and not read yet, credited; for handing the stream to a handler."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._credit(len(data))
        return data

    def finish(self) -> None:
        """Nobody uses this stream any more: end our direction, and keep nothing that still comes.

        A stream that has got another handler is that one's business.
        """
        self._buffer.clear()
        if self.stream.handler is self:
            self.stream.handler = None
            self.stream.close()
            self._carrier.flush()
            self._go_on()

    async def read(self, max_len: int) -> bytes:
        """Return 1 to `max_len` bytes, or b"" at the end.

        An end counts although the stream was lost after it: go-libp2p closes a QUIC stream by FIN
        together with STOP_SENDING, which is a reset of the other direction alone.
        """
        while not self._buffer:
            if self._eof:
                return b""
            if self._ended:
                raise self._error()
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        data = bytes(self._buffer[:max_len])
        del self._buffer[: len(data)]
        self._credit(len(data))
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        return await read_exactly(self.read, count)

    async def write(self, data: bytes) -> None:
        """Send all of `data`, after what others are writing."""
        if not data:
            return
        write = _Write(memoryview(data), asyncio.get_running_loop().create_future())
        self._writes.append(write)
        if len(self._writes) == 1:
            self._go_on()
        try:
            await write.done
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._writes.remove(write)
            raise
        if len(write.rest):
            if self._ended:
                raise self._error()
            raise ClosedError("the stream is closed for writing")

    def _go_on(self) -> None:
        """Send what waits, as far as the stream's window and the network take it."""
        while self._writes:
            write = self._writes[0]
            if write.done.done() or self._ended or self.stream.local_closed:
                self._written()
                continue
            window = self.stream.send_window
            if not window or not self._carrier.room:
                self._carrier.flush()  # which may open the window at once
                if window and not self._waiting_link:
                    self._waiting_link = True
                    self._carrier.wait_room(self)
                return
            part = write.rest[: min(window, CHUNK)]
            write.rest = write.rest[len(part) :]
            if not len(write.rest):
                self._written()
            self._carrier.send_small(self.stream, part)
            if not len(write.rest) or not self._carrier.room:
                self._carrier.flush()

    def _written(self) -> None:
        """Let the first writer see how far it came."""
        done = self._writes.popleft().done
        if not done.done():  # else it was cancelled
            done.set_result(None)

    async def close_write(self) -> None:
        """Send FIN."""
        if not self._ended:
            self.stream.close()
            self._carrier.flush()
            self._go_on()

    async def reset(self, code: int = 0) -> None:
        """Send RST; further reads and writes fail."""
        if not self._ended:
            self._ended = True
            self._lost = code
            self.stream.reset(code)
            self._carrier.flush()
            self._wake_reader()
            self._go_on()

    def _credit(self, count: int) -> None:
        if count and not self._ended:
            self.stream.credit(count)
            self._carrier.nudge()

    def _error(self) -> ResetError:
        if self._lost is None:
            return ResetError("the connection to the peer ended")
        return ResetError("the peer reset the stream", self._lost)
