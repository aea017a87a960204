"""How a NAT chooses external ports, from a sample of them: a pure function of what was seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pt.wire.nat_facts import Allocation

__all__ = ["ENOUGH", "PortSample", "Ports", "classify"]

ENOUGH: Final = 4
"""Samples below which nothing is said."""
MOST: Final = 0.7
"""Of the samples have to agree: others are collisions, or lost and asked again."""
MAX_STEP: Final = 256
BETWEEN: Final = 16
"""Ports that others take between two of ours, on average; more is no row any more."""
NARROW: Final = 8192
"""Ports, all in so small a range, are not of the whole of it: with eight at random once in 10^5."""
SMALLEST_BLOCK: Final = 64


@dataclass(frozen=True, slots=True)
class PortSample:
    """One fresh socket's port, on our side and outside; in the order in which they were sent."""

    internal: int
    external: int


@dataclass(frozen=True, slots=True)
class Ports:
    """What was found; `step` of a sequential allocation, `block` of a narrow one."""

    allocation: Allocation = Allocation.UNKNOWN
    step: int = 0
    block: tuple[int, int] | None = None


def classify(samples: Sequence[PortSample]) -> Ports:
    """Tell the allocation of ports."""
    if len(samples) < ENOUGH:
        return Ports()
    kept = sum(each.internal == each.external for each in samples)
    if kept >= MOST * len(samples):
        return Ports(Allocation.PRESERVING)
    external = [each.external for each in samples]
    step = _step(external)
    if step:
        return Ports(Allocation.SEQUENTIAL, step)
    low, high = min(external), max(external)
    if high - low < NARROW and len(samples) >= 2 * ENOUGH:
        return Ports(Allocation.RANDOM, block=_block(low, high, len(samples)))
    return Ports(Allocation.RANDOM)


def _step(external: Sequence[int]) -> int:
    """What comes between one port and the next, if they are in a row; else 0."""
    moves = [later - before for before, later in itertools.pairwise(external)]
    small = [move for move in moves if 0 < abs(move) <= MAX_STEP]  # not at the end of the range
    if len(small) < MOST * len(moves):
        return 0
    up = [move for move in small if move > 0]
    down = [-move for move in small if move < 0]
    same_way, sign = (up, 1) if len(up) >= len(down) else (down, -1)
    if len(same_way) < MOST * len(moves):
        return 0
    common = math.gcd(*same_way)  # others may take ports between ours
    return sign * common if sum(same_way) <= BETWEEN * common * len(same_way) else 0


def _block(low: int, high: int, count: int) -> tuple[int, int]:
    """The range that ports between `low` and `high` are probably of.

    Blocks are powers of two, and aligned, where NATs assign them by computing (RFC 7422); if that
    is far more than what was seen, the range and what `count` samples may have missed at its ends.
    """
    size = SMALLEST_BLOCK
    while low // size != high // size:
        size *= 2
    missed = (high - low) // (count - 1) + 1
    if size <= 2 * (high - low + 2 * missed):
        return max(1, low // size * size), low // size * size + size - 1
    return max(1, low - missed), min(65535, high + missed)
