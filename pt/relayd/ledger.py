"""The circuits that are open, and what was counted since the start: the source of the snapshot."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pt.identity.peer_id import PeerId
from pt.relay.registry import Circuit, Grade, Quotas, Registry, Slot
from pt.relayd.config import RelayConfig
from pt.relayd.status import (
    CircuitView,
    GradeView,
    Kind,
    Meter,
    OverlayView,
    ReservationView,
    Snapshot,
    Totals,
    busiest_circuits,
    busiest_reservations,
    resident_memory,
)
from pt.wire.multiaddr import Multiaddr

__all__ = ["Ledger", "Mover", "OpenCircuit"]


class Mover(Protocol):
    """What moves the bytes of a circuit."""

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes from the source, and from the target."""
        ...

    def close(self, reason: str) -> None:
        """End both sides."""
        ...


@dataclass(slots=True, eq=False)
class OpenCircuit:
    """A circuit whose bytes move."""

    number: int
    kind: Kind
    circuit: Circuit
    mover: Mover
    started: float
    """On the loop's clock."""


class Ledger:
    """Open circuits by number."""

    def __init__(self) -> None:
        self.open: dict[int, OpenCircuit] = {}
        self.started = time.time()
        self.accepted = 0
        self.refusals: Counter[str] = Counter()
        self._opened: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._numbers = 0
        self._meter = Meter()

    def add(self, kind: Kind, circuit: Circuit, mover: Mover, now: float) -> OpenCircuit:
        """A circuit was opened."""
        self._numbers += 1
        one = OpenCircuit(self._numbers, kind, circuit, mover, now)
        self.open[one.number] = one
        self._opened[kind] += 1
        return one

    def remove(self, one: OpenCircuit) -> None:
        """It ended."""
        if self.open.pop(one.number, None) is not None:
            self._bytes[one.kind] += sum(one.mover.bytes)

    def snapshot(
        self,
        *,
        now: float,
        config: RelayConfig,
        registry: Registry,
        slots: Iterable[Slot],
        peer_id: PeerId,
        addresses: tuple[Multiaddr, ...],
        connections: int,
        draining: bool,
        version: str,
        overlay: OverlayView | None = None,
        stun: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """All that is told of the relay."""
        moved = {number: one.mover.bytes for number, one in self.open.items()}
        self._meter.update(now, {number: sum(each) for number, each in moved.items()})
        total = self._bytes.copy()
        kinds: Counter[str] = Counter()
        for one in self.open.values():
            total[one.kind] += sum(moved[one.number])
            kinds[one.kind] += 1
        counts = registry.counts
        return Snapshot(
            taken=time.time(),
            started=self.started,
            version=version,
            peer_id=str(peer_id),
            addresses=tuple(map(str, addresses)),
            draining=draining,
            connections=connections,
            memory=resident_memory(),
            grades=(
                _grade(registry, Grade.USER, config.users, config.rate, served=True),
                _grade(
                    registry,
                    Grade.STRANGER,
                    config.strangers,
                    config.rate,
                    served=not config.private,
                ),
            ),
            totals=Totals(
                reservations={
                    "made": counts.reserved,
                    "refreshed": counts.refreshed,
                    "expired": counts.expired,
                },
                circuits=dict(self._opened),
                bytes=dict(total),
                refusals=dict(self.refusals),
                connections=self.accepted,
            ),
            open_circuits=dict(kinds),
            circuits=busiest_circuits(
                self._circuit(one, moved[one.number], now) for one in self.open.values()
            ),
            reservations=busiest_reservations(
                ReservationView(
                    peer=slot.peer.short(),
                    grade=slot.grade.value,
                    expires_in=max(0.0, slot.expire - now),
                    circuits=registry.circuits_of(slot.peer),
                )
                for slot in slots
            ),
            overlay=overlay,
            stun=stun,
        )

    def _circuit(self, one: OpenCircuit, moved: tuple[int, int], now: float) -> CircuitView:
        return CircuitView(
            number=one.number,
            kind=one.kind,
            source=one.circuit.source.short(),
            target=one.circuit.target.short(),
            grade=one.circuit.grade.value,
            age=now - one.started,
            sent=moved[0],
            received=moved[1],
            rate=self._meter.rate(one.number),
        )


def _grade(
    registry: Registry, grade: Grade, quotas: Quotas, rate: float, *, served: bool
) -> GradeView:
    limit = quotas.limit
    return GradeView(
        grade=grade.value,
        served=served,
        reservations=registry.reservations(grade),
        reservations_limit=quotas.reservations,
        circuits=registry.circuits(grade),
        circuits_limit=quotas.circuits,
        duration=limit.duration or None if limit is not None else None,
        data=limit.data or None if limit is not None else None,
        rate=rate or None,
    )
