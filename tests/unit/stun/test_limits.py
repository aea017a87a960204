from __future__ import annotations

from pt.stun.limits import BURST, MAX_SILENCE, MAX_SOURCES, RATE, Allowance, Held, network_of


def test_a_burst_and_then_a_rate():
    allowance = Allowance()
    taken = sum(allowance.take("11.0.0.1", 5.0) for _ in range(BURST * 2))
    assert taken == BURST
    assert sum(allowance.take("11.0.0.1", 6.0) for _ in range(BURST)) == RATE
    assert allowance.take("11.0.0.2", 6.0)


def test_all_together():
    allowance = Allowance(10.0, 10.0, total=(5.0, 8.0))
    hosts = [f"11.0.0.{number}" for number in range(10)]
    assert [allowance.take(each, 1.0) for each in hosts] == [True] * 8 + [False] * 2
    assert not allowance.room(1.0)
    assert allowance.room(1.25)
    assert sum(allowance.take(each, 2.25) for each in hosts) == 6


def test_who_gets_nothing_costs_the_others_nothing():
    allowance = Allowance(0.0, 1.0, total=(0.0, 3.0))
    assert sum(allowance.take("11.0.0.1", 1.0) for _ in range(50)) == 1
    assert allowance.take("11.0.0.2", 1.0)


def test_a_clock_that_goes_back_gives_nothing():
    allowance = Allowance(1.0, 1.0)
    assert allowance.take("11.0.0.1", 100.0)
    assert not allowance.take("11.0.0.1", 50.0)


def test_one_host_has_all_addresses_of_a_64():
    assert network_of("fd00::1") == network_of("fd00::ffff:1") != network_of("fd00:0:0:1::1")
    assert network_of("11.0.0.1") != network_of("11.0.0.2")


def test_the_table_is_bounded():
    allowance = Allowance(0.0, 1.0, total=(0.0, 1e6))
    for number in range(MAX_SOURCES + 10):
        assert allowance.take(f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(allowance) == MAX_SOURCES


def test_connections_that_are_held():
    held = Held(most=3, each=2)
    assert not held.take("11.0.0.1", MAX_SILENCE + 1)
    assert [held.take("2001:db8::1", 1.0) for _ in range(3)] == [True, True, False]
    assert not held.take("2001:db8::2", 1.0)  # of the same network
    assert held.take("11.0.0.1", MAX_SILENCE)
    assert not held.take("11.0.0.2", 1.0)
    assert len(held) == 3
    held.release("2001:db8::2")
    assert held.take("11.0.0.2", 1.0)
    for host in ("2001:db8::1", "11.0.0.1", "11.0.0.2"):
        held.release(host)
    assert len(held) == 0
    assert not held._count
