"""Frames by hand, a handler that writes down what it is told, and two sessions joined in memory."""

from __future__ import annotations

from collections.abc import Iterator

from pt.yamux.frames import HEADER, HEADER_LEN
from pt.yamux.session import Limits, Session
from pt.yamux.stream import Stream


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def frame(kind: int, flags: int, stream: int, length: int = 0, payload: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream, length) + payload


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(0, flags, stream, len(payload), payload)


def frames(wire: bytes | bytearray) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, flags, stream, length, payload) of each frame."""
    pos = 0
    while pos < len(wire):
        version, kind, flags, stream, length = HEADER.unpack_from(wire, pos)
        assert version == 0
        pos += HEADER_LEN
        payload = b""
        if kind == 0:
            payload = bytes(wire[pos : pos + length])
            assert len(payload) == length
            pos += length
        yield kind, flags, stream, length, payload


class Recorder:
    """A handler; `credit` gives received bytes back at once."""

    def __init__(self, stream: Stream, *, credit: bool = False) -> None:
        self.stream = stream
        self.credit = credit
        self.events: list[object] = []
        self.received = bytearray()
        stream.handler = self

    def data_received(self, data: memoryview) -> None:
        self.received += data
        if self.events and isinstance(self.events[-1], bytes):
            self.events[-1] += bytes(data)
        else:
            self.events.append(bytes(data))
        if self.credit:
            self.stream.credit(len(data))

    def eof_received(self) -> None:
        self.events.append("eof")

    def window_opened(self) -> None:
        self.events.append("window")

    def stream_acked(self) -> None:
        self.events.append("acked")

    def stream_lost(self, code: int | None) -> None:
        self.events.append(("lost", code))


class Peer:
    """One session whose inbound streams all get a `Recorder`."""

    def __init__(
        self,
        *,
        initiator: bool = False,
        limits: Limits | None = None,
        clock: Clock | None = None,
        credit: bool = False,
    ) -> None:
        self.clock = clock or Clock()
        self.accepted: dict[int, Recorder] = {}
        self.credit = credit
        self.session = Session(
            initiator=initiator, clock=self.clock, on_stream=self._accept, limits=limits
        )

    def _accept(self, stream: Stream) -> None:
        self.accepted[stream.id] = Recorder(stream, credit=self.credit)

    def receive(self, wire: bytes) -> None:
        self.session.receive(memoryview(wire))

    def taken(self) -> list[tuple[int, int, int, int, bytes]]:
        """The frames queued so far, taken out."""
        found = list(frames(self.session.outgoing))
        self.session.outgoing.clear()
        return found


def exchange(left: Peer, right: Peer) -> None:
    """Carry everything queued, both ways, until nothing is left."""
    while left.session.outgoing or right.session.outgoing:
        for source, sink in ((left, right), (right, left)):
            wire = bytes(source.session.outgoing)
            source.session.outgoing.clear()
            sink.receive(wire)
            sink.session.end_batch()
