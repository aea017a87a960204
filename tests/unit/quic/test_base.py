from __future__ import annotations

import pytest

from pt.errors import LimitError, LocalProtocolError
from pt.identity.peer_id import PeerId, PeerMismatchError
from pt.quic.base import Base
from pt.quic.certificate import CertificateError
from pt.quic.engine import Admission
from pt.quic.events import (
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeDone,
    StopSending,
    StreamData,
    StreamEnded,
    StreamOpened,
    StreamReset,
    Writable,
)
from pt.quic.limits import Limits
from tests.contract.quic_world import EPOCH, Port, World, certificate, identity
from tests.unit.quic.forge import forge

SERVER = identity("server")
SERVER_ID = PeerId.from_public_key(SERVER.public)


class Bare(Base):
    """A connection without packets: `sent` says what would have gone out."""

    name = "bare"

    def __init__(self, *, is_client: bool = True, expected: PeerId | None = None) -> None:
        port = Port(World(), "client", None, ("11.0.0.2", 1), limits=Limits(streams=8))  # type: ignore[arg-type]
        admission = (
            None if is_client else Admission(b"original", b"ours", b"source", validated=True)
        )
        super().__init__(port.config, ("11.0.0.1", 1), 0.0, admission=admission, expected=expected)
        self.unsent: dict[int, int] = {}
        self.window = 1 << 30
        self.calls: list[tuple[object, ...]] = []
        self.local = 0 if is_client else 1

    def _unsent(self, stream: int) -> int:
        return self.unsent.get(stream, 0)

    def _allowed(self, stream: int) -> int:
        return self.window

    def sent(self, stream: int = 0) -> None:
        self._changed.add(stream)
        self._note_sent()

    def _next_local(self) -> int:
        return self.local

    def _send_stream(self, stream: int, data: bytes | memoryview, *, fin: bool) -> None:
        self.calls.append(("send", stream, bytes(data), fin))

    def _reset_stream(self, stream: int, code: int) -> None:
        self.calls.append(("reset", stream, code))

    def _stop_stream(self, stream: int, code: int) -> None:
        self.calls.append(("stop", stream, code))

    def _grant(self, stream: int, limit: int, now: float) -> None:
        self.calls.append(("grant", stream, limit))

    def _send_ping(self) -> None:
        self.calls.append(("ping",))

    def _freed(self) -> None:
        pass

    def _rtt(self) -> float | None:
        return 0.01

    def taken(self) -> list[object]:
        events = list(self._events)
        self._events.clear()
        return events


def server() -> Bare:
    return Bare(is_client=False)


def test_the_peers_streams_are_told_once() -> None:
    base = server()
    assert base._data(0, b"a", 0.0, fin=False)
    assert base._data(0, b"b", 0.0, fin=True)
    assert base.taken() == [
        StreamOpened(0),
        StreamData(0, b"a", False),
        StreamData(0, b"b", True),
    ]


def test_streams_may_come_in_any_order_but_not_come_back() -> None:
    base = server()
    base._data(12, b"x", 0.0, fin=True)
    base._data(4, b"y", 0.0, fin=True)
    assert [event for event in base.taken() if isinstance(event, StreamOpened)] == [
        StreamOpened(12),
        StreamOpened(4),
    ]
    base._ended(4)
    assert base.taken() == [StreamEnded(4)]
    base._data(4, b"late", 0.0, fin=False)
    base._peer_reset(4, 1, 0, 0.0)
    base._peer_stopped(4, 1, 0.0)
    base._ended(4)
    assert base.taken() == []
    base._data(8, b"z", 0.0, fin=False)
    assert base.taken()[0] == StreamOpened(8)


def test_our_own_streams_are_not_the_peers_to_open() -> None:
    base = server()
    base._data(1, b"x", 0.0, fin=False)
    base._data(2, b"x", 0.0, fin=False)
    assert base.taken() == []


