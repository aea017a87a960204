"""Hole punching with libp2p peers (DCUtR), in both roles, over TCP and over QUIC.

    python -m interop.dcutr --rounds 20            everything; writes interop/RESULTS-dcutr.md
    python -m interop.dcutr --quick                one round a row, through `pt relay` alone
    python -m interop.dcutr --only rust            this foreign peer only; nothing is written

Two hosts behind NATs with endpoint-independent mapping and address- and port-dependent filtering, a
relay in the open, in a laboratory without a way out.  The listener has a reservation at the relay;
the dialer connects through it, and both punch.  Each round has new processes, identities and ports.
A round is good when the dialer has exchanged a ping over a connection straight to the NAT of the
listener.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.rig import BIN, RELAY_PORT, ROOT, RigError, Server, build, table, version
from pt.lab.lab import Lab
from pt.lab.machine import Machine
from pt.lab.netns import unavailable

PUNCHERS: Final = ("go", "rust")
"""js-libp2p punches over TCP alone, from ports that nobody has seen: it cannot share its own."""
TRANSPORTS: Final = ("tcp", "quic")
NAT: Final = "eim-apdf"
LINK: Final = "delay=5"
OUTSIDE: Final = "11.100.0.1"
"""The listener's NAT, as the internet sees it."""
GOOD: Final = 0.95
START: Final = 30.0
PATIENCE: Final = 30.0
"""Seconds that a dialer has to become direct: three attempts of go-libp2p or rust-libp2p."""
RESULTS: Final = ROOT / "interop" / "RESULTS-dcutr.md"

