"""libp2p circuits: two yamux streams on two connections, joined in the receive path.

What arrives on one is copied once, behind the header room of a shared slot, and sealed from there
for the other connection; it is credited to its sender when it went out.  While the other side
takes nothing (no window, a full socket, no bandwidth), what the sender's window still lets in is
kept: at most that window.  FIN ends one direction, RST both; beyond its limit of bytes a direction
ends with FIN and the rest is dropped, like a circuit of go-libp2p's relay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.node.buffers import POOL
from pt.node.link import Link
from pt.node.pump import SMALL
from pt.yamux.frames import HEADER_LEN, MAX_PAYLOAD
from pt.yamux.stream import Stream

if TYPE_CHECKING:
    from pt.relay.messages import Limit
    from pt.relay.shaper import Share
    from pt.relayd.traffic import Traffic
    from pt.yamux.aio import MuxedStream

__all__ = ["JoinedCircuit"]

BURST: Final = 16
"""Frames sent from a backlog before other circuits have their turn."""


class _Side:
    """One stream, and the direction that begins at it: a `StreamHandler`."""

    __slots__ = (
        "backlog",
        "circuit",
        "done",
        "eof",
        "left",
        "link",
        "moved",
        "other",
        "parked",
        "stream",
        "waiting",
    )

    other: _Side

    def __init__(self, circuit: JoinedCircuit, link: Link, stream: Stream, left: int) -> None:
        self.circuit = circuit
        self.link = link
        self.stream = stream
        self.backlog: deque[memoryview | bytes] | None = None
        self.moved = 0
        self.left = left  # bytes that may still be moved; -1: no limit
        self.eof = False  # nothing more is taken here
        self.done = False  # and the other side was told
        self.parked = False
        self.waiting = False  # for room on the other link

    # --- StreamHandler -------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Bytes of this side: send them on, or keep them."""
        if self.eof:
            self.stream.credit(len(data))  # beyond the limit: dropped
            return
        if self.left >= 0:
            if len(data) >= self.left:
                extra = len(data) - self.left
                if extra:
                    self.stream.credit(extra)
                data = data[: self.left]
                self.left = 0
                self.eof = True
            else:
                self.left -= len(data)
        if self.backlog is None:
            sent = self._send(data)
            data = data[sent:]
            if not len(data):
                self._after()
                return
            self.backlog = deque()
        if len(data):
            self.backlog.append(bytes(data))
        self._after()

    def eof_received(self) -> None:
        """The peer ended its direction."""
        self.eof = True
        self._after()

    def window_opened(self) -> None:
        """The peer takes bytes again: the other's may go on."""
        self.other.drain()

    def stream_acked(self) -> None:
        """Nothing depends on it."""

    def stream_lost(self, code: int | None) -> None:
        """Reset, or the connection is gone."""
        self.circuit.close("reset by one end" if code is not None else "an end is gone")

    def link_ready(self) -> None:
        """The other link takes frames again."""
        self.waiting = False
        if not self.circuit.closed:
            self.drain()

    # --- moving --------------------------------------------------------------------------------

    def _send(self, data: memoryview) -> int:
        """Send what the other side takes now, and credit it; how much that was."""
        other, circuit = self.other, self.circuit
        link, stream = other.link, other.stream
        traffic = circuit.traffic
        shaped = not traffic.shaper.unlimited
        sent = 0
        length = len(data)
        while sent < length:
            window = stream.send_window
            if not window or stream.local_closed:
                break
            if not link.room:
                if not self.waiting:
                    self.waiting = True
                    link.wait_room(self)
                break
            count = min(length - sent, window, MAX_PAYLOAD)
            if shaped:
                count = traffic.take(circuit.share, count)
                if not count:
                    if not self.parked:
                        self.parked = True
                        traffic.park(circuit.share, circuit.unparked)
                    break
            piece = data[sent : sent + count]
            if count <= SMALL:
                link.send_small(stream, piece)
            else:
                slot = POOL.slots.take()
                slot[HEADER_LEN : HEADER_LEN + count] = piece
                link.send_slot(stream, slot, count)
                POOL.slots.give(slot)
            sent += count
        if sent:
            self.moved += sent
            self.stream.credit(sent)
            circuit.dirty(other.link)
        return sent

    def drain(self) -> None:
        """Send what was kept."""
        backlog = self.backlog
        if backlog is None or self.circuit.closed:
            return
        for _ in range(BURST):
            if not backlog:
                break
            piece = backlog[0]
            view = memoryview(piece)
            sent = self._send(view)
            if sent == len(view):
                backlog.popleft()
                continue
            backlog[0] = view[sent:]
            break
        else:
            if backlog:
                self.circuit.traffic.soon(self.drain)
        if not backlog:
            self.backlog = None
        self._after()
        if self.stream.session.outgoing:
            self.link.flush()  # credit that was given
        self.other.link.flush()

    def _after(self) -> None:
        """Pass the end on once everything before it is out."""
        if self.eof and not self.done and self.backlog is None and not self.circuit.closed:
            self.done = True
            self.other.stream.close()
            self.circuit.dirty(self.other.link)
            if self.other.done:
                self.circuit.finish("")


