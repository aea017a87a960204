"""`python -m bench.relays`: what relaying costs, `pt relay` beside go-libp2p's relay and socat.

Three hosts in a laboratory without uplink: a source, the relay, a sink (bench.relay_ends), joined
by two cables.  All rows are measured in the same run, in turns; a value is the median of the
rounds, and CPU is that of the relay's process alone.  Writes bench/RESULTS-relays.md.  Needs root.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.proc import Calm, cpu_seconds, rss_bytes
from bench.rows import GO_PEER
from pt.lab.netns import Host, Lan, setup, unavailable

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench" / "RESULTS-relays.md"
PT: Final = Path(sys.executable).with_name("pt")
SECRET: Final = "bench-secret-of-a-relay-0417"
PORT: Final = 4001
START: Final = 30.0
WARM: Final = 0.7
STREAMS: Final = (1, 8)
CROWDS: Final = ("reservations", "raw circuits", "libp2p circuits")

HEAD: Final = """\
# Relays

{date}: `python -m bench.relays --rounds {rounds}`, commit {commit}. {cores} shared cores, Linux
{kernel}, Python {python}.

Source, relay and sink are three network namespaces, a veth pair from each to the next, reno pinned.
CPU is the relay's process alone. Medians of {rounds} rounds of {seconds:g} s, rows in turns. The
same ends drive both libp2p relays; their own work (Noise, yamux) bounds the throughput there.

