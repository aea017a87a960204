"""Every foreign peer against us, in both roles and through every test.

    python -m interop.matrix                 everything; writes interop/RESULTS.md
    python -m interop.matrix --quick         the same tests, shorter silence; writes nothing
    python -m interop.matrix --only go       one foreign peer
    python -m interop.matrix --self-check    the foreign peers among themselves

Two hosts on a cable of a laboratory without uplink: the listener is on one, the dialer on the
other.  The whole matrix has the relays too (`interop.relays`), on hosts of their own.  Exits 0 only
when everything is green; under CI=true a peer that cannot be built is red.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from interop import relays
from interop.rig import (
    BIN,
    FOREIGN,
    OUR_RELAYS,
    OURS,
    ROOT,
    TESTS,
    Dialer,
    Listener,
    Outcome,
    Pair,
    Redis,
    RigError,
    build,
    pairs_among,
    pairs_with_us,
    run_contract,
    say,
    table,
    version,
)
from pt.lab.netns import Lan, unavailable
from pt.quic.select import default

RESULTS: Final = ROOT / "interop" / "RESULTS.md"
IDLE_SECONDS: Final = 40.0
"""Longer than the 30 s keep-alive of Go's and js's yamux, and the 10 s idle limit of rust."""
QUICK_IDLE_SECONDS: Final = 12.0
"""Longer than the idle limit of rust."""
CONTRACT_PEERS: Final = ("pt", "go")

HEAD: Final = """\
{date}: {green} of {total} green. Written by `make interop` (`python -m interop.matrix`).

