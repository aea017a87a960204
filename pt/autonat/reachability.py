"""What is known of each of our addresses, and when to ask again.

As go-libp2p: the last five verdicts of an address count, and it is reachable or not when one kind
outnumbers the other by two.  Servers differ in what they can reach, and some lie.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pt.autonat.client import Verdict
from pt.autonat.messages import Status
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_TRACKED", "Reachability", "State"]

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
MAX_SERVERS: Final = 256


class State(Enum):
    """Of an address."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class _Tracked:
    verdicts: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    due: float = 0.0

    @property
    def lead(self) -> int:
        return sum(1 if verdict else -1 for verdict in self.verdicts)


class Reachability:
    """Verdicts by address; `changed` of `record` tells when a state becomes another."""

    def __init__(self) -> None:
        self._tracked: dict[Multiaddr, _Tracked] = {}
        self._servers: OrderedDict[bytes, float] = OrderedDict()
        self._failures = 0
        self._refusals = 0
        self._paused_until = 0.0

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

    def wanted(self, now: float) -> list[Multiaddr]:
        """What to ask about now, the most urgent first; empty: nothing, or not yet."""
        if now < self._paused_until:
            return []
        due = [each for each, tracked in self._tracked.items() if tracked.due <= now]
        return sorted(due, key=lambda each: self._tracked[each].due)

    def deadline(self) -> float | None:
        """When `wanted` may have something."""
        due = min((tracked.due for tracked in self._tracked.values()), default=None)
        return None if due is None else max(due, self._paused_until)

    def may_ask(self, server: bytes, now: float) -> bool:
        """Whether a server was left alone for long enough."""
        asked = self._servers.get(server)
        return asked is None or now - asked >= SAME_SERVER

    def asked(self, server: bytes, now: float) -> None:
        """A server is being asked."""
        self._servers[server] = now
        self._servers.move_to_end(server)
        if len(self._servers) > MAX_SERVERS:
            self._servers.popitem(last=False)

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
