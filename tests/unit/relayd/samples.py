"""Snapshots of a relay that is not there."""

from __future__ import annotations

from pt.relayd.status import (
    CircuitView,
    GradeView,
    OverlayView,
    ReservationView,
    Snapshot,
    Totals,
)

PEER_ID = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
NOW = 1_800_000_000.0


def circuit(number: int = 1, **fields: object) -> CircuitView:
    values: dict[str, object] = {
        "number": number,
        "kind": "raw",
        "source": "12D3…xW2a",
        "target": "12D3…9fQe",
        "grade": "user",
        "age": 12.3456,
        "sent": 1000,
        "received": 2000,
        "rate": 512.5,
    }
    return CircuitView(**{**values, **fields})  # type: ignore[arg-type]


def reservation(peer: str = "12D3…9fQe", **fields: object) -> ReservationView:
    values: dict[str, object] = {"grade": "user", "expires_in": 3599.5, "circuits": 1}
    return ReservationView(peer=peer, **{**values, **fields})  # type: ignore[arg-type]


def snapshot(**fields: object) -> Snapshot:
    values: dict[str, object] = {
        "taken": NOW,
        "started": NOW - 3600,
        "version": "0.1.0",
        "peer_id": PEER_ID,
        "addresses": (f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER_ID}",),
        "connections": 5,
        "memory": 64 << 20,
        "grades": (
            GradeView(
                grade="user",
                reservations=3,
                reservations_limit=16384,
                circuits=2,
                circuits_limit=16384,
                rate=125e6,
            ),
            GradeView(
                grade="stranger",
                reservations=1,
                reservations_limit=128,
                circuits=1,
                circuits_limit=1024,
                duration=120,
                data=131072,
            ),
        ),
        "totals": Totals(
            reservations={"made": 9, "refreshed": 4, "expired": 1},
            circuits={"raw": 7, "libp2p": 3},
            bytes={"raw": 10**9, "libp2p": 3072},
            refusals={"resource_limit_exceeded": 2},
            connections=21,
        ),
        "open_circuits": {"raw": 2, "libp2p": 1},
        "circuits": (
            circuit(1),
            circuit(2, kind="libp2p", grade="stranger", rate=0.0),
            circuit(3, sent=10**9, rate=5e7),
        ),
        "overlay": OverlayView(
            records=1234,
            bytes=1_543_000,
            nodes=2,
            evicted=1,
            requests={"find_value": 70, "store": 30},
            refused={"stale": 4},
            dropped={"rate": 5},
            datagrams={"in": 100, "out": 95},
            traffic={"in": 40_000, "out": 90_000},
        ),
        "stun": {"answered": 40, "dropped: too many": 2},
        "reservations": (reservation(), reservation("12D3…abcd", grade="stranger", circuits=0)),
    }
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]
