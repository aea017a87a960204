from __future__ import annotations

import pytest

from pt.quic.aioquic_connection import Connection
from pt.quic.engine_aioquic import AioquicEngine
from tests.contract.quic_world import Peer, World, joined, two_ports

ELSEWHERE = ("11.9.9.9", 9)


def moved() -> tuple[World, Peer, Connection, list[int]]:
    """A server with much to send whose client acknowledged once from elsewhere; what it sends."""
    world = World()
    ours, theirs = joined(world, *two_ports(world, AioquicEngine, AioquicEngine))
    world.run(1)
    theirs.open().send(bytes(300_000))
    sent = theirs.engine.trains(world.now)
    for train in sent[:1]:
        ours.engine.receive(
            train.segments[0], len(train.segments[0]), theirs.port.address, world.now
        )
    ours.engine.handle_timeout(world.now + 0.03)
    (answer, *_) = ours.engine.trains(world.now + 0.03)
    world.now += 0.04
    theirs.engine.receive(answer.segments[0], len(answer.segments[0]), ELSEWHERE, world.now)
    assert isinstance(theirs.engine, AioquicEngine)
    sizes = [len(each) for train in theirs.engine.trains(world.now) for each in train.segments]
    return world, theirs, theirs.engine._conn, sizes


def test_a_question_leaves_enough_to_ask_again() -> None:
    world, theirs, conn, sizes = moved()
    credit = 3 * conn.path.bytes_received
    assert conn.path.addr == ELSEWHERE
    assert not conn.path.is_validated
    assert 0 < sum(sizes) < credit / 2
    again = theirs.engine.next_timeout()
    assert again is not None
    assert world.now < again < world.now + 0.3
    world.now = again
    theirs.engine.handle_timeout(again)
    more = [len(each) for train in theirs.engine.trains(again) for each in train.segments]
    assert len(more) == 1
    assert sum(sizes) + sum(more) <= credit
    assert len(conn.path.local_challenges) == 2


def test_nothing_is_asked_without_credit_or_need() -> None:
    _, _, conn, _ = moved()
    assert conn._challenge_again() is not None
    conn.path.bytes_sent = 3 * conn.path.bytes_received
    assert conn._challenge_again() is None
    conn.path.bytes_sent = 0
    assert conn._challenge_again() is not None
    conn.path.is_validated = True
    assert conn._challenge_again() is None
    assert not conn.is_short_of_credit(conn.path)


@pytest.mark.parametrize("received", [400, 10_000])
def test_who_has_said_much_gets_bytes_of_streams(received: int) -> None:
    _, _, conn, _ = moved()
    conn.path.bytes_received = received
    conn.path.bytes_sent = 0
    assert not conn.is_short_of_credit(conn.path)


def test_nothing_is_asked_after_the_end() -> None:
    _, _, conn, _ = moved()
    conn.drop()
    assert conn._challenge_again() is None
