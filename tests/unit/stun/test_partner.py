"""Two servers that answer for each other, and those who would have them answer for others."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import UsageError
from pt.stun.limits import BURST, Allowance
from pt.stun.messages import BINDING, MAX_MESSAGE, Kind, decode, encode
from pt.stun.partner import ASK_EVERY, HELLO, LOST_AFTER, WINDOW, Connect, Partner, partner_key
from pt.stun.server import Answer, Place

KEY = partner_key("a secret of two relays")
A, B = ("11.0.0.1", 4001), ("11.0.0.2", 4001)
CLIENT = ("11.0.0.9", 40000)
PORTS = (4001, 4002)
DATA = encode(Kind.SUCCESS, BINDING, bytes(12))
ANSWER = Answer(DATA, CLIENT, Place(1, 1))


def numbered(first: int):
    numbers = itertools.count(first)
    return lambda length: next(numbers).to_bytes(length)


class Pair:
    def __init__(self, ports=PORTS, keys=(KEY, KEY)) -> None:
        self.now = 50.0
        self.allowance = Allowance()
        self.a = Partner(B, keys[0], PORTS, numbered(1))
        self.b = Partner(A, keys[1], ports, numbered(1 << 60), allowance=self.allowance)

    def greet(self) -> None:
        """Whoever is due asks, and is answered."""
        for one, other, address in ((self.a, self.b, A), (self.b, self.a, B)):
            for data in one.handle_timeout(self.now):
                answer = other.receive(data, address, self.now)
                if isinstance(answer, bytes):
                    source = B if address == A else A
                    assert one.receive(answer, source, self.now) is None

    def forward(self, answer=ANSWER) -> bytes:
        data = self.a.forward(answer, self.now)
        assert data is not None
        return data

    def take(self, data: bytes, source=A):
        return self.b.receive(data, source, self.now)


@pytest.fixture
def pair() -> Pair:
    found = Pair()
    found.greet()
    return found


def test_each_offers_the_other_while_it_is_there(pair):
    assert pair.a.places(50.0) == {Place(1, 0): B, Place(1, 1): ("11.0.0.2", 4002)}
    assert pair.b.places(50.0) == {Place(1, 0): A, Place(1, 1): ("11.0.0.1", 4002)}
    assert pair.a.places(50.0 + LOST_AFTER + 1) == {}
    assert pair.a.forward(ANSWER, 50.0 + LOST_AFTER + 1) is None


def test_nothing_is_offered_before_the_other_has_answered():
    one = Partner(B, KEY, PORTS, numbered(1))
    assert one.next_timeout() is None
    assert len(one.handle_timeout(0.0)) == 1
    assert one.handle_timeout(0.0) == []
    assert one.next_timeout() == pytest.approx(2.0)
    assert one.places(0.0) == {}
    assert one.forward(ANSWER, 0.0) is None


def test_it_goes_on_asking(pair):
    for _ in range(10):
        assert pair.a.next_timeout() == pair.now + ASK_EVERY
        pair.now += ASK_EVERY
        pair.greet()
        assert pair.a.alive(pair.now)


def test_an_answer_leaves_from_the_other_server(pair):
    assert pair.take(pair.forward()) == Answer(DATA, CLIENT, Place(0, 1))
    same_port = replace(ANSWER, place=Place(1, 0))
    assert pair.take(pair.forward(same_port)) == Answer(DATA, CLIENT, Place(0, 0))
    assert pair.b.counts["sent for the other"] == 2


def test_who_is_asked_asks_back_at_once(pair):
    fresh = Partner(B, KEY, PORTS, numbered(1 << 40))
    assert len(fresh.handle_timeout(0.0)) == 1
    (question,) = pair.b.handle_timeout(pair.now + ASK_EVERY)
    assert isinstance(fresh.receive(question, B, 0.5), bytes)
    assert fresh.next_timeout() == 0.5
    assert len(fresh.handle_timeout(0.5)) == 1


def test_ports_have_to_be_the_same():
    pair = Pair(ports=(4001, 5000))
    pair.greet()
    assert pair.a.mismatch == (4001, 5000)
    assert pair.a.places(pair.now) == {}


def test_another_secret_is_nobodys():
    pair = Pair(keys=(KEY, partner_key("another secret, as long")))
    pair.greet()
    assert not pair.a.alive(pair.now)
    assert not pair.b.alive(pair.now)


def test_a_forward_is_good_once(pair):
    data = pair.forward()
    assert pair.take(data) is not None
    assert pair.take(data) is None
    assert pair.b.counts["dropped: replayed"] == 1


def test_forwards_may_overtake_each_other(pair):
    several = [pair.forward() for _ in range(WINDOW)]
    assert all(pair.take(data) for data in reversed(several))
    assert not any(pair.take(data) for data in several)


def test_one_that_is_too_late_is_dropped(pair):
    late, *rest = (pair.forward() for _ in range(WINDOW + 1))
    assert all(pair.take(data) for data in rest)
    assert pair.take(late) is None


def test_a_server_that_starts_again_takes_nothing_of_before(pair):
    data = pair.forward()
    pair.b = Partner(A, KEY, PORTS, numbered(1 << 61))
    assert pair.take(data) is None
    assert pair.take(pair.forward()) is None
    pair.now += ASK_EVERY
    pair.greet()
    assert pair.take(pair.forward()) is not None


def test_one_that_starts_again_itself_goes_on_where_it_was(pair):
    for _ in range(5):
        assert pair.take(pair.forward()) is not None
    pair.a = Partner(B, KEY, PORTS, numbered(1 << 62))
    pair.greet()
    assert pair.take(pair.forward()) is not None


def test_only_from_the_configured_address(pair):
    assert pair.take(pair.forward(), source=("11.0.0.3", 4001)) is None
    assert pair.take(pair.forward(), source=(A[0], 4002)) is None
    assert pair.b.counts["dropped: not the other server"] == 2


def test_an_answer_to_an_old_question_says_nothing(pair):
    (question,) = Partner(B, KEY, PORTS, numbered(1 << 40)).handle_timeout(0.0)
    answer = pair.take(question)
    assert isinstance(answer, bytes)
    fresh = Partner(B, KEY, PORTS, numbered(1 << 50))
    fresh.handle_timeout(0.0)
    fresh.receive(answer, B, 0.0)
    assert not fresh.alive(0.0)


@pytest.mark.parametrize(
    "answer",
    [
        replace(ANSWER, data=encode(Kind.REQUEST, BINDING, bytes(12))),
        replace(ANSWER, data=encode(Kind.SUCCESS, 3, bytes(12))),
        replace(ANSWER, data=b"anything at all."),
        replace(ANSWER, to=(CLIENT[0], 0)),
        replace(ANSWER, to=("2001:db8::1", 9)),
    ],
)
def test_nothing_but_answers_is_sent_on(pair, answer):
    assert pair.take(pair.forward(answer)) is None
    assert sum(count for name, count in pair.b.counts.items() if name.startswith("dropped")) == 1


HERE_I_AM = encode(Kind.INDICATION, BINDING, bytes(12))


def test_connections_to_somebody_elses_client(pair):
    pair.b._connections = Allowance(0.0, 2.0)
    data = pair.a.connect(CLIENT, HERE_I_AM, pair.now)
    assert pair.take(data) == Connect(CLIENT, HERE_I_AM)
    assert pair.take(data) is None
    for wrong in (DATA, b"anything at all."):
        assert pair.take(pair.a.connect(CLIENT, wrong, pair.now)) is None
    assert pair.take(pair.forward(replace(ANSWER, data=HERE_I_AM))) is None
    assert pair.take(pair.a.connect(CLIENT, HERE_I_AM, pair.now)) is not None
    assert pair.take(pair.a.connect(CLIENT, HERE_I_AM, pair.now)) is None
    assert pair.b.counts["dropped: too many"] == 1


def test_no_connections_unless_they_are_allowed(pair):
    assert pair.take(pair.a.connect(CLIENT, HERE_I_AM, pair.now)) is None


def test_what_is_too_long_is_not_forwarded(pair):
    assert pair.a.forward(replace(ANSWER, data=bytes(MAX_MESSAGE - 100)), pair.now) is None
    longest = encode(Kind.SUCCESS, BINDING, bytes(12), [(0x0026, bytes(1500))])
    assert pair.take(pair.forward(replace(ANSWER, data=longest))) is not None


def test_a_destination_gets_no_more_by_way_of_the_other(pair):
    for _ in range(BURST // 2):
        pair.allowance.take(CLIENT[0], pair.now)  # answers of its own
    sent = sum(pair.take(pair.forward()) is not None for _ in range(BURST))
    assert sent == BURST // 2
    assert pair.take(pair.forward(replace(ANSWER, to=("11.0.0.8", 1)))) is not None


@given(st.integers(0, 10**4), st.integers(1, 255))
def test_no_changed_bit_is_taken(at, flip):
    pair = Pair()
    pair.greet()
    data = bytearray(pair.forward())
    data[at % (len(data) - 8)] ^= flip
    assert pair.take(bytes(data)) is None


def test_damaged_greetings_of_who_has_the_secret(pair):
    (question,) = Partner(B, KEY, PORTS, numbered(7)).handle_timeout(0.0)
    transaction = decode(question).transaction
    one = Partner(B, KEY, PORTS, numbered(7))
    one.handle_timeout(0.0)
    for attributes in ([], [(0xC0F0, b"x"), (0xC0F1, bytes(8)), (0xC0F2, bytes(4))]):
        data = encode(Kind.SUCCESS, HELLO, transaction, attributes, sha256_key=KEY)
        one.receive(data, B, 0.0)
    assert not one.alive(0.0)


def test_secrets_are_long():
    assert partner_key(" a secret of two relays\n") == KEY
    with pytest.raises(UsageError, match="make-secret"):
        partner_key("short")
