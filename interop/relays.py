"""Relays of every make, ours among them, with peers of every make at both ends of their circuits.

    python -m interop.relays                 every relay, we with every foreign peer in both roles
    python -m interop.relays --quick         without the passes that move much or wait long
    python -m interop.relays --relay go      this relay only; --only rust: this foreign peer only
    python -m interop.relays --self-check    foreign relays and peers among themselves

Three hosts on a switch of a laboratory without uplink: the relay, the listeners, the dialers.
Listeners and dialers cannot exchange a packet, and listeners have no socket that listens: whatever
arrives came through the relay.  Our relay is the command `pt relay`.  `python -m interop.matrix`
runs all of it and writes it into RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from interop.rig import (
    BIN,
    FOREIGN,
    OUR_RELAYS,
    Dialer,
    Listener,
    Outcome,
    Pair,
    Relay,
    RigError,
    build,
    pairs_among,
    pairs_with_us,
    say,
    table,
)
from pt.lab.netns import Lan, unavailable

LIMITED_TESTS: Final = ("ping", "identify", "echosmall")
"""Over libp2p's usual limits: 128 KiB and 2 minutes."""
UNLIMITED: Final = "echo 4 MiB"
UNLIMITED_BYTES: Final = 4 << 20
CUTOFF_BYTES: Final = 1 << 20
"""Several times the limit of any relay here."""
CUTOFF_AT: Final = {
    "pt": (112 << 10, 128 << 10), "pt/ws": (112 << 10, 128 << 10), "go": (112 << 10, 128 << 10),
    "rust": (48 << 10, 68 << 10), "js": (48 << 10, 68 << 10),
}  # fmt: skip
"""Bytes of one direction after which a circuit ends: at 128 KiB, less what else it carries.

rust-libp2p and js-libp2p count both directions together.
"""
WITHOUT_WEBSOCKET: Final = frozenset({"rust"})
KNOWN: Final = frozenset({("rust", "js", "identify")})
"""Left out: js-libp2p fails over what rust-libp2p says of a dialer that came through a relay."""
SUBNET: Final = "11.3.0.0/24"
"""Public by the book of go-libp2p and js-libp2p, which do not let relays be told otherwise."""

SECTION: Final = """\
## Relays

Circuit relay v2 on three hosts; listener and dialer cannot exchange a packet, and the listener has
nothing but its reservation at the relay. Our relay is `pt relay`; pt/ws is the same on WebSocket,
which the rust peer does not speak.
"""
LEGEND: Final = """\
- ping, identify: as above. echosmall: 32 KiB there and back, SHA-256 equal, within the usual limits
  of a circuit (128 KiB, 2 minutes).
- echo 4 MiB: through a relay without limits, whose STATUS carries none; but rust cannot do without
  and says 4,294,967,295 s and 0 bytes, which it does not apply.
- cutoff: 4 KiB at a time there and back until the relay cuts the circuit; below, what the dialer
  saw. pt and go count 128 KiB in each direction, rust and js in both together.
"""


def run_relays(
    lan: Lan, relays: Sequence[str], pairs: Sequence[Pair], *, quick: bool = False
) -> list[Outcome]:
    """Run every test of every pair through every relay.

    Raises: RigError when a relay or a listener does not come up.
    """
    hub, far, near = lan.hosts
    lan.cut(far, near)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory:
        for relay in relays:
            for unlimited in (False, True):
                if unlimited and quick:
                    continue
                able = [
                    pair for pair in pairs if relay != "pt/ws" or WITHOUT_WEBSOCKET.isdisjoint(pair)
                ]
                logs = Path(directory) / f"{relay}-{'unlimited' if unlimited else 'limited'}"
                logs.mkdir(parents=True)
                server = Relay(relay, hub, logs / "relay.log", unlimited=unlimited)
                address = server.address()
                listeners = {
                    peer: Listener(peer, far, logs / f"{peer}.log", address)
                    for peer in dict.fromkeys(listener for listener, _ in able)
                }
                to = {peer: listener.address() for peer, listener in listeners.items()}
                for names in _batches(unlimited=unlimited, quick=quick):
                    for listener, dialer in able:
                        wanted = [name for name in names if (listener, dialer, name) not in KNOWN]
                        running = [
                            Dialer(
                                dialer, near, listeners[listener], to[listener], *_test(name),
                                relay=server,
                            )
                            for name in wanted
                        ]  # fmt: skip
                        for name, dialing in zip(wanted, running, strict=True):
                            outcomes.append(judged(replace(dialing.outcome(), test=name)))
                            say(outcomes[-1])
                for listener_process in listeners.values():
                    listener_process.stop()
                server.stop()
    return outcomes


