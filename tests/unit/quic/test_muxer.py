"""The muxer's contract over an engine that does what a test says."""

from __future__ import annotations

import pytest

from pt.errors import ClosedError, LimitError
from pt.quic.engine import Stats
from pt.quic.events import (
    StopSending,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    Writable,
)
from pt.quic.muxer import REFUSED_LIMIT, WINDOW, Limits, Session, Stream


class Engine:
    """Takes `room` bytes; writes down what it is asked for."""

    is_client = True

    def __init__(self) -> None:
        self.room = 1 << 30
        self.streams_left = 2
        self.calls: list[tuple[object, ...]] = []
        self._next = 0

    def open_stream(self) -> int:
        if not self.streams_left:
            raise LimitError("no more")
        self.streams_left -= 1
        self._next += 4
        return self._next - 4

    def write(self, stream: int, data: bytes | memoryview) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.calls.append(("write", stream, bytes(data[:taken])))
        return taken

    def finish(self, stream: int) -> None:
        self.calls.append(("finish", stream))

    def reset(self, stream: int, code: int) -> None:
        self.calls.append(("reset", stream, code))

    def stop(self, stream: int, code: int) -> None:
        self.calls.append(("stop", stream, code))

    def consumed(self, stream: int, count: int, now: float) -> None:
        self.calls.append(("consumed", stream, count))

    def ping(self) -> None:
        self.calls.append(("ping",))

    def close(self, code: int, reason: str, now: float) -> None:
        self.calls.append(("close", code, reason, now))

    def stats(self) -> Stats:
        return Stats(0.05, 1, 1, 1200, 0, 0, 0)

    def taken(self) -> list[tuple[object, ...]]:
        calls, self.calls = self.calls, []
        return calls


class Recorder:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.events: list[object] = []
        stream.handler = self

    def data_received(self, data: memoryview) -> None:
        self.events.append(bytes(data))

    def eof_received(self) -> None:
        self.events.append("eof")

    def window_opened(self) -> None:
        self.events.append("window")

    def stream_acked(self) -> None:
        self.events.append("acked")

    def stream_lost(self, code: int | None) -> None:
        self.events.append(("lost", code))


class Rig:
    def __init__(self, limits: Limits | None = None) -> None:
        self.engine = Engine()
        self.changes = 0
        self.session = Session(
            self.engine,  # type: ignore[arg-type]
            clock=lambda: 1.0,
            changed=self._changed,
            limits=limits,
        )
        self.accepted: dict[int, Recorder] = {}
        self.session.on_stream = self._accept

    def _changed(self) -> None:
        self.changes += 1

    def _accept(self, stream: Stream) -> None:
        self.accepted[stream.id] = Recorder(stream)

    def inbound(self, number: int = 1) -> Recorder:
        self.session.handle(StreamOpened(number))
        return self.accepted[number]


def test_streams_are_opened_while_the_peer_allows_it() -> None:
    rig = Rig()
    told: list[int] = []
    rig.session.on_acked = lambda: told.append(1)
    one, two = rig.session.open(), rig.session.open()
    assert (one.id, two.id) == (0, 4)
    assert not one.inbound
    assert not rig.session.can_open
    with pytest.raises(LimitError):
        rig.session.open()
    rig.engine.streams_left = 1
    rig.session.handle(StreamsAvailable(1))
    assert told == [1]
    assert rig.session.can_open
    assert set(rig.session.streams) == {0, 4}
    assert rig.session.rtt == 0.05


def test_bytes_in_are_held_until_they_are_credited() -> None:
    rig = Rig()
    theirs = rig.inbound()
    assert theirs.stream.inbound
    rig.session.handle(StreamData(1, b"abcdef", fin=False))
    assert theirs.events == [b"abcdef"]
    assert rig.engine.taken() == []
    theirs.stream.credit(4)
    theirs.stream.credit(0)
    assert rig.engine.taken() == [("consumed", 1, 4)]
    theirs.stream.consumed -= 2  # two of them are put back, and credited again later
    theirs.stream.credit(2)
    assert rig.engine.taken() == []
    theirs.stream.credit(2)
    assert rig.engine.taken() == [("consumed", 1, 2)]
    assert theirs.stream.held == 0
    assert rig.changes == 2


