# ruff: noqa: RUF001  (the tables are for people)
"""RESULTS.md and results.png from the document that bench.run collected."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pt.lab.link import Shape

__all__ = [
    "MACHINE",
    "Target",
    "draw",
    "facts",
    "listed",
    "main_table",
    "pair",
    "table",
    "verdicts",
    "write",
    "written",
]

BASE = "go-libp2p"
OURS = ("pt", "pt chacha")
MACHINE = ("cpu", "kernel", "python", "packages", "go", "openssh", "socat", "load_average",
           "cc_available")  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A promise: `metric` of `row` against `base` (None = absolute), times `scale`."""

    text: str
    row: str
    metric: str
    bound: float
    at_least: bool
    base: str | None = BASE
    scale: float = 1.0


def _targets() -> list[Target]:
    found = []
    for streams, bound in ((1, 1.5), (8, 1.4)):
        for direction, name in (("fwd", "forward"), ("rev", "reverse")):
            key = f"{direction}{streams}"
            what = f"{streams} stream{'s' * (streams > 1)} {name}"
            found.append(Target(f"Gbit/s, {what}", "pt", f"{key}.gbit", bound, True))
            found.append(Target(f"CPU a GB, {what}", "pt", f"{key}.cpu_gb", 0.7, False))
    found += [
        Target("1-byte echo p50", "pt", "echo.p50_us", 1.0, False),
        Target("CPU a new connection, one at a time", "pt", "conns1.cpu_us", 0.8, False),
        Target("CPU a new connection, 50 at a time", "pt", "conns50.cpu_us", 0.8, False),
        Target("`pt bind` listens, ms", "pt", "start.listen_ms", 150, False, None),
        Target("`pt bind` first byte, ms", "pt", "start.first_byte_ms", 400, False, None),
    ]
    for end in ("exposer", "binder"):
        found += [
            Target(f"KiB an idle stream, {end} (of 10,000)", "pt", f"rss.{end}.stream", 4, False,
                   None, 1 / 1024),
            Target(f"MB at 10,000 idle streams, {end}", "pt", f"rss.{end}.10000", 80, False,
                   None, 1e-6),
        ]  # fmt: skip
    for direction, name in (("fwd", "forward"), ("rev", "reverse")):
        found.append(
            Target(f"fraction of the 200 Mbit/s link, {name}", "pt",
                   f"wan.reno.{direction}1.gbit", 0.85, True, None, 5.0)
        )  # fmt: skip
    return found


