"""What a relay promises to whom: quotas by grade, host and network, expiry, circuits, reloads."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pt.identity.peer_id import PeerId
from pt.relay.messages import Limit, Status
from pt.relay.registry import (
    STRANGERS,
    USERS,
    Grade,
    Quotas,
    Rates,
    Refusal,
    Registry,
    places,
)

USER, STRANGER = Grade.USER, Grade.STRANGER
FREE = Rates(
    reserve_per_peer=10**9, reserve_per_host=10**9, connect_per_peer=10**9, connect_per_host=10**9
)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def registry(strangers: Quotas | None = STRANGERS, users: Quotas = USERS, rates=FREE) -> Registry:
    return Registry(strangers, users, rates)


def reserve_many(reg: Registry, numbers, grade=STRANGER, now=0.0) -> None:
    for n in numbers:
        reg.reserve(peer(n), grade, f"10.{n // 250}.{n % 250}.1", now)


def refused(call, *args, **kwargs) -> Status:
    with pytest.raises(Refusal) as caught:
        call(*args, **kwargs)
    assert str(caught.value)
    return caught.value.status


def test_defaults():
    assert (
        Quotas(
            reservations=128,
            per_host=8,
            per_network=32,
            circuits=1024,
            circuits_per_peer=16,
            ttl=3600,
            limit=Limit(120, 131072),
        )
        == STRANGERS
    )
    assert USERS.limit is None
    assert (USERS.reservations, USERS.circuits, USERS.circuits_per_peer) == (16384, 16384, 4096)


# --- reservations ---


def test_a_reservation_lasts_its_time():
    reg = registry()
    slot = reg.reserve(peer(1), STRANGER, "192.0.2.1", 100.0)
    assert (slot.peer, slot.grade, slot.expire) == (peer(1), STRANGER, 3700.0)
    assert slot.limit == Limit(120, 131072)
    assert reg.holder(peer(1), 3699.0) is slot
    assert reg.holder(peer(1), 3700.0) is None
    assert reg.holder(peer(2), 100.0) is None
    assert reg.expired(3699.0) == []
    assert reg.expired(3700.0) == [peer(1)]
    assert reg.expired(3701.0) == []
    assert reg.reservations(STRANGER) == 0
    assert reg.counts.expired == 1


def test_a_refresh_replaces():
    reg = registry(Quotas(reservations=1, per_host=1, per_network=1))
    first = reg.reserve(peer(1), STRANGER, "192.0.2.1", 0.0)
    second = reg.reserve(peer(1), STRANGER, "192.0.2.1", 1000.0)
    assert reg.holder(peer(1), 1000.0) is second
    assert second.expire == 4600.0
    assert reg.expired(3600.0) == []
    reg.release(peer(1), first)  # what went with an old connection
    assert reg.holder(peer(1), 3600.0) is second
    reg.release(peer(1), second)
    assert reg.holder(peer(1), 3600.0) is None
    assert (reg.counts.reserved, reg.counts.refreshed) == (1, 1)


def test_released_ones_do_not_expire():
    reg = registry()
    reserve_many(reg, range(3))
    reg.release(peer(1))
    reg.release(peer(1))
    assert reg.reservations(STRANGER) == 2
    assert sorted(reg.expired(1e9)) == [peer(0), peer(2)]


def test_the_total_is_bounded():
    reg = registry()
    reserve_many(reg, range(128))
    assert refused(reserve_many, reg, [128]) is Status.RESERVATION_REFUSED
    assert reg.counts.reserve_refused == {Status.RESERVATION_REFUSED: 1}
    reg.release(peer(5))
    reserve_many(reg, [128])


def test_hosts_are_bounded():
    reg = registry()
    for n in range(8):
        reg.reserve(peer(n), STRANGER, "192.0.2.1", 0.0)
    assert refused(reg.reserve, peer(8), STRANGER, "192.0.2.1", 0.0) is Status.RESERVATION_REFUSED
    assert (
        refused(reg.reserve, peer(8), STRANGER, "::ffff:192.0.2.1", 0.0)
        is Status.RESERVATION_REFUSED
    )
    reg.reserve(peer(8), STRANGER, "192.0.2.2", 0.0)


def test_networks_are_bounded():
    reg = registry()
    for n in range(32):
        reg.reserve(peer(n), STRANGER, f"192.0.2.{n}", 0.0)
    assert refused(reg.reserve, peer(99), STRANGER, "192.0.2.99", 0.0) is Status.RESERVATION_REFUSED
    reg.reserve(peer(99), STRANGER, "192.0.3.99", 0.0)


def test_in_ipv6_a_host_is_a_64_and_a_network_a_48():
    reg = registry(Quotas(per_host=1, per_network=2))
    reg.reserve(peer(1), STRANGER, "2001:db8:1:1::1", 0.0)
    assert (
        refused(reg.reserve, peer(2), STRANGER, "2001:db8:1:1:ffff::2", 0.0)
        is Status.RESERVATION_REFUSED
    )
    reg.reserve(peer(2), STRANGER, "2001:db8:1:2::1", 0.0)
    assert (
        refused(reg.reserve, peer(3), STRANGER, "2001:db8:1:3::1", 0.0)
        is Status.RESERVATION_REFUSED
    )
    reg.reserve(peer(3), STRANGER, "2001:db8:2:1::1", 0.0)


def test_places():
    assert places("192.0.2.1") == places("::ffff:192.0.2.1")
    assert places("fe80::1%eth0") == places("fe80::2")
    assert places("192.0.2.1")[1] == places("192.0.2.255")[1] != places("192.0.3.1")[1]
    assert places("relay.example") == ("relay.example", "relay.example")


def test_a_peer_that_moves_counts_where_it_is():
    reg = registry(Quotas(per_host=1))
    reg.reserve(peer(1), STRANGER, "192.0.2.1", 0.0)
    reg.reserve(peer(1), STRANGER, "192.0.2.2", 0.0)
    reg.reserve(peer(2), STRANGER, "192.0.2.1", 0.0)
    assert refused(reg.reserve, peer(3), STRANGER, "192.0.2.2", 0.0) is Status.RESERVATION_REFUSED


def test_a_refused_refresh_leaves_the_reservation():
    reg = registry(Quotas(per_host=1))
    slot = reg.reserve(peer(1), STRANGER, "192.0.2.1", 0.0)
    reg.reserve(peer(2), STRANGER, "192.0.2.2", 0.0)
    assert refused(reg.reserve, peer(1), STRANGER, "192.0.2.2", 0.0) is Status.RESERVATION_REFUSED
    assert reg.holder(peer(1), 1.0) is slot
    assert reg.reservations(STRANGER) == 2
    assert refused(reg.reserve, peer(3), STRANGER, "192.0.2.1", 0.0) is Status.RESERVATION_REFUSED


def test_strangers_do_not_take_what_is_for_users():
    reg = registry(Quotas(reservations=2), Quotas(reservations=2, per_host=None, limit=None))
    reserve_many(reg, [1, 2])
    assert refused(reserve_many, reg, [3]) is Status.RESERVATION_REFUSED
    reserve_many(reg, [3, 4], USER)
    assert refused(reserve_many, reg, [5], USER) is Status.RESERVATION_REFUSED
    assert (reg.reservations(USER), reg.reservations(STRANGER)) == (2, 2)


def test_who_becomes_a_user_no_longer_counts_as_a_stranger():
    reg = registry(Quotas(reservations=1))
    reserve_many(reg, [1])
    reserve_many(reg, [1], USER)
    reserve_many(reg, [2])
    slot = reg.holder(peer(1), 0.0)
    assert slot is not None
    assert (slot.grade, slot.limit) == (USER, None)


def test_a_private_relay():
    reg = registry(None)
    assert refused(reserve_many, reg, [1]) is Status.PERMISSION_DENIED
    reserve_many(reg, [2], USER)
    circuit = reg.open(peer(1), STRANGER, peer(2), 0.0, host="192.0.2.1")
    assert (circuit.grade, circuit.limit) == (USER, None)
    assert (
        refused(reg.open, peer(1), STRANGER, peer(3), 0.0, host="192.0.2.1")
        is Status.NO_RESERVATION
    )


# --- circuits ---


def opened(reg, source, target, grade=STRANGER):
    return reg.open(peer(source), grade, peer(target), 0.0, host=f"192.0.2.{source % 250}")


def test_a_circuit_needs_a_reservation():
    reg = registry()
    assert refused(opened, reg, 1, 2) is Status.NO_RESERVATION
    reserve_many(reg, [2])
    circuit = opened(reg, 1, 2)
    assert (circuit.source, circuit.target, circuit.grade) == (peer(1), peer(2), STRANGER)
    assert circuit.limit == Limit(120, 131072)
    assert (
        refused(reg.open, peer(1), STRANGER, peer(2), 3600.0, host="10.0.0.1")
        is Status.NO_RESERVATION
    )
    assert refused(opened, reg, 2, 2) is Status.PERMISSION_DENIED
    assert reg.counts.open_refused == {Status.NO_RESERVATION: 2, Status.PERMISSION_DENIED: 1}
    assert reg.counts.opened == 1


@pytest.mark.parametrize(
    ("source", "target", "better"),
    [
        (STRANGER, STRANGER, STRANGER),
        (STRANGER, USER, USER),
        (USER, STRANGER, USER),
        (USER, USER, USER),
    ],
)
def test_the_better_grade_decides(source, target, better):
    reg = registry()
    reserve_many(reg, [2], target)
    circuit = opened(reg, 1, 2, source)
    assert circuit.grade is better
    assert (circuit.limit is None) == (better is USER)
    assert reg.circuits(better) == 1
    assert reg.circuits(USER) + reg.circuits(STRANGER) == 1


def test_circuits_are_bounded_in_all():
    reg = registry(Quotas(circuits=3))
    reserve_many(reg, range(10, 20))
    circuits = [opened(reg, n, 10 + n) for n in range(3)]
    assert refused(opened, reg, 5, 15) is Status.RESOURCE_LIMIT_EXCEEDED
    assert opened(reg, 5, 15, USER).grade is USER
    reg.close(circuits[0])
    reg.close(circuits[0])
    opened(reg, 5, 15)
    assert refused(opened, reg, 6, 15) is Status.RESOURCE_LIMIT_EXCEEDED


def test_circuits_of_a_peer_are_bounded_at_either_end():
    reg = registry()
    reserve_many(reg, range(100, 120))
    reserve_many(reg, [1])
    circuits = [opened(reg, 1, 100 + n) for n in range(8)]
    circuits += [opened(reg, 50 + n, 1) for n in range(8)]
    assert reg.circuits_of(peer(1)) == 16
    assert refused(opened, reg, 1, 110) is Status.RESOURCE_LIMIT_EXCEEDED
    assert refused(opened, reg, 70, 1) is Status.RESOURCE_LIMIT_EXCEEDED
    opened(reg, 70, 110)
    for circuit in circuits:
        reg.close(circuit)
    assert reg.circuits_of(peer(1)) == 0
    assert reg.circuits(STRANGER) == 1


# --- rates ---


def test_strangers_cannot_open_circuits_without_end():
    reg = registry(rates=Rates())
    reserve_many(reg, range(10), USER)

    def attempts(number, source, now):
        statuses = []
        for n in range(number):
            try:
                reg.close(
                    reg.open(peer(source), STRANGER, peer(n % 10), now, host=f"192.0.2.{source}")
                )
            except Refusal as refusal:
                statuses.append(refusal.status)
        return statuses

    assert attempts(60, 100, 0.0) == []
    assert set(attempts(5, 100, 0.0)) == {Status.RESOURCE_LIMIT_EXCEEDED}
    assert attempts(1, 101, 0.0) == []
    assert attempts(1, 100, 1.1) == []


def test_many_peers_of_one_host_share_its_rate():
    reg = registry(rates=Rates(connect_per_host=5, reserve_per_host=5))
    for n in range(5):
        assert (
            refused(reg.open, peer(n), STRANGER, peer(99), 0.0, host="2001:db8::1")
            is Status.NO_RESERVATION
        )
    assert (
        refused(reg.open, peer(6), STRANGER, peer(99), 0.0, host="2001:db8::2")
        is Status.RESOURCE_LIMIT_EXCEEDED
    )
    for n in range(5):
        reg.reserve(peer(n), STRANGER, "192.0.2.1", 0.0)
    assert refused(reg.reserve, peer(6), STRANGER, "192.0.2.1", 0.0) is Status.RESERVATION_REFUSED


def test_refreshing_without_end_is_refused_to_strangers_only():
    reg = registry(rates=Rates(reserve_per_peer=3))
    for _ in range(3):
        reserve_many(reg, [1])
    assert refused(reserve_many, reg, [1]) is Status.RESERVATION_REFUSED
    for _ in range(1000):
        reserve_many(reg, [2], USER)
    assert len(reg._by_expiry) < 100
    assert sorted(reg.expired(3600.0)) == [peer(1), peer(2)]


# --- reloads ---


def test_other_quotas_hold_for_what_comes():
    reg = registry(Quotas(reservations=2))
    reserve_many(reg, [1, 2])
    circuit = opened(reg, 1, 2)
    reg.reconfigure(Quotas(reservations=1, ttl=60, limit=Limit(10, 10)), USERS)
    assert reg.holder(peer(1), 3599.0) is not None
    assert refused(reserve_many, reg, [1]) is Status.RESERVATION_REFUSED  # there are two
    reg.release(peer(2))
    assert reg.reserve(peer(1), STRANGER, "10.0.1.1", 0.0).expire == 60
    assert circuit.limit == Limit(120, 131072)
    assert opened(reg, 2, 1).limit == Limit(10, 10)
    reg.reconfigure(None, USERS)
    assert reg.holder(peer(1), 0.0) is not None
    assert refused(opened, reg, 2, 1) is Status.PERMISSION_DENIED
    reg.close(circuit)
    assert reg.circuits(STRANGER) == 1
    reg.reconfigure(STRANGERS, USERS)
    reserve_many(reg, [5, 6, 7])


def test_ten_thousand_of_each_cost_little():
    count = 10_000
    reg = registry()
    started = time.process_time()
    for n in range(count):
        reg.reserve(peer(n), USER, f"10.{n >> 8}.{n & 255}.1", n / 1000)
    circuits = [
        reg.open(peer(n), USER, peer((n + 1) % count), 20.0, host="10.0.0.1") for n in range(count)
    ]
    filled = time.process_time() - started
    started = time.process_time()
    for n in range(1000):
        assert reg.expired(3600.0 + n / 100_000) == ([peer(n // 100)] if n % 100 == 0 else [])
    swept = time.process_time() - started
    for circuit in circuits:
        reg.close(circuit)
    assert len(reg.expired(1e9)) == count - 10
    assert len(reg._held) == 0
    assert filled < 5
    assert swept < 0.5


QUOTAS = {
    STRANGER: Quotas(reservations=4, per_host=2, per_network=3, circuits=4, circuits_per_peer=2),
    USER: Quotas(reservations=3, per_host=2, per_network=None, circuits=3, circuits_per_peer=2),
}


class Machine(RuleBasedStateMachine):
    """Any order of calls: the counts are those of what exists, and within the quotas."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.reg = Registry(QUOTAS[STRANGER], QUOTAS[USER], FREE)
        self.slots: dict = {}
        self.circuits: list = []

    peers = st.integers(0, 7).map(peer)
    grades = st.sampled_from(Grade)
    hosts = st.tuples(st.integers(0, 2), st.integers(1, 3)).map(lambda p: f"10.0.{p[0]}.{p[1]}")

    @rule(who=peers, grade=grades, host=hosts)
    def reserve(self, who, grade, host):
        try:
            slot = self.reg.reserve(who, grade, host, self.now)
        except Refusal:
            others = [s for p, s in self.slots.items() if p != who and s.grade is grade]
            quotas = QUOTAS[grade]
            at_host = sum(s.host == places(host)[0] for s in others)
            in_network = sum(s.network == places(host)[1] for s in others)
            assert (
                len(others) >= quotas.reservations
                or at_host >= quotas.per_host
                or (quotas.per_network is not None and in_network >= quotas.per_network)
            )
        else:
            self.slots[who] = slot

    @rule(who=peers)
    def release(self, who):
        self.slots.pop(who, None)
        self.reg.release(who)

    @rule(source=peers, grade=grades, wanted=peers, host=hosts)
    def open(self, source, grade, wanted, host):
        try:
            circuit = self.reg.open(source, grade, wanted, self.now, host=host)
        except Refusal:
            return
        assert source != wanted
        assert self.slots[wanted].expire > self.now
        self.circuits.append(circuit)

    @precondition(lambda self: self.circuits)
    @rule(data=st.data(), again=st.booleans())
    def close(self, data, again):
        circuit = data.draw(st.sampled_from(self.circuits))
        self.circuits.remove(circuit)
        self.reg.close(circuit)
        if again:
            self.reg.close(circuit)

    @rule(seconds=st.floats(0, 2000), sweep=st.booleans())
    def pass_time(self, seconds, sweep):
        self.now += seconds
        if sweep:
            gone = {p for p, slot in self.slots.items() if slot.expire <= self.now}
            assert set(self.reg.expired(self.now)) == gone
            for p in gone:
                del self.slots[p]

    @invariant()
    def counts_and_quotas(self):
        for grade, quotas in QUOTAS.items():
            slots = [slot for slot in self.slots.values() if slot.grade is grade]
            circuits = [c for c in self.circuits if c.grade is grade]
            assert self.reg.reservations(grade) == len(slots) <= quotas.reservations
            assert self.reg.circuits(grade) == len(circuits) <= quotas.circuits
            for host in {slot.host for slot in slots}:
                assert sum(slot.host == host for slot in slots) <= quotas.per_host
            for n in range(8):
                of_peer = sum(peer(n) in (c.source, c.target) for c in circuits)
                assert of_peer <= quotas.circuits_per_peer
        for n in range(8):
            slot = self.slots.get(peer(n))
            alive = slot is not None and slot.expire > self.now
            assert self.reg.holder(peer(n), self.now) is (slot if alive else None)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
