"""`pt selftest`: check that a tunnel on this machine carries TCP exactly."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from pt.cli.jsonlines import dumps
from pt.cli.options import wants_json
from pt.cli.output import use_colour
from pt.cli.pair import embedded_pair
from pt.cli.text import GREEN, RED, RESET, YELLOW
from pt.errors import UsageError
from pt.tunnel.config import Service
from pt.tunnel.selftest import CASES, CaseResult, run_case, serve

__all__ = ["add_arguments", "run"]

MIB: Final = 1024 * 1024
SUITES: Final = ("wire",)
NAME_WIDTH: Final = max(len(name) for name in CASES) + 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "Both ends run in this process, over 127.0.0.1; nothing leaves the machine. With --through "
        "any other\nforwarder is judged that leads to `python -m pt.tunnel.selftest serve`.\n"
        "cases: " + ", ".join(CASES)
    )
    parser.add_argument("suite", choices=SUITES, help="wire: FIN, RST, half-close, back-pressure…")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these cases")
    parser.add_argument(
        "--size", metavar="MIB", type=int, default=32, help="bulk each way (default: %(default)s)"
    )
    parser.add_argument(
        "--through", metavar="HOST:PORT", help="judge a running forwarder instead of our own"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines (env PT_JSON=1)")


def run(args: argparse.Namespace) -> int:
    """Run the cases; 1 if one failed."""
    names = args.cases or list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise UsageError(f"no case {unknown[0]!r}: there are {', '.join(CASES)}")
    if args.size < 1:
        raise UsageError("--size is at least 1 MiB")
    table = _Table(as_json=wants_json(args))
    return asyncio.run(_run(args, names, table))


async def _run(args: argparse.Namespace, names: list[str], table: _Table) -> int:
    # Cases block in threads, which Ctrl-C does not reach: end without waiting for them.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _give_up)
    size = args.size * MIB
    if args.through:
        host, _, port = args.through.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError("--through is HOST:PORT")
        case = functools.partial(run_case, host=host.strip("[]"), port=int(port), size=size)
        return await _cases(names, case, table)
    async with _own_tunnel() as (own, refused):
        case = functools.partial(
            run_case, host="127.0.0.1", port=own, refused_port=refused, size=size
        )
        return await _cases(names, case, table)


def _give_up() -> None:
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


@contextlib.asynccontextmanager
async def _own_tunnel() -> AsyncIterator[tuple[int, int]]:
    """Run a tunnel to the case service and to a port where nobody listens."""
    with serve() as service, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        services = (Service(port=service.port), Service(port=reserved.getsockname()[1]))
        async with embedded_pair(services) as pair:
            yield pair.ports[0], pair.ports[1]


async def _cases(names: list[str], case: Callable[[str], CaseResult], table: _Table) -> int:
    results = []
    for name in names:
        result = await asyncio.to_thread(case, name)
        table.row(result)
        results.append(result)
    table.total(results)
    return int(not all(result.ok for result in results))


class _Table:
    """Prints a row a case, and the total."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._colour = use_colour(sys.stdout)

    def row(self, result: CaseResult) -> None:
        if self._json:
            facts = {
                "name": result.name,
                "ok": result.ok,
                "skipped": result.skipped,
                "seconds": result.seconds,
                "detail": result.detail,
            }
            print(dumps("case", time.time(), facts), flush=True)
            return
        word, colour = ("pass", GREEN) if result.ok else ("FAIL", RED)
        if result.skipped:
            word, colour = "skip", YELLOW
        mark = f"{colour}{word}{RESET}" if self._colour else word
        text = f"{result.name:{NAME_WIDTH}}{result.seconds:6.2f} s  {result.detail}"
        print(f"{mark}  {text}", flush=True)

    def total(self, results: list[CaseResult]) -> None:
        failed = sum(not result.ok for result in results)
        skipped = sum(result.skipped for result in results)
        passed = len(results) - failed - skipped
        if self._json:
            facts: dict[str, object] = {"passed": passed, "failed": failed, "skipped": skipped}
            print(dumps("total", time.time(), facts), flush=True)
        else:
            print(f"{passed} passed, {failed} failed, {skipped} skipped")
