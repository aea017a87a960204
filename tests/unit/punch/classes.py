"""Sides behind each kind of NAT."""

from __future__ import annotations

from itertools import product

from pt.punch import Budget, Candidate, Kind, Side
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

MAPPINGS = {
    "eim": Dependence.INDEPENDENT,
    "adm": Dependence.ADDRESS,
    "apdm": Dependence.ADDRESS_AND_PORT,
}
FILTERS = {
    "eif": Dependence.INDEPENDENT,
    "adf": Dependence.ADDRESS,
    "apdf": Dependence.ADDRESS_AND_PORT,
}
PORTS = {
    "preserve": Allocation.PRESERVING,
    "seq": Allocation.SEQUENTIAL,
    "random": Allocation.RANDOM,
    "block": Allocation.RANDOM,
}
BLOCK = (20000, 20511)

NAMES = [f"eim-{f}" for f in FILTERS] + [
    f"{m}-{p}-{f}" for m, p, f in product(("adm", "apdm"), PORTS, FILTERS)
]
"""The 9 classes, those with hard mappings in each of the port modes: 27 kinds."""


def facts(name: str, protocol: Protocol = Protocol.UDP, external: str = "11.1.0.1") -> NatFacts:
    if name in ("public", "fw"):
        return NatFacts(
            protocol=protocol,
            works=True,
            translated=False,
            mapping=Dependence.INDEPENDENT,
            filtering=FILTERS["eif" if name == "public" else "apdf"],
            external=external,
        )
    if name == "unknown":
        return NatFacts(protocol=protocol)
    if name == "blocked":
        return NatFacts(protocol=protocol, works=False)
    words = name.split("-")
    ports = words[1] if len(words) == 3 else "preserve"
    return NatFacts(
        protocol=protocol,
        works=True,
        translated=True,
        mapping=MAPPINGS[words[0]],
        filtering=FILTERS[words[-1]],
        ports=PORTS[ports],
        step=1 if ports == "seq" else 0,
        block=BLOCK if ports == "block" else None,
        external=external,
    )


def side(
    name: str, number: int = 1, *, tcp: str | None = None, budget: Budget | None = None
) -> Side:
    external = f"11.1.0.{number}"
    found = [facts(name, external=external)]
    candidates = [
        Candidate(Kind.HOST, f"192.168.{number}.2", 4000),
        Candidate(Kind.REFLEXIVE, external, 4000 + number),
    ]
    if tcp is not None:
        found.append(facts(tcp, Protocol.TCP, external))
        candidates.append(Candidate(Kind.REFLEXIVE, external, 4000 + number, Protocol.TCP))
    return Side(facts=tuple(found), candidates=tuple(candidates), budget=budget or Budget())
