"""`python -m bench.run`: measures `pt` beside raw TCP, socat, ssh and a go-libp2p forwarder.

Two hosts, each a network namespace without uplink, joined by a veth pair (or, for the long-distance
row, by the emulated link of pt.lab.link). All rows are measured in the same run, in turns, so that
a busy machine hits all of them; a value is the median of the rounds. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from bench import measure, report
from bench.load import Marked, build
from bench.proc import Calm
from bench.rows import SERVICE_PORT, Forwarder, Go, Pt, PtChaCha, Raw, Socat, Ssh
from pt.lab.link import Link, Shape
from pt.lab.netns import Host, Lan, unavailable

ROWS: tuple[type[Forwarder], ...] = (Raw, Socat, Ssh, Go, Pt, PtChaCha)
PARTS = ("throughput", "echo", "conns", "start", "memory", "default-cc", "wan")
PINNED = "reno"
WAN = Shape(rate=200e6, delay=0.025, loss=0.001, queue=600_000)
FIRST_PORT = 9100
START_PORT = 9500
PATIENCE = 600.0
"""Seconds a run waits in all for others to leave the cores; then it measures regardless."""

Results = dict[str, dict[str, list[float]]]


class Bench:
    """Collects samples; a failing measurement is told and noted, and the rest goes on."""

    def __init__(self, quick: bool, wanted: Sequence[str]) -> None:
        self.quick = quick
        self.wanted = wanted
        self.results: Results = {}
        self.notes: dict[str, str] = {}
        self.problems: list[str] = []
        self.calm = Calm(0.0 if quick else PATIENCE)

    def record(self, table: str, row: Forwarder, take: Callable[[], list[measure.Sample]]) -> None:
        self.calm.wait()
        try:
            samples = take()
        except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
            self.problems.append(f"{row.name}, {table}: {str(error)[:300]}")
            print(f"  ! {self.problems[-1]}", file=sys.stderr, flush=True)
            return
        for metric, value in samples:
            self.results.setdefault(row.name, {}).setdefault(table + metric, []).append(value)
        shown = "  ".join(f"{metric} {value:.4g}" for metric, value in samples)
        print(f"  {row.name:10} {table}{shown}", file=sys.stderr, flush=True)

    @contextmanager
    def started(
        self, kinds: Sequence[type[Forwarder]], far: Host, near: Host, ip: str, **env: str
    ) -> Iterator[list[Forwarder]]:
        """Start what of `kinds` is here and wanted; stop it in the end."""
        rows: list[Forwarder] = []
        try:
            for index, kind in enumerate(kinds):
                row = kind(far, near, ip, FIRST_PORT + index)
                if self.wanted and row.name not in self.wanted:
                    continue
                row.extra_env = env
                if why := row.missing():
                    self.notes[row.name] = f"not measured: {why}"
                    continue
                rows.append(row)
                try:
                    row.start()
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    self.problems.append(str(error)[:1500])
                    print(f"  ! {self.problems[-1]}", file=sys.stderr, flush=True)
                    rows.pop().stop()
                    continue
                self.notes[row.name] = row.note
            yield rows
        finally:
            for row in rows:
                row.stop()

    def on_lan(self, parts: Sequence[str], rounds: int) -> None:
        seconds = 1.0 if self.quick else 2.5
        with self.bed(PINNED, ROWS, PT_CONGESTION=PINNED) as (rows, server):
            ends = [row for row in rows if row.pids]
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                turn = rows[number % len(rows) :] + rows[: number % len(rows)]
                self.round(turn, server, parts, seconds)
            for row in ends:
                self.record("load.", row, partial(resident, row))
            if "start" in parts:
                self.starts(ends, 3 if self.quick else 9)
        if "memory" in parts:
            steps = [100] if self.quick else [1000, 10_000]
            for kind in (Go, Pt):
                with self.bed(PINNED, (kind,)) as (rows, _):
                    for row in rows:
                        self.record("", row, partial(measure.memory, row, steps))

    @contextmanager
    def bed(
        self, cc: str | None, kinds: Sequence[type[Forwarder]], **env: str
    ) -> Iterator[tuple[list[Forwarder], Marked]]:
        """Two hosts on a cable, the service on one, `kinds` started."""
        with (
            lan(cc) as (far, near),
            serve(far, "0.0.0.0") as server,
            self.started(kinds, far, near, far.ip, **env) as rows,
        ):
            yield rows, server

    def round(
        self, rows: list[Forwarder], server: Marked, parts: Sequence[str], seconds: float
    ) -> None:
        if "throughput" in parts:
            for streams in (1, 8):
                for direction in ("fwd", "rev"):
                    for row in rows:
                        self.record(
                            "",
                            row,
                            partial(measure.throughput, row, server, direction, streams, seconds),
                        )
        if "echo" in parts:
            for row in rows:
                count = 500 if self.quick else 3000
                self.record("", row, partial(measure.echo, row, count))
        if "conns" in parts:
            for parallel in (1, 50):
                for row in rows:
                    self.record("", row, partial(measure.connections, row, parallel, 1.0))

    def starts(self, rows: list[Forwarder], repeats: int) -> None:
        for row in rows:  # once unmeasured: files in the cache, the key of the name derived
            with suppress(RuntimeError):
                measure.start_up(row, START_PORT)
        for number in range(repeats):
            for row in rows:
                port = START_PORT + 1 + number
                self.record("", row, partial(measure.start_up, row, port))

    def on_default_cc(self, rounds: int) -> None:
        """As installed: congestion control of this kernel, pt choosing its own."""
        seconds = 1.0 if self.quick else 2.5
        with self.bed(None, (Raw, Go, Pt)) as (rows, server):
            for _ in range(rounds):
                for direction in ("fwd", "rev"):
                    for row in rows:
                        take = partial(measure.throughput, row, server, direction, 1, seconds)
                        self.record("default-cc.", row, take)

    def on_wan(self, rounds: int) -> None:
        for number in range(rounds):
            self.distance("reno", (Raw, Go, Pt), number + 1)
            self.distance("bbr", (Raw, Go), number + 1)  # pt chooses by itself: above

    def distance(self, cc: str, kinds: Sequence[type[Forwarder]], seed: int) -> None:
        seconds, warm = (3.0, 2.0) if self.quick else (8.0, 3.0)
        with lan(cc) as (far, near):
            for host in (far, near):
                host.link_down()
            with (
                Link(far, near, WAN, seed=seed) as link,
                serve(far, "0.0.0.0") as server,
                self.started(kinds, far, near, link.a_ip) as rows,
            ):
                for direction in ("fwd", "rev"):
                    for row in rows:
                        take = partial(measure.throughput, row, server, direction, 1, seconds, warm)
                        self.record(f"wan.{cc}.", row, take)


def resident(row: Forwarder) -> list[measure.Sample]:
    ends = {"exposer": row.exposer, "binder": row.binder}
    return [
        measure.Sample(f"rss.{name}", measure.rss_bytes(end.pid))
        for name, end in ends.items()
        if end is not None
    ]


@contextmanager
def lan(congestion: str | None) -> Iterator[tuple[Host, Host]]:
    with Lan(hosts=2, names=("far", "near"), direct=True, congestion=congestion) as hosts:
        for host in hosts:
            # Thousands of connections a second between the same two addresses.
            host.sysctl("net.ipv4.ip_local_port_range", "15000 65000")
            host.sysctl("net.ipv4.tcp_tw_reuse", "1")
        far, near = hosts
        yield far, near


@contextmanager
def serve(host: Host, ip: str) -> Iterator[Marked]:
    with Marked(host, "serve", f"{ip}:{SERVICE_PORT}") as server:
        yield server


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short windows, one round: a smoke")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 1")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part")
    parser.add_argument("--row", action="append", default=[], help="measure only this row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write")
    args = parser.parse_args()
    if why := unavailable():
        print(f"bench: cannot run here: {why}", file=sys.stderr)
        return 2
    build()
    parts = args.only or PARTS
    rounds = args.rounds or (1 if args.quick else 5)
    bench = Bench(args.quick, args.row)
    facts = report.facts(rounds=rounds, pinned=PINNED, wan=WAN)
    began = time.monotonic()
    if set(parts) & {"throughput", "echo", "conns", "start", "memory"}:
        bench.on_lan(parts, rounds)
    if "default-cc" in parts:
        bench.on_default_cc(min(rounds, 3))
    if "wan" in parts:
        bench.on_wan(1 if args.quick else min(rounds, 2))
    document = {
        "facts": {**facts, "minutes": round((time.monotonic() - began) / 60, 1)},
        "notes": bench.notes,
        "problems": bench.problems,
        "disturbed": bench.calm.disturbed,
        "samples": bench.results,
        "medians": {
            row: {metric: statistics.median(values) for metric, values in metrics.items()}
            for row, metrics in bench.results.items()
        },
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    report.write(document, args.out)
    print(f"bench: wrote {args.out}/RESULTS.md", file=sys.stderr)
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
