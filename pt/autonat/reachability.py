"""What is known of each of our addresses, and when to ask again.

As go-libp2p: the last five verdicts of an address count, and it is reachable or not when one kind
outnumbers the other by two.  Servers differ in what they can reach, and some lie; so one of them is
rarely asked about the same address.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pt.autonat.client import Verdict
from pt.autonat.messages import MAX_DATA, Status
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_TRACKED", "Reachability", "State", "publishable"]

MAX_TRACKED: Final = 50
RECENT: Final = 5
SURE: Final = 2
ENOUGH: Final = 3
"""Of a lead after which an address is asked about only now and then."""
REFRESH: Final = 3600.0
SOON: Final = 5.0
MAX_BACKOFF: Final = 300.0
REFUSALS: Final = 5
PAUSE: Final = 600.0
SAME_SERVER: Final = 120.0
"""Seconds until a server is asked about an address again."""
SERVER_PAUSE: Final = 10.0
"""Seconds between two requests to a server: half of what servers of libp2p take."""
MAX_SERVERS: Final = 256
MAX_ASKED_OF: Final = 32
"""Servers of an address that are remembered."""
BUDGET: Final = 5 * MAX_DATA
"""Bytes in an hour that servers get for dials elsewhere."""
BUDGET_PERIOD: Final = 3600.0


class State(Enum):
    """Of an address."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class _Tracked:
    verdicts: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    due: float = 0.0
    asked: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    """When each server was asked about it."""

    @property
    def lead(self) -> int:
        return sum(1 if verdict else -1 for verdict in self.verdicts)


class Reachability:
    """Verdicts by address; `record` tells whether a state becomes another."""

    def __init__(self) -> None:
        self._tracked: dict[Multiaddr, _Tracked] = {}
        self._servers: OrderedDict[bytes, float] = OrderedDict()
        self._failures = 0
        self._refusals = 0
        self._paused_until = 0.0
        self._paid = 0
        self._paid_since = 0.0

    def track(self, addresses: Iterable[Multiaddr], now: float) -> None:
        """These are our addresses now; what was known of others is forgotten."""
        wanted = dict.fromkeys(addresses)
        kept = list(wanted)[:MAX_TRACKED]
        self._tracked = {each: self._tracked.get(each, _Tracked(due=now)) for each in kept}

    def state(self, address: Multiaddr) -> State:
        """What is known of an address."""
        tracked = self._tracked.get(address)
        if tracked is None or abs(tracked.lead) < SURE:
            return State.UNKNOWN
        return State.REACHABLE if tracked.lead > 0 else State.UNREACHABLE

    @property
    def reachable(self) -> list[Multiaddr]:
        """The addresses that can be dialed."""
        return [each for each in self._tracked if self.state(each) is State.REACHABLE]

    @property
    def unreachable(self) -> list[Multiaddr]:
        """The addresses that cannot."""
        return [each for each in self._tracked if self.state(each) is State.UNREACHABLE]

    def wanted(self, server: bytes, now: float) -> list[Multiaddr]:
        """What to ask a server about now, the most urgent first; empty: nothing, or not yet."""
        due = {each: self._when(server, tracked) for each, tracked in self._tracked.items()}
        ripe = [each for each, at in due.items() if at <= now]
        return sorted(ripe, key=lambda each: self._tracked[each].due)

    def deadline(self, servers: Iterable[bytes]) -> float | None:
        """When `wanted` may have something for one of these servers."""
        return min(
            (self._when(server, each) for server in servers for each in self._tracked.values()),
            default=None,
        )

    def _when(self, server: bytes, tracked: _Tracked) -> float:
        when = max(tracked.due, self._paused_until)
        if server in self._servers:
            when = max(when, self._servers[server] + SERVER_PAUSE)
        if server in tracked.asked:
            when = max(when, tracked.asked[server] + SAME_SERVER)
        return when

    def asked(self, server: bytes, addresses: Iterable[Multiaddr], now: float) -> None:
        """A server was asked, about these addresses."""
        _note(self._servers, server, now, MAX_SERVERS)
        self.passed_over(server, addresses, now)

    def passed_over(self, server: bytes, addresses: Iterable[Multiaddr], now: float) -> None:
        """A server is not to be asked about these now: it cannot tell, or wants to be paid."""
        for each in addresses:
            if each in self._tracked:
                _note(self._tracked[each].asked, server, now, MAX_ASKED_OF)

    def affords(self, count: int, now: float) -> bool:
        """Whether so many bytes for a dial elsewhere are within the budget."""
        if now - self._paid_since >= BUDGET_PERIOD:
            self._paid, self._paid_since = 0, now
        return self._paid + count <= BUDGET

    def pay(self, count: int, now: float) -> bool:
        """Spend so many bytes, if the budget allows it."""
        if not self.affords(count, now):
            return False
        self._paid += count
        return True

    def record(self, verdict: Verdict, now: float) -> bool:
        """Take a verdict; whether the address' state is another one now."""
        if verdict.status is not Status.OK or verdict.address is None:
            self._refused(verdict, now)
            return False
        self._refusals = 0
        tracked = self._tracked.get(verdict.address)
        if tracked is None:
            return False
        if verdict.reachable is None:
            self.failed(now)
            return False
        self._failures = 0
        before = self.state(verdict.address)
        tracked.verdicts.append(verdict.reachable)
        tracked.due = now + (REFRESH if abs(tracked.lead) >= ENOUGH else SOON)
        return self.state(verdict.address) is not before

    def failed(self, now: float) -> None:
        """A request came to nothing: the next one waits, longer each time."""
        pause = min(SOON * 2**self._failures, MAX_BACKOFF)
        self._failures = min(self._failures + 1, 16)
        self._paused_until = max(self._paused_until, now + pause)

    def _refused(self, verdict: Verdict, now: float) -> None:
        if verdict.status is not Status.DIAL_REFUSED:
            self.failed(now)
            return
        self._refusals += 1
        if self._refusals >= REFUSALS:
            self._refusals = 0
            self._paused_until = now + PAUSE


def publishable(
    addresses: Iterable[Multiaddr], unreachable: Collection[Multiaddr]
) -> tuple[Multiaddr, ...]:
    """What to tell beyond the LAN: all but the unreachable, if something else leads here."""
    every = tuple(addresses)
    others = tuple(each for each in every if each not in unreachable)
    return others if any(each.is_public for each in others) else every


def _note(times: OrderedDict[bytes, float], server: bytes, now: float, most: int) -> None:
    times[server] = now
    times.move_to_end(server)
    if len(times) > most:
        times.popitem(last=False)