def test_more_than_the_window_is_a_violation() -> None:
    base = server()
    assert base._data(0, bytes(Limits().stream_window), 0.0, fin=False)
    assert not base._data(0, b"x", 0.0, fin=False)


def test_nothing_empty_is_told() -> None:
    base = server()
    base._data(0, b"", 0.0, fin=False)
    assert base.taken() == [StreamOpened(0)]


def test_resets_and_stops() -> None:
    base = server()
    base._data(0, b"abc", 0.0, fin=False)
    base._peer_reset(0, 7, 10, 0.0)
    base._peer_stopped(0, 8, 0.0)
    assert base.taken()[2:] == [StreamReset(0, 7), StopSending(0, 8)]
    assert base._windows.freed == 7


def test_who_waits_may_write_again_when_half_has_gone() -> None:
    base = server()
    base._data(0, b"a", 0.0, fin=False)
    base.taken()
    base.unsent[0] = 512 * 1024
    assert base.write(0, b"more") == 0
    base.sent()
    assert base.taken() == []
    base.unsent[0] = 256 * 1024
    base.sent(4)
    assert base.taken() == []  # nobody has looked
    base.sent()
    assert base.taken() == [Writable(0)]
    assert base._backlog == 256 * 1024
    base.unsent[0] = 0
    base.sent()
    assert base.taken() == []
    assert base._backlog == 0


def test_no_more_is_accepted_than_the_peers_window_takes() -> None:
    """What waits for a peer that does not read must not take the room of other streams."""
    base = server()
    base._data(0, b"a", 0.0, fin=False)
    base.taken()
    base.window = 3
    assert base.write(0, b"hello", fin=True) == 3
    assert base.calls == [("send", 0, b"hel", False)]
    base.window = 0
    assert base.write(0, b"lo", fin=True) == 0
    base.sent()
    assert base.taken() == []
    base.window = 100
    base.sent()
    assert base.taken() == [Writable(0)]
    assert base.write(0, b"lo", fin=True) == 2
    assert base.calls[1:] == [("send", 0, b"lo", True)]


def test_who_waits_for_all_streams_together_is_told_when_there_is_room() -> None:
    base = server()
    for stream in range(0, 18 * 4, 4):
        base._data(stream, b"a", 0.0, fin=False)
        base.unsent[stream] = 512 * 1024 if stream < 16 * 4 else 0
        assert base.write(stream, b"more") == 0
    base.taken()
    base.sent(0)
    assert base.taken() == []
    base.unsent[0] = 0
    base.sent(0)
    assert set(base.taken()) == {Writable(0), Writable(16 * 4), Writable(17 * 4)}
    base.unsent[4] = 0
    base.sent(4)
    assert base.taken() == [Writable(4)]


def test_the_end_takes_streams_with_it_and_comes_once() -> None:
    base = server()
    base._issued(b"id")
    base._handshake_done(SERVER.public, b"b" * 32)
    base._data(0, b"a", 0.0, fin=False)
    base._close_event(5, "why", application=True, by_peer=False)
    base._close_event(6, "again", application=False, by_peer=True)
    assert base.taken() == [
        ConnectionIdIssued(b"id"),
        HandshakeDone(SERVER_ID, SERVER.public, b"b" * 32),
        Closed(5, True, "why", False),
    ]
    assert base._windows.held == 0
    assert base._own_timeout() is None


def test_what_a_peer_said_before_its_end_stays() -> None:
    base = server()
    base._data(0, b"goodbye", 0.0, fin=False)
    base._close_event(5, "why", application=True, by_peer=True)
    assert base.taken() == [
        StreamOpened(0),
        StreamData(0, b"goodbye", False),
        Closed(5, True, "why", True),
    ]
    base.consumed(0, 7, 0.0)
    assert base.write(0, b"more") == 0


