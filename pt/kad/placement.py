"""One store: at which servers, the nearest to the key first, and when it is over.

A state machine without I/O, driven like `pt.kad.lookup`: its owner stores at whom `to_ask` names,
reports the outcome, and comes back at `next_at` or after the next report.

COPIES are wanted. Candidates come from a look-up that has not asked all of them, so some turn out
to be gone: the next nearest takes the place of who is not reached, or takes SLOW seconds, up to
MOST in all. Nobody takes the place of who answers and refuses, for he may know something newer, and
those further away should not be made to keep what is old. It ends when COPIES have answered; or
when GRACE seconds bring nothing and half of them have acknowledged; or when nobody is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pt.identity.peer_id import PeerId
from pt.kad.keyspace import K
from pt.kad.lookup import SLOW
from pt.kad.messages import PeerInfo

__all__ = ["COPIES", "GRACE", "MOST", "Placement", "reserve"]

COPIES: Final = K
MOST: Final = 2 * K
GRACE: Final = 3.0
_EACH: Final = 1000
"""Bytes of storing at one server besides the record: the framing, and half of a hand-shake, since
the nearest ones are connected from the look-up."""


def reserve(size: int) -> int:
    """Bytes that storing a message of so many takes; servers send a value back."""
    return COPIES * (2 * size + _EACH)


class Placement:
    """Stores at the nearest of `candidates`, which are in order of distance."""

    def __init__(self, candidates: Sequence[PeerInfo]) -> None:
        self._left = list(candidates[:MOST])
        self._waiting: dict[PeerId, float] = {}  # since when
        self._acknowledged: set[PeerId] = set()
        self._refused = 0
        self._order: list[PeerId] = []
        self._last = 0.0
        self._now = 0.0

    @property
    def wanted(self) -> int:
        """How many copies there should be: COPIES, unless fewer servers are known."""
        return min(COPIES, len(self._order))

    @property
    def acknowledged(self) -> tuple[PeerId, ...]:
        """Who has, the nearest first."""
        return tuple(peer for peer in self._order if peer in self._acknowledged)

    def to_ask(self, now: float, room: int) -> list[PeerInfo]:
        """The servers to store at now, at most `room`; each is to be reported."""
        if not self._order:
            self._last = now
        self._now = now
        count = COPIES - self._answered - len(self._prompt())
        count = 0 if self.done else max(0, min(count, room))
        chosen, self._left = self._left[:count], self._left[count:]
        for peer in chosen:
            self._waiting[peer.id] = now
            self._order.append(peer.id)
        return chosen

    def next_at(self, now: float) -> float | None:
        """When there may be something to do though nothing is reported; None: only then."""
        times = [since + SLOW for since in self._waiting.values() if now - since < SLOW]
        if self._waiting and self._enough:
            times.append(self._last + GRACE)
        return min(times, default=None)

    @property
    def done(self) -> bool:
        """Whether nobody is to be asked or waited for any more."""
        if self._answered >= COPIES:
            return True
        if not self._waiting:
            return not self._left
        return self._enough and self._now - self._last >= GRACE

    def acknowledge(self, peer: PeerId, now: float) -> None:
        """A server has stored it."""
        if self._waiting.pop(peer, None) is not None:
            self._acknowledged.add(peer)
            self._last = now

    def refuse(self, peer: PeerId, now: float) -> None:
        """A server answers, and has not stored it."""
        if self._waiting.pop(peer, None) is not None:
            self._refused += 1
            self._last = now

    def fail(self, peer: PeerId) -> None:
        """A server is not reached, or does not answer."""
        self._waiting.pop(peer, None)

    @property
    def _answered(self) -> int:
        return len(self._acknowledged) + self._refused

    def _prompt(self) -> list[PeerId]:
        return [peer for peer, since in self._waiting.items() if self._now - since < SLOW]

    @property
    def _enough(self) -> bool:
        return 2 * len(self._acknowledged) >= self.wanted
