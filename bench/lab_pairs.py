"""`python -m bench.lab_pairs RESULTS`: results of `pt lab matrix` as a table of Markdown."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import report
from pt.lab.report import duration
from pt.lab.stats import percentile, wilson

HEAD = (
    "pair",
    "NATs",
    "direct",
    "95 %",
    "verified p50 / p99",
    "agreed p50 / p99",
    "packets p50 / max",
    "by",
)


def times(found: Iterable[float]) -> str:
    every = list(found)
    p50, p99 = percentile(every, 0.5), percentile(every, 0.99)
    return f"{duration(p50)} / {duration(p99)}"


def told(attempt: dict[str, Any], name: str) -> list[float]:
    """What both sides' outcomes say of something."""
    ends = [each for each in attempt["timeline"] if each["event"] == "outcome"]
    return [each[name] for each in ends if name in each]


def line(label: str, attempts: Sequence[dict[str, Any]]) -> list[str]:
    first = attempts[0]
    nats = f"`{first['a']}` `{first['b']}`" + (f" cgn `{first['cgn']}`" if first["cgn"] else "")
    direct = [each for each in attempts if each["direct"]]
    rate = wilson(len(direct), len(attempts))
    packets = [max(each["packets"].values()) for each in attempts if each["packets"]]
    cells = [label, nats, f"{len(direct)}/{len(attempts)}", f"{rate.low:.0%} to {rate.high:.0%}"]
    if direct:
        cells += [times(each[until] for each in direct) for until in ("verified", "seconds")]
        by = ", ".join(f"{name} {n}" for name, n in Counter(e["winner"] for e in direct).items())
        if mapped := [each for attempt in direct for each in told(attempt, "mapped")]:
            by += f", port mapped in {times(mapped)}"
    else:
        cells += ["", ""]
        late = max(each["decided"] for each in attempts if each["decided"] is not None)
        by = f"relay, decided within {duration(late)}"
    most = f"{percentile(packets, 0.5):,} / {max(packets):,}" if packets else ""
    return [*cells, most, by]


def rows(lines: Iterable[str]) -> list[list[str]]:
    cells: dict[str, list[dict[str, Any]]] = {}
    for text in lines:
        event = json.loads(text)
        if event.get("event") == "attempt":
            cells.setdefault(event["label"], []).append(event)
    return [line(label, attempts) for label, attempts in cells.items()]


if __name__ == "__main__":
    with Path(sys.argv[1]).open() as results:
        print(report.table(HEAD, rows(results)))
