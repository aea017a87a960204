"""Many attempts: which ones, in which order, each in a laboratory of its own; what is left to do.

A fresh laboratory for each attempt: a mapping that survives would make the next attempt easy.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pt.lab.facts import facts6_of, facts_of, spec_of
from pt.lab.lab import Lab
from pt.lab.model.spec import SpecError, parse_link, parse_nat
from pt.lab.punchers import Conduct, Report, conduct
from pt.lab.results import Attempt, Cell, append, read
from pt.lab.services import Services
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

__all__ = ["KINDS", "Plan", "attempt", "cells_from_file", "cells_of_trace", "pairs", "run"]

KINDS: Final = (
    "public",
    "eim-eif",
    "eim-adf",
    "eim-apdf",
    "adm-eif",
    "adm-adf",
    "adm-apdf",
    "apdm-eif",
    "apdm-adf",
    "apdm-apdf",
    "apdm-apdf-seq",
    "fw-apdf",
    "linux",
    "udpblock",
)
"""The NATs of a matrix if none are named."""
OWN: Final = "pt"
"""The name of `pt`'s own puncher."""
NO_PATH: Final = "no direct path"
WHOLE: Final = 10
"""Runs whose timelines are kept whole; of later ones that are direct, signals and outcomes are."""
MAX_CELLS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done: each cell so many times, by one puncher (a command, or `OWN`)."""

    cells: Sequence[Cell]
    runs: int
    puncher: str = OWN
    seed: int = 1
    budget: float = 10.0
    traces: Path | None = None
    """Directory for a trace and a capture of each attempt's laboratory."""


def pairs(kinds: Sequence[str], strategies: Sequence[str], **words: Any) -> list[Cell]:  # noqa: ANN401
    """Return every kind with every kind, each pair once."""
    return [
        Cell(a=one, b=other, strategy=strategy, **words)
        for index, one in enumerate(kinds)
        for other in kinds[index:]
        for strategy in strategies
    ]


def cells_from_file(path: Path) -> list[tuple[Cell, int | None]]:
    """Read cells from TOML: `[[cell]]` with the fields of `Cell` and, if need be, `runs`.

    Raises: SpecError.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["cell"]
        cells = []
        for entry in found:
            runs = entry.pop("runs", None)
            cells.append((Cell(**entry), runs))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path} is no list of [[cell]]: {error}") from error
    for cell, _ in cells:
        check(cell)
    return cells


def check(cell: Cell) -> None:
    """Check that a cell's words are words.

    Raises: SpecError.
    """
    for text in (cell.a, cell.b, *([cell.cgn] if cell.cgn else [])):
        parse_nat(text)
    parse_link(cell.link)
    pps: object = cell.pps  # whatever a file says
    if not isinstance(pps, int) or pps < 0:
        raise SpecError(f"pps is a number of packets a second, not {pps!r}")


def command(puncher: str) -> list[str]:
    """Return the argv of a puncher."""
    if puncher == OWN:
        return [sys.executable, "-m", "pt.lab.punch"]
    return shlex.split(puncher)


def attempt(cell: Cell, run_number: int, plan: Plan, seed: int | None = None) -> Attempt:
    """Do one attempt; with its own seed if none is given.

    Raises: LabError, SpecError.
    """
    if seed is None:
        seed = cell.seed(plan.seed, run_number)
    files: dict[str, Any] = {}
    if plan.traces is not None:
        stem = plan.traces / f"{seed:08x}-{run_number}"
        files = {"trace": stem.with_suffix(".jsonl"), "pcap": stem.with_suffix(".pcap")}
    with Lab(public=2, seed=seed, **files, **cell.words) as lab, Services(lab) as services:
        delay = parse_link(cell.link).shape.delay
        behind = f"+{cell.cgn}" if cell.cgn else ""
        seen = {"a": cell.a + behind, "b": cell.b + behind}
        how = Conduct(
            argv=command(plan.puncher),
            strategy=cell.strategy,
            seed=seed,
            budget=plan.budget,
            pps=cell.pps,
            relay_delay=4 * delay,  # two links to s1, and two from there
            env={
                name: {
                    **services.environment,
                    "PT_LAB_ADDRESSES": " ".join(lab[name].addresses),
                    "PT_LAB_FACTS": _told(text, lab, name, Protocol.UDP),
                    "PT_LAB_FACTS_TCP": _told(text, lab, name, Protocol.TCP),
                    "PT_LAB_FACTS6": _json(facts6_of(parse_nat(text))),
                }
                for name, text in seen.items()
            },
        )
        started, wall = time.monotonic(), time.time()
        report = conduct(lab, how)
    return Attempt(
        cell=cell,
        run=run_number,
        seed=seed,
        puncher=plan.puncher,
        direct=report.direct,
        seconds=max(report.times.values(), default=None),
        times=report.times,
        verified=min(_said(report, "verified"), default=None),
        decided=max(_said(report, "decided"), default=None),
        winner=_word(report, "winner"),
        reason="" if report.direct else report.reason or _word(report, "reason") or NO_PATH,
        packets=_packets(report),
        classes={name: facts_of(parse_nat(text)).label for name, text in seen.items()},
        timeline=_timeline(report, started, whole=run_number < WHOLE or not report.direct),
        wall=round(wall, 3),
    )


def _told(text: str, lab: Lab, side: str, protocol: Protocol) -> str:
    """Return what a side's programs are told of its NATs, as JSON."""
    outside = [found for name, found in lab.nats.items() if name.split(".")[0] == side]
    outside += [lab.nats["cgn"]] if "cgn" in lab.nats else []
    external = outside[-1][0] if outside and outside[-1] else lab[side].ip or None
    return _json(facts_of(parse_nat(text), protocol, external))


