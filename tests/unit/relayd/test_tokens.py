from __future__ import annotations

import socket

import pytest

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay.messages import Limit
from pt.relay.registry import Circuit, Grade
from pt.relayd.tokens import LIFE, Pending, Tokens
from tests.sim.world import tcp_pair

ONE, TWO = (PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in (1, 2))
FIRST, SECOND = (b"a" * 32, b"b" * 32), (b"c" * 32, b"d" * 32)
LIMIT = Limit(120, 131072)


class Desk:
    def __init__(self) -> None:
        self.ready: list[Pending] = []
        self.expired: list[Pending] = []
        self.tokens = Tokens(self.ready.append, self.expired.append)

    def issue(self, tokens: tuple[bytes, bytes], now: float) -> Pending:
        return self.tokens.issue(Circuit(ONE, TWO, Grade.STRANGER, LIMIT), LIMIT, tokens, now)


@pytest.fixture
def pair():
    ends = tcp_pair()
    yield ends
    for sock in ends:
        sock.close()


def was_reset(other: socket.socket) -> bool:
    try:
        other.recv(1)
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_legs_are_told_together_the_sources_first(pair, order):
    desk = Desk()
    pending = desk.issue(FIRST, 0.0)
    for side in order:
        assert desk.ready == []
        assert desk.tokens.redeem(FIRST[side], pair[side])
    assert desk.ready == [pending]
    assert pending.legs == list(pair)
    assert pending.limit == LIMIT
    assert len(desk.tokens) == 0
    desk.tokens.sweep(1000.0)
    assert desk.expired == []


def test_a_token_is_good_once_and_for_its_own_circuit(pair):
    desk = Desk()
    pending = desk.issue(FIRST, 0.0)
    desk.issue(SECOND, 0.0)
    assert not desk.tokens.redeem(b"x" * 32, pair[0])
    assert desk.tokens.redeem(FIRST[0], pair[0])
    assert not desk.tokens.redeem(FIRST[0], pair[1])
    assert desk.tokens.redeem(SECOND[1], pair[1])
    assert pending.legs == [pair[0], None]
    assert desk.ready == []
    assert len(desk.tokens) == 2


def test_what_has_expired_is_told_and_its_leg_is_reset(pair):
    desk = Desk()
    old = desk.issue(FIRST, 0.0)
    desk.issue(SECOND, 5.0)
    assert desk.tokens.redeem(FIRST[1], pair[0])
    desk.tokens.sweep(LIFE - 0.1)
    assert desk.expired == []
    desk.tokens.sweep(LIFE)
    assert desk.expired == [old]
    assert was_reset(pair[1])
    assert not desk.tokens.redeem(FIRST[0], pair[1])
    assert len(desk.tokens) == 1


def test_what_was_taken_back_is_not_told(pair):
    desk = Desk()
    pending = desk.issue(FIRST, 0.0)
    assert desk.tokens.redeem(FIRST[0], pair[0])
    desk.tokens.cancel(pending)
    desk.tokens.cancel(pending)
    assert was_reset(pair[1])
    assert not desk.tokens.redeem(FIRST[1], pair[1])
    desk.tokens.sweep(1000.0)
    assert (desk.ready, desk.expired) == ([], [])


def test_closing_gives_everything_up(pair):
    desk = Desk()
    desk.issue(FIRST, 0.0)
    desk.issue(SECOND, 0.0)
    assert desk.tokens.redeem(FIRST[0], pair[0])
    desk.tokens.close()
    assert len(desk.tokens) == 0
    assert was_reset(pair[1])
    assert not desk.tokens.redeem(SECOND[0], pair[1])
