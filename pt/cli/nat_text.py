"""What `pt nat` shows: facts on one screen, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from pt.cli.text import BOLD, DIM, GREEN, RED, RESET, YELLOW
from pt.node.nat import Survey
from pt.node.nat_family import How, Reach
from pt.node.nat_gateways import Agreement
from pt.node.nat_tcp import TcpDiscovery
from pt.node.nat_tcp_lifetime import TcpLifetime
from pt.node.portmap import Finding
from pt.portmap.aio import Place
from pt.punch.candidates import Candidate, Kind, Side
from pt.punch.planner import make_plan
from pt.punch.strategies import Plan
from pt.stun.discovery import Discovery
from pt.stun.lifetime import Lifetime
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["OTHERS", "as_json", "as_text", "plans"]

RTT: Final = 0.1
"""A peer's round trip, for plans; it changes their times, not their choice."""
THERE: Final = "11.0.0.1"
"""Where the imagined other side is; nothing is sent."""
_DEPENDENCE: Final = {
    Dependence.UNKNOWN: None,
    Dependence.INDEPENDENT: "endpoint-independent",
    Dependence.ADDRESS: "address-dependent",
    Dependence.ADDRESS_AND_PORT: "address-and-port-dependent",
}
_MAPPING: Final = {
    Dependence.INDEPENDENT: "one external port for all destinations",
    Dependence.ADDRESS: "another external port for each destination's address",
    Dependence.ADDRESS_AND_PORT: "another external port for each destination",
}
_FILTERING: Final = {
    Dependence.INDEPENDENT: "anybody may write to an open port",
    Dependence.ADDRESS: "only addresses that were written to get in",
    Dependence.ADDRESS_AND_PORT: "only addresses and ports that were written to get in",
}
_PORTS: Final = {
    Allocation.UNKNOWN: None,
    Allocation.PRESERVING: "preserving",
    Allocation.SEQUENTIAL: "sequential",
    Allocation.RANDOM: "random",
}
EI, AD, APD = Dependence.INDEPENDENT, Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT


def _other(
    mapping: Dependence,
    filtering: Dependence,
    ports: Allocation = Allocation.PRESERVING,
    *,
    translated: bool = True,
    step: int = 0,
    block: tuple[int, int] | None = None,
) -> NatFacts:
    facts = NatFacts(
        works=True, translated=translated, mapping=mapping, filtering=filtering, ports=ports
    )
    return replace(facts, step=step, block=block)


OTHERS: Final[tuple[tuple[str, NatFacts], ...]] = (
    ("a public address", _other(EI, EI, translated=False)),
    ("a firewall without NAT", _other(EI, APD, translated=False)),
    ("full cone (eim-eif)", _other(EI, EI)),
    ("a home router (eim-apdf)", _other(EI, APD)),
    ("a NAT with ports in a row", _other(APD, APD, Allocation.SEQUENTIAL, step=1)),
    ("a NAT with a port block", _other(APD, APD, Allocation.RANDOM, block=(20480, 20991))),
    ("random ports, eif", _other(APD, EI, Allocation.RANDOM)),
    ("random ports, adf", _other(APD, AD, Allocation.RANDOM)),
    ("symmetric (random, apdf)", _other(APD, APD, Allocation.RANDOM)),
)
"""What the other side may be behind, over IPv4 and UDP."""


def plans(survey: Survey) -> list[tuple[str, Plan]]:
    """What would be tried against each kind of other side, as far as IPv4 is known."""
    ours = [each for each in survey.facts if each.family == 4]
    found = next((each for each in survey.udp if each.facts.family == 4), None)
    if found is None or not ours:
        return []
    candidates = []
    if found.binding is not None:
        host, port = found.binding.mapped
        candidates.append(Candidate(Kind.REFLEXIVE, host, port))
    told = []
    for name, facts in OTHERS:
        tcp = replace(facts, protocol=Protocol.TCP)
        theirs = Side(facts=(facts, tcp), candidates=(Candidate(Kind.REFLEXIVE, THERE, 4001),))
        plan = make_plan(
            Side(facts=tuple(ours), candidates=tuple(candidates)),
            theirs,
            controlling=True,
            rtt=RTT,
        )
        told.append((name, plan))
    return told


# --- JSON ---------------------------------------------------------------------------------------


