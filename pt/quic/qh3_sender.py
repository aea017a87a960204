"""The sending side of a connection over qh3's core: who may give it how much, and when."""

from __future__ import annotations

from typing import Final

from pt.quic.fins import Fins
from pt.quic.outbox import Outbox
from pt.quic.qh3_connection import Connection
from pt.quic.qh3_sizes import Sizes
from pt.quic.trains import MAX_SEGMENTS, MAX_TRAIN

__all__ = ["QUANTUM", "SHORT", "Sender"]

QUANTUM: Final = 512 * 1024
"""Bytes of one stream that the core gets at a time; less while its congestion window is small."""

OVERHEAD: Final = 64
"""Bytes of a datagram that the core leaves to headers and the tag when it cuts a stream."""

SHORT: Final = 1000
"""Bytes that fit into any packet, with the frames around them."""


class Sender:
    """Feeds the core from `outbox`, one stream or a few short messages at a time."""

    def __init__(self, connection: Connection, sizes: Sizes) -> None:
        self.outbox = Outbox()
        self.fins = Fins()
        self._conn = connection
        self._sizes = sizes
        self.moved: set[int] = set()
        """Streams that were sent from; the owner takes them out."""
        self._feeding: set[int] = set()  # streams whose bytes the core has

    def unsent(self, stream: int) -> int:
        """Bytes of a stream that have not been sent for the first time."""
        waiting = self.outbox.size(stream)
        if stream in self._feeding:
            waiting += self._conn.core.get_send_buffer_size(stream)
        return waiting

    def close(self, stream: int) -> None:
        """A stream was reset."""
        self.outbox.close(stream)
        self.fins.close(stream)
        self._feeding.discard(stream)

    def poll(self, now: float, most: int, interval: float) -> list[bytes]:
        """Datagrams to send, at most `most`; FINs are repeated after `interval`.

        Raises:
            FaultError: the core cannot build what it has to.

        """
        datagrams: list[bytes] = []
        self.moved |= self._feeding
        while len(datagrams) < most:
            fed = self._feed()
            datagrams += self._conn.poll(now, most - len(datagrams))
            more = fed and self.outbox.waiting
            if more or len(datagrams) >= most or self._sizes.settle():
                continue
            if not self._finish(now, interval):
                break
        return datagrams

    def _feed(self) -> bool:
        """Give the core the next bytes to send; False: it has enough, or there are none."""
        core = self._conn.core
        if self._sizes.gated:
            return False
        for stream in list(self._feeding):
            if core.get_send_buffer_size(stream):
                return False
            self._feeding.discard(stream)
        room = SHORT
        if not self._sizes.careful:
            room = max(SHORT, min(core.congestion_window // 8, QUANTUM))
            full = (self._sizes.size - OVERHEAD) * self._segments()
            if room >= full:
                room -= room % full
        fed = False
        while room > 0 and (turn := self.outbox.take(room)) is not None:
            stream, pieces, fin = turn
            self.moved.add(stream)
            # After one that is not short nobody else: all that is given now must fit together.
            room = min(room, SHORT) - sum(map(len, pieces))
            if fin and not pieces and self.outbox.end:
                self.fins.add(stream, self.outbox.end)
            else:
                self._give(stream, pieces, fin=fin)
            fed = True
        return fed

    def _finish(self, now: float, interval: float) -> bool:
        """Send FINs that stand alone; True: the core has got some."""
        core = self._conn.core
        gave = False
        for stream in self.fins.held():
            if core.get_send_buffer_size(stream):
                continue
            if core.bytes_in_flight == 0 and self._conn.is_dry(self._sizes.size):
                self.fins.close(stream)
            elif self.fins.patient(stream):
                self.fins.tell(stream, now, interval)
                continue
            else:
                self.fins.given(stream)
            self._give(stream, [], fin=True)
            gave = True
        return gave

    def _segments(self) -> int:
        """How many full datagrams go out as one train."""
        return max(1, min(MAX_SEGMENTS, MAX_TRAIN // self._sizes.size))

    def _give(self, stream: int, pieces: list[memoryview], *, fin: bool) -> None:
        core = self._conn.core
        try:
            for piece in pieces[:-1]:
                core.send_stream(stream, piece, False)  # not the end
            core.send_stream(stream, pieces[-1] if pieces else b"", fin)
        except (ValueError, RuntimeError):
            # The peer has stopped it, or the connection is ending: events on their way tell.
            return
        if pieces:
            self._feeding.add(stream)
