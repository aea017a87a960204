# ruff: noqa: RUF001  (the tables are for people)
"""`python -m bench.quic`: pt over QUIC beside TCP, go-libp2p over both, and aioquic's own endpoint.

The bench of `bench.run`, its hosts, load and interleaving; rows and targets are QUIC's.  Writes
RESULTS-quic.md, results-quic.json and results-quic.png.  Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from bench import measure, report
from bench.load import Marked, build
from bench.report import Target
from bench.rows import SERVICE_PORT, Forwarder, Go, Pt
from bench.run import PINNED, Bench, lan, serve
from pt.lab.link import Link, Shape
from pt.lab.netns import unavailable
from pt.quic.select import factories

PARTS = ("throughput", "echo", "conns", "idle", "distance")
IDLE = 1000
LINKS = {
    "clean": Shape(rate=200e6, delay=0.025, queue=600_000),
    "loss": Shape(rate=200e6, delay=0.025, loss=0.01, queue=600_000),
}
"""A round trip of 50 ms, without and with 1 % lost each way."""


INTRO = """\
The hosts, load and counting of [RESULTS.md](RESULTS.md): veth, MTU 1500, both ends, load and
service on the cores named below; compare within a table only. → is client to service, ← service to
client; CPU is of both ends. Work of others on these cores: {others} (median and most)."""
DISTANCE = """\
An emulated link in user space (pt.lab.link), without loss and with 1 % each way; nothing is pinned:
TCP has this kernel's congestion control, pt what it chooses."""


class GoQuic(Go):
    name = "go QUIC"
    note = "the same over QUIC (quic-go)"

    def exposer_argv(self) -> list[str]:
        listen = f"/ip4/{self.far_ip}/udp/{self.port + 1000}/quic-v1"
        target = f"127.0.0.1:{SERVICE_PORT}"
        return [self.program, "forward-expose", "--listen", listen, "--target", target]


class PtAuto(Pt):
    name = "pt QUIC, as shipped"
    note = "QUIC alone, engine by the path: aioquic's with BBR once packets get lost"
    transport = "quic-v1"

    def listen(self) -> str:
        return f"/ip4/{self.far_ip}/udp/{self.port + 1000}/quic-v1"


class PtQuic(PtAuto):
    name = "pt QUIC"
    note = "engine qh3, with UDP_SEGMENT and UDP_GRO"
    engine = "qh3"

    def missing(self) -> str | None:
        here = [factory.name for factory in factories()]
        return super().missing() or (None if self.engine in here else f"no engine {self.engine}")

    def environment(self) -> Mapping[str, str]:
        # Congestion is the engine's own: what is pinned is the kernel's, for the others' sake.
        inherited = {k: v for k, v in super().environment().items() if k != "PT_CONGESTION"}
        return {**inherited, "PT_QUIC_ENGINE": self.engine}


class PtPlain(PtQuic):
    name = "pt QUIC, plain UDP"
    note = "engine qh3, one datagram a call, as on other systems"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.quic_ends", "plain"]


class PtAioquic(PtQuic):
    name = "pt QUIC, aioquic"
    note = "engine aioquic"
    engine = "aioquic"


class PtBoth(PtAuto):
    name = "pt, both"
    note = "listens on TCP and QUIC, and chooses; dialed over QUIC"

    def listen(self) -> str:
        return f"{super().listen()},{Pt.listen(self)}"


class Stock(Forwarder):
    name = "aioquic"
    note = "a forwarder on aioquic's own asyncio endpoint, 1200-byte datagrams"

    def exposer_argv(self) -> list[str]:
        target = f"127.0.0.1:{SERVICE_PORT}"
        return [
            sys.executable, "-m", "bench.quic_ends", "expose", "--ip", self.far_ip,
            "--target", target,
        ]  # fmt: skip

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        return [
            sys.executable, "-m", "bench.quic_ends", "bind", "--to", self.peer,
            "--listen", f"127.0.0.1:{port}",
        ]  # fmt: skip

    @property
    def peer(self) -> str:
        lines = self.log("exposer").splitlines()
        return str(json.loads(lines[0])["multiaddr"]) if lines else ""

    def start_exposer(self) -> None:
        self.exposer = self.spawn(self.far, self.exposer_argv(), "exposer")
        self.wait_for(lambda: bool(self.peer), self.exposer)


Rows: TypeAlias = tuple[type[Forwarder], ...]