def as_json(survey: Survey) -> dict[str, object]:
    """The fields of the event `nat` (docs/cli.md)."""
    return {
        "paths": [*map(_path, survey.udp), *map(_path, survey.tcp)],
        "names": {name: list(hosts) for name, hosts in survey.names.items()},
        "ports": [
            {
                "protocol": each.protocol.name.lower(),
                "address": _where(each.address),
                "outcome": each.how.value,
                "named": each.named,
            }
            for each in survey.reach
        ],
        "gateways": None
        if survey.gateways is None
        else [_gateway(each, survey.outside(each)) for each in survey.gateways],
        "routers": [each or None for each in survey.routers],
        "problems": list(survey.problems),
        "works_with": [
            {
                "nat": name,
                "strategy": plan.best.value,
                "direct": not plan.hopeless,
                "why": plan.why,
                "cure": plan.cure,
            }
            for name, plan in plans(survey)
        ],
    }


def _path(found: Discovery | TcpDiscovery) -> dict[str, object]:
    facts = found.facts
    binding = found.binding
    told: dict[str, object] = {
        "family": facts.family,
        "protocol": facts.protocol.name.lower(),
        "label": facts.label if facts.works is not None else None,
        "works": facts.works,
        "translated": facts.translated,
        "mapping": _DEPENDENCE[facts.mapping],
        "filtering": _DEPENDENCE[facts.filtering],
        "ports": _PORTS[facts.ports],
        "step": facts.step or None,
        "block": None if facts.block is None else list(facts.block),
        "external": facts.external,
        "carrier_grade": facts.carrier_grade,
        "server": _where(found.server),
        "local": _where(found.local),
        "mapped": None if binding is None else _where(binding.mapped),
        "rtt": None if binding is None else round(binding.rtt, 6),
        "hairpin": facts.hairpin,
    }
    lifetime = found.lifetime
    told |= {
        "lifetime": facts.lifetime,
        "lifetime_at_least": None if lifetime is None else lifetime.at_least,
        "lifetime_at_most": None if lifetime is None else lifetime.at_most,
    }
    if isinstance(found, TcpDiscovery):
        keeps = None if found.lifetime is None else found.lifetime.keepalive_refreshes
        return {**told, "keepalive_refreshes": keeps, "problem": found.problem or None}
    return {
        **told,
        "quota": facts.quota,
        "noise": None if facts.noise is None else round(facts.noise, 1),
        "inbound_refreshes": facts.inbound_refreshes,
        "max_age": None if facts.max_age is None else round(facts.max_age, 1),
        "pooled": found.pooled,
        "rewritten": binding is not None and binding.rewritten,
        "mtu": found.mtu,
        "silent": [_where(each) for each in found.silent],
    }


def _gateway(found: Finding, outside: Agreement | None) -> dict[str, object]:
    return {
        "family": found.place.gateway.family,
        "gateway": found.place.host,
        "local": found.place.local,
        "service": found.service.label,
        "ok": found.ok,
        "external": found.external or None,
        "outside": None if outside is None else outside.value,
        "detail": found.detail,
    }


def _where(address: tuple[str, int] | None) -> str | None:
    if address is None:
        return None
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


# --- text ---------------------------------------------------------------------------------------


def as_text(survey: Survey, *, colour: bool) -> list[str]:
    """The screen."""
    paint = _Paint(colour)
    lines: list[str] = []
    for udp, tcp in zip(survey.udp, survey.tcp, strict=True):
        lines += [*_udp(udp, paint), *_tcp(tcp, udp, paint), ""]
    lines += [*_gateways(survey, paint), ""]
    lines += [*_firewall(survey.reach, paint), ""]
    lines += [paint(f"!  {each}", YELLOW) for each in survey.problems]
    if survey.problems:
        lines.append("")
    told = plans(survey)
    if told and survey.answered:
        lines.append(paint("What works with the other side, over IPv4", BOLD))
        width = max(len(name) for name, _ in told)
        for name, plan in told:
            word = paint(plan.best.value, RED if plan.hopeless else GREEN)
            lines.append(f"  {name.ljust(width)}  {word}")
        cures = dict.fromkeys(plan.cure for _, plan in told if plan.hopeless and plan.cure)
        lines += [f"  {paint(cure, DIM)}" for cure in cures]
    while lines and not lines[-1]:
        lines.pop()
    return lines


