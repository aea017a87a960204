"""Our QUIC against aioquic's own and quic-go, in both roles, with both engines.

    python -m interop.quic                  everything; writes interop/RESULTS-quic.md
    python -m interop.quic --case retry --pair go:pt/qh3
    python -m interop.quic --short          two cases for all pairs, in seconds
    python -m interop.quic --self-check     the others among themselves

A pair is SERVER:CLIENT.  Exits 0 only when everything is green.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as version_of
from pathlib import Path
from threading import Lock
from typing import Final

from interop.quic.cases import CASES, SHORT, Case, Run
from interop.quic.path import Seen
from interop.rig import BIN, ROOT, Pair, RigError, Server, build, table
from pt.lab.netns import DEVICE, Lan, unavailable
from pt.quic.select import factories

RESULTS: Final = ROOT / "interop" / "RESULTS-quic.md"
OTHERS: Final = ("go", "aioquic")
OUTER: Final = 200
"""The second address of the NAT, in the last octet."""
SLACK: Final = 20.0
HEAD: Final = """\
# QUIC test cases

{date}: {green} of {total} green. Written by `python -m interop.quic`.

The cases of the [quic-interop-runner](https://github.com/quic-interop/quic-interop-runner) that
apply to QUIC as libp2p speaks it, over raw streams with ALPN `libp2p` and certificates on both
sides, between `pt` (engines {engines}), aioquic {aioquic}'s own asyncio endpoint and quic-go
{quic_go}. Linux {kernel}, Python {python}; three network namespaces, the one in the middle being
the path (`interop/quic/path.py`): 10 Mbit/s, 15 ms each way and a queue of 25 packets, unless a
case says otherwise. A column is server ← client.
"""
LEFT_OUT: Final = """\
Left out: resumption and 0-RTT (libp2p has neither), HTTP/3, version 2, ECN (nobody here marks),
connectionmigration (a server's preferred address). An empty cell: quic-go's client leaves the
choice of a cipher to the server, and ours prefers AES.
"""


@dataclasses.dataclass(frozen=True)
class Result:
    """One case of one pair."""

    pair: Pair
    case: str
    problem: str
    seconds: float


def applies(case: Case, pair: Pair) -> bool:
    """Go's cipher suites cannot be chosen, only what it prefers, which is for a server to say."""
    return not (case.chacha and pair[1] == "go")


def argv(peer: str, role: str) -> list[str]:
    if peer == "go":
        return [str(BIN / "go-peer"), f"quic-{role}"]
    if peer == "aioquic":
        return [sys.executable, "-m", "interop.quic.stock", role]
    return [sys.executable, "-m", "interop.quic.ours", role, "--engine", peer.split("/")[1]]


def is_ours(peer: str) -> bool:
    return peer.startswith("pt/")


def environment(case: Case) -> dict[str, str]:
    return {**os.environ, **({"GODEBUG": "cpu.aes=off"} if case.chacha else {})}


class Rig:
    """Three hosts, and the logs of what runs on them."""

    def __init__(self, lan: Lan, logs: Path) -> None:
        self.client, self.middle, self.server = lan.hosts
        self.logs = logs
        network = self.middle.ip.rpartition(".")[0]
        self.outer = f"{network}.{OUTER}"
        self.middle.run(["ip", "addr", "add", f"{self.outer}/24", "dev", DEVICE])

    def run(self, pair: Pair, case: Case) -> str:
        """Run one case; returns what was wrong.

        Raises: RigError, subprocess.TimeoutExpired.
        """
        server = Server(
            pair[0],
            self.server,
            self.logs / "server.log",
            [
                *argv(pair[0], "serve"),
                *("--ip", self.server.ip if case.path else self.server.ip6),
                *(["--retry"] if case.retry else []),
                *(["--chacha"] if case.chacha and not is_ours(pair[0]) else []),
            ],
            environment=environment(case),
        )
        try:
            to = server.address()
            with self._path(case, to) as (through, seen):
                client = self._fetch(pair[1], case, through)
            server.stop()
            said = server.fact()
        finally:
            server.stop()
        if not client["ok"]:
            return f"{client['detail']}\n{server.tail()}"
        return (
            case.check(Run(seen=seen, server=said, client=client, is_ours=is_ours(pair[0]))) or ""
        )

    @contextlib.contextmanager
    def _path(self, case: Case, to: str) -> Iterator[tuple[str, Seen]]:
        """The address through the path; what it saw is there in the end."""
        seen = Seen()
        if case.path is None:
            yield to, seen
            return
        parts = to.split("/")
        process = self.middle.popen(
            [
                sys.executable, "-m", "interop.quic.path", "--listen", self.middle.ip,
                "--server", f"{parts[2]}:{parts[4]}", "--outer", f"{self.middle.ip},{self.outer}",
                "--conditions", json.dumps(dataclasses.asdict(case.path)),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        parts[2], parts[4] = self.middle.ip, str(port)
        try:
            yield "/".join(parts), seen
        finally:
            process.stdin.close()
            facts = json.loads(process.stdout.readline())
            process.wait()
        for each in dataclasses.fields(seen):
            setattr(seen, each.name, facts[each.name])

    def _fetch(self, peer: str, case: Case, to: str) -> dict[str, object]:
        done = self.client.run(
            [
                *argv(peer, "fetch"), "--to", to, "--sizes", ",".join(map(str, case.sizes)),
                "--connections", str(case.connections), "--timeout", f"{case.timeout:g}",
                *(["--key-update"] if case.key_update else []),
                *(["--chacha"] if case.chacha and not is_ours(peer) else []),
            ],
            cwd=ROOT, env=environment(case), check=False, timeout=case.timeout + SLACK,
        )  # fmt: skip
        lines = done.stdout.decode().splitlines()
        if not lines:
            raise RigError(f"{peer} said nothing\n{done.stderr.decode(errors='replace')[-2000:]}")
        facts: dict[str, object] = json.loads(lines[-1])
        if not facts["ok"]:
            facts["detail"] = f"{facts['detail']}\n{done.stderr.decode(errors='replace')[-1000:]}"
        return facts


def run_pair(pair: Pair, cases: Sequence[Case], lock: Lock) -> list[Result]:
    results = []
    with (
        tempfile.TemporaryDirectory() as logs,
        Lan(subnet="11.3.0.0/24", names=("client", "path", "server")) as lan,
    ):
        rig = Rig(lan, Path(logs))
        for case in cases:
            if not applies(case, pair):
                continue
            began = time.monotonic()
            try:
                problem = rig.run(pair, case)
            except (RigError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            result = Result(pair, case.name, problem, time.monotonic() - began)
            results.append(result)
            with lock:
                mark = "FAIL" if problem else "ok  "
                named = f"{pair[0]} ← {pair[1]}"
                print(f"{mark} {named:22} {case.name:20} {result.seconds:5.1f} s", flush=True)
                if problem:
                    print(problem, flush=True)
    return results


def pairs_with_us() -> list[Pair]:
    ours = [f"pt/{factory.name}" for factory in factories()]
    return [
        pair for other in OTHERS for engine in ours for pair in ((other, engine), (engine, other))
    ]


def quic_go_version() -> str:
    for line in (ROOT / "interop/peers/go/go.mod").read_text().splitlines():
        if "quic-go/quic-go " in line:
            return line.split()[1]
    raise RigError("the Go peer has no quic-go")


def document(results: Sequence[Result], pairs: Sequence[Pair], cases: Sequence[Case]) -> str:
    cells: dict[tuple[str, Pair], str] = {}
    for one in results:
        cells[one.case, one.pair] = "**FAIL**" if one.problem else f"{one.seconds:.1f} s"
    failed = [one for one in results if one.problem]
    head = HEAD.format(
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        green=len(results) - len(failed),
        total=len(results),
        engines=" and ".join(factory.name for factory in factories()),
        aioquic=version_of("aioquic"),
        quic_go=quic_go_version(),
        kernel=platform.release(),
        python=platform.python_version(),
    )
    rows = [[case.name, *(cells.get((case.name, pair), "") for pair in pairs)] for case in cases]
    parts = [
        head,
        table(["case", *(f"{server} ← {client}" for server, client in pairs)], rows),
        "\n".join(f"- {case.name}: {case.what}." for case in cases) + "\n",
        LEFT_OUT,
    ]
    if failed:
        parts.append("## Failures\n")
        parts += [f"- {one.pair[0]} ← {one.pair[1]}, {one.case}: {one.problem}" for one in failed]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.quic", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--case", choices=names, action="append", help="this case")
    parser.add_argument("--pair", action="append", help="this pair, SERVER:CLIENT")
    parser.add_argument("--short", action="store_true", help="two cases, in seconds")
    parser.add_argument("--self-check", action="store_true", help="the others among themselves")
    parser.add_argument("--jobs", type=int, default=2, help="pairs at a time")
    args = parser.parse_args(arguments)
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    try:
        build(["go"])
    except RigError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    pairs = pairs_with_us()
    if args.self_check:
        pairs = [(one, other) for one in OTHERS for other in OTHERS]
    if args.pair:
        pairs = [(one, other) for one, _, other in (text.partition(":") for text in args.pair)]
    cases = SHORT if args.short else [c for c in CASES if not args.case or c.name in args.case]
    began = time.monotonic()
    lock = Lock()
    with ThreadPoolExecutor(args.jobs) as pool:
        lists = list(pool.map(lambda pair: run_pair(pair, cases, lock), pairs))
    results = [one for each in lists for one in each]
    failed = sum(bool(one.problem) for one in results)
    print(f"{len(results) - failed} of {len(results)} green in {time.monotonic() - began:.0f} s")
    if not (args.case or args.pair or args.short or args.self_check):
        RESULTS.write_text(document(results, pairs, cases))
        print(f"written {RESULTS.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
