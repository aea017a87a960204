from __future__ import annotations

import itertools

from pt.quic.moves import KNOWN, SMALLEST, Moves

HOME, ROAD, FAR = ("11.0.0.2", 1), ("11.0.0.2", 2), ("11.5.0.2", 3)
numbers = itertools.count()


def random(count: int) -> bytes:
    return next(numbers).to_bytes(count, "big")


def answer(moves: Moves, now: float = 0.0) -> bool:
    data = moves.challenge(now, 0.1, random)
    assert data is not None
    return moves.look(b"\x02ack" + b"\x1b" + data + b"\x00")


def test_at_home_there_is_nothing_to_do() -> None:
    moves = Moves(HOME)
    assert moves.validated
    assert moves.room() is None
    assert moves.challenge(0.0, 0.1, random) is None
    assert moves.next_timeout() is None
    assert not moves.look(b"\x1b" + bytes(8))


def test_a_move_is_proved_by_its_answer() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 1000, 5.0, 1.0)
    assert (moves.address, moves.proved, moves.validated) == (ROAD, HOME, False)
    assert moves.room() == 3000
    assert moves.next_timeout() == 5.0
    assert answer(moves, 5.0)
    assert (moves.address, moves.proved, moves.validated) == (ROAD, ROAD, True)
    assert moves.room() is None


def test_three_times_what_came_from_there() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 100, 0.0, 1.0)
    moves.sent(250)
    assert moves.room() == 50
    moves.received(10)
    assert moves.room() == 80
    moves.sent(500)
    assert moves.room() == 0


def test_an_answer_to_another_challenge_is_none() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 1000, 0.0, 1.0)
    assert moves.challenge(0.0, 0.1, random) is not None
    assert not moves.look(b"\x1b" + b"somebody")
    assert not moves.look(b"")
    assert not moves.validated


def test_challenges_are_repeated_and_any_may_be_answered() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 1000, 0.0, 9.0)
    first = moves.challenge(0.0, 0.1, random)
    assert first is not None
    assert moves.challenge(0.05, 0.1, random) is None
    assert moves.next_timeout() == 0.1
    assert moves.challenge(0.1, 0.1, random) not in {None, first}
    assert moves.look(b"\x1b" + first)


def test_without_an_answer_home_is_home() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 1000, 0.0, 1.0)
    moves.expire(0.9)
    assert moves.address == ROAD
    moves.expire(1.0)
    assert (moves.address, moves.validated) == (HOME, True)


def test_challenges_do_not_amplify_and_time_goes_on() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, SMALLEST // 3 - 1, 0.0, 9.0)
    assert moves.challenge(0.0, 0.1, random) is None
    assert moves.next_timeout() == 0.1


def test_known_addresses_are_believed_at_once() -> None:
    moves = Moves(HOME)
    moves.move(ROAD, 1000, 0.0, 1.0)
    answer(moves)
    moves.move(HOME, 1000, 1.0, 1.0)
    assert (moves.proved, moves.validated) == (HOME, True)
    moves.move(FAR, 1000, 2.0, 1.0)
    assert not moves.validated
    moves.move(ROAD, 1000, 2.0, 1.0)
    assert moves.validated


def test_few_addresses_are_known() -> None:
    moves = Moves(HOME)
    for port in range(10, 10 + KNOWN):
        moves.move(("11.0.0.2", port), 1000, 0.0, 1.0)
        answer(moves)
    moves.move(HOME, 1000, 0.0, 1.0)
    assert not moves.validated, "forgotten"