# What is pure Python has beds of its own: it goes on working through its buffers for many seconds
# after a measurement, which the next row would pay for.
SLOW: tuple[Rows, ...] = ((PtAioquic,), (Stock,))
BEDS: tuple[Rows, ...] = ((Go, Pt, GoQuic, PtQuic, PtPlain), *SLOW)
FAR_BEDS: tuple[Rows, ...] = ((Go, Pt, GoQuic, PtQuic, PtBoth), (PtAuto,), *SLOW)
OURS = {kind.name for kind in (Pt, PtQuic, PtPlain, PtAioquic, PtAuto, PtBoth)}


def targets() -> list[Target]:
    found = []
    for streams, bound in ((1, 1.2), (8, 1.5)):
        for direction, name in (("fwd", "forward"), ("rev", "reverse")):
            key = f"{direction}{streams}"
            what = f"{streams} stream{'s' * (streams > 1)} {name}"
            found.append(
                Target(f"Gbit/s, {what}", PtQuic.name, f"{key}.gbit", bound, True, GoQuic.name)
            )
            found.append(
                Target(f"CPU a GB, {what}", PtQuic.name, f"{key}.cpu_gb", 0.75, False, GoQuic.name)
            )
    for key, name in (("fwd1.gbit", "forward"), ("rev1.gbit", "reverse")):
        what = f"Gbit/s without GSO and GRO, 1 stream {name}"
        found += [Target(what, PtPlain.name, key, 0.8, True, None)]
    found.append(Target("1-byte echo p50", PtQuic.name, "echo.p50_us", 1.6, False, GoQuic.name))
    for key, least, text in (("gbit", True, "Gbit/s"), ("cpu_gb", False, "CPU a GB")):
        found.append(
            Target(f"{text} beside {IDLE:,} idle streams, of the same without", PtQuic.name,
                   f"idle.ratio.{key}", 0.9 if least else 1.1, least, None)
        )  # fmt: skip
    return found


class QuicBench(Bench):
    """Rows of QUIC on the beds of `Bench`."""

    def near(self, parts: Sequence[str], rounds: int) -> None:
        seconds = 1.0 if self.quick else 2.5
        for kinds in BEDS:
            with self.bed(PINNED, kinds, PT_CONGESTION=PINNED) as (rows, server):
                for number in range(rounds if rows else 0):
                    print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                    turn = rows[number % len(rows) :] + rows[: number % len(rows)]
                    self.round(turn, server, parts, seconds)
                if "idle" in parts:
                    self.idle([row for row in rows if row.name in OURS], server, rounds, seconds)

    def idle(self, rows: Sequence[Forwarder], server: Marked, rounds: int, seconds: float) -> None:
        """One busy stream, alone and beside many idle ones, in turns."""
        for _ in range(min(rounds, 3)):
            for row in rows:
                take = partial(measure.throughput, row, server, "fwd", 1, seconds)
                self.record("alone.", row, take)
                with Marked(row.near, "idle", row.address, str(IDLE)):
                    self.record("idle.", row, take)

    def over(self, name: str, rounds: int) -> None:
        """Long, thin and lossy: as installed, with this kernel's own congestion control."""
        seconds, warm = (3.0, 2.0) if self.quick else (8.0, 4.0)
        for number, kinds in product(range(rounds), FAR_BEDS):
            with lan(None) as (far, near):
                for host in (far, near):
                    host.link_down()
                with (
                    Link(far, near, LINKS[name], seed=number + 1) as link,
                    serve(far, "0.0.0.0") as server,
                    self.started(kinds, far, near, link.a_ip) as rows,
                ):
                    for streams, row in product((1, 8), rows):
                        take = partial(
                            measure.throughput, row, server, "fwd", streams, seconds, warm
                        )
                        self.record(f"{name}.", row, take)


def derive(medians: Mapping[str, dict[str, float]]) -> None:
    for row in medians.values():
        for key in ("gbit", "cpu_gb"):
            alone, idle = row.get(f"alone.fwd1.{key}"), row.get(f"idle.fwd1.{key}")
            if alone and idle:
                row[f"idle.ratio.{key}"] = idle / alone


def others(document: dict[str, Any]) -> str:
    """Cores that others used during the throughput windows on the cable."""
    taken = [
        value
        for metrics in document["samples"].values()
        for metric, values in metrics.items()
        if metric.endswith(".other_cores") and not metric.startswith(tuple(LINKS))
        for value in values
    ]
    return f"{statistics.median(taken):.2f} and {max(taken):.2f}" if taken else "not measured"


