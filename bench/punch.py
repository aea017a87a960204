"""Hole punching with real sockets through the laboratory's NATs: the goal table, row by row.

    python -m bench.punch [--runs N] [--measure] [--only WORD] [--out FILE]

Each run has fresh sockets.  The round trip between the two sites is 50 ms, the session's 100 ms
over a host in the middle.  `--measure` has both ends find out their class (RFC 5780) instead of
being told.  Times are the controlling end's, from both sides knowing the candidates to an answer
over the path.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pt.lab.lab import Lab

PEER = [sys.executable, "-m", "tests.e2e.punch_peer"]
LINK = "delay=12.5"
RTT = 0.05
SESSION = 0.1


@dataclass(frozen=True)
class Row:
    """NATs by the laboratory's words and by class; the goal for median and p99 of the time."""

    specs: tuple[str, str]
    classes: tuple[str, str]
    goal: str
    p50: float
    p99: float
    direct: float = 1.0
    noise: float = 0.0
    loss: float = 0.0
    few: bool = False
    """A quarter of the runs: they take long."""


R = RTT
ROWS = [
    Row(
        ("eim-eif", "apdm-apdf-random"), ("eim-eif", "apdm-random-apdf"), "≤ 1.5 R", 1.5 * R, 2 * R
    ),
    Row(
        ("eim-apdf", "eim-apdf"),
        ("eim-apdf", "eim-apdf"),
        "p50 ≤ 1.05 R, p99 ≤ 2 R",
        1.05 * R,
        2 * R,
    ),
    Row(
        ("eim-apdf", "eim-apdf"),
        ("eim-apdf", "eim-apdf"),
        "loss 5 % a link: p99 ≤ 3 R",
        1.5 * R,
        3 * R,
        loss=5,
    ),
    Row(
        ("eim-adf", "apdm-apdf-random"), ("eim-adf", "apdm-random-apdf"), "≤ 1.5 R", 1.5 * R, 2 * R
    ),
    Row(
        ("eim-apdf", "apdm-eif-random"), ("eim-apdf", "apdm-random-eif"), "≤ 1.5 R", 1.5 * R, 2 * R
    ),
    Row(
        ("eim-apdf", "apdm-apdf-seq"),
        ("eim-apdf", "apdm-seq-apdf"),
        "60/s: ≤ 2 R",
        2 * R,
        2 * R,
        noise=60,
    ),
    Row(
        ("eim-apdf", "apdm-apdf-preserve"),
        ("eim-apdf", "apdm-preserve-apdf"),
        "≤ 2 R",
        2 * R,
        2 * R,
    ),
    Row(
        ("eim-apdf", "apdm-apdf-block,timeout=3"),
        ("eim-apdf", "apdm-block-apdf"),
        "p50 ≤ 50 ms + R",
        0.05 + R,
        0.5 + R,
    ),
    Row(
        ("eim-apdf", "apdm-apdf-random"),
        ("eim-apdf", "apdm-random-apdf"),
        "p50 0.18 s + R, p99 1.2 s + R",
        0.21 + R,
        1.25 + R,
        direct=0.99,
    ),
    Row(
        ("apdm-adf-random", "apdm-apdf-random"),
        ("apdm-random-adf", "apdm-random-apdf"),
        "p50 ≤ 0.3 s + R",
        0.3 + R,
        1.3 + R,
        direct=0.99,
    ),
    Row(
        ("apdm-apdf-seq", "apdm-apdf-seq"),
        ("apdm-seq-apdf", "apdm-seq-apdf"),
        "quiet: 2 R",
        2 * R,
        2 * R,
    ),
    Row(
        ("apdm-apdf-seq", "apdm-apdf-seq"),
        ("apdm-seq-apdf", "apdm-seq-apdf"),
        "5/s: ≤ 1 s",
        2 * R,
        1.0,
        noise=5,
    ),
    Row(
        ("apdm-apdf-seq", "apdm-apdf-seq"),
        ("apdm-seq-apdf", "apdm-seq-apdf"),
        "20/s: ≥ 90 %",
        2 * R,
        2.0,
        direct=0.9,
        noise=20,
    ),
    Row(
        ("apdm-apdf-random", "apdm-apdf-random"),
        ("apdm-random-apdf", "apdm-random-apdf"),
        "relay, decided in < 0.5 s",
        0.5,
        0.5,
        direct=0.0,
        few=True,
    ),
]


