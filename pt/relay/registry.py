"""What a relay has promised: reservations and circuits, and the quotas that bound them.

Peers come in two grades. Users proved the operator's secret or are on the operator's list;
strangers are everybody else. Each grade has quotas of its own, so that strangers never take what
users need; a circuit counts as the better grade of its two ends, since it is that end's traffic.
Strangers are also bounded in how often they may ask.

Times are seconds on one clock, best a monotonic one: a reservation's `expire` is on it, too.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import Final

from pt.errors import PtError
from pt.identity.peer_id import PeerId
from pt.relay.messages import Limit, Status
from pt.relay.rates import Buckets

__all__ = [
    "STRANGERS",
    "USERS",
    "Circuit",
    "Counts",
    "Grade",
    "Quotas",
    "Rates",
    "Refusal",
    "Registry",
    "Slot",
    "places",
]


STRANGERS_LIMIT: Final = Limit(120, 131072)  # as Go, rust and js


class Grade(Enum):
    """How a peer stands with the relay's operator."""

    USER = "user"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What one grade may use in all; None: not bounded. The defaults are Go's, for strangers.

    A peer holds one reservation at most: a refresh replaces it.
    """

    reservations: int = 128
    per_host: int | None = 8
    """Reservations from one IPv4 address or IPv6 /64."""
    per_network: int | None = 32
    """Reservations from one IPv4 /24 or IPv6 /48."""
    circuits: int = 1024
    circuits_per_peer: int = 16
    """Circuits that one peer is an end of, whichever."""
    ttl: float = 3600.0
    """Seconds a reservation lasts."""
    limit: Limit | None = STRANGERS_LIMIT


STRANGERS: Final = Quotas()
USERS: Final = Quotas(
    reservations=16384,
    per_host=None,
    per_network=None,
    circuits=16384,
    circuits_per_peer=4096,
    limit=None,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often a stranger may ask in a minute, by peer and by host."""

    reserve_per_peer: int = 20
    reserve_per_host: int = 60
    connect_per_peer: int = 60
    connect_per_host: int = 120


class Refusal(PtError):  # noqa: N818  # an answer to the peer, more than an error
    """The relay does not do what was asked; `status` is what the peer is told."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A reservation of `peer`; `limit` is what circuits from strangers to it will have."""

    peer: PeerId
    grade: Grade
    expire: float
    limit: Limit | None
    host: str
    network: str


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """A circuit, being opened or open; `grade` is the better one of its ends."""

    source: PeerId
    target: PeerId
    grade: Grade
    limit: Limit | None


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    reserved: int = 0
    refreshed: int = 0
    expired: int = 0
    opened: int = 0
    reserve_refused: Counter[Status] = field(default_factory=Counter)
    open_refused: Counter[Status] = field(default_factory=Counter)


