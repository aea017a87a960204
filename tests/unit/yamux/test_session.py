from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pt.errors import ClosedError, LimitError
from pt.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL,
    INITIAL_WINDOW,
    MAX_PAYLOAD,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxError,
)
from pt.yamux.session import (
    ACCEPT_BACKLOG,
    GROW_WITHIN_RTTS,
    OUTGOING_LIMIT,
    REFUSED_LIMIT,
    SKIPPED_LIMIT,
    Limits,
)
from tests.unit.yamux.memory import Clock, Peer, Recorder, data, exchange, frame


def opened(**options: object) -> tuple[Peer, Recorder]:
    """A responder with one inbound stream, everything it had to say taken away."""
    peer = Peer(**options)
    peer.receive(frame(WINDOW_UPDATE, SYN, 1))
    peer.session.end_batch()
    peer.taken()
    return peer, peer.accepted[1]


# --- flags and lengths -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DATA, WINDOW_UPDATE])
def test_flags_are_read_on_both_frame_types(kind: int) -> None:
    peer = Peer()
    peer.receive(frame(kind, SYN, 1) + frame(kind, FIN, 1) + frame(kind, SYN, 3))
    peer.receive(frame(kind, RST, 3))
    assert peer.accepted[1].events == ["eof"]
    assert peer.accepted[3].events == [("lost", 0)]


@pytest.mark.parametrize("flags", [0, SYN, ACK, FIN, SYN | ACK, SYN | FIN, ACK | FIN])
def test_length_of_a_window_update_is_credit_never_payload(flags: int) -> None:
    peer = Peer()
    if not flags & SYN:
        peer.receive(frame(WINDOW_UPDATE, SYN, 1))
    # were 16 taken for a payload, the ping behind it would be swallowed
    peer.receive(frame(WINDOW_UPDATE, flags, 1, 16) + frame(PING, SYN, 0, 99))
    assert peer.accepted[1].stream.send_window == INITIAL_WINDOW + 16
    assert (PING, ACK, 0, 99, b"") in peer.taken()


def test_length_of_a_reset_is_a_code_not_credit() -> None:
    peer, theirs = opened()
    peer.receive(frame(WINDOW_UPDATE, RST, 1, 0xFFFFFFFF) + frame(PING, SYN, 0, 1))
    assert theirs.events == [("lost", 0xFFFFFFFF)]
    assert theirs.stream.send_window == INITIAL_WINDOW


def test_syn_and_data_in_one_frame() -> None:
    peer = Peer()
    peer.receive(data(1, b"early", SYN | FIN))
    assert peer.accepted[1].events == [b"early", "eof"]


def test_end_comes_after_the_payload_it_rides_on() -> None:
    peer, theirs = opened()
    wire = data(1, b"abcdef", FIN)
    peer.receive(wire[:15])
    assert theirs.events == [b"abc"]
    peer.receive(wire[15:])
    assert theirs.events == [b"abcdef", "eof"]


def test_data_before_the_acknowledgement() -> None:
    left = Peer(initiator=True)
    ours = Recorder(left.session.open())
    left.session.announce(ours.stream)
    left.receive(data(1, b"hello"))
    assert ours.events == [b"hello"]
    left.receive(frame(WINDOW_UPDATE, ACK, 1))
    assert ours.events == [b"hello", "acked"]


def test_a_second_acknowledgement_is_nothing() -> None:
    left = Peer(initiator=True)
    ours = Recorder(left.session.open())
    left.receive(frame(WINDOW_UPDATE, ACK, 1) * 2)
    assert ours.events == ["acked"]


def test_a_second_end_is_nothing() -> None:
    peer, theirs = opened()
    peer.receive(frame(WINDOW_UPDATE, FIN, 1) * 2)
    assert theirs.events == ["eof"]


# --- acknowledging -----------------------------------------------------------------------------


def test_ack_by_itself_at_the_end_of_the_batch() -> None:
    peer = Peer()
    peer.receive(frame(WINDOW_UPDATE, SYN, 1) + frame(WINDOW_UPDATE, SYN, 3))
    assert peer.taken() == []
    peer.session.end_batch()
    assert peer.taken() == [(WINDOW_UPDATE, ACK, 1, 0, b""), (WINDOW_UPDATE, ACK, 3, 0, b"")]
    peer.session.end_batch()
    assert peer.taken() == []


