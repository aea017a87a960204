"""Scripts: what runs them, what their questions may hope for, and what is left when they end."""

from __future__ import annotations

import random

import pytest

from pt.errors import LimitError
from pt.stun.messages import BINDING, Kind, decode, encode
from pt.stun.probing import MAX_SOCKETS, Ask, Prober, ask, pause, together
from pt.stun.transactions import Schedule

SERVER = ("11.0.0.1", 3478)
OTHER = ("11.0.0.2", 3478)
SHORT = Schedule((0.0,), 1.0)


class Rig:
    """Sockets that note what is sent, and a clock."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes, tuple[str, int]]] = []
        self.closed: list[int] = []
        self.count = 0
        self.now = 10.0
        self.results: list[object] = []
        self.prober = Prober(self, random.Random(1).randbytes)

    def open(self, *, whole: bool = False) -> int:
        self.count += 1
        return self.count

    def close(self, sock: int) -> None:
        self.closed.append(sock)

    def send(self, sock, data, to) -> None:
        self.sent.append((sock, data, to))

    def local(self, sock, to):
        return ("192.168.1.2", 4000 + sock)

    def run(self, script) -> None:
        self.prober.run(script, self.results.append, self.now, failed=self.results.append)

    def answer(self, number: int, *, sock: int | None = None, source=None) -> bool:
        own, data, to = self.sent[number]
        answer = encode(Kind.SUCCESS, BINDING, decode(data).transaction)
        return self.prober.receive(own if sock is None else sock, answer, source or to, self.now)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.prober.next_timeout()) is not None and at <= end:
            self.now = at
            self.prober.handle_timeout(at)
        self.now = end


def test_a_script_reads_from_top_to_bottom():
    rig = Rig()

    def script():
        (first,) = yield from ask([Ask(sock=0, to=SERVER)])
        yield from pause(5.0)
        one, two = yield from ask([Ask(sock=0, to=SERVER), Ask(sock=0, to=OTHER)])
        return first.source, one.source, two.source, rig.prober.now

    rig.run(script())
    assert rig.answer(0)
    assert rig.prober.next_timeout() == 15.0
    rig.pass_time(5.0)
    assert len(rig.sent) == 3
    assert rig.answer(2)
    assert rig.results == []
    assert rig.answer(1)
    assert rig.results == [(SERVER, SERVER, OTHER, 15.0)]
    assert not rig.prober.busy
    assert rig.prober.next_timeout() is None


def test_silence_is_an_outcome():
    rig = Rig()

    def script():
        return (yield from ask([Ask(sock=0, to=SERVER, schedule=SHORT)]))

    rig.run(script())
    rig.pass_time(2.0)
    ((outcome,),) = rig.results
    assert (outcome.response, outcome.sends) == (None, 1)


def test_nothing_to_ask_takes_no_time():
    rig = Rig()
    rig.run(ask([]))
    assert rig.results == [()]


def test_scripts_side_by_side():
    rig = Rig()

    def part(to):
        (outcome,) = yield from ask([Ask(sock=0, to=to)])
        yield from pause(1.0)
        return outcome.source

    def script():
        return (yield from together(part(SERVER), part(OTHER), ask([])))

    rig.run(script())
    assert len(rig.sent) == 2
    assert rig.answer(1)
    rig.pass_time(0.5)
    assert rig.answer(0)
    rig.pass_time(0.9)
    assert rig.results == []
    rig.pass_time(0.2)
    assert rig.results == [(SERVER, OTHER, ())]


def test_answers_come_to_the_socket_that_asked_or_the_one_that_was_named():
    rig = Rig()

    def script():
        one, two = rig.prober.open(), rig.prober.open()
        usual, named = yield from ask([Ask(sock=one, to=SERVER), Ask(sock=one, to=SERVER, at=two)])
        return usual.source, named.source

    rig.run(script())
    assert not rig.answer(0, sock=2)
    assert not rig.answer(1, sock=1)
    assert not rig.answer(1, sock=2, source=OTHER)
    assert rig.answer(1, sock=2)
    assert rig.answer(0)
    assert rig.results == [(SERVER, SERVER)]


def test_a_question_that_comes_back_to_us():
    rig = Rig()

    def script():
        return (yield from ask([Ask(sock=0, to=OTHER, ourselves=True, schedule=SHORT)]))

    rig.run(script())
    _, question, _ = rig.sent[0]
    stranger = encode(Kind.REQUEST, BINDING, b"x" * 12)
    assert not rig.prober.receive(0, stranger, SERVER, rig.now)
    assert rig.prober.receive(7, question, ("11.9.9.9", 5), rig.now)
    ((outcome,),) = rig.results
    assert outcome.source == ("11.9.9.9", 5)
    assert not rig.prober.receive(7, question, SERVER, rig.now)
    assert rig.prober.next_timeout() is None


@pytest.mark.parametrize("data", [b"", b"not STUN at all", bytes(20)])
def test_what_is_not_ours_is_left_to_others(data):
    rig = Rig()
    rig.run(pause(1.0))
    assert not rig.prober.receive(0, data, SERVER, rig.now)
    answer = encode(Kind.SUCCESS, BINDING, bytes(12))
    assert not rig.prober.receive(0, answer, SERVER, rig.now)


def test_sockets_are_bounded_and_closed():
    rig = Rig()

    def script():
        socks = [rig.prober.open() for _ in range(MAX_SOCKETS)]
        with pytest.raises(LimitError):
            rig.prober.open()
        rig.prober.close_socket(socks[0])
        rig.prober.close_socket(socks[0])
        rig.prober.close_socket(0)  # is somebody else's
        yield from pause(100.0)

    rig.run(script())
    assert rig.closed == [1]
    rig.prober.close()
    assert sorted(rig.closed) == list(range(1, MAX_SOCKETS + 1))
    assert rig.prober.next_timeout() is None
    rig.pass_time(200.0)
    assert rig.results == []


def test_an_error_ends_a_script_and_who_runs_it():
    rig = Rig()
    error = LimitError("no more")

    def part():
        yield from pause(1.0)
        raise error

    def other():
        yield from pause(2.0)

    def script():
        yield from together(part(), other())

    rig.run(script())
    rig.pass_time(1.5)
    assert rig.results == [error]
    rig.pass_time(1.0)
    assert rig.results == [error]
    assert not rig.prober.busy


def test_an_error_can_be_lived_with():
    rig = Rig()

    def part():
        yield from pause(1.0)
        raise LimitError("no more")

    def script():
        try:
            yield from together(part())
        except LimitError:
            yield from pause(1.0)
            return "went on"

    rig.run(script())
    rig.pass_time(3.0)
    assert rig.results == ["went on"]


def test_scripts_that_are_ended_clean_up():
    rig = Rig()
    ended = []

    def script():
        try:
            yield from pause(100.0)
        finally:
            ended.append(True)

    rig.run(script())
    rig.prober.close()
    assert ended == [True]