class Registry:
    """Reservations and circuits of one relay; `strangers` None: they get nothing (a private relay).

    Every operation takes the same short time however many there are. What has expired is no longer
    found, and counts until `expired` is called, which its owner does about once a second.
    """

    def __init__(self, strangers: Quotas | None, users: Quotas, rates: Rates | None = None) -> None:
        rates = rates or Rates()
        self.counts = Counts()
        self._quotas: dict[Grade, Quotas | None] = {Grade.USER: users, Grade.STRANGER: strangers}
        self._slots: dict[PeerId, Slot] = {}
        self._by_expiry: list[tuple[float, int, Slot]] = []  # a heap, also of replaced slots
        self._numbers = itertools.count()
        self._circuits: set[Circuit] = set()
        self._held: Counter[object] = Counter()
        """How many count against a quota; keys begin with the grade."""
        self._reserves = Buckets(rates.reserve_per_peer), Buckets(rates.reserve_per_host)
        self._connects = Buckets(rates.connect_per_peer), Buckets(rates.connect_per_host)

    def reservations(self, grade: Grade) -> int:
        """How many reservations peers of this grade hold."""
        return self._held[grade, "slots"]

    def circuits(self, grade: Grade) -> int:
        """How many circuits count as this grade's."""
        return self._held[grade, "circuits"]

    def circuits_of(self, peer: PeerId) -> int:
        """How many circuits the peer is an end of."""
        return sum(self._held[grade, "circuits of", peer] for grade in Grade)

    def reconfigure(self, strangers: Quotas | None, users: Quotas) -> None:
        """Set other quotas; what exists keeps what it was given until it ends or is refreshed."""
        self._quotas = {Grade.USER: users, Grade.STRANGER: strangers}

    # --- reservations ----------------------------------------------------------------------------

    def reserve(self, peer: PeerId, grade: Grade, host: str, now: float) -> Slot:
        """Make or refresh the reservation of a peer that is connected from `host`, an IP address.

        A refused refresh leaves the reservation as it was.

        Raises:
            Refusal: PERMISSION_DENIED, or RESERVATION_REFUSED when a quota or rate is used up.

        """
        try:
            slot = self._reserve(peer, grade, host, now)
        except Refusal as refusal:
            self.counts.reserve_refused[refusal.status] += 1
            raise
        if len(self._by_expiry) > 2 * len(self._slots) + 64:  # refreshed again and again
            self._by_expiry = [one for one in self._by_expiry if self._is_current(one[2])]
            heapq.heapify(self._by_expiry)
        return slot

    def release(self, peer: PeerId, slot: Slot | None = None) -> None:
        """End a peer's reservation; if `slot` is given, only while it is the peer's current one."""
        held = self._slots.get(peer)
        if held is not None and slot in (None, held):
            del self._slots[peer]
            self._count_slot(held, -1)

    def holder(self, peer: PeerId, now: float) -> Slot | None:
        """The peer's reservation, unless it has expired."""
        slot = self._slots.get(peer)
        return slot if slot is not None and slot.expire > now else None

    def expired(self, now: float) -> list[PeerId]:
        """Remove the reservations that have expired; whose they were."""
        gone = []
        while self._by_expiry and self._by_expiry[0][0] <= now:
            slot = heapq.heappop(self._by_expiry)[2]
            if self._is_current(slot):
                self.release(slot.peer)
                gone.append(slot.peer)
        self.counts.expired += len(gone)
        return gone

    # --- circuits --------------------------------------------------------------------------------

    def open(
        self, source: PeerId, grade: Grade, target: PeerId, now: float, *, host: str
    ) -> Circuit:
        """Count a circuit that `source`, connected from `host`, wants to `target`; `close` it.

        In private mode a stranger may reach a user, who reserved in order to be reached.

        Raises:
            Refusal: NO_RESERVATION, PERMISSION_DENIED, or RESOURCE_LIMIT_EXCEEDED when a quota or
                rate is used up.

        """
        try:
            circuit = self._open(source, grade, target, now, host)
        except Refusal as refusal:
            self.counts.open_refused[refusal.status] += 1
            raise
        self._circuits.add(circuit)
        self._count_circuit(circuit, 1)
        self.counts.opened += 1
        return circuit

    def close(self, circuit: Circuit) -> None:
        """A circuit ended, or never came about; closing it again does nothing."""
        if circuit in self._circuits:
            self._circuits.remove(circuit)
            self._count_circuit(circuit, -1)

    # --- inside ----------------------------------------------------------------------------------

    def _reserve(self, peer: PeerId, grade: Grade, host: str, now: float) -> Slot:
        quotas = self._quotas[grade]
        if quotas is None:
            raise Refusal(Status.PERMISSION_DENIED, "strangers get nothing here")
        one_host, network = places(host)
        if grade is Grade.STRANGER and not _ask(self._reserves, peer, one_host, now):
            raise Refusal(Status.RESERVATION_REFUSED, "asked for reservations too often")
        old = self._slots.get(peer)
        if old is not None:
            self._count_slot(old, -1)
        refusal = self._reserve_refusal(quotas, grade, one_host, network)
        if refusal:
            if old is not None:
                self._count_slot(old, 1)
            raise Refusal(Status.RESERVATION_REFUSED, refusal)
        slot = Slot(peer, grade, now + quotas.ttl, quotas.limit, one_host, network)
        self._slots[peer] = slot
        self._count_slot(slot, 1)
        heapq.heappush(self._by_expiry, (slot.expire, next(self._numbers), slot))
        if old is None:
            self.counts.reserved += 1
        else:
            self.counts.refreshed += 1
        return slot

    def _reserve_refusal(self, quotas: Quotas, grade: Grade, host: str, network: str) -> str:
        if self._held[grade, "slots"] >= quotas.reservations:
            return "all reservations are taken"
        if quotas.per_host is not None and self._held[grade, "host", host] >= quotas.per_host:
            return "too many reservations from one host"
        if (
            quotas.per_network is not None
            and self._held[grade, "network", network] >= quotas.per_network
        ):
            return "too many reservations from one network"
        return ""

    def _open(self, source: PeerId, grade: Grade, target: PeerId, now: float, host: str) -> Circuit:
        if grade is Grade.STRANGER and not _ask(self._connects, source, places(host)[0], now):
            raise Refusal(Status.RESOURCE_LIMIT_EXCEEDED, "asked for circuits too often")
        if source == target:
            raise Refusal(Status.PERMISSION_DENIED, "a circuit to oneself")
        slot = self.holder(target, now)
        if slot is None:
            raise Refusal(Status.NO_RESERVATION, "the target holds no reservation here")
        better = Grade.USER if Grade.USER in (grade, slot.grade) else Grade.STRANGER
        quotas = self._quotas[better]
        if quotas is None:
            raise Refusal(Status.PERMISSION_DENIED, "strangers get nothing here")
        if self._held[better, "circuits"] >= quotas.circuits:
            raise Refusal(Status.RESOURCE_LIMIT_EXCEEDED, "all circuits are taken")
        for peer in (source, target):
            if self._held[better, "circuits of", peer] >= quotas.circuits_per_peer:
                raise Refusal(Status.RESOURCE_LIMIT_EXCEEDED, "too many circuits of one peer")
        return Circuit(source, target, better, quotas.limit)

    def _is_current(self, slot: Slot) -> bool:
        return self._slots.get(slot.peer) is slot

    def _count_slot(self, slot: Slot, change: int) -> None:
        grade = slot.grade
        self._count((grade, "slots"), change)
        self._count((grade, "host", slot.host), change)
        self._count((grade, "network", slot.network), change)

    def _count_circuit(self, circuit: Circuit, change: int) -> None:
        self._count((circuit.grade, "circuits"), change)
        for peer in (circuit.source, circuit.target):
            self._count((circuit.grade, "circuits of", peer), change)

    def _count(self, key: object, change: int) -> None:
        self._held[key] += change
        if not self._held[key]:
            del self._held[key]


def places(host: str) -> tuple[str, str]:
    """The host and the network that an IP address stands for: itself and /24, or /64 and /48.

    A text that is no address stands for itself.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host, host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return address.packed[:8].hex(), address.packed[:6].hex()
        address = address.ipv4_mapped
    return str(address), address.packed[:3].hex()


def _ask(buckets: tuple[Buckets, Buckets], peer: PeerId, host: str, now: float) -> bool:
    """Count an attempt against the peer's and the host's bucket, unless one is empty."""
    by_peer, by_host = buckets
    if not (by_peer.allows(peer, now) and by_host.allows(host, now)):
        return False
    by_peer.count(peer, now)
    by_host.count(host, now)
    return True