def _run(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        return "not installed"
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def facts(*, rounds: int, pinned: str, wan: Shape) -> dict[str, Any]:
    """Describe machine, versions and settings, as far as the numbers depend on them."""
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    sysctl = Path("/proc/sys/net/ipv4")
    packages = {name: metadata.version(name) for name in ("peertunnel", "cryptography")}
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": "python -m bench.run " + " ".join(sys.argv[1:]),
        "commit": _run("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "rounds": rounds,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "cpu": f"{len(cpu)} × {cpu[0] if cpu else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages,
        "go": _run("go", "version"),
        "openssh": _run("ssh", "-V"),
        "socat": _socat_version(),
        "cc_pinned": pinned,
        "cc_default": (sysctl / "tcp_congestion_control").read_text().strip(),
        "cc_available": (sysctl / "tcp_available_congestion_control").read_text().strip(),
        "wan": asdict(wan),
    }


def _socat_version() -> str:
    if shutil.which("socat") is None:
        return "not installed"
    done = subprocess.run(["socat", "-V"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("socat version")]
    return lines[0].split(" on ")[0] if lines else "unknown"


def written(fact: Mapping[str, Any]) -> str:
    """When, how and from what the numbers come."""
    return (
        f"Written by `{fact['command'].strip()}` on {fact['date']} at commit {fact['commit']}; "
        f"{fact['rounds']} interleaved rounds in {fact['minutes']} minutes, medians. Do not edit."
    )


Medians = Mapping[str, Mapping[str, float]]


def _derive(medians: Mapping[str, dict[str, float]]) -> None:
    for row in medians.values():
        for end in ("exposer", "binder"):
            idle, full = row.get(f"rss.{end}.idle"), row.get(f"rss.{end}.10000")
            if idle is not None and full is not None:
                row[f"rss.{end}.stream"] = (full - idle) / 10_000


def _cell(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def pair(row: Mapping[str, float], first: str, second: str, digits: int, scale: float = 1) -> str:
    values = [row.get(key) for key in (first, second)]
    return " / ".join(_cell(None if v is None else v * scale, digits) for v in values)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def listed(entries: Mapping[str, object]) -> str:
    def text(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {part}" for key, part in value.items())
        return str(value)

    return "\n".join(f"- {key.replace('_', ' ')}: {text(value)}" for key, value in entries.items())


def verdicts(medians: Medians, promises: Sequence[Target]) -> list[list[str]]:
    rows = []
    for target in promises:
        value = medians.get(target.row, {}).get(target.metric)
        base = medians.get(target.base, {}).get(target.metric) if target.base else 1.0
        sign, unit = "≥" if target.at_least else "≤", " ×" if target.base else ""
        wanted = f"{sign} {target.bound:g}{unit}"
        if value is None or not base:
            rows.append([target.text, wanted, "–", "not measured"])
            continue
        got = value * target.scale / base
        passed = got >= target.bound if target.at_least else got <= target.bound
        off = abs(got / target.bound - 1) * 100
        verdict = "pass" if passed else f"**miss** by {off:.0f} %"
        rows.append([target.text, wanted, f"{got:.2f}{unit}", verdict])
    return rows


def main_table(medians: Medians, base: str = BASE, ours: Collection[str] = OURS) -> str:
    times = f"× {base}"
    head = ["", "1 stream Gbit/s →/←", times, "CPU s/GB →/←", "8 streams Gbit/s →/←", times,
            "CPU s/GB →/←", "echo µs p50/p99", "connections/s 1/50",
            "CPU µs a connection 1/50"]  # fmt: skip
    against = medians.get(base, {})
    rows = []
    for name, row in medians.items():
        cells = [f"**{name}**" if name in ours else name]
        for n in (1, 8):
            ratios = {
                key: row[key] / against[key]
                for key in (f"fwd{n}.gbit", f"rev{n}.gbit")
                if key in row and against.get(key)
            }
            cells += [
                pair(row, f"fwd{n}.gbit", f"rev{n}.gbit", 1),
                pair(ratios, f"fwd{n}.gbit", f"rev{n}.gbit", 2),
                pair(row, f"fwd{n}.cpu_gb", f"rev{n}.cpu_gb", 2),
            ]
        cells += [
            pair(row, "echo.p50_us", "echo.p99_us", 0),
            pair(row, "conns1.per_s", "conns50.per_s", 0),
            pair(row, "conns1.cpu_us", "conns50.cpu_us", 0),
        ]
        rows.append(cells)
    return table(head, rows)


def _ends_table(medians: Medians) -> str:
    head = ["", "listens ms", "first byte ms", "RSS MB idle", "1,000 idle streams", "10,000",
            "KiB a stream", "after load"]  # fmt: skip
    rows = []
    for name, row in medians.items():
        if not any(key.startswith(("start.", "rss.", "load.")) for key in row):
            continue
        memory = [
            pair(row, f"rss.exposer.{step}", f"rss.binder.{step}", 0, 1e-6)
            for step in ("idle", "1000", "10000")
        ]
        rows.append(
            [
                f"**{name}**" if name in OURS else name,
                _cell(row.get("start.listen_ms"), 0),
                _cell(row.get("start.first_byte_ms"), 0),
                *memory,
                pair(row, "rss.exposer.stream", "rss.binder.stream", 2, 1 / 1024),
                pair(row, "load.rss.exposer", "load.rss.binder", 0, 1e-6),
            ]
        )
    return table(head, rows)


def _cc_tables(medians: Medians) -> tuple[str, str]:
    default = [
        [name, pair(row, "default-cc.fwd1.gbit", "default-cc.rev1.gbit", 1),
         pair(row, "default-cc.fwd1.cpu_gb", "default-cc.rev1.cpu_gb", 2)]
        for name, row in medians.items() if "default-cc.fwd1.gbit" in row
    ]  # fmt: skip
    wan = []
    for name, row in medians.items():
        for cc in ("reno", "bbr"):
            if f"wan.{cc}.fwd1.gbit" in row:
                label = "its own choice, " + cc + " elsewhere" if name == "pt" else cc
                keys = (f"wan.{cc}.fwd1.gbit", f"wan.{cc}.rev1.gbit")
                wan.append([name, label, pair(row, *keys, 0, 1000), pair(row, *keys, 2, 5)])
    return (
        table(["", "Gbit/s →/←", "CPU s/GB →/←"], default),
        table(["", "congestion control", "Mbit/s →/←", "of the link"], wan),
    )


def write(document: dict[str, Any], out: Path) -> None:
    """Write RESULTS.md and, if matplotlib is here, results.png."""
    medians: dict[str, dict[str, float]] = document["medians"]
    _derive(medians)
    fact, notes = document["facts"], document["notes"]
    default, wan = _cc_tables(medians)
    shape = fact["wan"]
    failed = {
        name: [int(row[key]) for key in ("conns1.failed", "conns50.failed") if row.get(key)]
        for name, row in medians.items()
    }
    problems = [*document["problems"]] + [
        f"{name}: connections failed in the connection test: {counts}"
        for name, counts in failed.items() if counts
    ]  # fmt: skip
    machine = {key: fact[key] for key in MACHINE}
    intro = (
        "Two hosts in network namespaces joined by a veth pair (MTU 1500, offloads on); the load "
        "generator, both ends of the tunnel and the service share the cores named below, and other "
        "work may run beside them, so compare within a table only: ratios hold to about ± 15 %. "
        f"TCP congestion control is pinned to **{fact['cc_pinned']}** on both hosts "
        f"(kernel default: {fact['cc_default']}) except where a table says otherwise. "
        "→ is client to service, ← service to client. 1 GB is 10⁹ bytes of payload; CPU is user "
        "and system time of both ends together, children included, load generator excluded. "
        "Rates are taken at the receiver over a window inside the transfer."
    )
    others = [
        value
        for metrics in document["samples"].values()
        for metric, values in metrics.items()
        if metric.endswith(".other_cores") and not metric.startswith("wan.")
        for value in values
    ]
    if others:
        intro += (
            f" Work of others took {statistics.median(others):.2f} cores during the throughput "
            f"windows (median; most {max(others):.2f}); each measurement waits for a calm moment, "
            f"which {document['disturbed']} did not get."
        )
    ends = (
        "From fork and exec of a second binder, exposer up, name key cached, to its first accept "
        "and to the first byte echoed through it. Idle streams are open connections that have "
        "echoed one byte; memory is resident set size, without kernel socket buffers."
    )
    distance = (
        f"## Long distance: {shape['rate'] / 1e6:g} Mbit/s, {shape['delay'] * 2e3:g} ms round "
        f"trip, {shape['loss'] * 100:g} % loss each way, {shape['queue'] // 1000} kB queue, "
        "one stream"
    )
    sections = [
        "# Benchmark",
        written(fact),
        intro,
        "![results](results.png)",
        "## Targets",
        table(["", "target", "measured", ""], verdicts(medians, _targets())),
        "## Throughput, latency, connections",
        main_table(medians),
        "## Start-up and memory (exposer / binder)",
        ends,
        _ends_table(medians),
        f"## Congestion control as installed ({fact['cc_default']}), one stream, veth",
        default,
        distance,
        "An emulated link in user space (pt.lab.link). Headers take 3.5 % of the link.",
        wan,
        "## Rows",
        listed(notes),
    ]
    if problems:
        sections += ["## Problems of this run", "\n".join(f"- {text}" for text in problems)]
    sections += ["## Machine", listed(machine)]
    (out / "RESULTS.md").write_text("\n\n".join(part for part in sections if part) + "\n")
    _plot(medians, out / "results.png")


def _plot(medians: Medians, path: Path) -> None:
    panels = (
        ("1 stream, Gbit/s (more is better)", ("fwd1.gbit", "rev1.gbit"), 1.0),
        ("8 streams, Gbit/s (more is better)", ("fwd8.gbit", "rev8.gbit"), 1.0),
        ("CPU s/GB, both ends (less is better)", ("fwd1.cpu_gb", "rev1.cpu_gb"), 1.0),
        ("1-byte echo, µs p50 (less is better)", ("echo.p50_us",), 1.0),
        ("CPU µs a new connection (less is better)", ("conns1.cpu_us", "conns50.cpu_us"), 1.0),
        ("RSS MB at 10,000 idle streams (less is better)",
         ("rss.exposer.10000", "rss.binder.10000"), 1e-6),
    )  # fmt: skip
    title = "pt beside other forwarders (upper bar: → or exposer, lower: ← or binder)"
    draw(medians, path, panels, OURS, title)


Panel = tuple[str, tuple[str, ...], float]
"""Title, metrics, scale."""


def draw(
    medians: Medians, path: Path, panels: Sequence[Panel], ours: Collection[str], title: str
) -> None:
    """Six panels of bars, if matplotlib is here."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 # only the group `bench` has it
    except ImportError:
        print("bench: no plot: pip install --group bench", file=sys.stderr)
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, 3, figsize=(15, 7.5), layout="constrained")
    for axis, (heading, keys, scale) in zip(axes.flat, panels, strict=True):
        names = [name for name, row in medians.items() if any(key in row for key in keys)]
        if heading.startswith(("1 stream", "8 streams")):
            names = [name for name in names if name != "raw TCP"]
        height = 0.8 / len(keys)
        for index, key in enumerate(keys):
            values = [medians[name].get(key, 0.0) * scale for name in names]
            places = [place + index * height for place in range(len(names))]
            colours = ["#0b7285" if name in ours else "#adb5bd" for name in names]
            bars = axis.barh(places, values, height * 0.95, color=colours, alpha=1 - index * 0.35)
            axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
        axis.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(heading, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