def write(document: dict[str, Any], out: Path) -> None:
    medians, fact = document["medians"], document["facts"]
    derive(medians)
    far = [
        [
            f"**{name}**" if name in OURS else name,
            *(
                report.pair(row, f"{link}.fwd1.gbit", f"{link}.fwd8.gbit", 0, 1000)
                for link in LINKS
            ),
            *(report.pair(row, f"{link}.fwd1.cpu_gb", f"{link}.fwd8.cpu_gb", 1) for link in LINKS),
        ]
        for name, row in medians.items()
        if any(f"{link}.fwd1.gbit" in row for link in LINKS)
    ]
    idle = [
        [name, *(f"{row[key]:.2f} ×" for key in ("idle.ratio.gbit", "idle.ratio.cpu_gb"))]
        for name, row in medians.items()
        if "idle.ratio.gbit" in row and "idle.ratio.cpu_gb" in row
    ]
    near = {name: row for name, row in medians.items() if "fwd1.gbit" in row}
    notes, problems = document["notes"], document["problems"]
    sections = [
        "# Benchmark of QUIC",
        report.written(fact),
        INTRO.format(others=others(document)),
        "![results](results-quic.png)",
        "## Targets",
        report.table(["", "target", "measured", ""], report.verdicts(medians, targets())),
        "## On a cable",
        report.main_table(near, base=GoQuic.name, ours=OURS),
        f"## One busy stream beside {IDLE:,} idle ones",
        report.table(["", "Gbit/s, of the same alone", "CPU a GB"], idle),
        "## 200 Mbit/s, 50 ms round trip, 1 / 8 streams to the service",
        DISTANCE,
        report.table(
            ["", "Mbit/s, clean", "Mbit/s, 1 % loss", "CPU s/GB, clean", "CPU s/GB, 1 % loss"], far
        ),
        "## Rows",
        report.listed(notes),
        "## Problems of this run\n\n" + "\n".join(f"- {text}" for text in problems)
        if problems
        else "",
        "## Machine",
        report.listed({key: fact[key] for key in report.MACHINE if key in fact}),
    ]
    (out / "RESULTS-quic.md").write_text("\n\n".join(part for part in sections if part) + "\n")
    plot(medians, out / "results-quic.png")


def plot(medians: Mapping[str, Mapping[str, float]], path: Path) -> None:
    panels = (
        ("1 stream, Gbit/s (more is better)", ("fwd1.gbit", "rev1.gbit"), 1.0),
        ("8 streams, Gbit/s (more is better)", ("fwd8.gbit", "rev8.gbit"), 1.0),
        ("CPU s/GB, both ends (less is better)", ("fwd1.cpu_gb", "rev1.cpu_gb"), 1.0),
        ("1-byte echo, µs p50 (less is better)", ("echo.p50_us",), 1.0),
        ("50 ms, no loss: Mbit/s, 1 and 8 streams", ("clean.fwd1.gbit", "clean.fwd8.gbit"), 1e3),
        ("50 ms, 1 % loss: Mbit/s, 1 and 8 streams", ("loss.fwd1.gbit", "loss.fwd8.gbit"), 1e3),
    )
    report.draw(medians, path, panels, OURS, "pt over QUIC (upper bar: → or 1 stream)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.quic", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short windows, one round: a smoke")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 1")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part")
    parser.add_argument("--row", action="append", default=[], help="measure only this row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write")
    parser.add_argument("--patience", type=float, help="seconds to wait in all for calm moments")
    args = parser.parse_args()
    if why := unavailable():
        print(f"bench: cannot run here: {why}", file=sys.stderr)
        return 2
    build()
    parts = args.only or PARTS
    rounds = args.rounds or (1 if args.quick else 5)
    bench = QuicBench(args.quick, args.row)
    if args.patience is not None:
        bench.calm.patience = args.patience
    facts = report.facts(rounds=rounds, pinned=PINNED, wan=LINKS["loss"])
    facts["command"] = " ".join(["python", "-m", "bench.quic", *sys.argv[1:]])
    facts["load_average"] = [round(value, 1) for value in os.getloadavg()]
    began = time.monotonic()
    if set(parts) - {"distance"}:
        bench.near(parts, rounds)
    if "distance" in parts:
        for name in LINKS:
            bench.over(name, 2 if rounds >= 5 else 1)
    document: dict[str, Any] = {
        "facts": {**facts, "minutes": round((time.monotonic() - began) / 60, 1)},
        "notes": bench.notes,
        "problems": bench.problems,
        "samples": bench.results,
        "medians": {
            row: {metric: statistics.median(values) for metric, values in metrics.items()}
            for row, metrics in bench.results.items()
        },
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results-quic.json").write_text(json.dumps(document, indent=1) + "\n")
    write(document, args.out)
    print(f"bench: wrote {args.out}/RESULTS-quic.md", file=sys.stderr)
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
