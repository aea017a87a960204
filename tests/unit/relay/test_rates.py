from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.relay.rates import MAX_SOURCES, Buckets


def attempt(buckets: Buckets, source: str, now: float) -> bool:
    allowed = buckets.allows(source, now)
    if allowed:
        buckets.count(source, now)
    return allowed


def test_a_minutes_worth_at_once_then_one_by_one():
    buckets = Buckets(6)
    assert [attempt(buckets, "a", 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert attempt(buckets, "b", 0.0)
    assert not attempt(buckets, "a", 9.9)
    assert attempt(buckets, "a", 10.1)
    assert not attempt(buckets, "a", 10.2)
    assert [attempt(buckets, "a", 1000.0) for _ in range(7)] == [True] * 6 + [False]


def test_asking_whether_it_is_allowed_costs_nothing():
    buckets = Buckets(1)
    assert all(buckets.allows("a", 0.0) for _ in range(5))


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200))
def test_never_more_than_the_rate(pauses):
    buckets = Buckets(30)
    now, allowed = 0.0, 0
    for pause in pauses:
        now += pause
        allowed += attempt(buckets, "a", now)
        assert allowed <= 30 + now * 30 / 60 + 1e-6


def test_a_clock_that_goes_back_gives_nothing():
    buckets = Buckets(1)
    assert attempt(buckets, "a", 100.0)
    assert not attempt(buckets, "a", 10.0)


def test_the_table_is_bounded_and_forgets_who_asked_longest_ago():
    buckets = Buckets(1)
    for number in range(MAX_SOURCES + 1):
        assert attempt(buckets, str(number), 0.0)
    assert len(buckets) == MAX_SOURCES
    assert not buckets.allows(str(MAX_SOURCES), 0.0)
    assert not buckets.allows("1", 0.0)
    assert buckets.allows("0", 0.0)
    buckets.count("1", 0.0)
    buckets.count("new", 0.0)
    assert not buckets.allows("1", 0.0)
    assert buckets.allows("2", 0.0)