def test_what_nobody_wants_is_credited_at_once() -> None:
    rig = Rig()
    theirs = rig.inbound()
    rig.session.handle(StreamData(1, b"abc", fin=False))
    theirs.stream.handler = None
    assert rig.engine.taken() == [("consumed", 1, 3)]
    rig.session.handle(StreamData(1, b"de", fin=True))
    assert rig.engine.taken() == [("consumed", 1, 2)]
    assert theirs.stream.remote_closed


def test_what_the_engine_does_not_take_waits_and_closes_the_window() -> None:
    rig = Rig()
    stream = rig.session.open()
    ours = Recorder(stream)
    rig.engine.room = 3
    assert stream.send_window == WINDOW
    rig.session.send(stream, b"abcdef")
    assert stream.send_window == 0
    rig.session.send(stream, memoryview(b"gh"))
    stream.close()
    assert rig.engine.taken() == [("write", 0, b"abc")]
    rig.engine.room = 4
    rig.session.handle(Writable(0))
    assert rig.engine.taken() == [("write", 0, b"defg")]
    assert ours.events == []
    rig.engine.room = 4
    rig.session.handle(Writable(0))
    assert rig.engine.taken() == [("write", 0, b"h"), ("finish", 0)]
    assert ours.events == []  # nothing more may be sent


def test_the_window_opens_again() -> None:
    rig = Rig()
    stream = rig.session.open()
    ours = Recorder(stream)
    rig.engine.room = 0
    rig.session.send(stream, b"x")
    rig.engine.room = 9
    rig.session.handle(Writable(0))
    rig.session.handle(Writable(0))
    assert ours.events == ["window"]
    assert stream.send_window == WINDOW


def test_both_directions_end_one_by_one() -> None:
    rig = Rig()
    theirs = rig.inbound()
    rig.session.handle(StreamData(1, b"", fin=True))
    assert theirs.events == ["eof"]
    assert not theirs.stream.closed
    rig.session.send(theirs.stream, b"reply")
    theirs.stream.close()
    theirs.stream.close()
    assert rig.engine.taken() == [("write", 1, b"reply"), ("finish", 1)]
    assert theirs.stream.closed
    assert 1 in rig.session.streams
    rig.session.handle(StreamEnded(1))
    assert rig.session.streams == {}


def test_a_reset_of_the_peer_ends_both_directions() -> None:
    rig = Rig()
    theirs = rig.inbound()
    rig.session.handle(StreamReset(1, 7))
    assert theirs.events == [("lost", 7)]
    assert rig.engine.taken() == [("reset", 1, 7), ("stop", 1, 7)]
    assert rig.session.streams == {}
    theirs.stream.reset(3)
    theirs.stream.close()
    rig.session.handle(StreamEnded(1))
    assert rig.engine.taken() == []


def test_our_reset_says_so_once_and_calls_nobody_back() -> None:
    rig = Rig()
    theirs = rig.inbound()
    rig.session.handle(StreamData(1, b"abc", fin=False))
    theirs.stream.reset(5)
    theirs.stream.reset(6)
    assert rig.engine.taken() == [("consumed", 1, 3), ("reset", 1, 5), ("stop", 1, 5)]
    assert theirs.events == [b"abc"]
    for late in (StreamData(1, b"x", fin=False), StreamReset(1, 0), StopSending(1, 0), Writable(1)):
        rig.session.handle(late)
    assert theirs.events == [b"abc"]
    assert rig.engine.taken() == []


