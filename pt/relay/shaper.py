"""Fair shares of a relay's bandwidth.

One bucket of tokens (bytes) fills at `rate`, and each share, a circuit's, has one that fills at
`circuit_rate`. Who finds the common bucket empty is parked. While anybody is parked nobody else can
take: `run` deals the tokens out in quanta, each to the owner that has been served least, and within
an owner to its shares in rotation. So an owner with many circuits gets as much as an owner with
one, and nobody is overtaken for ever. (Deficit round robin, where what an owner has been served
is remembered, within bounds, while all its shares are busy moving what they got.)

Tokens dealt to a parked share are its grant: its next `take`s come out of it, until it parks again,
refunds (it cannot use more now), or has sat on it for too long.  Then they go back.  Quanta are
small at low rates, for the sake of delay, and large at high rates, for the sake of the processor.

Times are seconds on one monotonic clock, rates bytes a second, 0 for no bound.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["BURST_TIME", "MIN_BURST", "Shaper", "Share"]

BURST_TIME: Final = 0.1  # seconds of the rate that may pass at once after a pause
MIN_BURST: Final = 64 * 1024
LEAST: Final = 2048
"""Bytes worth a system call: less is not handed out unless less is wanted."""
QUANTUM: Final = 16 * 1024
QUANTUM_TIME: Final = 0.02  # at low rates a quantum lasts at most that long
LONG_QUANTUM_TIME: Final = 0.0005  # at high rates it lasts at least that long
GRANT_TIME: Final = 0.1  # seconds after which an unused grant goes back
ROUNDING: Final = 1e-6  # seconds: more than a clock's resolution as a float
CREDIT: Final = 8
"""What is remembered of an owner's service: at most the burst divided by this, either way."""


class _Bucket:
    """Tokens that fill at a rate up to a bound; a rate of 0 is never asked for any."""

    __slots__ = ("at", "burst", "rate", "tokens")

    def __init__(self, rate: float) -> None:
        self.at: float | None = None
        self.set_rate(rate)
        self.tokens = self.burst

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        self.burst = max(float(MIN_BURST), BURST_TIME * rate)

    def change(self, rate: float, now: float) -> None:
        self.fill(now)
        self.set_rate(rate)
        self.tokens = min(self.tokens, self.burst)

    def fill(self, now: float) -> None:
        if self.at is None:
            self.at = now
        elif now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
            self.at = now

    def give_back(self, count: float) -> None:
        self.tokens = min(self.burst, self.tokens + count)

    def when(self, count: float) -> float:
        """The time at which `count` tokens, at most the burst, are there for sure."""
        at = 0.0 if self.at is None else self.at
        missing = count - self.tokens
        return at + missing / self.rate + ROUNDING if missing > 0 else at


class _Owner:
    """One owner: how many shares it has, which are parked, and what it has been served."""

    __slots__ = ("name", "parked", "queued", "served", "shares")

    def __init__(self, name: Hashable, served: float) -> None:
        self.name = name
        self.shares = 0
        self.parked: OrderedDict[Share, None] = OrderedDict()  # the first one's turn is next
        self.queued = False  # whether it has an entry in the shaper's queue
        self.served = served


class Share:
    """What one circuit may move; made by `Shaper.add`."""

    __slots__ = ("_bucket", "_grant", "_owner", "_shaper", "_slow", "_ticket", "_wake")

    def __init__(self, shaper: Shaper, owner: _Owner, circuit_rate: float) -> None:
        self._shaper = shaper
        self._owner = owner
        self._bucket = _Bucket(circuit_rate)
        self._grant = 0
        self._wake: Callable[[], None] | None = None
        self._ticket = 0  # of the last time it was parked
        self._slow = False  # whether it waits for its own bucket

    def take(self, want: int, now: float) -> int:
        """How many bytes, at most `want`, may be moved now; give back what is not with `refund`.

        0: none, `park` and take again when woken.
        """
        return self._shaper._take(self, want, now)

    def refund(self, count: int) -> None:
        """Give back bytes that were taken but not moved: there is no more to move now (also 0)."""
        self._shaper._refund(self, count)


