from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pt.errors import RemoteProtocolError
from pt.tunnel.core.replay import Ledger, Replay

SLOT = 1000


def make(limit: int = 1 << 20) -> tuple[Replay, Ledger, list[memoryview]]:
    released: list[memoryview] = []
    ledger = Ledger(limit)
    return Replay(ledger, released.append), ledger, released


def test_bytes_are_kept_until_acknowledged() -> None:
    replay, ledger, _ = make()
    replay.append_sent(b"abc")
    replay.append_sent(b"defg")
    assert (replay.end, replay.sent, ledger.held, replay.keeps) == (7, 7, 7, True)
    replay.ack(3)
    assert (ledger.held, replay.keeps) == (4, True)
    replay.ack(7)
    assert (ledger.held, replay.keeps, replay.done) == (0, False, False)


def test_a_slot_counts_whole_and_goes_back_with_its_last_byte() -> None:
    replay, ledger, released = make()
    slot = memoryview(bytearray(SLOT))
    replay.append_sent(slot[12:112], slot)
    assert ledger.held == SLOT
    replay.ack(99)
    assert released == []
    replay.ack(100)
    assert released == [slot]
    assert ledger.held == 0


def test_the_end_counts_as_one() -> None:
    replay, _, _ = make()
    replay.append_sent(b"ab")
    replay.append_fin()
    replay.append_fin()
    assert (replay.end, replay.fin_next, replay.unsent) == (3, True, False)
    replay.fin_sent()
    replay.ack(2)
    assert not replay.done
    replay.ack(3)
    assert replay.done


def test_an_empty_stream_has_an_end_too() -> None:
    replay, _, _ = make()
    replay.append_fin()
    replay.fin_sent()
    replay.ack(1)
    assert replay.done


@pytest.mark.parametrize("said", [4, 1 << 63])
def test_acknowledging_what_never_was(said: int) -> None:
    replay, _, _ = make()
    replay.append_sent(b"abc")
    with pytest.raises(RemoteProtocolError):
        replay.ack(said)
    with pytest.raises(RemoteProtocolError):
        replay.rewind(said)


def test_rewinding_to_bytes_that_are_gone() -> None:
    replay, _, _ = make()
    replay.append_sent(b"abc")
    replay.ack(2)
    with pytest.raises(RemoteProtocolError):
        replay.rewind(1)


def test_a_late_acknowledgement_is_nothing() -> None:
    replay, _, _ = make()
    replay.append_sent(b"abc")
    replay.ack(3)
    replay.ack(1)
    assert replay.acked == 3


def test_dropping_gives_everything_back() -> None:
    replay, ledger, released = make()
    slot = memoryview(bytearray(SLOT))
    replay.append_sent(b"abc")
    replay.append_sent(slot[:500], slot)
    replay.drop()
    replay.drop()
    assert ledger.held == 0
    assert released == [slot]
    assert not replay.keeps
    assert not replay.unsent


def test_the_ledger_is_shared() -> None:
    ledger = Ledger(10)
    one, two = (Replay(ledger, lambda slot: None) for _ in range(2))
    one.append_sent(b"12345")
    two.append_sent(b"1234")
    assert not ledger.full
    two.append_sent(b"1")
    assert ledger.full
    one.ack(5)
    assert not ledger.full


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1), st.data())
def test_after_a_rewind_the_rest_comes_again(pieces: list[bytes], draw: st.DataObject) -> None:
    replay, _, _ = make()
    for piece in pieces:
        replay.append_sent(piece)
    whole = b"".join(pieces)
    start = draw.draw(st.integers(0, len(whole)))
    replay.rewind(start)
    again = b""
    while replay.unsent:
        part = bytes(replay.next_unsent(draw.draw(st.integers(1, 40))))
        assert part
        again += part
        replay.resent(len(part))
    assert again == whole[start:]
    assert bytes(replay.next_unsent(10)) == b""


class LossyPath(RuleBasedStateMachine):
    """A sender with a `Replay`, and a receiver that counts, over a path that forgets at any time.

    What the receiver has is always a prefix of what was written; memory is accounted exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[memoryview] = []
        self.ledger = Ledger(1 << 20)
        self.replay = Replay(self.ledger, self.lent.remove)
        self.written = bytearray()
        self.path = bytearray()
        self.path_fin = False
        self.received = bytearray()
        self.ended = False
        self.acks: list[int] = []

    @property
    def count(self) -> int:
        return len(self.received) + self.ended

    @precondition(lambda self: not self.replay.fin and not self.replay.unsent)
    @rule(piece=st.binary(min_size=1, max_size=50), borrow=st.booleans())
    def write(self, piece: bytes, borrow: bool) -> None:
        self.written += piece
        self.path += piece
        if borrow:
            slot = memoryview(bytearray(SLOT))
            slot[12 : 12 + len(piece)] = piece
            self.lent.append(slot)
            self.replay.append_sent(slot[12 : 12 + len(piece)], slot)
        else:
            self.replay.append_sent(piece)

    @rule()
    def end(self) -> None:
        self.replay.append_fin()

    @precondition(lambda self: self.replay.fin_next and not self.path_fin)
    @rule()
    def send_end(self) -> None:
        assert not self.replay.unsent
        self.path_fin = True
        self.replay.fin_sent()

    @precondition(lambda self: self.replay.unsent)
    @rule(limit=st.integers(1, 60))
    def send_again(self, limit: int) -> None:
        piece = bytes(self.replay.next_unsent(limit))
        assert 0 < len(piece) <= limit
        self.path += piece
        self.replay.resent(len(piece))

    @rule(size=st.integers(0, 80))
    def arrive(self, size: int) -> None:
        self.received += self.path[:size]
        del self.path[:size]
        if not self.path and self.path_fin:
            self.ended = True
        self.acks.append(self.count)

    @precondition(lambda self: self.acks)
    @rule(pick=st.integers(0, 20))
    def acknowledge(self, pick: int) -> None:
        self.replay.ack(self.acks[pick % len(self.acks)])

    @rule()
    def lose_the_path(self) -> None:
        self.path.clear()
        self.path_fin = False
        self.acks.clear()
        self.replay.rewind(self.count)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.written.startswith(self.received)
        if self.ended:
            assert self.received == self.written
        replay = self.replay
        assert replay.acked <= self.count <= replay.end
        assert replay.acked <= replay.sent <= replay.end
        assert replay.end == len(self.written) + replay.fin

    @invariant()
    def memory_is_accounted(self) -> None:
        held = sum(
            len(data) if slot is None else len(slot) for _, data, slot in self.replay._chunks
        )
        assert self.ledger.held == held
        assert len(self.lent) == sum(slot is not None for _, _, slot in self.replay._chunks)
        if not self.replay.keeps:
            assert held == 0


LossyPath.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLossyPath = LossyPath.TestCase