def test_connection_ids_are_told_once() -> None:
    base = Bare()
    base._issued(b"a")
    base._issued(b"a")
    base._retired(b"b")
    base._retired(b"a")
    assert base.taken() == [ConnectionIdIssued(b"a"), ConnectionIdRetired(b"a")]
    assert base.connection_ids == frozenset()


def test_the_peer_is_the_expected_one_or_none() -> None:
    chain = [certificate("server").der]
    assert Bare(expected=SERVER_ID)._verify(chain) == SERVER.public
    assert Bare()._verify(chain) == SERVER.public
    other = PeerId.from_public_key(identity("other").public)
    with pytest.raises(PeerMismatchError):
        Bare(expected=other)._verify(chain)


def test_certificates_are_checked_against_the_wall_clock() -> None:
    base = Bare()
    assert base._config.unix_time() > EPOCH
    with pytest.raises(CertificateError, match="clocks"):
        base._verify([forge(SERVER, until=0)])


def test_opening_needs_a_handshake_and_a_place() -> None:
    base = Bare()
    with pytest.raises(LocalProtocolError):
        base._may_open(5)
    base._handshake_done(SERVER.public, b"")
    base._may_open(5)
    with pytest.raises(LimitError):
        base._may_open(0)


def test_keep_alive_and_handshake_deadline() -> None:
    base = Bare()
    assert base._own_timeout() == 10.0
    assert not base._handshake_late(9.9)
    assert base._handshake_late(10.0)
    base._handshake_done(SERVER.public, b"")
    assert base._own_timeout() == 4.0
    base._ping_if_due(3.9)
    assert base.calls == []
    base._ping_if_due(4.0)
    assert base.calls == [("ping",)]
    assert base._own_timeout() == 8.0
    base._ping_if_due(4.0)
    assert base.calls == [("ping",)]
    base._heard = 7.0
    assert base._own_timeout() == 11.0


def test_pacing_makes_trains() -> None:
    base = Bare()
    base._sent_at = 5.0
    assert base._not_too_soon(5.00001, 0.1) == 5.0005
    assert base._not_too_soon(5.1, 0.1) == 5.1
    assert base._not_too_soon(5.00001, 0.0004) == pytest.approx(5.00005)
    assert base._not_too_soon(5.00001, None) == 5.00001


def opened() -> Bare:
    base = server()
    base._data(0, bytes(200_000), 0.0, fin=False)
    base.taken()
    return base


def test_what_is_asked_of_a_stream_reaches_it_once() -> None:
    base = opened()
    assert base.write(0, b"hello") == 5
    assert base.write(0, b"", fin=True) == 0
    base.finish(0)
    base.stop(0, 3)
    base.stop(0, 3)
    base.reset(0, 4)
    base.reset(0, 4)
    assert base.calls == [
        ("send", 0, b"hello", False),
        ("send", 0, b"", True),
        ("stop", 0, 3),
        ("reset", 0, 4),
    ]
    assert base.write(0, b"more") == 0


def test_windows_move_for_who_reads() -> None:
    base = opened()
    base.consumed(0, 100_000, 9.0)
    assert base.calls == []
    base.consumed(0, 100_000, 9.0)
    assert base.calls == [("grant", 0, 200_000 + Limits().stream_window)]


def test_no_window_for_a_stream_that_is_stopped_or_at_its_end() -> None:
    base = opened()
    base.stop(0, 1)
    base.consumed(0, 200_000, 9.0)
    other = opened()
    other._data(0, b"", 0.0, fin=True)
    other.consumed(0, 200_000, 9.0)
    assert [call[0] for call in base.calls + other.calls] == ["stop"]


def test_a_client_s_own_id_is_ours_until_the_handshake_is_confirmed() -> None:
    base = Bare(is_client=False)
    assert base.connection_ids == {b"ours"}
    base._confirmed()
    base._confirmed()
    assert base.connection_ids == frozenset()
    assert base.taken() == [ConnectionIdRetired(b"ours")]