def _batches(*, unlimited: bool, quick: bool) -> list[tuple[str, ...]]:
    """Tests that a pair runs at the same time."""
    if unlimited:
        return [(UNLIMITED,)]
    return [LIMITED_TESTS] if quick else [LIMITED_TESTS, ("cutoff",)]


def _test(name: str) -> tuple[str, list[str]]:
    """What a dialer is asked for a column of ours."""
    if name == UNLIMITED:
        return "echo64", ["--bytes", str(UNLIMITED_BYTES)]
    return name, ["--bytes", str(CUTOFF_BYTES)] if name == "cutoff" else []


def judged(outcome: Outcome) -> Outcome:
    """A circuit that ends too early or too late is a failure."""
    if outcome.test != "cutoff" or not outcome.ok:
        return outcome
    low, high = CUTOFF_AT[outcome.relay]
    carried = int(outcome.detail.split()[0])
    if low <= carried <= high:
        return outcome
    return replace(outcome, ok=False, detail=f"{outcome.detail}; not within {low} to {high}")


def section(outcomes: Sequence[Outcome]) -> str:
    """The part of RESULTS.md."""
    tests = list(dict.fromkeys(outcome.test for outcome in outcomes))
    rows: dict[tuple[str, str, str], dict[str, Outcome]] = {}
    for one in outcomes:
        rows.setdefault((one.relay, one.listener, one.dialer), {})[one.test] = one

    def mark(row: dict[str, Outcome], test: str) -> str:
        return "" if test not in row else "ok" if row[test].ok else "**FAIL**"

    return "\n".join(
        [
            SECTION,
            table(
                ["relay", "listener", "dialer", *tests],
                ([*ends, *(mark(row, test) for test in tests)] for ends, row in rows.items()),
            ),
            LEGEND,
            table(
                ["relay", "listener", "dialer", "cutoff, as the dialer sees it"],
                (
                    [*ends, row["cutoff"].detail]
                    for ends, row in rows.items()
                    if "cutoff" in row and row["cutoff"].ok
                ),
            ),
        ]
    )


def open_lan() -> Lan:
    """The laboratory of `run_relays`."""
    return Lan(names=("relay", "far", "near"), subnet=SUBNET, congestion="reno")


def present(wanted: Iterable[str]) -> list[str]:
    return [peer for peer in wanted if (BIN / f"{peer}-peer").exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.relays", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="neither much nor long")
    parser.add_argument(
        "--relay", choices=(*OUR_RELAYS, *FOREIGN), action="append", help="this relay"
    )
    parser.add_argument("--only", choices=FOREIGN, action="append", help="this foreign peer")
    parser.add_argument("--self-check", action="store_true", help="foreign relays and peers only")
    parser.add_argument("--no-build", action="store_true", help="take interop/bin as it is")
    args = parser.parse_args(arguments)
    began = time.monotonic()
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    try:
        there = present(FOREIGN) if args.no_build else build(FOREIGN)
        peers = [peer for peer in args.only or FOREIGN if peer in there]
        pairs = pairs_among(peers) if args.self_check else pairs_with_us(peers)
        ours = () if args.self_check else OUR_RELAYS
        relays = args.relay or [*ours, *there]
        with open_lan() as lan:
            outcomes = run_relays(lan, relays, pairs, quick=args.quick)
    except RigError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    failed = sum(not outcome.ok for outcome in outcomes)
    total = len(outcomes)
    print(f"{total - failed} of {total} green in {time.monotonic() - began:.0f} s")
    if len(there) < len(FOREIGN) and os.environ.get("CI") == "true":
        print("interop: CI=true and something is missing", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