class _Paint:
    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: str, colour: str) -> str:
        return f"{colour}{text}{RESET}" if self._colour else text


def _title(family: int, protocol: str, label: str, paint: _Paint, colour: str) -> str:
    return f"{paint(f'IPv{family} {protocol}', BOLD)}  {paint(label, colour)}"


def _gateways(survey: Survey, paint: _Paint) -> Iterable[str]:
    """By what the routers map ports, and whether that would lead here."""
    by_place: dict[Place, list[Finding]] = {}
    for each in survey.gateways or ():
        by_place.setdefault(each.place, []).append(each)
    for place, services in by_place.items():
        known = [each.service.label for each in services if each.ok]
        lacking = [each.service.label for each in services if not each.ok]
        yield f"{paint(f'Router {place.host}', BOLD)}  " + (
            paint(f"maps ports by {', '.join(known)}", GREEN)
            if known
            else paint(f"maps no ports: no answer by {', '.join(lacking)}", YELLOW)
        )
        externals = {each.external: survey.outside(each) for each in services if each.external}
        for external, outside in externals.items():
            yield _row("outside", _outside(external, outside, survey.seen))
        if known and not externals and place.gateway.family == 4:
            yield _row("outside", "its external address is told with a mapping alone")


def _outside(external: str, outside: Agreement | None, seen: Sequence[str]) -> str:
    match outside:
        case Agreement.SAME:
            return f"{external}, as servers see it"
        case Agreement.ELSEWHERE:
            return f"{external}, but servers see {seen[0]}: double NAT, or another way out"
        case Agreement.CARRIER:
            return f"{external}, a carrier's: double NAT, what it maps leads nowhere"
        case Agreement.PRIVATE:
            return f"{external}, private: double NAT, the next router would have to map, too"
        case None:
            return external


def _firewall(reach: Sequence[Reach], paint: _Paint) -> Iterable[str]:
    """Which ports of servers can be reached, and what to do about those that cannot."""
    if not reach:
        return
    by_port: dict[tuple[Protocol, int], list[Reach]] = {}
    for each in reach:
        if each.named or each.through:  # silence where nobody was named tells nothing
            by_port.setdefault((each.protocol, each.address[1]), []).append(each)
    order = list(How)
    words = []
    through: set[int] = set()
    shut: set[int] = set()
    for (protocol, port), tried in sorted(by_port.items()):
        best = min(tried, key=lambda each: (not each.through, order.index(each.how)))
        word = best.how.value if best.named or best.how is How.OPEN else "gets through"
        told = f"{protocol.name} {port} {word}"
        words.append(paint(told, GREEN if best.through else YELLOW))
        if best.through:
            through.add(port)
        elif protocol is Protocol.TCP and best.how is How.SILENT:
            shut.add(port)
    yield f"{paint('Ports', BOLD)}  {', '.join(words)}"
    if shut - {443} and 443 in through:
        yield "  port 443 gets through where others do not: have a relay listen there, as in"
        yield "  pt relay --listen /ip4/0.0.0.0/tcp/443/tls/ws --tls-cert … --tls-key …"
    elif 443 in shut and through:
        yield "  port 443 does not get through, others do: use a relay at one of those"


def _udp(found: Discovery, paint: _Paint) -> Iterable[str]:
    facts = found.facts
    if not facts.works:
        asked = ", ".join(filter(None, map(_where, found.silent)))
        if facts.works is False:
            yield _title(facts.family, "UDP", "blocked", paint, RED)
            yield f"  no answer from {asked}, whose TCP port answers: a firewall on the way lets no"
            yield "  UDP through, or that server's own; another network, or a relay over TCP, helps"
        else:
            yield _title(facts.family, "UDP", "no answer", paint, RED)
            yield f"  neither over UDP nor over TCP from {asked}: check the address and the network"
        return
    yield _title(facts.family, "UDP", facts.label, paint, GREEN)
    yield _row("address", _translation(found))
    if facts.translated:
        yield _row("mapping", _word(_MAPPING.get(facts.mapping)))
    yield _row("filtering", _word(_FILTERING.get(facts.filtering)))
    if facts.translated:
        yield _row("ports", _ports(facts))
        inner = ", with internal addresses" if found.hairpin_internal else ""
        yield _row("hairpin", f"{_yes(facts.hairpin)}{inner}")
    yield _row("lifetime", _lifetime(found.lifetime))
    if facts.max_age is not None:
        yield _row("age", f"gone after {facts.max_age:.0f} s, whatever the traffic")
    if facts.quota is not None:
        yield _row("quota", f"{facts.quota} mappings at a time")
    if found.pooled:
        yield _row("pool", "sockets get different external addresses")
    if facts.translated and facts.family == 4:
        yield _row("carrier", _carrier(facts))
    if found.mtu is not None:
        most = " or more" if found.mtu >= 1500 else ""
        yield _row("MTU", f"{found.mtu}{most} on the way to {_where(found.server)}")
    if found.binding is not None and found.binding.rewritten:
        yield _row("rewriting", "something on the way changes addresses inside packets (an ALG)")
    if found.silent:
        yield _row("silent", ", ".join(filter(None, map(_where, found.silent))))