def test_ack_rides_on_the_first_data() -> None:
    peer = Peer()
    peer.receive(frame(WINDOW_UPDATE, SYN, 1))
    peer.session.queue_data(peer.accepted[1].stream, b"hi")
    peer.session.end_batch()
    assert peer.taken() == [(DATA, ACK, 1, 2, b"hi")]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_ack_rides_on_an_early_end(how: str) -> None:
    peer = Peer()
    peer.receive(frame(WINDOW_UPDATE, SYN, 1))
    getattr(peer.accepted[1].stream, how)()
    peer.session.end_batch()
    flag = FIN if how == "close" else RST
    assert peer.taken() == [(WINDOW_UPDATE, ACK | flag, 1, 0, b"")]


def test_no_ack_for_what_the_peer_reset() -> None:
    peer = Peer()
    peer.receive(frame(WINDOW_UPDATE, SYN, 1) + frame(WINDOW_UPDATE, RST, 1))
    peer.session.end_batch()
    assert peer.taken() == []


# --- streams that ended or never were ----------------------------------------------------------


@pytest.mark.parametrize("how", ["reset by us", "reset by them", "both closed"])
def test_frames_for_a_stream_that_ended_are_skipped(how: str) -> None:
    peer, theirs = opened()
    if how == "reset by us":
        theirs.stream.reset()
    elif how == "reset by them":
        peer.receive(frame(WINDOW_UPDATE, RST, 1))
    else:
        theirs.stream.close()
        peer.receive(frame(WINDOW_UPDATE, FIN, 1))
    peer.taken()
    theirs.events.clear()
    late = data(1, b"z" * 1000) + frame(WINDOW_UPDATE, 0, 1, 5) + frame(WINDOW_UPDATE, RST, 1)
    peer.receive(late + data(1, b"", FIN) + data(3, b"next", SYN))
    assert theirs.events == []
    assert peer.accepted[3].events == [b"next"]


def test_reset_by_us_in_the_middle_of_a_frame() -> None:
    peer, theirs = opened()
    wire = data(1, b"abcdef", FIN) + data(3, b"next", SYN)
    peer.receive(wire[:14])
    theirs.stream.reset()
    peer.receive(wire[14:])
    assert theirs.events == [b"ab"]
    assert peer.accepted[3].events == [b"next"]


def test_reset_by_the_handler_itself() -> None:
    peer, theirs = opened()

    def resets(view: memoryview) -> None:
        theirs.events.append(bytes(view))
        theirs.stream.reset()

    theirs.data_received = resets
    peer.receive(data(1, b"ab", FIN) + data(1, b"cd") + data(3, b"next", SYN))
    assert theirs.events == [b"ab"]
    assert peer.accepted[3].events == [b"next"]


@pytest.mark.parametrize(
    ("wire", "match"),
    [
        (b"\1" + frame(PING, SYN, 0)[1:], "version 1"),
        (frame(4, 0, 0), "type 4"),
        (frame(255, 0, 0), "type 255"),
        (frame(WINDOW_UPDATE, SYN, 2), "parity"),
        (frame(WINDOW_UPDATE, SYN, 0), "parity"),
        (data(4, b"x", SYN), "parity"),
        (frame(WINDOW_UPDATE, SYN, 1) * 2, "twice"),
        (data(1, b"", SYN) + frame(WINDOW_UPDATE, SYN, 1), "twice"),
        (data(1, b"x"), "never opened"),
        (data(2, b"x"), "never opened"),
        (data(0, b"x"), "never opened"),
        (frame(WINDOW_UPDATE, 0, 7, 1), "never opened"),
        (frame(WINDOW_UPDATE, FIN, 1), "never opened"),
        (frame(WINDOW_UPDATE, RST, 1), "never opened"),
        (frame(WINDOW_UPDATE, ACK, 2), "never opened"),
        (frame(DATA, SYN, 1, INITIAL_WINDOW + 1), "receive window"),
        (frame(DATA, SYN, 1, 0xFFFFFFFF), "receive window"),
        (frame(DATA, SYN | FIN, 1) + data(1, b"x"), "after FIN"),
        (frame(WINDOW_UPDATE, SYN, 1, 0xFFFFFFFF), "2\\^32"),
    ],
)
def test_what_ends_the_connection(wire: bytes, match: str) -> None:
    peer = Peer()
    with pytest.raises(YamuxError, match=match) as caught:
        peer.receive(wire)
    assert caught.value.code == GO_AWAY_PROTOCOL
    peer.taken()
    peer.session.fail(caught.value)
    assert peer.taken() == [(GO_AWAY, 0, 0, GO_AWAY_PROTOCOL, b"")]