Linux {kernel}, Python {python}; two network namespaces joined by a veth pair. TCP with Noise and
yamux throughout, but for the second table of the matrix, which is QUIC. The peers are our own,
built from the package registries (`interop/peers`, `interop/build.sh`).
"""
LEGEND: Final = """\
- ping: 5 pings. identify: agent, protocols, public key, our observed address, signed peer record
  (rust-libp2p's own record is of a form nobody else reads, so its peer sends none).
- echo64: 64 MiB there and back at once, SHA-256 equal. streams1000: 1,000 streams open together,
  each used twice, each ended cleanly; 200 over QUIC, since go-libp2p takes 256.
- halfclose: 128 KiB sent, write side closed, all of it read back. reset: the peer's reset arrives
  as one, and ours at the peer. On QUIC rust-libp2p gives up a stream by an end of file together
  with STOP_SENDING, and js-libp2p shows a reset as an end of file; both are told from a mere end of
  file by the other direction.
- idle: a stream still works after {idle:g} silent seconds.
"""
CONTRACT: Final = """\
## libp2p's transport interop contract

`interop/transport_test.py` and a real redis-server; both spellings of the environment.
"""


def run_tests(
    lan: Lan, pairs: Sequence[Pair], tests: Sequence[str], idle: float, *, quic: bool = False
) -> list[Outcome]:
    """Run every test of every pair; the silent ones run beside the others."""
    far, near = lan.hosts
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as logs:
        listeners = [
            Listener(pair[0], far, Path(logs) / f"{number}.log", quic=quic)
            for number, pair in enumerate(pairs)
        ]
        addresses = [listener.address() for listener in listeners]
        served = list(zip(pairs, listeners, addresses, strict=True))
        silent = [
            Dialer(dialer, near, listener, to, "idle", ["--idle", f"{idle:g}"])
            for (_, dialer), listener, to in served
            if "idle" in tests
        ]
        for (_, dialer), listener, to in served:
            for test in tests:
                if test != "idle":
                    outcomes.append(Dialer(dialer, near, listener, to, test, []).outcome())
                    say(outcomes[-1])
        for dialing in silent:
            outcomes.append(dialing.outcome())
            say(outcomes[-1])
        for listener in listeners:
            listener.stop()
    return outcomes


def run_contracts(lan: Lan, peers: Sequence[str]) -> list[Outcome]:
    """Run libp2p's transport contract, in both spellings, among the peers that answer it."""
    far, near = lan.hosts
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory:
        store = Redis(far, Path(directory))
        store.wait()
        for listener in peers:
            for dialer in peers:
                for modern in (True, False):
                    outcomes.append(
                        run_contract(
                            listener, dialer, modern=modern, near=near, far=far, store=store
                        )
                    )
                    say(outcomes[-1])
    return outcomes


def cells(outcomes: Sequence[Outcome], show: Callable[[Outcome], str]) -> list[list[str]]:
    """One row a pair, one cell a test."""
    rows: dict[Pair, dict[str, str]] = {}
    for outcome in outcomes:
        rows.setdefault((outcome.listener, outcome.dialer), {})[outcome.test] = show(outcome)
    tests = list(dict.fromkeys(outcome.test for outcome in outcomes))
    return [
        [listener, dialer, *(row.get(test, "") for test in tests)]
        for (listener, dialer), row in rows.items()
    ]


def document(
    tests: Sequence[Outcome],
    contracts: Sequence[Outcome],
    relayed: Sequence[Outcome],
    versions: dict[str, tuple[str, str]],
) -> str:
    """The text of RESULTS.md."""

    def mark(outcome: Outcome) -> str:
        return "ok" if outcome.ok else "**FAIL**"

    def measured(outcome: Outcome) -> str:
        return outcome.detail if outcome.ok else "**FAIL**"

    everything = [*tests, *contracts, *relayed]
    failed = [outcome for outcome in everything if not outcome.ok]
    parts = [
        "# Interoperability\n",
        HEAD.format(
            date=dt.datetime.now(dt.UTC).date().isoformat(),
            green=len(everything) - len(failed),
            total=len(everything),
            kernel=platform.release(),
            python=platform.python_version(),
        ),
        table(
            ["peer", "implementation", "version"],
            [[peer, *said] for peer, said in versions.items()],
        ),
        "## Matrix\n",
        *(
            table(
                ["listener", "dialer", *dict.fromkeys(outcome.test for outcome in part)],
                cells(part, mark),
            )
            for part in ([one for one in tests if not one.quic], [one for one in tests if one.quic])
        ),
        LEGEND.format(idle=IDLE_SECONDS),
    ]
    if contracts:
        parts += [
            CONTRACT,
            table(
                ["listener", "dialer", *dict.fromkeys(outcome.test for outcome in contracts)],
                cells(contracts, measured),
            ),
        ]
    if relayed:
        parts.append(relays.section(relayed))
    if failed:
        parts.append("## Failures\n")
        for one in failed:
            via = f" through {one.relay}" if one.relay else " over QUIC" if one.quic else ""
            parts.append(f"- {one.dialer} dials {one.listener}{via}, {one.test}: {one.detail}\n")
    return "\n".join(parts)


def missing_for_contract() -> str | None:
    lacking = [tool for tool in ("redis-server", "redis-cli") if shutil.which(tool) is None]
    return f"missing {' and '.join(lacking)} (package redis-server)" if lacking else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.matrix", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter silence, no RESULTS.md")
    parser.add_argument("--only", choices=FOREIGN, action="append", help="this foreign peer")
    parser.add_argument("--test", choices=TESTS, action="append", help="this test")
    parser.add_argument("--self-check", action="store_true", help="foreign peers only")
    parser.add_argument("--no-build", action="store_true", help="take interop/bin as it is")
    args = parser.parse_args(arguments)
    began = time.monotonic()
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    wanted = args.only or list(FOREIGN)
    tests = args.test or TESTS
    try:
        there = [peer for peer in wanted if (BIN / f"{peer}-peer").exists()]
        if not args.no_build:
            there = build(wanted)
        incomplete = there != wanted
        versions = {peer: version(peer) for peer in ("pt", *there)}
        pairs = pairs_among(there) if args.self_check else pairs_with_us(there)
        idle = QUICK_IDLE_SECONDS if args.quick or args.self_check else IDLE_SECONDS
        contracts: list[Outcome] = []
        relayed: list[Outcome] = []
        whole = not (args.quick or args.only or args.test or args.self_check)
        with Lan(subnet="11.2.0.0/24", direct=True, congestion="reno") as lan:
            outcomes = run_tests(lan, pairs, tests, idle)
            outcomes += run_tests(lan, pairs, tests, idle, quic=True)
            if not args.self_check and default().name != "aioquic":
                outcomes += run_tests(lan, pairs_with_us(there, OURS[1]), tests, idle, quic=True)
            if not args.self_check and not args.test:
                if reason := missing_for_contract():
                    print(f"interop: transport contract skipped: {reason}", file=sys.stderr)
                    incomplete = True
                else:
                    peers = [peer for peer in CONTRACT_PEERS if peer == "pt" or peer in there]
                    contracts = run_contracts(lan, peers)
        if whole:
            with relays.open_lan() as lan:
                relayed = relays.run_relays(lan, (*OUR_RELAYS, *there), pairs)
    except RigError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    everything = (*outcomes, *contracts, *relayed)
    failed = sum(not outcome.ok for outcome in everything)
    total = len(everything)
    print(f"{total - failed} of {total} green in {time.monotonic() - began:.0f} s")
    if whole:
        RESULTS.write_text(document(outcomes, contracts, relayed, versions))
        print(f"written {RESULTS.relative_to(ROOT)}")
    if incomplete and os.environ.get("CI") == "true":
        print("interop: CI=true and something is missing", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
