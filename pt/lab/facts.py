"""What a NAT spec is in the words of `NatFacts`, which `pt` measures and plans by, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pt.lab.model.spec import NatSpec
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["facts6_of", "facts_of", "spec_of"]

NARROW: Final = 4096
"""Ports of a range that a measurement tells from all."""

_MAPPING: Final = {
    "eim": Dependence.INDEPENDENT,
    "adm": Dependence.ADDRESS,
    "apdm": Dependence.ADDRESS_AND_PORT,
}
_FILTERING: Final = {
    "eif": Dependence.INDEPENDENT,
    "adf": Dependence.ADDRESS,
    "apdf": Dependence.ADDRESS_AND_PORT,
}
_PORTS: Final = {
    "preserve": Allocation.PRESERVING,
    "seq": Allocation.SEQUENTIAL,
    "random": Allocation.RANDOM,
    "block": Allocation.RANDOM,
}


def facts_of(
    chain: Sequence[NatSpec], protocol: Protocol = Protocol.UDP, external: str | None = None
) -> NatFacts:
    """Return what a perfect measurement through all NATs of a chain finds, for IPv4."""
    first, last = chain[0], chain[-1]
    allowed = [box.udp if protocol is Protocol.UDP else box.tcp for box in chain]
    blocked = any(ports is not None and not ports for ports in allowed)
    if first.kind == "none" or blocked:
        return NatFacts(protocol=protocol, works=False)
    if first.kind in ("public", "fw"):
        filtering = _FILTERING[first.filtering] if first.kind == "fw" else Dependence.INDEPENDENT
        return NatFacts(
            protocol=protocol,
            works=True,
            translated=False,
            mapping=Dependence.INDEPENDENT,
            filtering=filtering,
            ports=Allocation.PRESERVING,
            external=external,
            lifetime=first.timeout if first.kind == "fw" else None,
        )
    return NatFacts(
        protocol=protocol,
        works=True,
        translated=True,
        mapping=max(_mapping(box) for box in chain),
        filtering=max(_FILTERING[box.filtering] for box in chain),
        ports=max(_PORTS[box.allocation] for box in chain),
        step=next((box.step for box in chain if box.allocation == "seq"), 0),
        block=_narrow(chain),
        hairpin=last.hairpin == "on",
        simultaneous_open=all(box.simopen for box in chain),
        lifetime=min(box.timeout for box in chain),
        inbound_refreshes=all(box.refresh == "both" for box in chain),
        max_age=min((box.maxage for box in chain if box.maxage), default=None),
        quota=min((box.maximum for box in chain if box.maximum), default=None),
        noise=max(box.noise for box in chain) or None,
        external=external,
        carrier_grade=len(chain) > 1,
    )


def _narrow(chain: Sequence[NatSpec]) -> tuple[int, int] | None:
    """Return the range of outer ports, if it is small enough to be noticed."""
    low, high = chain[-1].low, chain[-1].high
    return (low, high) if high - low < NARROW else None


def facts6_of(chain: Sequence[NatSpec]) -> NatFacts | None:
    """Return the same for IPv6 over UDP, which nobody translates; None without IPv6."""
    first = chain[0]
    if first.v6 == "off":
        return None
    filtering = Dependence.INDEPENDENT if first.v6 == "open" else _FILTERING[first.v6]
    return NatFacts(
        family=6,
        works=first.udp is None,
        translated=False,
        mapping=Dependence.INDEPENDENT,
        filtering=filtering,
        ports=Allocation.PRESERVING,
    )


def _mapping(box: NatSpec) -> Dependence:
    # A port that is kept for every remote endpoint looks independent until somebody clashes.
    same = box.overload and box.allocation == "preserve"
    return Dependence.INDEPENDENT if same else _MAPPING[box.mapping]


def spec_of(facts: NatFacts) -> str:
    """Return a spec that behaves so; what is unknown is taken as the commonest."""
    if facts.works is False:
        return "udpblock"
    filtering = {value: word for word, value in _FILTERING.items()}.get(facts.filtering, "apdf")
    if facts.translated is False:
        return "public" if filtering == "eif" else f"fw-{filtering}"
    mapping = {value: word for word, value in _MAPPING.items()}.get(facts.mapping, "eim")
    words = {Allocation.PRESERVING: "preserve", Allocation.SEQUENTIAL: "seq"}
    ports = words.get(facts.ports, "random" if facts.ports else "preserve")
    options = []
    if facts.block is not None and ports == "random":
        options.append(f"ports={facts.block[0]}-{facts.block[1]}")
    if ports == "seq" and facts.step > 1:
        options.append(f"step={facts.step}")
    if facts.hairpin:
        options.append("hairpin=on")
    if facts.simultaneous_open is False:
        options.append("simopen=0")
    if facts.lifetime:
        options.append(f"timeout={facts.lifetime:g}")
    if facts.inbound_refreshes is False:
        options.append("refresh=out")
    if facts.max_age:
        options.append(f"maxage={facts.max_age:g}")
    if facts.quota:
        options.append(f"max={facts.quota}")
    return ",".join([f"{mapping}-{filtering}-{ports}", *options])
