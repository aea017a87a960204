"""AutoRelay: at which relays to hold reservations, when to refresh them, when to try which.

A state machine without I/O. Its owner offers candidates, does what `to_try`, `refresh_due` and
`surplus` return, reports how that went, and comes back at `next_at` or after the next report.

Relays that the user named (`given`) are preferred and never forgotten; those that were merely met
fill up what the given ones leave open, and make room when a given one comes back. Attempts run in
parallel, with one more than is missing so that a dead relay costs no time. There is no delay at the
start.

All times are seconds on one monotonic clock. Source: libp2p specs `relay/circuit-v2.md`; the
numbers follow go-libp2p's autorelay where they have to suit public relays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from pt.errors import LimitError, LocalProtocolError
from pt.identity.peer_id import PeerId
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_GIVEN", "MAX_MET", "AutoRelay", "Candidate", "Randomness"]

MAX_GIVEN: Final = 64
MAX_MET: Final = 20  # as Go
MET_AGE: Final = 1800.0
"""Seconds after which a met relay that was not met again is forgotten, as Go."""
MAX_REMEMBERED: Final = 128
"""Met relays whose failures are remembered when they are forgotten themselves."""

GIVEN_BACKOFF: Final = (1.0, 2.0, 30.0)  # first, factor, longest
MET_BACKOFF: Final = (30.0, 3.0, 3600.0)
JITTER: Final = 0.2
STABLE: Final = 60.0
"""Seconds a reservation has to stand for earlier failures to be forgiven."""

REFRESH_AT: Final = 0.75  # of the lifetime, as rust
REFRESH_SLACK: Final = 120.0  # seconds before the expiry, as Go
REFRESH_EARLIEST: Final = 10.0
REFRESH_RETRY: Final = 10.0
"""Seconds between attempts after a refresh failed; the reservation stands meanwhile."""


class Randomness(Protocol):
    """What is needed of `random.Random`."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A relay that might serve us; `given`: the user named it."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    given: bool


class _State(Enum):
    IDLE = auto()
    TRYING = auto()
    HELD = auto()


class _Relay:
    """What is known of one candidate."""

    __slots__ = (
        "candidate",
        "draining",
        "expire",
        "failures",
        "refresh_at",
        "refreshing",
        "retry_at",
        "seen",
        "since",
        "state",
    )

    def __init__(self, candidate: Candidate, now: float) -> None:
        self.candidate = candidate
        self.state = _State.IDLE
        self.seen = now
        self.failures = 0
        self.retry_at = now
        self.since = now  # when the reservation was made
        self.expire = now
        self.refresh_at = now
        self.refreshing = False
        self.draining = False

    @property
    def good(self) -> bool:
        """Whether it holds a reservation that is going to last."""
        return self.state is _State.HELD and not self.draining