class JoinedCircuit:
    """Takes two negotiated streams over, with what they have buffered.

    `on_done(circuit, reason)` is called once, with an empty reason after an orderly end.
    """

    __slots__ = ("_dirty", "_on_done", "_sides", "closed", "limit", "share", "started", "traffic")

    def __init__(
        self,
        left: tuple[Link, MuxedStream],
        right: tuple[Link, MuxedStream],
        traffic: Traffic,
        *,
        share: Share,
        limit: Limit | None,
        on_done: Callable[[JoinedCircuit, str], None],
    ) -> None:
        self.traffic = traffic
        self.share = share
        self.limit = limit
        self.closed = False
        self.started = traffic.loop.time()
        self._on_done = on_done
        self._dirty: set[Link] = set()
        data = limit.data if limit is not None and limit.data else -1
        one = _Side(self, left[0], left[1].stream, data)
        two = _Side(self, right[0], right[1].stream, data)
        one.other, two.other = two, one
        self._sides = (one, two)
        if limit is not None and limit.duration:
            traffic.end_in(self, limit.duration)
        ended = any(muxed.ended for _, muxed in (left, right))
        early = [muxed.take_buffered() for _, muxed in (left, right)]
        for side in self._sides:
            side.stream.handler = side
        if ended:
            traffic.loop.call_soon(self.close, "an end is gone")
            return
        for side, data_of, (_, muxed) in zip(self._sides, early, (left, right), strict=True):
            if data_of:
                side.stream.consumed -= len(data_of)
                side.data_received(memoryview(data_of))
            if muxed.at_eof and not self.closed:
                side.eof_received()

    @property
    def bytes(self) -> tuple[int, int]:
        """From the left stream, and from the right one."""
        return self._sides[0].moved, self._sides[1].moved

    def unparked(self) -> None:
        """There is bandwidth again."""
        for side in self._sides:
            side.parked = False
        for side in self._sides:
            side.drain()

    def dirty(self, link: Link) -> None:
        """Something waits to be sent on `link`: do so after what is being received now."""
        if not self._dirty:
            self.traffic.soon(self._flush)
        self._dirty.add(link)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for link in dirty:
            link.flush()

    def close(self, reason: str) -> None:
        """Reset both streams.  Idempotent."""
        if self.closed:
            return
        for side in self._sides:
            if not side.stream.closed:
                side.stream.reset()
                self.dirty(side.link)
        self.finish(reason)

    def finish(self, reason: str) -> None:
        """Let go of the streams, which have ended, and tell."""
        if self.closed:
            return
        self.closed = True
        self.traffic.forget(self)
        self.traffic.shaper.remove(self.share)
        for side in self._sides:
            side.stream.handler = None
            side.backlog = None
        self._on_done(self, reason)
