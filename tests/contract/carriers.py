"""Connections of each kind that carry streams, and ends of streams that tests drive."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

from pt.identity.keys import PrivateKey
from pt.muxer import FRAME_HEADROOM, Stream
from pt.node.connection import Connection
from pt.node.node import Node
from pt.quic.select import factories
from pt.wire.multiaddr import Multiaddr
from tests.unit.node.pair import joined

__all__ = ["CARRIERS", "ENGINES", "End", "Joined", "accepting", "over_quic", "quic_node"]

ANY_PORT = Multiaddr.quic("127.0.0.1", 0)
ENGINES = [factory.name for factory in factories()]

Joined = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Connection, Connection]]]


def quic_node(seed: int, engine: str = "", **options: Any) -> Node:
    """A node that will listen on loopback, with UDP alone."""
    options.setdefault("listen", (ANY_PORT,))
    node = Node(identity=PrivateKey.generate(bytes([seed]) * 32), congestion="", **options)
    if engine:
        node.quic._engine = engine
    return node


@contextlib.asynccontextmanager
async def over_quic(engine: str) -> AsyncIterator[tuple[Connection, Connection]]:
    """Two nodes on loopback, and one connection between them: both ends."""
    left, right = quic_node(1, engine), quic_node(2, engine)
    await left.start()
    await right.start()
    met: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    right.on_connection.append(met.set_result)
    try:
        ours = await left.connect(right.addresses, expected=right.peer_id)
        theirs = await met
        ours.curious = theirs.curious = False
        yield ours, theirs
    finally:
        await left.close()
        await right.close()


CARRIERS: dict[str, Joined] = {
    "yamux": joined,
    **{engine: functools.partial(over_quic, engine) for engine in ENGINES},
}


def accepting(connection: Connection, told: Callable[[Stream], None]) -> None:
    """Let `told` have inbound streams, before they say what they want."""
    session: Any = connection.link.session
    setattr(session, "on_stream" if hasattr(session, "on_stream") else "_on_stream", told)


class End:
    """One side of a stream: sends what it is given as fast as it may, writes down what comes.

    With `reading` it credits at once, else `read` does.
    """

    def __init__(
        self, connection: Connection, stream: Stream | None = None, *, reading: bool = True
    ) -> None:
        self.connection = connection
        self.link = connection.link
        self.stream = connection.new_stream() if stream is None else stream
        self.reading = reading
        self.received = bytearray()
        self.unread = 0
        self.events: list[object] = []
        self.accepted = 0
        """Bytes that the carrier took."""
        self.changed = asyncio.Event()
        self._out = memoryview(b"")
        self._ending = False
        self._waiting = False
        self._slot = memoryview(bytearray(FRAME_HEADROOM + self.link.frame))
        self.stream.handler = self

    # --- StreamHandler -------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        assert "eof" not in self.events
        self.received += data
        self.unread += len(data)
        if self.reading:
            self.read()
        self.changed.set()

    def eof_received(self) -> None:
        self.tell("eof")

    def window_opened(self) -> None:
        assert self.stream.send_window
        self.tell("window")
        self.pump()

    def stream_acked(self) -> None:
        pass

    def stream_lost(self, code: int | None) -> None:
        self._out = self._out[:0]
        self.tell(("lost", code))

    def link_ready(self) -> None:
        self._waiting = False
        self.pump()

    def tell(self, event: object) -> None:
        self.events.append(event)
        self.changed.set()

    # --- what tests do -------------------------------------------------------------------------

    @property
    def lost(self) -> list[int | None]:
        """Codes that the end came with."""
        return [event[1] for event in self.events if isinstance(event, tuple)]

    def read(self, count: int | None = None) -> None:
        """Credit bytes that came."""
        count = self.unread if count is None else min(count, self.unread)
        self.unread -= count
        if count:
            self.stream.credit(count)

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send as much as the carrier takes, the rest when it takes more; then FIN, if `end`."""
        assert not self._out
        self._out = memoryview(data)
        self._ending = end
        self.pump()

    def pump(self) -> None:
        stream, link, out, slot = self.stream, self.link, self._out, self._slot
        while out and (window := stream.send_window):
            if not link.room:
                if not self._waiting:
                    self._waiting = True
                    link.wait_room(self)
                break
            count = min(window, link.frame, len(out))
            if count <= 4096:
                link.send_small(stream, out[:count])
            else:
                slot[FRAME_HEADROOM : FRAME_HEADROOM + count] = out[:count]
                link.send_slot(stream, slot, count)
                slot[FRAME_HEADROOM : FRAME_HEADROOM + count] = bytes(count)  # it may be reused
            out = out[count:]
            self.accepted += count
        self._out = out
        if self._ending and not out:
            stream.close()
        link.flush()

    @property
    def sent(self) -> bool:
        """Whether the carrier has taken all there was."""
        return not self._out

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with an event of this end."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def hears(self, count: int) -> bytes:
        """The first `count` bytes, once they are there."""
        await self.until(lambda: len(self.received) >= count)
        return bytes(self.received[:count])

    async def hears_all(self) -> bytes:
        """Everything, once the other side has ended."""
        await self.until(lambda: "eof" in self.events)
        return bytes(self.received)
