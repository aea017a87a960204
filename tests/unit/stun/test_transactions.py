"""Requests under way: when they are sent, what answers them, and what does not."""

from __future__ import annotations

import itertools

import pytest

from pt.errors import LimitError
from pt.stun.attributes import SOFTWARE, error_code
from pt.stun.messages import BINDING, Kind, decode, encode
from pt.stun.transactions import (
    MAX_REQUESTS,
    ONCE,
    QUICK,
    RFC8489,
    Outcome,
    Schedule,
    Transactions,
)

SERVER = ("11.0.0.1", 3478)
OTHER = ("11.0.0.2", 3478)
KEY = b"password"


class Client:
    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self.outcomes: list[Outcome] = []
        self.now = 100.0
        numbers = itertools.count()
        self.table = Transactions(
            lambda data, to: self.sent.append((self.now - 100, data)),
            lambda length: next(numbers).to_bytes(length),
        )

    def ask(self, **how):
        return self.table.request(SERVER, self.outcomes.append, now=self.now, **how)

    def run(self, until: float) -> None:
        while (at := self.table.next_timeout()) is not None and at <= 100 + until:
            self.now = at
            self.table.handle_timeout(at)
        self.now = 100 + until

    def answer(self, transaction, *attributes, source=SERVER, kind=Kind.SUCCESS, **how) -> bool:
        method = how.pop("method", BINDING)
        message = decode(encode(kind, method, transaction, attributes, **how))
        return self.table.receive(message, source, self.now)


def test_the_times_of_rfc_8489():
    client = Client()
    client.ask()
    client.run(60)
    assert [at for at, _ in client.sent] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert client.outcomes == [Outcome(sends=7)]
    assert len({data for _, data in client.sent}) == 1
    assert RFC8489.end == 39.5
    assert len(client.table) == 0


def test_it_is_given_up_when_the_schedule_ends():
    client = Client()
    client.ask(schedule=Schedule.doubling(0.1, 3, 2))
    client.run(0.49)
    assert client.outcomes == []
    client.run(0.5)
    assert client.outcomes == [Outcome(sends=3)]


def test_over_tcp_it_is_sent_once():
    client = Client()
    client.ask(schedule=ONCE)
    client.run(60)
    assert len(client.sent) == 1
    assert client.outcomes == [Outcome(sends=1)]


def test_an_answer():
    client = Client()
    transaction = client.ask()
    client.run(0.6)
    assert client.answer(transaction, (SOFTWARE, b"x"))
    (outcome,) = client.outcomes
    assert outcome.response is not None
    assert outcome.source == SERVER
    assert outcome.rtt == pytest.approx(0.6)
    assert outcome.sends == 2
    assert not client.answer(transaction)
    client.run(60)
    assert len(client.sent) == 2


def test_what_is_no_answer():
    client = Client()
    transaction = client.ask()
    assert not client.answer(b"x" * 12)
    assert not client.answer(transaction, source=OTHER)
    assert not client.answer(transaction, source=(SERVER[0], 1))
    assert not client.answer(transaction, kind=Kind.REQUEST)
    assert not client.answer(transaction, kind=Kind.INDICATION)
    assert not client.answer(transaction, kind=Kind.ERROR)
    assert not client.answer(transaction, method=3)
    assert client.outcomes == []
    assert client.answer(transaction)


def test_an_answer_from_elsewhere_if_it_was_asked_for():
    client = Client()
    transaction = client.ask(elsewhere=True)
    assert client.answer(transaction, source=OTHER)
    assert client.outcomes[0].source == OTHER


def test_errors():
    client = Client()
    transaction = client.ask()
    assert client.answer(transaction, error_code(420, "Unknown"), kind=Kind.ERROR)
    assert client.outcomes[0].error == (420, "Unknown")
    assert client.outcomes[0].response is None


@pytest.mark.parametrize("sha256", [True, False])
def test_a_signed_request_takes_signed_answers(sha256):
    client = Client()
    transaction = client.ask(key=KEY, sha256=sha256)
    assert decode(client.sent[0][1]).verify(KEY)
    assert not client.answer(transaction)
    assert not client.answer(transaction, key=b"another")
    assert not client.answer(transaction, error_code(420, "Unknown"), kind=Kind.ERROR)
    assert client.outcomes == []
    assert client.answer(transaction, sha256_key=KEY if sha256 else None, key=KEY)


def test_a_server_that_does_not_know_us_cannot_sign():
    client = Client()
    transaction = client.ask(key=KEY)
    assert client.answer(transaction, error_code(401, "Unauthenticated"), kind=Kind.ERROR)
    assert client.outcomes[0].error == (401, "Unauthenticated")


def test_a_clock_that_jumps_makes_no_burst():
    client = Client()
    client.ask()
    client.now += 20
    client.table.handle_timeout(client.now)
    assert len(client.sent) == 2
    client.run(60)
    assert len(client.sent) == 3


def test_cancelled_and_forgotten():
    client = Client()
    transaction = client.ask(schedule=QUICK)
    client.table.cancel(transaction)
    client.table.cancel(transaction)
    assert not client.answer(transaction)
    client.run(60)
    assert client.outcomes == []
    assert client.table.next_timeout() is None


def test_requests_are_bounded():
    client = Client()
    for _ in range(MAX_REQUESTS):
        client.ask()
    with pytest.raises(LimitError):
        client.ask()


def test_who_is_told_may_ask_again():
    client = Client()

    def again(outcome: Outcome) -> None:
        client.outcomes.append(outcome)
        if len(client.outcomes) < 3:
            client.table.request(SERVER, again, now=client.now, schedule=Schedule((0.0,), 1.0))

    client.table.request(SERVER, again, now=client.now, schedule=Schedule((0.0,), 1.0))
    client.run(10)
    assert len(client.outcomes) == 3
