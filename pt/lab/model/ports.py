"""Which outer port a NAT gives: preserve, sequential, random, or random in the host's block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from pt.lab.model.pipe import Randomness
from pt.lab.model.spec import NatSpec

__all__ = ["Allocator"]

GUESSES: Final = 32
"""Random draws before all ports are tried in turn."""


class Allocator:
    """Chooses ports for one outer address and protocol; who holds which is asked, not known."""

    def __init__(self, spec: NatSpec, rng: Randomness) -> None:
        self._spec = spec
        self._rng = rng
        self._next = rng.randrange(spec.low, spec.high + 1)
        self._blocks: dict[bytes, int] = {}
        self._foreign = math.inf
        """When another host makes its next mapping."""

    def others(self, now: float) -> None:
        """Let other hosts make the mappings that they have made until now (a Poisson process)."""
        noise = self._spec.noise
        if not noise or self._spec.allocation != "seq":
            return
        if self._foreign is math.inf:
            self._foreign = now - math.log(1 - self._rng.random()) / noise
        while self._foreign <= now:
            self._sequential(lambda _: False)
            self._foreign -= math.log(1 - self._rng.random()) / noise

    def choose(self, inside: bytes, wanted: int, taken: Callable[[int], bool]) -> int | None:
        """Return a free port for a host that sends from port `wanted`; None if there is none."""
        spec = self._spec
        low, high = spec.low, spec.high
        if spec.allocation == "seq":
            return self._sequential(taken)
        if spec.allocation == "block":
            block = self._block(inside)
            if block is None:
                return None
            low, high = block, block + spec.block - 1
        elif spec.allocation == "preserve" and low <= wanted <= high and not taken(wanted):
            return wanted
        return self.random(low, high, taken)

    def elsewhere(self, taken: Callable[[int], bool]) -> int | None:
        """Return a random free port, whatever the rule is."""
        return self.random(self._spec.low, self._spec.high, taken)

    def random(self, low: int, high: int, taken: Callable[[int], bool]) -> int | None:
        """Return a random free port of a range."""
        for _ in range(GUESSES):
            port = self._rng.randrange(low, high + 1)
            if not taken(port):
                return port
        start = self._rng.randrange(low, high + 1)
        return next(
            (p for p in (*range(start, high + 1), *range(low, start)) if not taken(p)), None
        )

    def _sequential(self, taken: Callable[[int], bool]) -> int | None:
        low, high, step = self._spec.low, self._spec.high, self._spec.step
        for _ in range(high - low + 1):
            port = self._next
            self._next += step
            if self._next > high:
                self._next = low + (self._next - low) % step
            if not taken(port):
                return port
        return None

    def _block(self, inside: bytes) -> int | None:
        """Return the first port of the host's block, which it keeps."""
        block = self._blocks.get(inside)
        if block is None:
            spec = self._spec
            used = set(self._blocks.values())
            starts = range(spec.low, spec.high - spec.block + 2, spec.block)
            free = [start for start in starts if start not in used]
            if not free:
                return None
            block = self._blocks[inside] = free[self._rng.randrange(0, len(free))]
        return block
