"""Links beyond what test_link.py covers: bursts, reordering, copies."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab.model.pipe import Pipe, Shape


def pipe(seed: int = 1, **shape: float) -> Pipe:
    return Pipe(Shape(**shape), random.Random(seed))  # type: ignore[arg-type]


def test_bursts_have_the_asked_loss_and_length() -> None:
    line = pipe(loss=0.05, burst=5)
    fates = "".join("." if line.offer(100, 0.0) is not None else "x" for _ in range(100_000))
    runs = [run for run in fates.split(".") if run]
    assert 0.045 < fates.count("x") / len(fates) < 0.055
    assert 4.5 < sum(map(len, runs)) / len(runs) < 5.5


def test_independent_losses_come_alone() -> None:
    line = pipe(loss=0.05)
    fates = "".join("." if line.offer(100, 0.0) is not None else "x" for _ in range(100_000))
    runs = [run for run in fates.split(".") if run]
    assert sum(map(len, runs)) / len(runs) < 1.2


def test_reordered_packets_are_overtaken_and_others_are_not() -> None:
    line = pipe(delay=0.01, jitter=0.01, reorder=0.2)
    dues = [line.offer(100, n / 1000) for n in range(2000)]
    late = sum(after < before for before, after in itertools.pairwise(dues))
    assert 0.1 < late / 2000 < 0.25
    line = pipe(delay=0.01, jitter=0.01)
    dues = [line.offer(100, n / 1000) for n in range(2000)]
    assert dues == sorted(dues)


def test_copies() -> None:
    assert {pipe().copies() for _ in range(9)} == {1}
    line = pipe(duplicate=0.3)
    assert 0.25 < sum(line.copies() == 2 for _ in range(5000)) / 5000 < 0.35


@given(
    st.floats(0, 1e8), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9), st.integers(0, 2**32)
)
def test_nothing_arrives_before_its_time(rate, delay, jitter, loss, seed) -> None:
    line = pipe(seed, rate=rate, delay=delay, jitter=jitter, loss=loss)
    for n in range(50):
        due = line.offer(1000, n / 100)
        assert due is None or due >= n / 100 + delay
    assert line.packets + line.lost + line.overflowed == 50


@pytest.mark.parametrize("wrong", [{"loss": 2}, {"delay": -1}, {"mtu": 100}, {"queue": 0}])
def test_impossible_links(wrong) -> None:
    with pytest.raises(ValueError, match="possible"):
        Shape(**wrong)
