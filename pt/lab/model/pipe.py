"""One direction of a link: a pure model of rate, queue, delay, jitter, loss, reordering, copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

__all__ = ["MIN_MTU", "Pipe", "Randomness", "Shape"]

MIN_MTU: Final = 576


class Randomness(Protocol):
    """What is needed of `random.Random`."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def randrange(self, start: int, stop: int, /) -> int:
        """Return a number in [start, stop)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one direction does to packets.

    rate: bit/s of IP packets, 0 = unlimited. delay, jitter: seconds one way; jitter is uniform in
    [0, jitter] and never reorders. loss: probability, after the queue; burst: mean number of
    packets lost in a row (Gilbert's model), 0 or 1 = independent losses. reorder: probability that
    a packet is held back by up to `hold` seconds while others pass it. duplicate: probability of a
    second copy. queue: bytes that may wait for the line, the packet on it included; the next one is
    dropped. mtu: longest packet, 0 = any.
    """

    rate: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    queue: int = 1_000_000
    burst: float = 0.0
    reorder: float = 0.0
    hold: float = 0.01
    duplicate: float = 0.0
    mtu: int = 0

    def __post_init__(self) -> None:
        probabilities = (self.loss, self.reorder, self.duplicate)
        if (
            min(self.rate, self.delay, self.jitter, self.burst, self.hold) < 0
            or not all(0 <= each <= 1 for each in probabilities)
            or self.queue < 1
            or 0 < self.mtu < MIN_MTU
        ):
            raise ValueError(f"not a possible link: {self}")

    @property
    def transparent(self) -> bool:
        """Whether it does nothing to any packet."""
        return not (
            self.rate or self.delay or self.jitter or self.loss or self.reorder or self.duplicate
        )


class Pipe:
    """Decides the fate of each packet of one direction; knows no clock and holds no packet."""

    def __init__(self, shape: Shape, rng: Randomness) -> None:
        self.shape = shape
        self.cut = False
        self.packets = self.octets = self.lost = self.overflowed = 0
        self._rng = rng
        self._line_free = 0.0
        self._last_due = 0.0
        self._in_burst = False

    def offer(self, size: int, now: float) -> float | None:
        """Return when a packet of `size` bytes arrives, or None when it never does.

        `now` must not decrease; arrival times do not either, but for reordered packets.
        """
        shape = self.shape
        if self.cut:
            self.lost += 1
            return None
        due = now
        if shape.rate:
            free = self._line_free
            start = free if free > now else now
            if (start - now) * shape.rate / 8 + size > shape.queue:
                self.overflowed += 1
                return None
            self._line_free = due = start + size * 8 / shape.rate
        if shape.loss and self._loses():
            self.lost += 1
            return None
        due += shape.delay
        if shape.jitter:
            due += shape.jitter * self._rng.random()
        self.packets += 1
        self.octets += size
        if shape.reorder and self._rng.random() < shape.reorder:
            return max(due, self._last_due) + shape.hold * self._rng.random()
        due = max(due, self._last_due)
        self._last_due = due
        return due

    def copies(self) -> int:
        """Return how often the packet that was just offered arrives: 1 or 2."""
        duplicate = self.shape.duplicate
        return 2 if duplicate and self._rng.random() < duplicate else 1

    def _loses(self) -> bool:
        loss, burst = self.shape.loss, self.shape.burst
        if burst <= 1 or loss >= 1:
            return self._rng.random() < loss
        # The chain is in its bad state a share `loss` of the time, `burst` packets on average.
        change = 1 / burst if self._in_burst else loss / (burst * (1 - loss))
        if self._rng.random() < change:
            self._in_burst = not self._in_burst
        return self._in_burst

    def stats(self) -> dict[str, int]:
        """Return the counters: delivered packets and bytes, losses, overflows of the queue."""
        return {
            "packets": self.packets,
            "bytes": self.octets,
            "lost": self.lost,
            "overflowed": self.overflowed,
        }