def run(lab: Lab, row: Row, runs: int, *, measure: bool) -> list[dict[str, Any]]:
    """The controlling end's results; the sides take turns at controlling."""
    for side, spec in zip("ab", row.specs, strict=True):
        lab.set_nat(side, spec)
        lab.set_link(side, f"{LINK},loss={row.loss:g}")
    makers = []
    if row.noise:
        argv = [*PEER, "noise", lab["s2"].ip, str(row.noise)]
        makers = [lab[host].popen(argv) for host in ("a2", "b2")]
    found = []
    for turn in (0, 1):
        peers = []
        for number, host in enumerate(("a", "b")):
            role = "controlling" if number == turn else "controlled"
            words = [
                "measure" if measure else row.classes[number],
                "-",
                f"rtt={SESSION}",
                f"ip={lab[host].ip}",
                f"runs={max(1, runs // 2)}",
            ]
            argv = [*PEER, "punch", lab["s1"].ip, role, *words]
            peers.append((role, lab[host].popen(argv, stdout=subprocess.PIPE)))
        outputs = {role: peer.communicate(timeout=30 + 6 * runs)[0] for role, peer in peers}
        ends = [[json.loads(line) for line in text.splitlines()] for text in outputs.values()]
        labels = [end[0]["measured"] for end in ends]
        for ours, theirs in zip(*ends, strict=True):
            controlling = ours if outputs["controlling"] is next(iter(outputs.values())) else theirs
            result = dict(controlling)
            result["direct"] = bool(ours.get("came")) and bool(theirs.get("came"))
            result["labels"] = labels
            if not result["direct"] and row.direct:
                print(f"no bytes over the path: {ours} {theirs}", file=sys.stderr)
            found.append(result)
    for maker in makers:
        maker.terminate()
        maker.wait()
    return found


def quantile(values: Sequence[float], part: float) -> float:
    """The nearest-rank quantile; nan of nothing."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else math.nan


def line(row: Row, results: list[dict[str, Any]]) -> tuple[str, bool]:
    """A row of the table, and whether it met its goal."""
    direct = [result for result in results if result["direct"]]
    share = len(direct) / len(results)
    times = [result["seconds"] for result in direct]
    if row.direct == 0:
        times = [result["total"] - SESSION for result in results]
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    met = p50 <= row.p50 + 0.005 and p99 <= row.p99 + 0.02 and share >= row.direct
    if row.direct == 0:
        met = not direct and p99 <= row.p99
    strategies = Counter(result.get("strategy", result.get("best", "?")) for result in results)
    used = ", ".join(f"{name} {count}" for name, count in strategies.most_common())
    labels = Counter(" x ".join(result["labels"]) for result in results)
    extra = f", noise {row.noise:g}/s" if row.noise else ""
    extra += f", loss {row.loss:g} %" if row.loss else ""
    text = (
        f"| {' x '.join(row.specs)}{extra} | {labels.most_common(1)[0][0]} | {row.goal} "
        f"| {len(direct)}/{len(results)} | {p50 * 1000:.0f} | {p99 * 1000:.0f} | {used} "
        f"| {'pass' if met else '**miss**'} |"
    )
    return text, met


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| NATs | classes, as known | goal | direct | p50 ms | p99 ms | strategies | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    with Lab(a="eim-apdf", b="eim-apdf", link=LINK, lan=2) as lab:
        server = lab["s1"].popen([*PEER, "serve", *lab["s1"].addresses[:2]], stdout=subprocess.PIPE)
        assert server.stdout is not None
        server.stdout.readline()
        for row in ROWS:
            if args.only and args.only not in " ".join((*row.specs, row.goal)):
                continue
            runs = max(4, args.runs // 4) if row.few else args.runs
            text, _ = line(row, run(lab, row, runs, measure=args.measure))
            print(text, flush=True)
            lines.append(text)
    if args.out:
        now = dt.datetime.now(tz=dt.UTC)
        argv = " ".join(sys.argv[1:])
        head = f"Written by `python -m bench.punch {argv}` on {now:%Y-%m-%d %H:%M} UTC.\n\n"
        args.out.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
