from __future__ import annotations

import pytest

from pt.autonat.client import Verdict
from pt.autonat.messages import Status
from pt.autonat.reachability import (
    BUDGET,
    BUDGET_PERIOD,
    MAX_ASKED_OF,
    MAX_SERVERS,
    MAX_TRACKED,
    PAUSE,
    REFRESH,
    REFUSALS,
    SAME_SERVER,
    SERVER_PAUSE,
    Reachability,
    State,
    publishable,
)
from pt.wire.multiaddr import Multiaddr

TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
LAN = Multiaddr.tcp("192.168.1.2", 4001)
CIRCUIT = Multiaddr.parse("/ip4/11.9.9.9/tcp/4001").through_circuit()
SERVER = b"s"


def verdict(reachable: bool | None, address: Multiaddr = TCP) -> Verdict:
    return Verdict(address, reachable, Status.OK, "")


def refused(status: Status = Status.DIAL_REFUSED) -> Verdict:
    return Verdict(None, None, status, "")


def tracking(*addresses: Multiaddr) -> Reachability:
    known = Reachability()
    known.track(addresses or (TCP,), 0.0)
    return known


def test_two_verdicts_make_a_state_and_one_liar_does_not_undo_it() -> None:
    known = tracking()
    assert not known.record(verdict(True), 1.0)
    assert known.state(TCP) is State.UNKNOWN
    assert known.record(verdict(True), 2.0)
    assert known.state(TCP) is State.REACHABLE
    assert known.reachable == [TCP]
    known.record(verdict(True), 3.0)
    assert not known.record(verdict(False), 4.0)
    assert known.state(TCP) is State.REACHABLE


def test_a_change_is_noticed() -> None:
    known = tracking()
    for at in range(5):
        known.record(verdict(True), at)
    changes = [known.record(verdict(False), at) for at in range(5, 10)]
    assert known.state(TCP) is State.UNREACHABLE
    assert changes.count(True) == 2  # unknown in between


def test_a_sure_address_is_asked_about_hourly() -> None:
    known = tracking()
    assert known.wanted(SERVER, 0.0) == [TCP]
    for at in (1.0, 10.0, 20.0):
        known.record(verdict(True), at)
    assert known.wanted(SERVER, 30.0) == []
    assert known.deadline([SERVER]) == 20.0 + REFRESH
    assert known.wanted(SERVER, 20.0 + REFRESH) == [TCP]


def test_what_was_asked_longest_ago_comes_first() -> None:
    known = tracking(TCP, QUIC)
    known.record(verdict(True, TCP), 1.0)
    assert known.wanted(SERVER, 100.0) == [QUIC, TCP]


def test_failures_wait_longer_each_time() -> None:
    known = tracking()
    pauses = []
    now = 0.0
    for _ in range(9):
        known.record(verdict(None), now)
        due = known.deadline([SERVER])
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 300


def test_servers_that_all_refuse_are_left_alone() -> None:
    known = tracking()
    for _ in range(REFUSALS):
        assert known.wanted(SERVER, 1.0) == [TCP]
        known.record(refused(), 1.0)
    assert known.wanted(SERVER, PAUSE) == []
    assert known.wanted(SERVER, 1.0 + PAUSE) == [TCP]


def test_a_busy_server_is_a_failure() -> None:
    known = tracking()
    known.record(refused(Status.REQUEST_REJECTED), 1.0)
    assert known.wanted(SERVER, 2.0) == []


def test_a_server_is_not_asked_again_soon() -> None:
    known = tracking(TCP, QUIC)
    known.asked(SERVER, [TCP], 1.0)
    assert known.wanted(SERVER, 2.0) == []
    assert known.wanted(b"t", 2.0) == [TCP, QUIC]
    assert known.deadline([SERVER]) == 1.0 + SERVER_PAUSE
    assert known.deadline([SERVER, b"t"]) == 0.0
    assert known.wanted(SERVER, 1.0 + SERVER_PAUSE) == [QUIC]
    assert known.wanted(SERVER, 1.0 + SAME_SERVER) == [TCP, QUIC]


def test_a_server_that_cannot_tell_of_one_address_may_tell_of_others() -> None:
    known = tracking(TCP, QUIC)
    known.passed_over(SERVER, [TCP], 1.0)
    assert known.wanted(SERVER, 1.0) == [QUIC]
    assert known.wanted(SERVER, 1.0 + SAME_SERVER) == [TCP, QUIC]


def test_servers_are_remembered_within_bounds() -> None:
    known = tracking()
    for number in range(2 * MAX_SERVERS):
        known.asked(number.to_bytes(4), [TCP, QUIC], 2.0)
    assert len(known._servers) == MAX_SERVERS
    assert len(known._tracked[TCP].asked) == MAX_ASKED_OF


def test_what_servers_get_for_dials_elsewhere_is_bounded() -> None:
    known = tracking()
    assert known.pay(BUDGET - 1, 1.0)
    assert not known.pay(2, 2.0)
    assert known.affords(1, 2.0)
    assert known.pay(1, 3.0)
    assert not known.affords(1, BUDGET_PERIOD - 1)
    assert known.pay(BUDGET, BUDGET_PERIOD)


def test_what_cannot_be_dialed_is_told_as_such() -> None:
    known = tracking(TCP, QUIC)
    for at in (1.0, 2.0):
        known.record(verdict(False, QUIC), at)
    assert known.state(QUIC) is State.UNREACHABLE
    assert known.unreachable == [QUIC]
    assert known.reachable == []


@pytest.mark.parametrize(
    ("addresses", "unreachable", "told"),
    [
        ((LAN, TCP, QUIC), (), (LAN, TCP, QUIC)),
        ((LAN, TCP, QUIC), (TCP,), (LAN, QUIC)),
        ((LAN, TCP, QUIC), (TCP, QUIC), (LAN, TCP, QUIC)),
        ((LAN, TCP, CIRCUIT), (TCP,), (LAN, CIRCUIT)),
        ((TCP,), (TCP,), (TCP,)),
        ((LAN,), (TCP,), (LAN,)),
    ],
)
def test_the_only_way_in_is_published_whatever_servers_say(addresses, unreachable, told) -> None:
    assert publishable(addresses, unreachable) == told


def test_addresses_come_and_go() -> None:
    known = tracking(TCP, QUIC)
    known.record(verdict(True), 1.0)
    known.record(verdict(True), 2.0)
    known.track([TCP], 3.0)
    assert known.state(TCP) is State.REACHABLE
    known.track([QUIC], 4.0)
    assert known.state(TCP) is State.UNKNOWN
    assert not known.record(verdict(True, TCP), 5.0)
    known.track([Multiaddr.tcp("11.0.1.2", port) for port in range(1, 200)], 6.0)
    assert len(known.wanted(SERVER, 6.0)) == MAX_TRACKED
    known.track([], 7.0)
    assert known.deadline([SERVER]) is None
