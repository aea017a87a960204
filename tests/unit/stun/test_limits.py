from __future__ import annotations

from pt.stun.limits import BURST, MAX_SOURCES, RATE, Allowance, network_of


def test_a_burst_and_then_a_rate():
    allowance = Allowance()
    taken = sum(allowance.take("11.0.0.1", 5.0) for _ in range(BURST * 2))
    assert taken == BURST
    assert sum(allowance.take("11.0.0.1", 6.0) for _ in range(BURST)) == RATE
    assert allowance.take("11.0.0.2", 6.0)


def test_a_clock_that_goes_back_gives_nothing():
    allowance = Allowance(1.0, 1.0)
    assert allowance.take("11.0.0.1", 100.0)
    assert not allowance.take("11.0.0.1", 50.0)


def test_one_host_has_all_addresses_of_a_64():
    assert network_of("fd00::1") == network_of("fd00::ffff:1") != network_of("fd00:0:0:1::1")
    assert network_of("11.0.0.1") != network_of("11.0.0.2")


def test_the_table_is_bounded():
    allowance = Allowance(0.0, 1.0)
    for number in range(MAX_SOURCES + 10):
        assert allowance.take(f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(allowance) == MAX_SOURCES
