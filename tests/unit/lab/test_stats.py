"""Intervals are right: against known values, and by what they promise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab.stats import median_interval, percentile, steps, wilson


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # R: binom::binom.confint(…, methods = "wilson")
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (100, 100, 0.9630, 1.0),
        (40, 40, 0.9124, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes, runs, low, high) -> None:
    interval = wilson(successes, runs)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_the_rate(successes, runs) -> None:
    successes = min(successes, runs)
    interval = wilson(successes, runs)
    assert 0 <= interval.low <= successes / runs <= interval.high <= 1


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.0) == 1.0
    assert percentile(list(range(1, 101)), 0.99) == 99
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    rng = random.Random(3)
    held = 0
    for _ in range(400):
        interval = median_interval([rng.expovariate(1.0) for _ in range(30)])
        held += interval.low <= 0.693147 <= interval.high
    assert held / 400 >= 0.93
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


def test_steps() -> None:
    assert steps([3.0, 1.0]) == [(1.0, 0.5), (3.0, 1.0)]
