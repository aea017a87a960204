from __future__ import annotations

from pt.autonat.client import Verdict
from pt.autonat.messages import Status
from pt.autonat.reachability import (
    MAX_SERVERS,
    MAX_TRACKED,
    PAUSE,
    REFRESH,
    REFUSALS,
    SAME_SERVER,
    Reachability,
    State,
)
from pt.wire.multiaddr import Multiaddr

TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")


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
    assert known.wanted(0.0) == [TCP]
    for at in (1.0, 10.0, 20.0):
        known.record(verdict(True), at)
    assert known.wanted(30.0) == []
    assert known.deadline() == 20.0 + REFRESH
    assert known.wanted(20.0 + REFRESH) == [TCP]


def test_what_was_asked_longest_ago_comes_first() -> None:
    known = tracking(TCP, QUIC)
    known.record(verdict(True, TCP), 1.0)
    assert known.wanted(100.0) == [QUIC, TCP]


def test_failures_wait_longer_each_time() -> None:
    known = tracking()
    pauses = []
    now = 0.0
    for _ in range(9):
        known.record(verdict(None), now)
        due = known.deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == 300


def test_servers_that_all_refuse_are_left_alone() -> None:
    known = tracking()
    for _ in range(REFUSALS):
        assert known.wanted(1.0) == [TCP]
        known.record(refused(), 1.0)
    assert known.wanted(PAUSE) == []
    assert known.wanted(1.0 + PAUSE) == [TCP]


def test_a_busy_server_is_a_failure() -> None:
    known = tracking()
    known.record(refused(Status.REQUEST_REJECTED), 1.0)
    assert known.wanted(2.0) == []


def test_a_server_is_not_asked_again_soon() -> None:
    known = tracking()
    known.asked(b"s", 1.0)
    assert not known.may_ask(b"s", SAME_SERVER)
    assert known.may_ask(b"t", 2.0)
    assert known.may_ask(b"s", 1.0 + SAME_SERVER)
    for number in range(2 * MAX_SERVERS):
        known.asked(number.to_bytes(4), 2.0)
    assert len(known._servers) == MAX_SERVERS


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
    assert len(known.wanted(6.0)) == MAX_TRACKED
    known.track([], 7.0)
    assert known.deadline() is None
