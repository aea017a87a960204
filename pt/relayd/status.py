"""What a relay tells about itself: one immutable snapshot for the status page and the metrics.

It is made to be shown to strangers: peers are named by the first and last characters of their ids,
and no address of a peer is in it, only the relay's own.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Final, Literal, TypeAlias

__all__ = [
    "FORMAT",
    "SHOWN",
    "CircuitView",
    "GradeView",
    "Kind",
    "Meter",
    "OverlayView",
    "ReservationView",
    "Snapshot",
    "Totals",
    "busiest_circuits",
    "busiest_reservations",
    "resident_memory",
    "to_json",
]

FORMAT: Final = 1
"""Version of the JSON form; raised when a field changes its meaning or goes."""
SHOWN: Final = 200
"""Circuits and reservations told one by one; the others are only counted."""
METER_INTERVAL: Final = 0.5
"""Seconds between two samples of a rate, at the least."""

Kind: TypeAlias = Literal["raw", "libp2p"]
"""Of a circuit: joined sockets, or streams of circuit relay v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitView:
    """An open circuit."""

    number: int
    """Its own as long as the relay runs."""
    kind: Kind
    source: str
    target: str
    """Shortened peer ids: who asked for the circuit, and for whom."""
    grade: str
    """Whose quota it counts in: `user` or `stranger`."""
    age: float
    """Seconds."""
    sent: int
    """Bytes from source to target."""
    received: int
    """Bytes from target to source."""
    rate: float
    """Bytes a second lately, both ways together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationView:
    """A reservation that is held now."""

    peer: str
    """Shortened peer id."""
    grade: str
    expires_in: float
    """Seconds."""
    circuits: int
    """Open circuits that end at the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeView:
    """What peers of one grade use and may use."""

    grade: str
    """`user` or `stranger`."""
    served: bool = True
    """False: they get nothing here (a private relay); the other fields still count what is left."""
    reservations: int = 0
    reservations_limit: int = 0
    circuits: int = 0
    circuits_limit: int = 0
    duration: int | None = None
    """Seconds a circuit may last; None: for ever."""
    data: int | None = None
    """Bytes a circuit may carry each way; None: any number."""
    rate: float | None = None
    """Bytes a second that all circuits of the grade share; None: not shaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counted since the start."""

    reservations: Mapping[str, int] = field(default_factory=dict)
    """By what happened: `made`, `refreshed`, `expired`."""
    circuits: Mapping[str, int] = field(default_factory=dict)
    """Opened, by kind."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """Moved both ways, by kind; circuits that are open included."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """By what was refused and why: values of a metric's label, so there must be few of them."""
    connections: int = 0
    """Accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayView:
    """The relay as a server of the overlay; counters are since the start."""

    records: int = 0
    bytes: int = 0
    """Of the records."""
    nodes: int = 0
    """Other servers that are known."""
    evicted: int = 0
    """Records that made room for others."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """By method."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Records that were not kept, by reason."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Datagrams that got no answer, by reason."""
    datagrams: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, int] = field(default_factory=dict)
    """Bytes; both by direction, `in` and `out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The relay at one moment."""

    taken: float
    """Unix time."""
    started: float
    """Unix time."""
    version: str
    peer_id: str
    """The relay's own, in full."""
    addresses: tuple[str, ...] = ()
    """The relay's own, as users give them to `--relay`."""
    draining: bool = False
    connections: int = 0
    memory: int = 0
    """Resident bytes of the process; 0: not known."""
    grades: tuple[GradeView, ...] = ()
    totals: Totals = Totals()
    open_circuits: Mapping[str, int] = field(default_factory=dict)
    """How many are open, by kind."""
    circuits: tuple[CircuitView, ...] = ()
    """The busiest, see `busiest_circuits`."""
    reservations: tuple[ReservationView, ...] = ()
    """Those in use most, see `busiest_reservations`."""
    overlay: OverlayView | None = None
    """None: it is none of the overlay's servers."""
    stun: Mapping[str, int] | None = None
    """What became of STUN requests; None: they are not served."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return max(0.0, self.taken - self.started)

    @property
    def more_circuits(self) -> int:
        """Open circuits beside those in `circuits`."""
        return max(0, sum(self.open_circuits.values()) - len(self.circuits))

    @property
    def more_reservations(self) -> int:
        """Reservations beside those in `reservations`."""
        return max(0, sum(one.reservations for one in self.grades) - len(self.reservations))


def busiest_circuits(circuits: Iterable[CircuitView]) -> tuple[CircuitView, ...]:
    """At most `SHOWN` circuits, those that move most bytes first; of equal ones the youngest."""
    return tuple(heapq.nlargest(SHOWN, circuits, key=lambda one: (one.rate, -one.age)))


def busiest_reservations(reservations: Iterable[ReservationView]) -> tuple[ReservationView, ...]:
    """At most `SHOWN` reservations, those with most circuits first, then the newest."""
    return tuple(
        heapq.nlargest(SHOWN, reservations, key=lambda one: (one.circuits, one.expires_in))
    )


def to_json(snapshot: Snapshot) -> bytes:
    """One JSON object; numbers with a fraction are rounded to three digits."""
    found = {
        "format": FORMAT,
        **{each.name: getattr(snapshot, each.name) for each in fields(snapshot)},
        "uptime": snapshot.uptime,
        "more_circuits": snapshot.more_circuits,
        "more_reservations": snapshot.more_reservations,
    }
    return json.dumps(_plain(found), separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: object) -> object:
    """What `json` can write."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


class Meter:
    """Rates of counters that only grow, from what they were a moment ago.

    Its size is that of the last `update`; keys that are missing there are forgotten.
    """

    def __init__(self) -> None:
        self._sampled = float("-inf")
        self._counts: dict[int, int] = {}
        self._rates: dict[int, float] = {}

    def update(self, now: float, counts: Mapping[int, int]) -> None:
        """Take the counters at `now`, unless they were taken less than `METER_INTERVAL` ago."""
        elapsed = now - self._sampled
        if elapsed < METER_INTERVAL:
            return
        before = self._counts
        self._rates = {
            key: (count - before[key]) / elapsed for key, count in counts.items() if key in before
        }
        self._counts = dict(counts)
        self._sampled = now

    def rate(self, key: int) -> float:
        """Units a second between the last two samples; 0 for a counter in fewer than two."""
        return self._rates.get(key, 0.0)


def resident_memory() -> int:
    """Bytes of memory this process holds; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