def _tcp(found: TcpDiscovery, udp: Discovery, paint: _Paint) -> Iterable[str]:
    facts = found.facts
    if not facts.works:
        if facts.works is False:
            yield _title(facts.family, "TCP", "blocked", paint, RED)
        elif udp.facts.works:
            yield _title(facts.family, "TCP", "not known", paint, YELLOW)
        else:
            return
        yield f"  {found.problem}"
        return
    yield _title(facts.family, "TCP", _tcp_label(facts), paint, GREEN)
    if facts.translated:
        yield _row("mapping", _word(_MAPPING.get(facts.mapping)))
    elif not udp.facts.works:
        yield _row("address", f"{_where(found.local)}, not translated")
    known = _FILTERING.get(facts.filtering)
    yield _row("filtering", known or "not known: it takes a pt relay with a second address")
    if facts.translated:
        yield _row("ports", _ports(facts))
        yield _row("hairpin", _yes(facts.hairpin))
    yield _row("lifetime", _tcp_lifetime(found.lifetime))


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not known"}[value]


def _tcp_label(facts: NatFacts) -> str:
    """Without the filter, if that is not known."""
    if facts.filtering is not Dependence.UNKNOWN:
        return facts.label
    return facts.label.rpartition("-")[0] if facts.translated else "not translated"


def _row(name: str, text: str) -> str:
    return f"  {name.ljust(10)}{text}"


def _word(text: str | None) -> str:
    return text or "not known: it takes a server with a second address (`pt relay --stun-peer`)"


def _translation(found: Discovery) -> str:
    binding = found.binding
    assert binding is not None
    rtt = f"{binding.rtt * 1000:.0f} ms to {_where(found.server)}"
    if found.facts.translated:
        return f"{_where(found.local)} is {_where(binding.mapped)} outside; {rtt}"
    return f"{_where(binding.mapped)}, not translated; {rtt}"


def _ports(facts: NatFacts) -> str:
    match facts.ports:
        case Allocation.PRESERVING:
            return "the internal port is kept"
        case Allocation.SEQUENTIAL:
            busy = f"; others take {facts.noise:.0f} a second" if facts.noise else ""
            return f"one after the other, in steps of {facts.step}{busy}"
        case Allocation.RANDOM if facts.block is not None:
            return f"random, between {facts.block[0]} and {facts.block[1]}"
        case Allocation.RANDOM:
            return "random"
        case _:
            return "not known"


def _lifetime(lifetime: Lifetime | None) -> str:
    if lifetime is None:
        return "not measured (--lifetime)"
    kept = {True: "; what comes in counts, too", False: "; only what goes out counts", None: ""}
    return _silence(lifetime.at_least, lifetime.at_most) + kept[lifetime.inbound_refreshes]


def _tcp_lifetime(lifetime: TcpLifetime | None) -> str:
    if lifetime is None:
        return "not measured (--lifetime, of a pt relay)"
    kept = {True: "; keep-alives keep it", False: "; keep-alives do not keep it", None: ""}
    return _silence(lifetime.at_least, lifetime.at_most) + kept[lifetime.keepalive_refreshes]


def _silence(at_least: float, at_most: float | None) -> str:
    if at_most is None:
        return f"more than {at_least:.0f} s of silence"
    return f"between {at_least:.0f} and {at_most:.0f} s of silence"


def _carrier(facts: NatFacts) -> str:
    match facts.carrier_grade:
        case True:
            return "behind a carrier's NAT (addresses of 100.64.0.0/10)"
        case _:
            return "no sign of a carrier's NAT"