def _json(facts: NatFacts | None) -> str:
    if facts is None:
        return "null"
    names = NatFacts.__dataclass_fields__
    return json.dumps({name: getattr(facts, name) for name in names} | {"label": facts.label})


def _timeline(report: Report, started: float, *, whole: bool) -> list[dict[str, Any]]:
    return [
        {**event, "t": round(event["t"] - started, 6)}
        for event in report.timeline
        if whole or event["event"] in ("signal", "outcome")
    ]


def _said(report: Report, name: str) -> list[float]:
    found = [each.get(name) for each in report.outcomes.values()]
    return [float(each) for each in found if isinstance(each, int | float)]


def _word(report: Report, name: str) -> str:
    words = [str(each[name]) for each in report.outcomes.values() if each.get(name)]
    return words[0] if words else ""


def _packets(report: Report) -> dict[str, int]:
    return {
        side: each["packets"]
        for side, each in report.outcomes.items()
        if isinstance(each.get("packets"), int)
    }


def remaining(plan: Plan, done: Iterable[Attempt]) -> Iterator[tuple[Cell, int]]:
    """Yield what is left to do: all cells once, then all a second time, and so on."""
    counts = Counter((each.cell.key, each.run) for each in done if each.puncher == plan.puncher)
    for number in range(plan.runs):
        for cell in plan.cells:
            if not counts[cell.key, number]:
                yield cell, number


def run(
    plan: Plan, out: Path | None, progress: Callable[[Attempt, int, int], None]
) -> list[Attempt]:
    """Do what `out` does not hold yet, adding to it; return all attempts of the plan.

    Raises: LabError, SpecError.
    """
    if len(plan.cells) * plan.runs > MAX_CELLS:
        raise SpecError(
            f"{len(plan.cells)} cells, {plan.runs} runs each, are more than {MAX_CELLS}"
        )
    keys = {cell.key for cell in plan.cells}
    attempts = [
        each
        for each in (read(out) if out is not None else ())
        if each.cell.key in keys and each.run < plan.runs and each.puncher == plan.puncher
    ]
    labels = {cell.key: cell.label for cell in plan.cells}
    attempts = [replace(a, cell=replace(a.cell, label=labels[a.cell.key])) for a in attempts]
    todo = list(remaining(plan, attempts))
    total = len(attempts) + len(todo)
    if plan.traces is not None:
        plan.traces.mkdir(parents=True, exist_ok=True)
    for cell, number in todo:
        found = attempt(cell, number, plan)
        attempts.append(found)
        if out is not None:
            append(out, [found])
        progress(found, len(attempts), total)
    return attempts


# --- what a trace was about --------------------------------------------------------------------

_ORDER: Final = {"ei": Dependence.INDEPENDENT, "ad": Dependence.ADDRESS}
_PORT_WORDS: Final = {
    "preserve": Allocation.PRESERVING,
    "seq": Allocation.SEQUENTIAL,
    "random": Allocation.RANDOM,
    "block": Allocation.RANDOM,
}


def facts_of_label(label: str) -> NatFacts:
    """Return what a label as `NatFacts.label` tells; what it does not is unknown."""
    if label == "blocked":
        return NatFacts(works=False)
    if label == "public":
        return NatFacts(works=True, translated=False, filtering=Dependence.INDEPENDENT)
    words = label.split("-")
    filtering = _dependence(words[-1].removesuffix("f"))
    if words[0] == "fw":
        return NatFacts(works=True, translated=False, filtering=filtering)
    ports = _PORT_WORDS.get(words[1], Allocation.UNKNOWN) if len(words) > 2 else 0
    mapping = _dependence(words[0].removesuffix("m"))
    return NatFacts(
        works=True,
        translated=True,
        mapping=mapping,
        filtering=filtering,
        ports=Allocation(ports),
    )


def _dependence(word: str) -> Dependence:
    known = {**_ORDER, "apd": Dependence.ADDRESS_AND_PORT}
    return known.get(word, Dependence.UNKNOWN)


def cells_of_trace(path: Path) -> list[tuple[Cell, int, int | None]]:
    """Return the cells that a file of JSON lines tells of, with run and, if it is known, seed.

    Results of a campaign, the trace of a laboratory, and `pt --trace` of a real attempt, whose
    NATs, as both sides knew them, and round trip are rebuilt.

    Raises: SpecError: it tells of nothing that can be repeated.
    """
    found: list[tuple[Cell, int, int | None]] = [(e.cell, e.run, e.seed) for e in read(path)]
    if found:
        return found
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {path}: {error}") from error
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
            event = json.loads(line)
            if event["event"] == "lab":
                sides = event["sides"]
                words = {name: event[name] for name in ("link", "cgn", "lan", "overlap", "engine")}
                found.append((Cell(a=sides["a"], b=sides["b"], **words), 0, event["seed"]))
            elif event["event"] == "punch_plan":
                a, b = (_spec_of_labels(event[side]) for side in ("ours", "theirs"))
                delay = 1000 * float(event["rtt"]) / 8
                found.append((Cell(a=a, b=b, link=f"delay={delay:g}"), 0, None))
    if not found:
        raise SpecError(
            f"{path} tells of no attempt: neither results of `pt lab matrix`, nor a laboratory's "
            "trace with sides a and b, nor a trace of `pt` with a punch"
        )
    return found


def _spec_of_labels(labels: Sequence[str]) -> str:
    """Return a spec of a side that told its NATs so, each as `udp4 LABEL`."""
    for word in labels:
        name, label = word.split(" ")
        if name == "udp4":
            return spec_of(facts_of_label(label))
    raise KeyError("udp4")
