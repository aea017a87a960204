from __future__ import annotations

import pytest

from pt.quic.nudge import MAX_BACKOFF, Nudge

HELLO = b"ClientHello"


class Core:
    def __init__(self, timer):
        self.timer = timer
        self.sent = []

    def get_timer(self):
        return self.timer

    def send_crypto(self, epoch, offset, data):
        self.sent.append((epoch, offset, data))


class Conn:
    def __init__(self, *, is_client=True, done=False, timer=None):
        self.core = Core(timer)
        self.is_client = is_client
        self.done = done
        self.first_flight = [(0, HELLO)]


@pytest.mark.parametrize("timer", [None, ("idle", 30.0)])
def test_a_client_with_nothing_to_be_answered_asks_again_ever_more_seldom(timer):
    conn = Conn(timer=timer)
    nudge = Nudge(conn)
    assert nudge.at(10.0, 0.2) == 10.2
    nudge.expire(10.1, 10.0, 0.2)
    assert conn.core.sent == []
    nudge.expire(10.2, 10.0, 0.2)
    assert conn.core.sent == [(0, 0, HELLO)]
    assert nudge.at(10.0, 0.2) == pytest.approx(10.6)
    assert nudge.at(11.0, 0.2) == pytest.approx(11.4), "something was heard"
    for _ in range(20):
        nudge.expire(1e6, 10.0, 0.2)
        nudge._last = 0.0
    assert nudge.at(10.0, 1.0) == 10.0 + 2**MAX_BACKOFF


@pytest.mark.parametrize(
    "conn",
    [Conn(is_client=False), Conn(done=True), Conn(timer=("loss_detection", 10.1))],
    ids=["server", "done", "in flight"],
)
def test_otherwise_nothing_is_asked(conn):
    nudge = Nudge(conn)
    assert nudge.at(10.0, 0.2) is None
    nudge.expire(100.0, 10.0, 0.2)
    assert conn.core.sent == []