| relay | Gbit/s, 1 circuit | 8 circuits | CPU s/GB, 1 circuit | 8 circuits |
| --- | --- | --- | --- | --- |"""

Values = dict[str, list[float]]


def read_line(process: subprocess.Popen[bytes], seconds: float) -> dict[str, object]:
    """The next JSON line of a process."""
    assert process.stdout is not None
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        left = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            raise RuntimeError(f"{process.args!r} said nothing within {seconds:g} s")
        part = os.read(process.stdout.fileno(), 1)
        if not part:
            raise RuntimeError(f"{process.args!r} ended")
        line += part
    facts = json.loads(line)
    assert isinstance(facts, dict)
    return facts


class Bed:
    """The hosts, and whatever runs on them."""

    def __init__(self, lan: Lan, home: Path) -> None:
        self.near, self.middle, self.far = lan.hosts
        for host in lan.hosts:  # the laboratory's own packet filter is not what is measured
            host.nft("delete table inet lab")
        self.near.sysctl("net.ipv4.ip_local_port_range", "2000 65000")  # a crowd comes from here
        self.near_side = cable(self.near, self.middle, 1)
        self.far_side, self.far_ip = cable(self.far, self.middle, 2), "11.4.2.1"
        self.home = home
        self.secret = home / "secret"
        self.secret.write_text(SECRET + "\n")
        self.secret.chmod(0o600)

    def spawn(self, host: Host, *argv: str) -> subprocess.Popen[bytes]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("PT_")}
        return host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env)

    def end(self, host: Host, *argv: str) -> subprocess.Popen[bytes]:
        return self.spawn(host, sys.executable, "-m", "bench.relay_ends", *argv)


def cable(host: Host, middle: Host, number: int) -> str:
    """Join `host` to the relay's host; the address of the latter on that cable."""
    device = f"cable{number}"
    lines = [
        f"link add {device} type veth peer name {device} netns {middle.pid}",
        f"link set {device} up",
        f"addr add 11.4.{number}.1/30 dev {device}",
    ]
    setup([*host.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
    lines = [f"link set {device} up", f"addr add 11.4.{number}.2/30 dev {device}"]
    setup([*middle.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
    return f"11.4.{number}.2"


class Row:
    """One way through the relay's host."""

    name = ""
    kind = "tcp"

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.relay: subprocess.Popen[bytes] | None = None
        self.sink: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.peer = ""

    def missing(self) -> str | None:
        return None

    def start_relay(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self.start_relay()
        secret = ["--secret-file", str(self.bed.secret)] if isinstance(self, Pt) else []
        address = self.seen_from(self.bed.far_side)
        self.sink = self.bed.end(self.bed.far, "sink", self.kind, "--relay", address, *secret)
        ready = read_line(self.sink, START)
        if ready["limited"]:
            raise RuntimeError(f"{self.name}: the relay limits circuits")
        self.peer = str(ready["ready"])

    def source(self, streams: int) -> subprocess.Popen[bytes]:
        return self.bed.end(
            self.bed.near, "source", self.kind, "--relay", self.seen_from(self.bed.near_side),
            "--peer", self.peer, "--streams", str(streams),
        )  # fmt: skip

    def seen_from(self, ip: str) -> str:
        """The relay's address on one of the cables."""
        return re.sub(r"^/ip4/[^/]+", f"/ip4/{ip}", self.address)

    def stop(self) -> None:
        for process in (self.sink, self.relay):
            if process is not None:
                process.kill()
                process.wait()

    def mark(self) -> tuple[float, int]:
        assert self.sink is not None
        assert self.sink.stdin is not None
        self.sink.stdin.write(b"\n")
        self.sink.stdin.flush()
        facts = read_line(self.sink, START)
        return float(str(facts["t"])), int(str(facts["rx"]))

    def measure(self, streams: int, seconds: float) -> tuple[float, float]:
        """Gbit/s, and CPU seconds of the relay a GB."""
        assert self.relay is not None
        source = self.source(streams)
        try:
            read_line(source, START)
            time.sleep(WARM)
            cpu, (began, before) = cpu_seconds([self.relay.pid]), self.mark()
            time.sleep(seconds)
            (ended, after), used = self.mark(), cpu_seconds([self.relay.pid]) - cpu
        finally:
            source.kill()
            source.wait()
        octets = after - before
        if not octets:
            raise RuntimeError(f"{self.name}: nothing came through")
        return octets * 8 / (ended - began) / 1e9, used / (octets / 1e9)


class Socat(Row):
    name = "socat"

    def missing(self) -> str | None:
        return None if shutil.which("socat") else "socat is not installed"

    def start(self) -> None:
        far, middle = self.bed.far_ip, self.bed.near_side
        self.sink = self.bed.end(self.bed.far, "sink", "tcp", "--listen", f"{far}:{PORT}")
        read_line(self.sink, START)
        self.relay = self.bed.spawn(
            self.bed.middle, "socat", "-b", "65536",
            f"TCP4-LISTEN:{PORT + 1},fork,reuseaddr,backlog=512", f"TCP4:{far}:{PORT}",
        )  # fmt: skip
        self.address = f"{middle}:{PORT + 1}"
        wait_listening(self.bed.middle, PORT + 1)

    def source(self, streams: int) -> subprocess.Popen[bytes]:
        return self.bed.end(
            self.bed.near, "source", "tcp", "--to", self.address, "--streams", str(streams)
        )


class Pt(Row):
    port = PORT
    options: tuple[str, ...] = ()

    def start_relay(self) -> None:
        home = self.bed.home / self.name.replace(" ", "-")
        listen = f"/ip4/0.0.0.0/tcp/{self.port}"
        self.relay = self.bed.spawn(
            self.bed.middle, str(PT), "relay", "--json", "--home", str(home),
            "--listen", listen, "--secret-file", str(self.bed.secret), *self.options,
        )  # fmt: skip
        while True:
            event = read_line(self.relay, START)
            addresses = event.get("addresses")
            if event.get("event") == "relay_ready" and isinstance(addresses, list):
                self.address = next(each for each in addresses if f"/tcp/{self.port}/" in each)
                return


class PtRaw(Pt):
    name = "pt relay, raw"
    kind = "raw"


class PtCircuit(Pt):
    name = "pt relay, libp2p"
    kind = "libp2p"
    port = PORT + 2


class GoRelay(Row):
    name = "go-libp2p relay"
    kind = "libp2p"

    def missing(self) -> str | None:
        return None if GO_PEER.exists() else f"{GO_PEER.name} is not built (make interop)"

    def start_relay(self) -> None:
        self.relay = self.bed.spawn(
            self.bed.middle, str(GO_PEER), "relay", "--ip", "0.0.0.0", "--unlimited"
        )
        self.address = str(read_line(self.relay, START)["multiaddr"])


ROWS: Final[tuple[type[Row], ...]] = (Socat, PtRaw, PtCircuit, GoRelay)


def wait_listening(host: Host, port: int) -> None:
    deadline = time.monotonic() + START
    while f":{port} " not in host.run(["ss", "-ltnH"]).stdout.decode():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.05)


def measure(rows: Sequence[Row], rounds: int, seconds: float) -> dict[str, Values]:
    calm = Calm(300.0)
    found: dict[str, Values] = {row.name: {} for row in rows}
    for number in range(rounds):
        for row in [*rows[number % len(rows) :], *rows[: number % len(rows)]]:
            for streams in STREAMS:
                calm.wait()
                gbit, cpu = row.measure(streams, seconds)
                found[row.name].setdefault(f"gbit{streams}", []).append(gbit)
                found[row.name].setdefault(f"cpu{streams}", []).append(cpu)
                print(
                    f"  {number + 1} {row.name:18} {streams} circuits  {gbit:6.2f} Gbit/s  "
                    f"{cpu:6.3f} CPU s/GB",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def crowded(bed: Bed, kind: str, count: int) -> list[tuple[int, int]]:
    """Resident bytes of a fresh `pt relay`, idle and with so many reservations or circuits."""
    row = PtRaw(bed)
    row.port = PORT + 20
    row.options = ("--connections", "45000")  # one host may have a quarter of them, and is all
    crowd: subprocess.Popen[bytes] | None = None
    try:
        row.start_relay()
        assert row.relay is not None
        sizes = [(0, rss_bytes(row.relay.pid))]
        crowd = bed.spawn(
            bed.near, sys.executable, "-m", "bench.relay_crowd", kind,
            "--relay", row.seen_from(bed.near_side), "--secret-file", str(bed.secret),
            "--count", str(count), "--steps", "10",
        )  # fmt: skip
        assert crowd.stdin is not None
        while True:
            held = int(str(read_line(crowd, 300.0)["held"]))
            time.sleep(0.5)
            sizes.append((held, rss_bytes(row.relay.pid)))
            print(f"  {kind} {held:6} {sizes[-1][1] / 1e6:7.1f} MB", file=sys.stderr, flush=True)
            if held >= count:
                return sizes
            crowd.stdin.write(b"\n")
            crowd.stdin.flush()
    finally:
        for process in (crowd, row.relay):
            if process is not None:
                process.kill()
                process.wait()


def descriptors() -> int:
    """How many a process may have here."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def median(values: Values, key: str) -> float:
    return statistics.median(values[key])


def document(
    found: dict[str, Values],
    rounds: int,
    seconds: float,
    crowds: dict[str, list[tuple[int, int]]],
    notes: Sequence[str],
) -> str:
    head = HEAD.format(
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        rounds=rounds,
        seconds=seconds,
        commit=commit(),
        cores=os.cpu_count(),
        kernel=platform.release(),
        python=platform.python_version(),
    )
    lines = [head]
    for name, values in found.items():
        cells = [f"{median(values, f'gbit{n}'):.2f}" for n in STREAMS]
        cells += [f"{median(values, f'cpu{n}'):.3f}" for n in STREAMS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Ratios, pair by pair of each round, medians (number of circuits):", ""]
    for ours, theirs in ((PtRaw.name, Socat.name), (PtCircuit.name, GoRelay.name)):
        if ours not in found or theirs not in found:
            continue
        for key, what in (("gbit", "throughput"), ("cpu", "CPU a GB")):
            pairs = [
                f"{statistics.median(ratios(found[ours], found[theirs], f'{key}{n}')):.2f} ({n})"
                for n in STREAMS
            ]
            lines.append(f"- {ours} to {theirs}, {what}: {', '.join(pairs)}")
    if crowds:
        lines += ["", "Resident memory of `pt relay`, MB (and KiB for each one):", ""]
        lines += ["| what is held | none | a tenth | all |", "| --- | --- | --- | --- |"]
        for what, sizes in crowds.items():
            idle = sizes[0][1]
            cells = [f"{idle / 1e6:.0f}"]
            for held, size in sizes[1:]:
                cells.append(f"{held:,}: {size / 1e6:.0f} ({(size - idle) / held / 1024:.1f})")
            lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", *notes, ""]
    return "\n".join(lines)


def ratios(ours: Values, theirs: Values, key: str) -> list[float]:
    return [a / b for a, b in zip(ours[key], theirs[key], strict=True)]


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.relays", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    parser.add_argument("--only", action="append", help="this row")
    parser.add_argument("--no-memory", action="store_true", help="throughput and CPU alone")
    args = parser.parse_args()
    if reason := unavailable():
        print(f"bench: no laboratory: {reason}", file=sys.stderr)
        return 1
    rounds, seconds = (1, 1.0) if args.quick else (args.rounds, args.seconds)
    notes: list[str] = []
    with (
        tempfile.TemporaryDirectory() as home,
        Lan(names=["near", "relay", "far"], subnet="11.3.0.0/24", congestion="reno") as lan,
    ):
        bed = Bed(lan, Path(home))
        rows: list[Row] = []
        try:
            for kind in ROWS:
                row = kind(bed)
                if args.only and row.name not in args.only:
                    continue
                if why := row.missing():
                    notes.append(f"- {row.name} was not measured: {why}")
                    continue
                rows.append(row)
                row.start()
            found = measure(rows, rounds, seconds)
        finally:
            for row in rows:
                row.stop()
        crowds = {}
        if not (args.quick or args.only or args.no_memory):
            for kind in CROWDS:
                # a raw circuit is two descriptors, and a process here gets 20,000 at the most
                fits = min(10_000, descriptors() // 2 - 500) if kind == "raw circuits" else 10_000
                try:
                    crowds[kind] = crowded(bed, kind, fits)
                except RuntimeError as error:
                    notes.append(f"- {kind} were not counted: {error}")
    text = document(found, rounds, seconds, crowds, notes)
    print(text)
    if not args.quick and not args.only:
        RESULTS.write_text(text)
        print(f"written {RESULTS.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
