from __future__ import annotations

import pytest

from pt.yamux.frames import DATA, FIN, INITIAL_WINDOW, RST, SYN, WINDOW_UPDATE
from tests.unit.yamux.memory import Peer, Recorder, data, exchange, frame


def pair() -> tuple[Peer, Recorder, Peer, Recorder]:
    """Two sessions and the two ends of one established stream."""
    left, right = Peer(initiator=True), Peer()
    ours = Recorder(left.session.open())
    left.session.announce(ours.stream)
    exchange(left, right)
    ours.events.clear()
    return left, ours, right, right.accepted[1]


@pytest.mark.parametrize(("initiator", "expected"), [(True, [1, 3, 5]), (False, [2, 4, 6])])
def test_ids_by_role(initiator: bool, expected: list[int]) -> None:
    session = Peer(initiator=initiator).session
    streams = [session.open() for _ in range(3)]
    assert [stream.id for stream in streams] == expected
    assert not any(stream.inbound for stream in streams)


@pytest.mark.parametrize(("initiator", "remote_id"), [(True, 2), (False, 1)])
def test_inbound_by_role(initiator: bool, remote_id: int) -> None:
    peer = Peer(initiator=initiator)
    peer.receive(frame(WINDOW_UPDATE, SYN, remote_id))
    assert peer.accepted[remote_id].stream.inbound


def test_credit_waits_for_half_a_window() -> None:
    peer = Peer()
    peer.receive(data(1, b"x" * INITIAL_WINDOW, SYN))
    stream = peer.accepted[1].stream
    peer.session.end_batch()
    peer.taken()
    stream.credit(INITIAL_WINDOW // 2 - 1)
    assert peer.taken() == []
    stream.credit(1)
    assert peer.taken() == [(WINDOW_UPDATE, 0, 1, INITIAL_WINDOW // 2, b"")]
    assert stream.recv_left == INITIAL_WINDOW // 2


def test_no_credit_after_the_peers_end() -> None:
    peer = Peer()
    peer.receive(data(1, b"x" * INITIAL_WINDOW, SYN | FIN))
    peer.session.end_batch()
    peer.taken()
    peer.accepted[1].stream.credit(INITIAL_WINDOW)
    assert peer.taken() == []


def test_half_close_leaves_the_other_direction() -> None:
    left, ours, right, theirs = pair()
    ours.stream.close()
    exchange(left, right)
    assert theirs.events == ["eof"]
    right.session.queue_data(theirs.stream, b"still here")
    exchange(left, right)
    assert ours.received == b"still here"
    assert not ours.stream.closed
    theirs.stream.close()
    exchange(left, right)
    assert ours.events == [b"still here", "eof"]
    assert ours.stream.closed
    assert theirs.stream.closed
    assert left.session.streams == right.session.streams == {}


def test_close_is_said_once() -> None:
    left, ours, *_ = pair()
    ours.stream.close()
    ours.stream.close()
    assert left.taken() == [(WINDOW_UPDATE, FIN, 1, 0, b"")]


@pytest.mark.parametrize("code", [0, 42, 0xFFFFFFFF])
def test_reset_carries_its_code(code: int) -> None:
    left, ours, right, theirs = pair()
    ours.stream.reset(code)
    ours.stream.reset(code)
    assert bytes(left.session.outgoing) == frame(WINDOW_UPDATE, RST, 1, code)
    exchange(left, right)
    assert theirs.events == [("lost", code)]
    assert ours.events == []  # who resets is not told
    assert left.session.streams == right.session.streams == {}


def test_reset_after_both_ends_says_nothing() -> None:
    left, ours, right, theirs = pair()
    ours.stream.close()
    theirs.stream.close()
    exchange(left, right)
    ours.stream.reset()
    assert left.taken() == []


def test_reset_on_a_data_frame_comes_after_its_bytes() -> None:
    peer = Peer()
    peer.receive(data(1, b"last words", SYN | RST))
    assert peer.accepted[1].events == [b"last words", ("lost", 0)]


def test_opened_and_closed_at_once() -> None:
    left, right = Peer(initiator=True), Peer()
    left.session.open().close()
    assert bytes(left.session.outgoing) == frame(WINDOW_UPDATE, SYN | FIN, 1)
    exchange(left, right)
    assert right.accepted[1].events == ["eof"]


def test_opened_and_reset_at_once() -> None:
    left, right = Peer(initiator=True), Peer()
    left.session.open().reset(3)
    assert bytes(left.session.outgoing) == frame(WINDOW_UPDATE, SYN | RST, 1, 3)
    exchange(left, right)
    assert right.accepted[1].events == [("lost", 3)]
    assert left.session.can_open


def test_syn_rides_on_the_first_data() -> None:
    session = Peer(initiator=True).session
    stream = session.open()
    buffer = bytearray(12)
    session.write_header(stream, buffer, 100)
    assert bytes(buffer) == frame(DATA, SYN, 1, 100)
    session.write_header(stream, buffer, 7)
    assert bytes(buffer) == frame(DATA, 0, 1, 7)
    assert stream.send_window == INITIAL_WINDOW - 107
    assert session.outgoing == b""
