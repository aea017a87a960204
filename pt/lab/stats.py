"""Numbers of a campaign: success rates and times, each with how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Interval", "median_interval", "percentile", "steps", "wilson"]

Z95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """What is known with 95 % confidence."""

    low: float
    high: float


def wilson(successes: int, runs: int) -> Interval:
    """Return Wilson's score interval of a success rate; of no runs, all is possible."""
    if not runs:
        return Interval(0.0, 1.0)
    rate, square = successes / runs, Z95 * Z95
    middle = (rate + square / (2 * runs)) / (1 + square / runs)
    spread = rate * (1 - rate) / runs + square / (4 * runs * runs)
    half = Z95 * math.sqrt(spread) / (1 + square / runs)
    # At either end the interval includes it, which rounding must not take away.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Interval(low, 1.0 if successes == runs else min(1.0, middle + half))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = max(1, math.ceil(share * len(ordered)))
    return ordered[min(rank, len(ordered)) - 1]


def median_interval(values: Sequence[float]) -> Interval:
    """Return an interval of the median by order statistics, for any distribution."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    count = len(ordered)
    half = Z95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - half))
    high = min(count - 1, math.ceil(count / 2 + half))
    return Interval(ordered[low], ordered[high])


def steps(values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the empirical distribution: (value, share that does not exceed it), ascending."""
    ordered = sorted(values)
    return [(value, (index + 1) / len(ordered)) for index, value in enumerate(ordered)]