class Shaper:
    """Hands out bandwidth; its owner calls `run` at the time `due` names, also after `park`."""

    def __init__(self, rate: float = 0, circuit_rate: float = 0) -> None:
        self._pool = _Bucket(rate)
        self._circuit_rate = circuit_rate
        self._shares: set[Share] = set()
        self._owners: dict[Hashable, _Owner] = {}
        self._queue: list[tuple[float, int, _Owner]] = []
        """A heap of owners with parked shares, by what they have been served."""
        self._parked = 0  # shares in the owners' `parked`
        self._level = 0.0  # what the least served owner in the queue has been served
        self._slow: list[tuple[float, int, Share]] = []
        """A heap of shares that wait for their own bucket, also of those that left."""
        self._granted: OrderedDict[Share, float] = OrderedDict()  # since when
        self._tickets = itertools.count(1)

    def __len__(self) -> int:
        return len(self._shares)

    @property
    def unlimited(self) -> bool:
        """Whether every `take` returns what is wanted: no need to call it."""
        return not self._pool.rate and not self._circuit_rate

    def add(self, owner: Hashable) -> Share:
        """A share for a circuit of `owner`, who is given as much as any other owner in all."""
        record = self._owners.get(owner)
        if record is None:
            record = self._owners[owner] = _Owner(owner, self._level)
        record.shares += 1
        share = Share(self, record, self._circuit_rate)
        self._shares.add(share)
        return share

    def remove(self, share: Share) -> None:
        """A circuit ended; its share is not woken any more."""
        if share not in self._shares:
            return
        self._shares.remove(share)
        self._return_grant(share)
        self._unpark(share)
        owner = share._owner
        owner.shares -= 1
        if not owner.shares:
            del self._owners[owner.name]

    def set_rates(self, rate: float, circuit_rate: float, now: float) -> None:
        """Set other rates, for existing shares too; look at `due` afterwards."""
        self._pool.change(rate, now)
        for share in self._shares:
            share._bucket.change(circuit_rate, now)
        self._circuit_rate = circuit_rate
        slow, self._slow = sorted(self._slow), []
        for entry in slow:
            if _is_waiting(entry):
                self._line_up(entry[2])

    # --- waiting ---------------------------------------------------------------------------------

    def park(self, share: Share, wake: Callable[[], None]) -> None:
        """Have `wake` called, by `run`, when the share may take again; once, then park anew."""
        if share not in self._shares or share._wake is not None:
            return
        self._return_grant(share)
        share._wake = wake
        share._ticket = next(self._tickets)
        if self._is_slow(share):
            self._wait_for_own(share)
        else:
            self._line_up(share)

    def due(self, now: float) -> float | None:
        """When `run` has something to do; None: nobody is parked."""
        times = []
        if self._parked:
            times.append(self._pool.when(self._quantum()) if self._pool.rate else now)
        self._drop_stale()
        if self._slow:
            times.append(self._slow[0][0])
        return max(now, min(times)) if times else None

    def run(self, now: float) -> None:
        """Wake the parked shares that may take something now, each once."""
        self._pool.fill(now)
        while self._granted and next(iter(self._granted.values())) + GRANT_TIME <= now:
            self._return_grant(next(iter(self._granted)))
        self._drop_stale()
        while self._slow and self._slow[0][0] <= now:
            self._line_up(heapq.heappop(self._slow)[2])
            self._drop_stale()
        woken = self._deal(now) if self._pool.rate else self._release(now)
        for share in woken:
            if share._owner.parked.pop(share, share) is None:
                self._parked -= 1
        for share in woken:
            wake, share._wake = share._wake, None
            if wake is not None:  # it may have been removed by what another one did
                wake()

    def _deal(self, now: float) -> list[Share]:
        """Deal out the common bucket; whom to wake."""
        quantum = self._quantum()
        woken: dict[Share, None] = {}
        turns = int(self._pool.tokens // quantum)
        while turns > 0 and self._queue:
            served, _, owner = heapq.heappop(self._queue)
            owner.queued = False
            if not owner.parked:
                continue
            if served == owner.served:  # not changed since it was queued
                turns -= 1
                self._level = max(self._level, served)
                share = self._serve(owner, quantum, now)
                if share is not None:
                    woken[share] = None
            self._enqueue(owner)
        for share in woken:
            self._granted[share] = now
            self._granted.move_to_end(share)
        return list(woken)

    def _serve(self, owner: _Owner, quantum: int, now: float) -> Share | None:
        """Grant a quantum to the owner's next share that can use it; which one."""
        while owner.parked:
            share = next(iter(owner.parked))
            room = quantum
            if self._circuit_rate:
                share._bucket.fill(now)
                room = min(room, int(share._bucket.tokens) - share._grant)
                if room < LEAST:
                    del owner.parked[share]
                    self._parked -= 1
                    if not share._grant:
                        self._wait_for_own(share)
                    continue
            owner.parked.move_to_end(share)
            share._grant += room
            owner.served += room
            self._pool.tokens -= room
            return share
        return None

    def _release(self, now: float) -> list[Share]:
        """Without a common bound, whoever is not bound by its own bucket; whom to wake."""
        woken = []
        for _, _, owner in self._queue:
            owner.queued = False
            for share in list(owner.parked):
                share._bucket.fill(now)
                if self._is_slow(share):
                    del owner.parked[share]
                    self._parked -= 1
                    self._wait_for_own(share)
                else:
                    woken.append(share)
        self._queue.clear()
        return woken

    # --- taking ----------------------------------------------------------------------------------

    def _take(self, share: Share, want: int, now: float) -> int:
        allowed = want
        if self._circuit_rate:
            share._bucket.fill(now)
            allowed = min(allowed, int(share._bucket.tokens))
        if self._pool.rate:
            self._pool.fill(now)
            if not self._parked:
                self._return_grant(share)
                tokens = self._pool.tokens
                allowed = min(allowed, int(tokens)) if tokens >= min(want, self._quantum()) else 0
            else:
                allowed = min(allowed, share._grant)
        if allowed < min(want, LEAST) or allowed <= 0:
            return 0
        if self._circuit_rate:
            share._bucket.tokens -= allowed
        if share._grant:  # paid for when it was dealt
            share._grant -= allowed
            if not share._grant:
                self._granted.pop(share, None)
        elif self._pool.rate:
            self._pool.tokens -= allowed
            share._owner.served += allowed
        return allowed

    def _refund(self, share: Share, count: int) -> None:
        if self._circuit_rate:
            share._bucket.give_back(count)
        if self._pool.rate:
            self._pool.give_back(count)
            share._owner.served -= count
        self._return_grant(share)

    def _return_grant(self, share: Share) -> None:
        if share._grant:
            self._pool.give_back(share._grant)
            share._owner.served -= share._grant
            share._grant = 0
        self._granted.pop(share, None)

    # --- inside ----------------------------------------------------------------------------------

    def _quantum(self) -> int:
        return max(_quantum(self._pool.rate), int(LONG_QUANTUM_TIME * self._pool.rate))

    def _is_slow(self, share: Share) -> bool:
        rate = self._circuit_rate
        return bool(rate) and share._bucket.tokens < _quantum(rate)

    def _line_up(self, share: Share) -> None:
        """Let a share wait for its owner's turn."""
        owner = share._owner
        share._slow = False
        owner.parked[share] = None
        self._parked += 1
        if not owner.queued:
            # An owner that was away neither brings a claim to all that it did not use, nor is it
            # punished for having had all to itself.
            credit = max(self._pool.burst / CREDIT, self._quantum())
            owner.served = min(max(owner.served, self._level - credit), self._level + credit)
            self._enqueue(owner)

    def _enqueue(self, owner: _Owner) -> None:
        if owner.parked:
            owner.queued = True
            heapq.heappush(self._queue, (owner.served, next(self._tickets), owner))
            if len(self._queue) > 2 * len(self._owners) + 64:  # owners that left
                for _, _, other in self._queue:
                    other.queued = bool(other.parked)
                self._queue = [entry for entry in self._queue if entry[2].queued]
                heapq.heapify(self._queue)

    def _wait_for_own(self, share: Share) -> None:
        at = share._bucket.when(_quantum(self._circuit_rate))
        share._slow = True
        heapq.heappush(self._slow, (at, share._ticket, share))
        if len(self._slow) > 2 * len(self._shares) + 64:  # shares that left
            self._slow = [entry for entry in self._slow if _is_waiting(entry)]
            heapq.heapify(self._slow)

    def _unpark(self, share: Share) -> None:
        share._wake = None
        share._slow = False
        if share._owner.parked.pop(share, share) is None:
            self._parked -= 1

    def _drop_stale(self) -> None:
        while self._slow and not _is_waiting(self._slow[0]):
            heapq.heappop(self._slow)


def _quantum(rate: float) -> int:
    return max(LEAST, min(QUANTUM, int(QUANTUM_TIME * rate)))


def _is_waiting(entry: tuple[float, int, Share]) -> bool:
    _, ticket, share = entry
    return share._slow and share._ticket == ticket