HEAD: Final = """\
# Hole punching with libp2p peers (DCUtR)

{date}, `{command}`; two cores of an AMD EPYC, shared (load {load:.1f}), Linux {kernel},
Python {python}, go-libp2p {go}, rust-libp2p {rust}.

Two hosts behind NATs (`{nat}`: endpoint-independent mapping, filtering by address and port) of the
laboratory's user-space engine, links with {link} (20 ms from one NAT to the other and back), a
relay in the open. Every round has new processes, identities and ports, and is good when the dialer
has exchanged a ping over a connection straight to the listener's NAT. Seconds are from the relayed
connection to the direct one, as the dialer sees them. Only what the peers learn from the relay's
identify is known of their outer addresses.

js-libp2p is not among them: it punches over TCP alone, from a port that nobody has seen.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Who is dialed, who dials, over which transport, through whose relay."""

    listener: str
    dialer: str
    transport: str
    relay: str


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one went: seconds from the relayed connection to the direct one, or why there is none."""

    row: Row
    seconds: float | None
    detail: str = ""


def argv(peer: str) -> list[str]:
    if peer == "pt":
        return [sys.executable, "-m", "interop.punchpeer"]
    return [str(BIN / f"{peer}-peer"), "punch"]


def rows(foreign: Sequence[str], relays: Sequence[str]) -> list[Row]:
    pairs = [("pt", "pt")]
    for peer in foreign:
        pairs += [("pt", peer), (peer, "pt")]
    return [
        Row(listener=listener, dialer=dialer, transport=transport, relay=relay)
        for relay in relays
        for transport in TRANSPORTS
        for listener, dialer in pairs
    ]


class PunchRelay(Server):
    """A relay on TCP and QUIC: the command `pt relay`, or go-libp2p's."""

    def __init__(self, peer: str, host: Machine, directory: Path) -> None:
        words = [
            str(BIN / "go-peer"), "relay", "--ip", host.ip, "--port", str(RELAY_PORT), "--quic",
        ]  # fmt: skip
        if peer == "pt":
            words = [
                sys.executable, "-m", "pt", "relay", "--json", "--home", str(directory / "relay"),
                "--listen", f"/ip4/{host.ip}/tcp/{RELAY_PORT}",
            ]  # fmt: skip
        super().__init__(peer, host, directory / "relay.log", words)
        self._ip = host.ip
        self._peer_id = self._served()

    def _served(self) -> str:
        if self.peer != "pt":
            return self.address().rpartition("/")[2]
        while (said := self.fact())["event"] != "relay_ready":
            pass
        addresses = said["addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0]).rpartition("/")[2]

    def on(self, transport: str) -> str:
        where = f"tcp/{RELAY_PORT}" if transport == "tcp" else f"udp/{RELAY_PORT}/quic-v1"
        return f"/ip4/{self._ip}/{where}/p2p/{self._peer_id}"


def play(row: Row, relay: PunchRelay, lab: Lab, log: Path) -> Round:
    """One round.

    Raises: RigError when the listener does not come up.
    """
    words = ["--relay", relay.on(row.transport), *(["--quic"] if row.transport == "quic" else [])]
    listener = Server(row.listener, lab["a"], log, [*argv(row.listener), *words])
    try:
        dialer = lab["b"].popen(
            [*argv(row.dialer), *words, "--to", listener.address(), "--timeout", f"{PATIENCE:g}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            said, complaint = dialer.communicate(timeout=START + PATIENCE)
        except subprocess.TimeoutExpired:
            dialer.kill()
            said, complaint = dialer.communicate()
    finally:
        listener.stop()
    complaints = f"{complaint.decode(errors='replace')[-2000:]}\n{listener.tail()}"
    return judged(row, said, dialer.returncode, complaints)


def judged(row: Row, said: bytes, code: int, complaints: str = "") -> Round:
    """What the dialer's words mean."""
    facts = [json.loads(line) for line in said.splitlines()]
    direct = [fact for fact in facts if "direct" in fact]
    if code or not direct:
        return Round(row=row, seconds=None, detail=f"exit {code}, {facts}\n{complaints}")
    if not direct[0]["direct"].startswith(f"/ip4/{OUTSIDE}/"):
        return Round(row=row, seconds=None, detail=f"{direct[0]} is not the listener's NAT")
    return Round(row=row, seconds=float(direct[0]["seconds"]))


def run(wanted: Sequence[Row], rounds: int) -> Iterator[Round]:
    """Play them all.

    Raises: RigError.
    """
    with tempfile.TemporaryDirectory() as directory, Lab(a=NAT, b=NAT, link=LINK) as lab:
        for kind in dict.fromkeys(row.relay for row in wanted):
            home = Path(directory) / kind
            home.mkdir()
            relay = PunchRelay(kind, lab["s1"], home)
            for row in (row for row in wanted if row.relay == kind):
                for number in range(rounds):
                    name = f"{row.listener}-{row.dialer}-{row.transport}-{number}.log"
                    played = play(row, relay, lab, home / name)
                    say(played)
                    yield played
            relay.stop()


def say(played: Round) -> None:
    row = played.row
    mark = "FAIL" if played.seconds is None else "ok  "
    took = played.detail if played.seconds is None else f"direct after {played.seconds:.3f} s"
    print(
        f"{mark} {row.dialer} dials {row.listener} on {row.transport} via {row.relay}  {took}",
        flush=True,
    )


def good(rounds: Sequence[Round]) -> bool:
    return sum(one.seconds is not None for one in rounds) >= GOOD * len(rounds)


def by_row(rounds: Sequence[Round]) -> dict[Row, list[Round]]:
    found: dict[Row, list[Round]] = {}
    for one in rounds:
        found.setdefault(one.row, []).append(one)
    return found


def section(rounds: Sequence[Round]) -> str:
    """The table of the results."""

    def line(row: Row, played: Sequence[Round]) -> list[str]:
        took = sorted(one.seconds for one in played if one.seconds is not None)
        times = [f"{statistics.median(took):.2f}", f"{took[-1]:.2f}"] if took else ["", ""]
        count = f"{len(took)} of {len(played)}{'' if good(played) else ' **FAIL**'}"
        return [row.listener, row.dialer, row.transport, row.relay, count, *times]

    return table(
        ["listener", "dialer", "transport", "relay", "direct", "median s", "longest s"],
        (line(row, played) for row, played in by_row(rounds).items()),
    )


def document(rounds: Sequence[Round], command: str) -> str:
    release = os.uname().release.split(".")
    return HEAD.format(
        date=dt.datetime.now(dt.UTC).date(),
        command=command,
        load=os.getloadavg()[2],
        kernel=".".join(release[:2]),
        python=sys.version.split()[0],
        go=version("go")[1],
        rust=version("rust")[1],
        nat=NAT,
        link=LINK,
    ) + section(rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.dcutr", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one round a row, nothing is written")
    parser.add_argument("--relay", choices=("pt", "go"), action="append", help="this relay only")
    parser.add_argument("--only", choices=PUNCHERS, action="append", help="this foreign peer only")
    parser.add_argument("--no-build", action="store_true", help="take interop/bin as it is")
    args = parser.parse_args(arguments)
    began = time.monotonic()
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    foreign = tuple(args.only or PUNCHERS)
    relays = args.relay or (["pt"] if args.quick else ["pt", "go"])
    try:
        if not args.no_build:
            build(sorted({*foreign, *(relay for relay in relays if relay != "pt")}))
        rounds = list(run(rows(foreign, relays), 1 if args.quick else args.rounds))
    except RigError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    print(section(rounds))
    print(f"{len(rounds)} rounds in {time.monotonic() - began:.0f} s")
    if not (args.quick or args.only or args.relay):
        RESULTS.write_text(document(rounds, f"python -m interop.dcutr --rounds {args.rounds}"))
        print(f"written {RESULTS.relative_to(ROOT)}")
    return 0 if all(map(good, by_row(rounds).values())) else 1


if __name__ == "__main__":
    sys.exit(main())