def test_codes_are_kept_within_what_quic_carries() -> None:
    rig = Rig()
    rig.inbound().stream.reset(-1)
    rig.inbound(5).stream.reset(1 << 70)
    codes = [call[2] for call in rig.engine.taken()]
    assert codes == [0, 0, 2**62 - 1, 2**62 - 1]


def test_who_reads_no_more_gets_nothing_and_holds_up_nobody() -> None:
    rig = Rig()
    stream = rig.session.open()
    ours = Recorder(stream)
    rig.engine.room = 0
    rig.session.send(stream, b"x")
    rig.engine.taken()
    rig.session.handle(StopSending(0, 1))
    assert ours.events == ["window"]
    rig.session.send(stream, b"dropped")
    stream.close()
    assert rig.engine.taken() == []
    rig.session.handle(StreamData(0, b"still read", fin=True))
    assert ours.events == ["window", b"still read", "eof"]


@pytest.mark.parametrize("stop_first", [True, False])
def test_an_end_and_a_stop_together_are_a_reset(stop_first: bool) -> None:
    rig = Rig()
    theirs = rig.inbound()
    events = [StopSending(1, 2), StreamData(1, b"", fin=True)]
    for event in events if stop_first else reversed(events):
        rig.session.handle(event)
    assert theirs.events == ["eof", ("lost", 2)]
    assert rig.session.streams == {}


def test_a_stop_after_our_own_end_is_nothing() -> None:
    rig = Rig()
    theirs = rig.inbound()
    theirs.stream.close()
    rig.session.handle(StreamData(1, b"", fin=True))
    rig.session.handle(StopSending(1, 2))
    assert theirs.events == ["eof"]


def test_more_streams_than_the_limit_are_reset() -> None:
    rig = Rig(Limits(streams=1))
    rig.inbound(1)
    rig.session.handle(StreamOpened(5))
    assert 5 not in rig.accepted
    assert rig.engine.taken() == [("reset", 5, 0), ("stop", 5, 0)]
    rig.accepted[1].stream.reset()
    rig.inbound(9)
    rig.session.limits.streams = 2
    rig.inbound(13)
    assert set(rig.session.streams) == {9, 13}


def test_a_flood_of_streams_ends_the_connection() -> None:
    rig = Rig(Limits(streams=1))
    rig.inbound(1)
    for number in range(REFUSED_LIMIT):
        rig.session.handle(StreamOpened(5 + 4 * number))
    assert len(rig.engine.taken()) == 2 * REFUSED_LIMIT
    rig.session.handle(StreamOpened(5 + 4 * REFUSED_LIMIT))
    assert rig.engine.taken()[2:] == [("close", 0x1001, "a flood of streams", 1.0)]


def test_a_handler_that_raises_loses_its_stream() -> None:
    rig = Rig()
    theirs = rig.inbound()

    def bug(data: memoryview) -> None:
        raise RuntimeError("a bug")

    theirs.data_received = bug  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        rig.session.handle(StreamData(1, b"abc", fin=False))
    assert theirs.events == [("lost", 0)]
    assert rig.engine.taken() == [("reset", 1, 0), ("stop", 1, 0), ("consumed", 1, 3)]
    rig.session.on_stream = bug  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        rig.session.handle(StreamOpened(5))
    assert rig.session.streams == {}


def test_the_end_of_the_connection_is_told_to_all_once() -> None:
    rig = Rig()
    theirs = rig.inbound()
    ours = Recorder(rig.session.open())
    rig.session.handle(StreamData(1, b"abc", fin=False))
    rig.engine.taken()
    rig.session.lost()
    rig.session.lost()
    assert theirs.events == [b"abc", ("lost", None)]
    assert ours.events == [("lost", None)]
    assert ours.stream.closed
    with pytest.raises(ClosedError):
        rig.session.open()
    assert not rig.session.can_open
    assert rig.engine.taken() == []


def test_ping() -> None:
    rig = Rig()
    rig.session.ping()
    assert rig.engine.taken() == [("ping",)]
    assert rig.changes == 1