def test_our_own_parity_is_ours() -> None:
    left = Peer(initiator=True)
    with pytest.raises(YamuxError, match="parity"):
        left.receive(frame(WINDOW_UPDATE, SYN, 1))


# --- order of stream ids -----------------------------------------------------------------------


def test_syns_out_of_order_as_concurrent_openers_send_them() -> None:
    peer = Peer()
    for stream_id in (5, 1, 7, 3):
        peer.receive(frame(WINDOW_UPDATE, SYN, stream_id))
    assert list(peer.session.streams) == [5, 1, 7, 3]


@pytest.mark.parametrize("again", [1, 3, 5])
def test_an_id_is_used_once(again: int) -> None:
    peer = Peer()
    for stream_id in (5, 1, 3):
        peer.receive(frame(WINDOW_UPDATE, SYN, stream_id))
        peer.session.streams[stream_id].reset()
    with pytest.raises(YamuxError, match="twice"):
        peer.receive(frame(WINDOW_UPDATE, SYN, again))


def test_skipped_ids_are_remembered_in_bounds() -> None:
    peer = Peer()
    for stream_id in range(100_001, 200_000, 10_000):
        peer.receive(frame(WINDOW_UPDATE, SYN, stream_id))
        assert len(peer.session._skipped) <= SKIPPED_LIMIT
    peer.receive(frame(WINDOW_UPDATE, SYN, 190_001 - 2 * SKIPPED_LIMIT))
    with pytest.raises(YamuxError, match="twice"):
        peer.receive(frame(WINDOW_UPDATE, SYN, 190_001 - 2 * SKIPPED_LIMIT - 2))


# --- windows -----------------------------------------------------------------------------------


def test_a_full_window_and_not_a_byte_more() -> None:
    peer, theirs = opened()
    peer.receive(data(1, b"x" * INITIAL_WINDOW))
    assert len(theirs.received) == INITIAL_WINDOW
    with pytest.raises(YamuxError, match="receive window"):
        peer.receive(frame(DATA, 0, 1, 1))


def test_the_window_counts_before_the_payload_arrives() -> None:
    peer, _ = opened()
    peer.receive(frame(DATA, 0, 1, INITIAL_WINDOW) + b"only a little")
    assert peer.session.streams[1].recv_left == 0


def test_window_opened_is_told_when_there_was_none() -> None:
    left = Peer(initiator=True)
    ours = Recorder(left.session.open())
    left.session.queue_data(ours.stream, b"x" * MAX_PAYLOAD)
    left.receive(frame(WINDOW_UPDATE, ACK, 1, 10))
    assert ours.events == ["acked"]  # it was not waiting
    ours.stream.send_window = 0
    left.receive(frame(WINDOW_UPDATE, 0, 1, 10))
    left.receive(frame(WINDOW_UPDATE, 0, 1, 0))
    assert ours.events == ["acked", "window"]
    assert ours.stream.send_window == 10


def test_no_window_opened_after_our_end() -> None:
    left = Peer(initiator=True)
    ours = Recorder(left.session.open())
    ours.stream.send_window = 0
    ours.stream.close()
    left.receive(frame(WINDOW_UPDATE, ACK, 1, 10))
    assert ours.events == ["acked"]


