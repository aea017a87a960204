"""`pt lab verify|pair|matrix|replay|report`: experiments, each in a laboratory of its own."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import pt
from pt.cli.jsonlines import dumps
from pt.cli.options import wants_json
from pt.cli.output import use_colour
from pt.cli.text import GREEN, RED, RESET
from pt.errors import PtError, UsageError

if TYPE_CHECKING:
    from pt.lab.campaign import Plan
    from pt.lab.results import Attempt, Cell

__all__ = ["ACTIONS", "add_matrix", "add_pair", "add_replay", "add_report", "add_verify"]

BAR: Final = 24
SHOWN_FIRST: Final = ("t", "side", "event")


def _common(parser: argparse.ArgumentParser, runs: int) -> None:
    parser.add_argument(
        "--puncher",
        metavar="COMMAND",
        default="pt",
        help="a program that runs on both hosts, see docs/lab.md (default: pt's own)",
    )
    parser.add_argument(
        "--runs", metavar="N", type=int, default=runs, help="of each cell (default: %(default)s)"
    )
    parser.add_argument("--link", metavar="LINK", default="delay=5", help="default: %(default)s")
    parser.add_argument("--cgn", metavar="NAT", default="", help="one carrier's NAT for both sides")
    parser.add_argument("--engine", choices=("user", "kernel"), default="user")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of the whole campaign")
    parser.add_argument(
        "--budget", metavar="SECONDS", type=float, default=10.0, help="of one attempt (default: 10)"
    )
    parser.add_argument(
        "--pps", metavar="N", type=int, default=0, help="packets a second (default: the puncher's)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="append results there, and do only what it does not hold yet"
    )
    parser.add_argument("--report", metavar="FILE", help="write an HTML page of all results there")
    parser.add_argument(
        "--traces", metavar="DIR", help="keep each laboratory's trace and capture there"
    )


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pt lab verify`."""
    parser.add_argument("specs", metavar="NAT", nargs="*", help="default: all kinds")
    parser.add_argument("--engine", choices=("user", "kernel"), default="user")
    parser.add_argument("--link", metavar="LINK", default="")
    parser.add_argument("--seed", metavar="N", type=int, default=1)
    parser.add_argument(
        "--lifetime",
        metavar="SECONDS",
        type=float,
        nargs="+",
        default=[],
        help="silences to try, for the lifetime of mappings; takes that long",
    )


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pt lab pair`."""
    parser.add_argument("a", metavar="A", help="the NAT of side a")
    parser.add_argument("b", metavar="B", help="the NAT of side b")
    parser.add_argument("--strategy", default="auto", help="of the puncher (default: auto)")
    parser.add_argument("--overlap", action="store_true", help="equal private networks")
    _common(parser, 10)


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pt lab matrix`."""
    parser.add_argument("--nats", metavar="NAT", nargs="+", help="default: one of each kind")
    parser.add_argument(
        "--strategies", metavar="NAME", nargs="+", default=["auto"], help="default: auto"
    )
    parser.add_argument(
        "--cells", metavar="FILE", help="TOML with [[cell]] a=, b=, link=, label=, runs= … instead"
    )
    _common(parser, 5)


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pt lab replay`."""
    parser.add_argument(
        "trace", metavar="TRACE", help="results, a laboratory's trace, or pt's of a real attempt"
    )
    parser.add_argument("--line", metavar="N", type=int, help="only the Nth attempt in it, from 1")
    parser.add_argument("--puncher", metavar="COMMAND", default="pt", help="default: pt's own")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=1, help="for a trace that does not tell its own"
    )
    parser.add_argument("--budget", metavar="SECONDS", type=float, default=10.0)
    parser.add_argument("--traces", metavar="DIR")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pt lab report`."""
    parser.add_argument("results", metavar="RESULTS", nargs="+", help="files of `--out`")
    parser.add_argument("--html", metavar="FILE", help="write a page there; else a line a cell")


# --- verify ------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    from pt.lab.verify import ALL, verify  # noqa: PLC0415  # only who uses it pays

    as_json, colour = wants_json(args), use_colour(sys.stdout)
    wrong = 0
    for spec in args.specs or ALL:
        found = verify(
            spec,
            engine=args.engine,
            link=args.link,
            seed=args.seed,
            cliffs=tuple(sorted(args.lifetime)),
        )
        wrong += not found.ok
        if as_json:
            facts: dict[str, object] = {
                "spec": spec,
                "ok": found.ok,
                "expected": found.expected.label,
                "found": found.found.label,
                "differences": list(found.differences),
                "seconds": round(found.seconds, 3),
            }
            print(dumps("verified", time.time(), facts), flush=True)
            continue
        word, paint = ("ok", GREEN) if found.ok else ("DIFFERS", RED)
        mark = f"{paint}{word}{RESET}" if colour else word
        more = "; ".join(found.differences) or f"{found.seconds:.2f} s"
        print(f"{mark:8} {spec:36} {found.found.label:20} {more}", flush=True)
    return int(bool(wrong))


# --- campaigns ---------------------------------------------------------------------------------


class _Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, found: Attempt, done: int, total: int) -> None:
        if not self._shown:
            return
        first = self._first = done - 1 if self._first is None else self._first
        left = (time.monotonic() - self._began) / max(1, done - first) * (total - done)
        full = BAR * done // total
        verdict = "direct" if found.direct else "relay"
        text = (
            f"[{'#' * full}{'.' * (BAR - full)}] {done}/{total}, {left:.0f} s left  "
            f"{found.cell.a} with {found.cell.b}: {verdict}"
        )
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{text[:width]}")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    shown = _Progress(sys.stderr)
    try:
        yield shown
    finally:
        shown.end()


def _plan(args: argparse.Namespace, cells: Sequence[Cell], runs: int) -> Plan:
    from pt.lab.campaign import Plan, check  # noqa: PLC0415

    if runs < 1:
        raise UsageError("--runs is at least 1")
    for cell in cells:
        check(cell)
    return Plan(
        cells=cells,
        runs=runs,
        puncher=args.puncher,
        seed=args.seed,
        budget=args.budget,
        traces=Path(args.traces) if args.traces else None,
    )


def _pair(args: argparse.Namespace) -> int:
    from pt.lab.campaign import run  # noqa: PLC0415
    from pt.lab.results import Cell  # noqa: PLC0415

    cell = Cell(
        a=args.a,
        b=args.b,
        link=args.link,
        cgn=args.cgn,
        strategy=args.strategy,
        engine=args.engine,
        overlap=args.overlap,
        pps=args.pps,
    )
    as_json = wants_json(args)

    def told(found: Attempt, done: int, total: int) -> None:
        if as_json:
            print(found.line(), end="", flush=True)
            return
        verdict = found.reason
        if found.direct:
            took = f" in {found.seconds * 1000:.1f} ms" if found.seconds is not None else ""
            verdict = f"direct{took} by {found.winner or 'its puncher'}"
        packets = ", ".join(f"{side} {count}" for side, count in sorted(found.packets.items()))
        print(f"{done:4}/{total}  {verdict}  (packets: {packets or 'not told'})", flush=True)

    attempts = run(_plan(args, [cell], args.runs), _path(args.out), told)
    return _finish(args, attempts, as_json=as_json)


def _matrix(args: argparse.Namespace) -> int:
    from pt.lab.campaign import KINDS, cells_from_file, pairs, run  # noqa: PLC0415

    if args.cells:
        listed = cells_from_file(Path(args.cells))
    else:
        names = ("link", "cgn", "engine", "pps")
        words: dict[str, Any] = {name: getattr(args, name) for name in names}
        cells = pairs(args.nats or KINDS, args.strategies, **words)
        listed = [(cell, None) for cell in cells]
    by_runs: dict[int, list[Cell]] = {}
    for cell, runs in listed:
        by_runs.setdefault(runs or args.runs, []).append(cell)
    attempts: list[Attempt] = []
    with _progress() as shown:
        for runs, members in by_runs.items():
            attempts += run(_plan(args, members, runs), _path(args.out), shown)
    return _finish(args, attempts, as_json=wants_json(args))


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _finish(args: argparse.Namespace, attempts: Sequence[Attempt], *, as_json: bool) -> int:
    _summaries(attempts, as_json=as_json)
    if args.report:
        _write_page(Path(args.report), attempts)
    return 0


def _summaries(attempts: Sequence[Attempt], *, as_json: bool) -> None:
    from pt.lab.report import groups, summary  # noqa: PLC0415

    for group in groups(attempts):
        if as_json:
            times = group.times
            facts: dict[str, object] = {
                **{key: str(value) for key, value in dataclasses.asdict(group.cell).items()},
                "puncher": group.puncher,
                "runs": len(group.attempts),
                "direct": group.successes,
                "median": sorted(times)[len(times) // 2] if times else None,
            }
            print(dumps("summary", time.time(), facts), flush=True)
        else:
            print(f"{group.name}: {summary(group)}", flush=True)


def _write_page(path: Path, attempts: Sequence[Attempt]) -> None:
    from pt.lab.report import render  # noqa: PLC0415

    facts = [("program", f"pt {pt.__version__}"), ("written", time.strftime("%Y-%m-%d %H:%M %Z"))]
    try:
        path.write_text(render(attempts, "Hole punching in the laboratory", facts), "utf-8")
    except OSError as error:
        raise PtError(f"cannot write {path}: {error}") from error
    print(f"report: {path}", file=sys.stderr)


def _replay(args: argparse.Namespace) -> int:
    from pt.lab.campaign import attempt, cells_of_trace  # noqa: PLC0415

    found = cells_of_trace(Path(args.trace))
    if args.line is not None:
        if not 1 <= args.line <= len(found):
            raise UsageError(f"--line is 1 to {len(found)}")
        found = [found[args.line - 1]]
    as_json = wants_json(args)
    for cell, number, seed in found:
        plan = _plan(args, [cell], 1)
        if plan.traces is not None:
            plan.traces.mkdir(parents=True, exist_ok=True)
        again = attempt(cell, number, plan, seed)
        if as_json:
            print(again.line(), end="", flush=True)
            continue
        print(f"{cell.a} with {cell.b}, {cell.link or 'no delay'}, seed {again.seed}")
        for event in again.timeline:
            rest = " ".join(
                f"{key}={value}"
                for key, value in event.items()
                if key not in ("t", "side", "event")
            )
            print(f"  {event['t']:9.4f} s  {event['side']}  {event['event']}  {rest}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from pt.lab.results import read  # noqa: PLC0415

    attempts = [each for name in args.results for each in read(Path(name))]
    if not attempts:
        raise UsageError("no attempts in these files: `pt lab matrix --out FILE` writes them")
    if args.html:
        _write_page(Path(args.html), attempts)
    else:
        _summaries(attempts, as_json=wants_json(args))
    return 0


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "verify": _verify,
    "pair": _pair,
    "matrix": _matrix,
    "replay": _replay,
    "report": _report,
}
