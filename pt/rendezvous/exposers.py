"""Who answers to a name: verified records of several exposers, from several media.

The newest record of each exposer counts, whatever medium it came from; the same one again only says
that a further medium has it. Older ones and replays are refused, and a signed "gone" removes its
exposer until a newer record comes. `ranked` says whom to try first:

    1. pinned exposers, when there are pins, and nobody else when `only_pinned`
    2. those who answered last time, before those nobody tried, before those who failed
    3. of those who answered: the shortest round trip; of those who failed: the longest ago
    4. the newest record, by its expiry, then the peer id, so that all searchers agree

Everything is bounded: a member of the name can make any number of exposers, and then pinned ones
and those that answered are the last to be forgotten. Times are Unix seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from pt.identity.peer_id import PeerId
from pt.rendezvous.record import Record

__all__ = ["MAX_EXPOSERS", "MAX_REMEMBERED", "Change", "Exposer", "Exposers", "Standing"]

MAX_EXPOSERS: Final = 32
MAX_REMEMBERED: Final = 256
"""Exposers whose last sequence is remembered, present or gone."""


class Change(Enum):
    """What a record meant."""

    NEW = auto()
    """An exposer that was not there."""
    UPDATED = auto()
    """A newer record of one that is there."""
    CONFIRMED = auto()
    """The record that we have, on a medium that had not shown it."""
    SAME = auto()
    """Nothing new."""
    STALE = auto()
    """Older than what we know: delayed or replayed."""
    EXPIRED = auto()
    GONE = auto()
    """Its exposer said goodbye."""
    FULL = auto()
    """No room: all that are there are worth more."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """How the last attempt to reach somebody ended."""

    rtt: float | None = None
    """Seconds, of the last answer."""
    failed_at: float | None = None
    """When the last attempt failed, if it did."""

    def answered(self, rtt: float) -> None:
        """It was reached, in `rtt` seconds."""
        self.rtt, self.failed_at = rtt, None

    def failed(self, now: float) -> None:
        """It was not."""
        self.rtt, self.failed_at = None, now

    @property
    def rank(self) -> tuple[int, float]:
        """Lower is better: who answered, by the round trip; who was not tried; who failed."""
        if self.rtt is not None:
            return 0, self.rtt
        return (1, 0.0) if self.failed_at is None else (2, self.failed_at)


@dataclass(slots=True)
class Exposer(Standing):
    """One who answers to the name."""

    record: Record
    media: tuple[str, ...]
    """That have this exposer, the first to tell of it first."""

    @property
    def peer_id(self) -> PeerId:
        """Who it is."""
        return self.record.peer_id


@dataclass(slots=True)
class Exposers:
    """The table of one name; `live_media` are those where hearing of a peer shows that it lives.

    Records from a live medium do not expire while it has them: `lost` ends that.
    """

    pins: frozenset[PeerId] = frozenset()
    live_media: frozenset[str] = frozenset({"lan"})
    _known: dict[PeerId, Exposer] = field(default_factory=dict)
    _newest: OrderedDict[PeerId, tuple[int, bool]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Exposer]:
        return iter(self._known.values())

    def get(self, peer: PeerId) -> Exposer | None:
        """The exposer with this id, if it is there."""
        return self._known.get(peer)

    def add(self, record: Record, medium: str, now: float) -> Change:
        """Take a record whose signature was checked."""
        peer, known = record.peer_id, self._known.get(record.peer_id)
        seq, gone = self._newest.get(peer, (-1, False))
        if record.seq < seq or (record.seq == seq and gone and not record.gone):
            return Change.STALE
        if medium not in self.live_media and record.expires < now:
            return Change.EXPIRED
        if record.gone:
            self._remember(peer, record.seq, gone=True)
            return Change.SAME if self._known.pop(peer, None) is None else Change.GONE
        if known is not None and record.seq == seq:
            if medium in known.media:
                return Change.SAME
            known.media = (*known.media, medium)
            return Change.CONFIRMED
        if known is None and not self._make_room(peer, now):
            return Change.FULL
        self._remember(peer, record.seq, gone=False)
        if known is None:
            self._known[peer] = Exposer(record, (medium,))
            return Change.NEW
        known.record = record
        known.failed_at = None  # it may be elsewhere now: it has another chance
        known.media = (medium, *(one for one in known.media if one in self.live_media - {medium}))
        return Change.UPDATED

    def lost(self, peer: PeerId, medium: str) -> bool:
        """The medium no longer has the exposer; whether that removed it. It may come back."""
        known = self._known.get(peer)
        if known is None or medium not in known.media:
            return False
        known.media = tuple(one for one in known.media if one != medium)
        if not known.media:
            del self._known[peer]
        return not known.media

    def answered(self, peer: PeerId, rtt: float) -> None:
        """The exposer was reached, in `rtt` seconds."""
        if (known := self._known.get(peer)) is not None:
            known.answered(rtt)

    def failed(self, peer: PeerId, now: float) -> None:
        """The exposer could not be reached."""
        if (known := self._known.get(peer)) is not None:
            known.failed(now)

    def ranked(self, now: float, *, only_pinned: bool = False) -> list[Exposer]:
        """Whom to try, the best first; those whose records have expired are forgotten."""
        for peer in [peer for peer, known in self._known.items() if self._expired(known, now)]:
            del self._known[peer]
        everyone = sorted(self._known.values(), key=self._rank)
        return [one for one in everyone if one.peer_id in self.pins or not only_pinned]

    def _expired(self, known: Exposer, now: float) -> bool:
        return known.record.expires < now and not self.live_media & set(known.media)

    def _rank(self, one: Exposer) -> tuple[bool, tuple[int, float], int, PeerId]:
        return one.peer_id not in self.pins, one.rank, -one.record.expires, one.peer_id

    def _make_room(self, peer: PeerId, now: float) -> bool:
        """Whether a newcomer has a place: failing ones go for it; untried ones for the pinned."""
        if len(self._known) < MAX_EXPOSERS:
            return True
        there = self.ranked(now)
        if len(there) < MAX_EXPOSERS:
            return True
        worst = there[-1]
        if worst.failed_at is None and peer not in self.pins:
            return False
        del self._known[worst.peer_id]
        return True

    def _remember(self, peer: PeerId, seq: int, *, gone: bool) -> None:
        self._newest[peer] = (seq, gone)
        self._newest.move_to_end(peer)
        while len(self._newest) > MAX_REMEMBERED:
            oldest = next(
                one for one in self._newest if one not in self.pins and one not in self._known
            )
            del self._newest[oldest]