class AutoRelay:
    """Aims at `want` reservations; never has more than one more than that under way or in hand.

    Relays that are draining come on top, until they are replaced.
    """

    def __init__(self, want: int, rng: Randomness) -> None:
        self._want = want
        self._rng = rng
        self._relays: dict[PeerId, _Relay] = {}
        self._gone: dict[PeerId, None] = {}  # expired, which the owner has not been told yet
        self._remembered: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()

    @property
    def held(self) -> tuple[PeerId, ...]:
        """The relays with a reservation, also the draining ones."""
        return tuple(peer for peer, one in self._relays.items() if one.state is _State.HELD)

    def failures(self, peer_id: PeerId) -> int:
        """How often in a row a relay failed or was lost soon; 0 while it holds a reservation."""
        one = self._relays.get(peer_id)
        return 0 if one is None or one.state is _State.HELD else one.failures

    # --- reports ---------------------------------------------------------------------------------

    def offer(self, candidate: Candidate, now: float) -> None:
        """Consider a relay, or learn its newer addresses; a given one stays given.

        When there are MAX_MET met ones, the one that is of least use is forgotten.

        Raises:
            LimitError: more than MAX_GIVEN relays are given.

        """
        self._settle(now)
        peer = candidate.peer_id
        known = self._relays.get(peer)
        if known is not None:
            known.seen = now
            if candidate.given and not known.candidate.given:
                known.retry_at = min(known.retry_at, now + GIVEN_BACKOFF[-1])
            if candidate.given or not known.candidate.given:
                known.candidate = candidate
            return
        one = _Relay(candidate, now)
        if candidate.given:
            if sum(other.candidate.given for other in self._relays.values()) >= MAX_GIVEN:
                raise LimitError(f"more than {MAX_GIVEN} relays: give fewer")
        elif peer in self._remembered:
            one.failures, one.retry_at = self._remembered.pop(peer)
        self._relays[peer] = one
        met = [other for other in self._relays.values() if not other.candidate.given]
        if len(met) > MAX_MET:
            idle = [other for other in met if other.state is _State.IDLE]
            if idle:
                # In back-off the longest first, then met longest ago.
                self._forget(max(idle, key=lambda other: (max(other.retry_at, now), -other.seen)))
            else:
                self._forget(one)

    def reserved(self, peer_id: PeerId, expire: float, now: float) -> None:
        """An attempt or a refresh succeeded: the relay serves us until `expire`.

        Raises:
            LocalProtocolError: the relay was never offered.

        """
        one = self._relays.get(peer_id)
        if one is None:
            raise LocalProtocolError("a reservation at a relay that was not offered")
        self._gone.pop(peer_id, None)
        if one.state is not _State.HELD:
            one.state = _State.HELD
            one.since = now
        one.refreshing = False
        one.seen = now
        one.expire = expire
        at = min(now + REFRESH_AT * (expire - now), expire - REFRESH_SLACK)
        one.refresh_at = max(at, now + REFRESH_EARLIEST)
        self._settle(now)

    def failed(self, peer_id: PeerId, now: float) -> None:
        """An attempt failed: the relay is left alone for a while.

        Of a relay that holds a reservation it is the refresh that failed: the reservation stands
        until it expires, and the refresh is tried again.
        """
        self._settle(now)
        one = self._relays.get(peer_id)
        if one is None:
            return
        if one.state is _State.HELD:
            one.refreshing = False
            one.refresh_at = now + self._jittered(REFRESH_RETRY)
        elif one.state is _State.TRYING:
            self._rest(one, now)

    def lost(self, peer_id: PeerId, now: float) -> None:
        """The connection died, and with it the reservation or the attempt."""
        self._settle(now)
        self._gone.pop(peer_id, None)
        one = self._relays.get(peer_id)
        if one is not None and one.state is not _State.IDLE:
            self._give_up(one, now)

    def draining(self, peer_id: PeerId, now: float) -> None:
        """The relay is about to stop: it is kept until another one takes its place."""
        self._settle(now)
        one = self._relays.get(peer_id)
        if one is not None and one.state is not _State.IDLE:
            one.draining = True

    # --- what to do ------------------------------------------------------------------------------

    def to_try(self, now: float) -> list[Candidate]:
        """The relays to reserve at now; each is to be answered with `reserved` or `failed`."""
        self._settle(now)
        chosen = list(self._choose(now))
        for one in chosen:
            one.state = _State.TRYING
        return [one.candidate for one in chosen]

    def refresh_due(self, now: float) -> list[PeerId]:
        """The reservations to renew now; each is to be answered with `reserved` or `failed`."""
        self._settle(now)
        due = [one for one in self._refreshable() if one.refresh_at <= now]
        for one in due:
            one.refreshing = True
        return [one.candidate.peer_id for one in due]

    def surplus(self, now: float) -> list[PeerId]:
        """The relays to let go of now, which are no longer held.

        They have expired, or are draining and replaced, or were met and are more than wanted.
        """
        self._settle(now)
        gone, self._gone = list(self._gone), {}
        for one in self._superfluous():
            gone.append(one.candidate.peer_id)
            self._forgive(one, now)
            if one.draining:
                self._rest(one, now)
            else:
                self._idle(one, now)
        return gone

    def next_at(self, now: float) -> float | None:
        """When to ask again unless something is reported before; None: only then."""
        self._settle(now)
        if self._gone or self._superfluous():
            return now
        times = [one.refresh_at for one in self._refreshable()]
        times += [one.expire for one in self._relays.values() if one.state is _State.HELD]
        given, met, slots = self._needs()
        for one in self._relays.values():
            needed = given if one.candidate.given else met
            if one.state is _State.IDLE and needed and slots:
                times.append(one.retry_at)
        return max(now, min(times)) if times else None

    # --- inside ----------------------------------------------------------------------------------

    def _needs(self) -> tuple[int, int, int]:
        """How many given relays are missing, how many met ones, and how many may be tried.

        A given one is missing until it serves us; a met one only if nobody is being tried for it.
        """
        busy = [one for one in self._relays.values() if one.good or one.state is _State.TRYING]
        given = sum(one.candidate.given for one in busy if one.good)
        return (
            max(0, self._want - given),
            max(0, self._want - len(busy)),
            max(0, self._want + 1 - len(busy)),
        )

    def _choose(self, now: float) -> Iterator[_Relay]:
        given_missing, missing, slots = self._needs()
        ready = [
            one for one in self._relays.values() if one.state is _State.IDLE and one.retry_at <= now
        ]
        if given_missing:
            for one in [one for one in ready if one.candidate.given][:slots]:
                yield one
                slots -= 1
                missing -= 1
        if missing > 0:
            met = [one for one in ready if not one.candidate.given]
            yield from sorted(met, key=lambda _: self._rng.random())[:slots]

    def _refreshable(self) -> Iterator[_Relay]:
        return (one for one in self._relays.values() if one.good and not one.refreshing)

    def _superfluous(self) -> list[_Relay]:
        held = [one for one in self._relays.values() if one.state is _State.HELD]
        good = [one for one in held if one.good]
        found = [one for one in held if one.draining] if len(good) >= self._want else []
        met = sorted(
            (one for one in good if not one.candidate.given),
            key=lambda one: one.since,
            reverse=True,
        )
        return found + met[: max(0, len(good) - self._want)]

    def _settle(self, now: float) -> None:
        """Let go of what has expired, forget whom we have not met for long."""
        for peer, one in list(self._relays.items()):
            if one.state is _State.HELD and one.expire <= now:
                self._gone[peer] = None
                self._give_up(one, now)
            elif (
                one.state is _State.IDLE
                and not one.candidate.given
                and peer not in self._gone
                and now - one.seen > MET_AGE
            ):
                self._forget(one)

    def _give_up(self, one: _Relay, now: float) -> None:
        """End a reservation that broke; one that stood for long costs no more than a moment."""
        if self._forgive(one, now):
            self._idle(one, now + self._jittered(GIVEN_BACKOFF[0]))
        else:
            self._rest(one, now)
        one.seen = now

    def _forgive(self, one: _Relay, now: float) -> bool:
        """Forget the failures of a relay whose reservation stood for long; whether it did."""
        stable = one.state is _State.HELD and now - one.since >= STABLE
        if stable:
            one.failures = 0
        return stable

    def _rest(self, one: _Relay, now: float) -> None:
        """Back off after a failure."""
        first, factor, longest = GIVEN_BACKOFF if one.candidate.given else MET_BACKOFF
        pause = min(longest, first * factor ** min(one.failures, 32))
        one.failures += 1
        self._idle(one, now + self._jittered(pause))

    def _idle(self, one: _Relay, retry_at: float) -> None:
        one.state = _State.IDLE
        one.retry_at = retry_at
        one.refreshing = False
        one.draining = False

    def _forget(self, one: _Relay) -> None:
        peer = one.candidate.peer_id
        del self._relays[peer]
        if one.failures:
            self._remembered[peer] = one.failures, one.retry_at
            self._remembered.move_to_end(peer)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 - JITTER + 2 * JITTER * self._rng.random())
