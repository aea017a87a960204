"""Which ports of the peer are written to, in which order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Final

from pt.punch.candidates import FIRST_PORT, LAST_PORT
from pt.wire.nat_facts import Allocation, Dependence, NatFacts

__all__ = ["WINDOW", "Dice", "aims", "spray_ports"]

WINDOW: Final = 20
"""Next ports that are tried first: room for 19 mappings of others since the sample."""
WIDE_WINDOW: Final = 32
"""Next ports that are tried when a round trip has brought nothing."""
BLOCK_MARGIN: Final = 128
"""Ports on both sides of a block that was seen that may belong to it."""
_COUNT: Final = LAST_PORT - FIRST_PORT + 1


class Dice:
    """Random numbers from a seed."""

    __slots__ = ("_count", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def bits(self) -> int:
        """64 random bits."""
        self._count += 1
        digest = hashlib.sha256(self._seed + self._count.to_bytes(8)).digest()
        return int.from_bytes(digest[:8])

    def below(self, bound: int) -> int:
        """0 to `bound` - 1; the bias of 64 bits is nothing here."""
        return self.bits() % bound


def spray_ports(dice: Dice, block: tuple[int, int] | None) -> Iterator[int]:
    """Every port once; of four in a row three are in the block while it lasts, if there is one."""
    if block is None:
        yield from _shuffled(dice, FIRST_PORT, LAST_PORT)
        return
    first = max(FIRST_PORT, block[0] - BLOCK_MARGIN)
    last = min(LAST_PORT, block[1] + BLOCK_MARGIN)
    inside = _shuffled(dice, first, last)
    outside = (port for port in _shuffled(dice, FIRST_PORT, LAST_PORT) if not first <= port <= last)
    for count, port in enumerate(inside, 1):
        yield port
        if count % 3 == 0 and (other := next(outside, None)) is not None:
            yield other
    yield from outside


def aims(mine: NatFacts, theirs: NatFacts, port: int, *, controlling: bool) -> list[int]:
    """Their ports that the fresh socket writes to, one after the other; `port` was sampled.

    Where both allocations move with each destination, our i-th packet leaves from the i-th port
    after our sample, and has to be aimed at the port of a packet of theirs that is aimed at ours.
    With e and f foreign mappings since the samples of the controlling and the other side, its i-th
    packet leaves from port i+e and goes to i, and the other's j-th leaves from j+f and goes to
    2j-1.  The packets i = 1+e+2f and j = 1+e+f are aimed at each other, for any e and f: some
    dozens of packets meet whatever happened in between.
    """
    if theirs.ports is Allocation.PRESERVING:
        return [port]
    step = theirs.step or 1
    if not _moving(mine):
        count = WIDE_WINDOW if _moving(theirs) else WINDOW
        return [_after(port, step * number) for number in range(1, count + 1)]
    if not _moving(theirs):
        return [_after(port, step * number) for number in range(1, WINDOW + 1)]
    if controlling:
        return [_after(port, step * number) for number in range(1, WIDE_WINDOW + 1)]
    return [_after(port, step * (2 * number - 1)) for number in range(1, 3 * WIDE_WINDOW // 4 + 1)]


def _moving(facts: NatFacts) -> bool:
    return facts.mapping is Dependence.ADDRESS_AND_PORT and facts.ports is Allocation.SEQUENTIAL


def _after(port: int, distance: int) -> int:
    return FIRST_PORT + (port - FIRST_PORT + distance) % _COUNT


def _shuffled(dice: Dice, first: int, last: int) -> Iterator[int]:
    """The ports from `first` to `last`, each once, in an order that `dice` gives."""
    count = last - first + 1
    stride = 1 + dice.below(count)
    while math.gcd(stride, count) != 1:
        stride = 1 + dice.below(count)
    position = dice.below(count)
    for _ in range(count):
        yield first + position
        position = (position + stride) % count
