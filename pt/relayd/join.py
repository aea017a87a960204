"""libp2p circuits: two yamux streams on two connections, joined in the receive path.

What arrives on one is copied once, behind the header room of a shared slot, and sealed from there
for the other connection; it is credited to its sender when it went out.  While the other side
takes nothing (no window, a full socket, no bandwidth), what the sender's window still lets in is
kept: at most that window.  FIN ends one direction, RST both.  Beyond its limit of bytes a direction
ends with FIN, like a circuit of go-libp2p's relay; the rest is dropped and not credited, so that
its sender comes to a stand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.muxer import FRAME_HEADROOM, Carrier, Stream
from pt.node.buffers import POOL
from pt.node.pump import SMALL
from pt.relayd.traffic import DATA_UP
from pt.yamux.frames import MAX_PAYLOAD

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.relay.messages import Limit
    from pt.relay.shaper import Share
    from pt.relayd.traffic import Traffic

__all__ = ["JoinedCircuit"]

GONE: Final = "an end is gone"
LINGER: Final = 5.0
"""Seconds in which a peer may notice that its circuit ended at the limit."""
BURST: Final = 16
"""Pieces of a backlog that are sent before other circuits have their turn."""
PIECE: Final = MAX_PAYLOAD
"""Bytes up to which what is kept is put together: a sender may send byte by byte."""


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

    def __init__(self, circuit: JoinedCircuit, link: Carrier, stream: Stream, left: int) -> None:
        self.circuit = circuit
        self.link = link
        self.stream = stream
        self.backlog: deque[memoryview | bytearray] | None = None
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
            return  # beyond the limit
        if self.left >= 0:
            data = data[: self.left]
            self.left -= len(data)
            self.eof = not self.left
        if self.backlog is None:
            sent = self._send(data)
            if self.circuit.closed:
                return
            if sent < len(data):
                self.backlog = deque((bytearray(data[sent:]),))
        else:
            self._keep(data)
        if self.eof:
            self.after()

    def _keep(self, data: memoryview) -> None:
        """Put bytes behind those that wait already."""
        assert self.backlog is not None
        last = self.backlog[-1] if self.backlog else None
        if isinstance(last, bytearray) and len(last) + len(data) <= PIECE:
            last += data
        else:
            self.backlog.append(bytearray(data))

    def eof_received(self) -> None:
        """The peer ended its direction."""
        self.eof = True
        self.after()

    def window_opened(self) -> None:
        """The peer takes bytes again: the other's may go on."""
        self.other.drain()

    def stream_acked(self) -> None:
        """Nothing depends on it."""

    def stream_lost(self, code: int | None) -> None:
        """Reset, or the connection is gone."""
        self.circuit.close("reset by one end" if code is not None else GONE)

    def link_ready(self) -> None:
        """The other link takes frames again."""
        self.waiting = False
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
                link.flush()  # what was sent since the last turn
                if link.closed:
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
                slot[FRAME_HEADROOM : FRAME_HEADROOM + count] = piece
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
        if not backlog:
            return
        for _ in range(BURST):
            piece = backlog[0]
            view = memoryview(piece)
            sent = self._send(view)
            if self.circuit.closed:
                return
            if sent < len(view):
                if sent:
                    backlog[0] = view[sent:]
                break
            backlog.popleft()
            if not backlog:
                self.backlog = None
                self.after()
                break
        else:
            self.circuit.traffic.soon(self.drain)
        self.circuit.dirty(self.link)  # credit that was given

    def after(self) -> None:
        """Pass the end on once everything before it is out."""
        if self.eof and not self.done and self.backlog is None and not self.circuit.closed:
            self.done = True
            self.other.stream.close()
            self.circuit.dirty(self.other.link)
            if self.other.done:
                self.circuit.ended()


class _Cut:
    """A stream that was told the end of its circuit, and whose peer still sends beyond the limit.

    It has a moment to notice the end: a reset at once could take from it what it has not read yet.
    """

    def __init__(self, link: Carrier, stream: Stream, traffic: Traffic) -> None:
        self._link = link
        self._stream = stream
        self._traffic = traffic
        stream.handler = self
        traffic.end_in(self, LINGER)

    def close(self, reason: str) -> None:
        """Its time is over."""
        del reason
        self._traffic.forget(self)
        self._stream.reset()
        self._link.flush()

    def data_received(self, data: memoryview) -> None:
        """Nobody wants it."""

    def eof_received(self) -> None:
        """It noticed."""
        self._traffic.forget(self)

    def window_opened(self) -> None:
        """Nothing is sent any more."""

    def stream_acked(self) -> None:
        """Nothing depends on it."""

    def stream_lost(self, code: int | None) -> None:
        """It noticed."""
        self._traffic.forget(self)


class JoinedCircuit:
    """Takes two negotiated streams over, with what they have buffered.

    Bytes move from the next turn of the loop on.  `on_done(circuit, reason)` is called once, then
    or later, with an empty reason after an orderly end.
    """

    __slots__ = ("_dirty", "_on_done", "_sides", "closed", "limit", "share", "started", "traffic")

    def __init__(
        self,
        left: tuple[Carrier, MuxedStream],
        right: tuple[Carrier, MuxedStream],
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
        self._dirty: set[Carrier] = set()
        data = limit.data if limit is not None and limit.data else -1
        one = _Side(self, left[0], left[1].stream, data)
        two = _Side(self, right[0], right[1].stream, data)
        one.other, two.other = two, one
        self._sides = (one, two)
        if limit is not None and limit.duration:
            traffic.end_in(self, limit.duration)
        for side, (_, muxed) in zip(self._sides, (left, right), strict=True):
            side.backlog = deque()  # what comes now is behind what came before
            early = muxed.take_buffered()
            side.stream.consumed -= len(early)  # it is credited when it goes out
            side.stream.handler = side
            if early:
                side.data_received(memoryview(early))
            if muxed.at_eof:
                side.eof = True
        if any(muxed.ended for _, muxed in (left, right)):
            traffic.soon(lambda: self.close(GONE))
        else:
            traffic.soon(self._begin)

    def _begin(self) -> None:
        for side in self._sides:
            if side.backlog:
                side.drain()
            elif not self.closed:
                side.backlog = None
                side.after()

    @property
    def bytes(self) -> tuple[int, int]:
        """From the left stream, and from the right one."""
        return self._sides[0].moved, self._sides[1].moved

    def unparked(self) -> None:
        """There is bandwidth again; the direction that got less so far goes first."""
        for side in self._sides:
            side.parked = False
        for side in sorted(self._sides, key=lambda one: one.moved):
            side.drain()

    def dirty(self, link: Carrier) -> None:
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
        self._finish(reason, in_order=False)

    def ended(self) -> None:
        """Both directions have ended in order, or at their limit."""
        full = any(not side.left for side in self._sides)
        self._finish(DATA_UP if full else "", in_order=True)

    def _finish(self, reason: str, *, in_order: bool) -> None:
        """Let go of the streams, resetting what of them has not ended, and tell."""
        if self.closed:
            return
        self.closed = True
        self.traffic.forget(self)
        self.traffic.shaper.remove(self.share)
        for side in self._sides:
            side.backlog = None
            side.stream.handler = None
            if in_order and not side.stream.remote_closed:
                _Cut(side.link, side.stream, self.traffic)
            else:
                side.stream.reset()
            self.dirty(side.link)
        self._on_done(self, reason)