def consume(peer: Peer, theirs: Recorder, size: int) -> int:
    """Let the peer send `size` bytes, consume them; the credit that was given for them."""
    theirs.credit = True
    while size:
        part = min(size, 16 * 1024)
        peer.receive(data(1, bytes(part)))
        size -= part
        theirs.events.clear()
    return sum(f[3] for f in peer.taken() if f[0] == WINDOW_UPDATE)


def with_rtt(seconds: float, **options: object) -> tuple[Peer, Recorder, Clock]:
    clock = Clock()
    peer, theirs = opened(clock=clock, **options)
    peer.session.ping()
    clock.now += seconds
    peer.receive(frame(PING, ACK, 0, 1))
    peer.taken()
    return peer, theirs, clock


def test_no_growth_without_a_round_trip_time() -> None:
    peer, theirs = opened()
    for _ in range(8):
        assert consume(peer, theirs, INITIAL_WINDOW // 2) == INITIAL_WINDOW // 2
    assert theirs.stream.recv_window == INITIAL_WINDOW


def test_a_window_used_up_fast_doubles() -> None:
    peer, theirs, clock = with_rtt(0.1)
    consume(peer, theirs, INITIAL_WINDOW // 2)  # the first update only starts the clock
    start = theirs.stream.recv_window
    clock.now += 0.1 * GROW_WITHIN_RTTS * 0.9
    assert consume(peer, theirs, start // 2) == start // 2 + start
    assert theirs.stream.recv_window == 2 * start


def test_a_window_used_up_slowly_stays() -> None:
    peer, theirs, clock = with_rtt(0.1)
    for _ in range(5):
        clock.now += 0.1 * GROW_WITHIN_RTTS * 1.1
        consume(peer, theirs, theirs.stream.recv_window // 2)
    assert theirs.stream.recv_window == INITIAL_WINDOW


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(), 16 << 20),
        (Limits(window=1 << 20), 1 << 20),
        (Limits(window=700_000), 700_000),
        (Limits(total_window=INITIAL_WINDOW), 2 * INITIAL_WINDOW),
        (Limits(total_window=0), INITIAL_WINDOW),
    ],
)
def test_growth_ends_at_the_limits(limits: Limits, expected: int) -> None:
    peer, theirs, _ = with_rtt(0.1, limits=limits)
    for _ in range(10):
        consume(peer, theirs, (theirs.stream.recv_window + 1) // 2)
    assert theirs.stream.recv_window == expected
    assert theirs.stream.recv_left <= expected


@pytest.mark.parametrize("how", ["reset by us", "reset by them", "closed"])
def test_a_stream_that_ends_gives_its_share_of_the_total_back(how: str) -> None:
    peer, theirs, _ = with_rtt(0.1, limits=Limits(total_window=INITIAL_WINDOW))
    for number in range(1, 30, 2):
        if number > 1:
            peer.receive(frame(WINDOW_UPDATE, SYN, number))
            theirs = peer.accepted[number]
        theirs.credit = True
        peer.clock.now += 0.01
        for _ in range(4):
            peer.receive(data(number, bytes(INITIAL_WINDOW // 2)))
        assert theirs.stream.recv_window == 2 * INITIAL_WINDOW
        if how == "reset by us":
            theirs.stream.reset()
        elif how == "reset by them":
            peer.receive(frame(WINDOW_UPDATE, RST, number))
        else:
            theirs.stream.close()
            peer.receive(frame(WINDOW_UPDATE, FIN, number))
    assert peer.session._grown == 0


# --- ping --------------------------------------------------------------------------------------


def test_a_ping_is_answered_at_once() -> None:
    peer, _ = opened()
    peer.receive(frame(PING, SYN, 0, 0xDEADBEEF) + frame(DATA, 0, 1, 1000))
    assert peer.taken() == [(PING, ACK, 0, 0xDEADBEEF, b"")]


def test_an_answer_is_not_answered() -> None:
    peer = Peer()
    peer.receive(frame(PING, ACK, 0, 5) + frame(PING, 0, 0, 5))
    assert peer.taken() == []
    assert peer.session.rtt is None


def test_round_trip_time_is_the_least_of_late() -> None:
    clock, told = Clock(), []
    peer = Peer(clock=clock)
    peer.session.on_rtt = told.append
    for number, seconds in enumerate((0.1, 0.05, 0.5, 0.5), 1):
        peer.session.ping()
        clock.now += seconds
        assert peer.taken() == [(PING, SYN, 0, number, b"")]
        peer.receive(frame(PING, ACK, 0, number))
    assert told == pytest.approx([0.1, 0.05, 0.0625, 0.078125])
    assert peer.session.rtt == told[-1]


def test_only_so_many_pings_are_remembered() -> None:
    peer = Peer()
    for _ in range(100):
        peer.session.ping()
    assert len(peer.session._pings) == 8


# --- opening -----------------------------------------------------------------------------------


def test_the_backlog_of_unacknowledged_streams() -> None:
    left = Peer(initiator=True)
    told = []
    left.session.on_acked = lambda: told.append(left.session.can_open)
    streams = [left.session.open() for _ in range(ACCEPT_BACKLOG)]
    assert not left.session.can_open
    with pytest.raises(LimitError):
        left.session.open()
    left.receive(frame(WINDOW_UPDATE, ACK, 1))
    left.receive(frame(WINDOW_UPDATE, RST, 3))
    streams[2].reset()
    assert told == [True, True, True]
    for _ in range(3):
        left.session.open()
    assert not left.session.can_open


def test_an_acknowledged_stream_counts_no_more() -> None:
    left, right = Peer(initiator=True), Peer()
    for _ in range(3 * ACCEPT_BACKLOG):
        stream = left.session.open()
        left.session.announce(stream)
        exchange(left, right)
        stream.reset()
        exchange(left, right)
    assert left.session._unacked == 0


def test_no_opening_after_go_away() -> None:
    left = Peer(initiator=True)
    ours = Recorder(left.session.open())
    left.receive(frame(GO_AWAY, 0, 0, GO_AWAY_NORMAL) + data(1, b"still", FIN))
    assert left.session.go_away == GO_AWAY_NORMAL
    assert ours.events == [b"still", "eof"]
    assert not left.session.can_open
    with pytest.raises(ClosedError):
        left.session.open()


# --- floods ------------------------------------------------------------------------------------


def test_too_many_streams_are_reset() -> None:
    peer = Peer(limits=Limits(streams=2))
    for number in (1, 3, 5):
        peer.receive(data(number, b"hi", SYN))
    peer.session.end_batch()
    assert (WINDOW_UPDATE, RST, 5, 0, b"") in peer.taken()
    assert list(peer.accepted) == [1, 3]
    peer.accepted[1].stream.reset()
    peer.receive(data(7, b"hi", SYN))
    assert 7 in peer.accepted


def test_who_goes_on_opening_is_cut_off() -> None:
    peer = Peer(limits=Limits(streams=0))
    wire = b"".join(frame(WINDOW_UPDATE, SYN, 2 * n + 1) for n in range(REFUSED_LIMIT))
    peer.receive(wire)
    with pytest.raises(YamuxError, match="floods"):
        peer.receive(frame(WINDOW_UPDATE, SYN, 2 * REFUSED_LIMIT + 1))


def test_answers_nobody_reads_are_bounded() -> None:
    peer = Peer()
    pings = frame(PING, SYN, 0, 1) * 10_000
    for _ in range(OUTGOING_LIMIT // len(pings) + 2):
        peer.receive(pings)
    assert peer.session.overflowed
    assert len(peer.session.outgoing) <= OUTGOING_LIMIT + 12


# --- the end -----------------------------------------------------------------------------------


def test_a_lost_connection_is_told_to_every_stream_once() -> None:
    peer, theirs = opened()
    ours = Recorder(peer.session.open())
    peer.session.lost()
    peer.session.lost()
    assert theirs.events == ours.events == [("lost", None)]
    assert ours.stream.closed
    with pytest.raises(ClosedError):
        peer.session.open()


def test_lost_while_streams_end_each_other() -> None:
    """A handler that resets another stream from within `stream_lost`."""
    peer, first = opened()
    peer.receive(frame(WINDOW_UPDATE, SYN, 3))
    second = peer.accepted[3]
    first.stream_lost = lambda code: second.stream.reset()
    peer.session.lost()
    assert second.events == [("lost", None)]


# --- properties --------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(
        st.just("data"), st.integers(0, 4), st.binary(max_size=40), st.sampled_from([0, FIN])
    ),
    st.tuples(
        st.just("update"),
        st.integers(0, 4),
        st.integers(0, 99),
        st.sampled_from([0, ACK, FIN, RST]),
    ),
    st.tuples(st.just("ping"), st.just(0), st.integers(0, 99), st.sampled_from([SYN, ACK])),
    st.tuples(st.just("syn"), st.integers(0, 4), st.binary(max_size=40), st.just(SYN)),
    st.tuples(st.just("raw"), st.just(0), st.binary(max_size=14), st.just(0)),
)


def wire_of(steps: list[tuple]) -> bytes:
    wire = b""
    for kind, index, value, flags in steps:
        stream = 2 * index + 1
        if kind in ("data", "syn"):
            wire += data(stream, value, flags)
        elif kind == "update":
            wire += frame(WINDOW_UPDATE, flags, stream, value)
        elif kind == "ping":
            wire += frame(PING, flags, 0, value)
        else:
            wire += value
    return wire


def outcome(wire: bytes, cuts: list[int]) -> tuple[object, ...]:
    peer = Peer()
    error = ""
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    try:
        for start, stop in pairwise(bounds):
            peer.receive(wire[start:stop])
    except YamuxError as caught:
        error = str(caught)
    events = {number: found.events for number, found in peer.accepted.items()}
    return error, events, bytes(peer.session.outgoing), list(peer.session.streams)


@given(st.lists(STEPS, max_size=25), st.lists(st.integers(0, 1000), max_size=30))
def test_any_split_gives_the_same(steps: list[tuple], cuts: list[int]) -> None:
    opening = b"".join(frame(WINDOW_UPDATE, SYN, n) for n in (1, 5))
    wire = opening + wire_of(steps)
    whole = outcome(wire, [])
    assert outcome(wire, cuts) == whole
    assert outcome(wire, list(range(len(wire)))) == whole


@given(st.binary(max_size=400))
def test_bytes_of_chance_end_in_nothing_but_a_yamux_error(wire: bytes) -> None:
    peer = Peer()
    with contextlib.suppress(YamuxError):
        peer.receive(wire)
    assert len(peer.session.outgoing) <= len(wire)


class TwoSessions(RuleBasedStateMachine):
    """Two sessions joined by two pipes that deliver any amount at any time.

    Each stream's bytes must arrive in order and exactly; a window is never overrun (the receiver
    would raise); when everything is delivered and consumed, nobody waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        limits = Limits(streams=6, window=1 << 20, total_window=1 << 20)
        self.peers = [
            Peer(initiator=initiator, clock=self.clock, limits=limits)
            for initiator in (True, False)
        ]
        self.pipes = [bytearray(), bytearray()]  # from peer 0, from peer 1
        self.ends: list[dict[int, Recorder]] = [{}, {}]
        self.sent: dict[tuple[int, int], bytearray] = {}  # (sender, stream) → bytes
        self.fins: set[tuple[int, int]] = set()
        self.resets: set[int] = set()
        self.unconsumed: dict[tuple[int, int], int] = {}

    def _ends(self, who: int) -> dict[int, Recorder]:
        return {**self.ends[who], **self.peers[who].accepted}

    def _push(self, who: int) -> None:
        self.pipes[who] += self.peers[who].session.outgoing
        self.peers[who].session.outgoing.clear()

    @rule(who=st.integers(0, 1))
    def open(self, who: int) -> None:
        session = self.peers[who].session
        stream = session.open()
        self.ends[who][stream.id] = Recorder(stream)
        session.announce(stream)
        self._push(who)

    def _pick(self, who: int, pick: int) -> Recorder | None:
        ends = [end for end in self._ends(who).values() if not end.stream.closed]
        return ends[pick % len(ends)] if ends else None

    @rule(who=st.integers(0, 1), pick=st.integers(0, 9), size=st.integers(1, 70_000))
    def send(self, who: int, pick: int, size: int) -> None:
        end = self._pick(who, pick)
        if end is None or end.stream.local_closed:
            return
        size = min(size, end.stream.send_window, MAX_PAYLOAD)
        if size:
            key = who, end.stream.id
            seed = len(self.sent.setdefault(key, bytearray())) % 251
            piece = (bytes(range(seed, 251)) + bytes(range(251)) * (size // 251 + 1))[:size]
            self.sent[key] += piece
            self.peers[who].session.queue_data(end.stream, piece)
            self._push(who)

    @rule(who=st.integers(0, 1), pick=st.integers(0, 9))
    def fin(self, who: int, pick: int) -> None:
        end = self._pick(who, pick)
        if end is not None and not end.stream.local_closed:
            end.stream.close()
            self.fins.add((who, end.stream.id))
            self._push(who)

    @rule(who=st.integers(0, 1), pick=st.integers(0, 9))
    def reset(self, who: int, pick: int) -> None:
        end = self._pick(who, pick)
        if end is not None:
            self.resets.add(end.stream.id)
            end.stream.reset(7)
            self._push(who)

    @rule(who=st.integers(0, 1), size=st.integers(1, 200_000))
    def deliver(self, who: int, size: int) -> None:
        """Carry some of what `who` sent."""
        self.clock.now += 0.001
        part = bytes(self.pipes[who][:size])
        del self.pipes[who][:size]
        other = self.peers[1 - who]
        other.receive(part)
        other.session.end_batch()
        self._push(1 - who)

    @rule(who=st.integers(0, 1), pick=st.integers(0, 9), part=st.floats(0, 1))
    def consume(self, who: int, pick: int, part: float) -> None:
        end = self._pick(who, pick)
        if end is not None:
            self._consume(who, end, part)

    def _consume(self, who: int, end: Recorder, part: float) -> None:
        key = who, end.stream.id
        left = len(end.received) - self.unconsumed.get(key, 0)
        count = int(left * part)
        if count:
            self.unconsumed[key] = self.unconsumed.get(key, 0) + count
            end.stream.credit(count)
            self._push(who)

    @rule(who=st.integers(0, 1))
    def ping(self, who: int) -> None:
        self.peers[who].session.ping()
        self._push(who)

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        for who in (0, 1):
            for number, end in self._ends(who).items():
                sent = self.sent.get((1 - who, number), bytearray())
                assert sent.startswith(end.received)
                if "eof" in end.events:
                    assert end.received == sent
                    assert (1 - who, number) in self.fins
                assert end.stream.recv_left <= end.stream.recv_window

    @invariant()
    def totals_hold(self) -> None:
        for peer in self.peers:
            session = peer.session
            grown = sum(s.recv_window - INITIAL_WINDOW for s in session.streams.values())
            assert session._grown == grown <= session.limits.total_window
            inbound = [s for s in session.streams.values() if s.inbound]
            assert session._inbound == len(inbound) <= session.limits.streams
            waiting = [s for s in session.streams.values() if not s.open_acked]
            assert session._unacked == len(waiting)

    @precondition(lambda self: any(self.pipes))
    @rule()
    def settle(self) -> None:
        """Deliver and consume everything: then credits are back and nothing is stuck."""
        while any(self.pipes):
            for who in (0, 1):
                self.deliver(who, len(self.pipes[who]) or 1)
            for who in (0, 1):
                for end in self._ends(who).values():
                    self._consume(who, end, 1.0)
        for who in (0, 1):
            for number, end in self._ends(who).items():
                other = self._ends(1 - who).get(number)
                if end.stream.closed or other is None or other.stream.closed:
                    continue
                # the sender's credit and the receiver's are one account
                assert end.stream.send_window == other.stream.recv_left
                if not other.stream.remote_closed:
                    missing = other.stream.recv_window - other.stream.recv_left
                    assert missing == other.stream.consumed < other.stream.recv_window / 2
                assert bytes(other.received) == bytes(self.sent.get((who, number), b""))
            for number in {n for w, n in self.fins if w == who} - self.resets:
                other = self._ends(1 - who).get(number)
                assert other is None or "eof" in other.events or ("lost", 0) in other.events


TwoSessions.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestTwoSessions = TwoSessions.TestCase
