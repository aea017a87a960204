"""Hole punching with libp2p peers (DCUtR), in both roles, over TCP and over QUIC.

    python -m interop.dcutr --rounds 20            everything; writes interop/RESULTS-dcutr.md
    python -m interop.dcutr --journal FILE         the same; goes on where a run with it has stopped
    python -m interop.dcutr --quick                one round a row, through `pt relay` alone
    python -m interop.dcutr --only rust            this foreign peer only; nothing is written

Two hosts behind NATs with endpoint-independent mapping and address- and port-dependent filtering, a
relay in the open, in a laboratory without a way out.  The listener has a reservation at the relay;
the dialer connects through it, and both punch.  Each round has new processes, identities and ports.
A round is good when the dialer has exchanged a ping over a connection straight to the side of the
listener.  js-libp2p, which makes no holes by itself, has rows of its own with easier NATs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.rig import BIN, RELAY_PORT, ROOT, RigError, Server, build, table, version
from pt.lab.lab import Lab, LabError
from pt.lab.machine import Machine
from pt.lab.netns import unavailable

PUNCHERS: Final = ("go", "rust", "js")
TRANSPORTS: Final = ("tcp", "quic")
NAT: Final = "eim-apdf"
OPEN_NAT: Final = "eim-eif"
PUBLIC: Final = "public"
LINK: Final = "delay=5"
OUTSIDE: Final = "11.100.0."
"""Where the internet sees the listener's side."""
GOOD: Final = 0.95
START: Final = 30.0
PATIENCE: Final = 30.0
"""Seconds that a dialer has to become direct: three attempts of go-libp2p or rust-libp2p."""
RESULTS: Final = ROOT / "interop" / "RESULTS-dcutr.md"

HEAD: Final = """\
# Hole punching with libp2p peers (DCUtR)

{date}, `{command}`; two cores of an AMD EPYC, shared (load {load:.1f}), Linux {kernel},
Python {python}, go-libp2p {go}, rust-libp2p {rust}, js-libp2p {js}.

Two hosts behind NATs of the laboratory's user-space engine, links with {link} (20 ms from one NAT
to the other and back), a relay in the open. `{nat}` is endpoint-independent mapping, filtering by
address and port: both sides must punch. `{open_nat}` lets everybody in once its host has sent
anything; `{public}` is no NAT. Every round has new processes, identities and ports, and is good
when the dialer has exchanged a ping over a connection straight to the listener's side. Seconds are
from the relayed connection to the direct one, as the dialer sees them. Only what the peers learn
from the relay's identify is known of their outer addresses.

## js-libp2p

By itself, js-libp2p makes no holes; it dials. It tells a peer only addresses that AutoNAT has
confirmed, which it does for none behind a NAT, and TCP addresses that others observe it leaves out
altogether: Node.js cannot dial from a port on which it listens (EADDRINUSE;
[js-libp2p#2620](https://github.com/libp2p/js-libp2p/issues/2620)). Behind a NAT its CONNECT names
nothing but relays. It gets through where the other side lets it in: in the open, or behind an open
NAT. Where a CONNECT names no public address, go-libp2p and rust-libp2p give the attempt up; pt goes
on, for that case.

`js told` is js-libp2p with two settings that an application can make: it confirms the observed
address itself (`confirmObservedAddr`), and over TCP dials from one port (`localPort` among the TCP
transport's `dialOpts`), on which it does not listen. So it punches through both NATs.

- As the listener it should answer in the handshakes of the TCP connection. It asks for that
  (`initiator: false`), but its dial queue does not pass that on: both sides begin, and the first
  attempt fails. pt takes the other role in the next one. Over QUIC it begins, too, which does no
  harm: pt's dial has opened the NAT for it.
- As the dialer it takes 5 s longer: it tells the confirmed address as one where it listens, and
  that is dialed first.

## Rounds

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Who is dialed, who dials, over which transport, through whose relay, behind which NATs."""

    listener: str
    dialer: str
    transport: str
    relay: str
    listener_nat: str = NAT
    dialer_nat: str = NAT

    @property
    def told(self) -> bool:
        """Whether js-libp2p is told where it is seen: there is a hole to be made for it."""
        return "js" in (self.listener, self.dialer) and self.listener_nat == self.dialer_nat

    def name(self, peer: str) -> str:
        return "js told" if peer == "js" and self.told else peer

    def __str__(self) -> str:
        who = f"{self.name(self.dialer)} dials {self.name(self.listener)}"
        where = f"{self.listener_nat} from {self.dialer_nat}"
        return f"{who} on {self.transport} via {self.relay}, {where}"


@dataclass(frozen=True, kw_only=True)
class Round:
    """How one went: seconds from the relayed connection to the direct one, or why there is none."""

    row: Row
    seconds: float | None
    detail: str = ""


def argv(peer: str, row: Row) -> list[str]:
    """The command of one side."""
    if peer == "pt":
        return [sys.executable, "-m", "interop.punchpeer"]
    words = [str(BIN / f"{peer}-peer"), "punch"]
    if peer == "js":
        nat = row.listener_nat if row.listener == "js" else row.dialer_nat
        words += ["--ip", "0.0.0.0"]
        words += ["--tell"] if row.told else ["--open"] if nat == PUBLIC else []
    return words


def rows(foreign: Sequence[str], relays: Sequence[str]) -> list[Row]:
    """All of them: one with js-libp2p as it is does not depend on the relay."""
    pairs = [("pt", "pt")]
    for peer in foreign:
        pairs += [("pt", peer), (peer, "pt")]
    found = [
        Row(listener=listener, dialer=dialer, transport=transport, relay=relay)
        for relay in relays
        for transport in TRANSPORTS
        for listener, dialer in pairs
    ]
    if "js" in foreign:
        found += easier(relays[0])
    return found


def easier(relay: str) -> list[Row]:
    """Rows with js-libp2p as it is: one of both can be reached."""
    sides = [
        ("pt", "js", OPEN_NAT, NAT),
        ("js", "pt", NAT, OPEN_NAT),
        ("pt", "js", PUBLIC, NAT),
        ("js", "pt", NAT, PUBLIC),
        ("pt", "js", NAT, PUBLIC),
        ("js", "pt", PUBLIC, NAT),
    ]
    return [
        Row(
            listener=listener,
            dialer=dialer,
            transport=transport,
            relay=relay,
            listener_nat=listener_nat,
            dialer_nat=dialer_nat,
        )
        for transport in TRANSPORTS
        for listener, dialer, listener_nat, dialer_nat in sides
    ]


class PunchRelay(Server):
    """A relay on TCP and QUIC: the command `pt relay`, or go-libp2p's."""

    def __init__(self, peer: str, host: Machine, directory: Path) -> None:
        words = [
            str(BIN / "go-peer"), "relay", "--ip", host.ip, "--port", str(RELAY_PORT), "--quic",
        ]  # fmt: skip
        if peer == "pt":
            # Every round is another peer at the same host, and of some the relay hears no end.
            quotas = directory / "relay.toml"
            quotas.write_text("[strangers]\nper-host = 128\nper-network = 128\n")
            words = [
                sys.executable, "-m", "pt", "relay", "--json", "--home", str(directory / "relay"),
                "--listen", f"/ip4/{host.ip}/tcp/{RELAY_PORT}", "--config", str(quotas),
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
    limit = ["--timeout", f"{PATIENCE:g}"]
    listener = Server(row.listener, lab["a"], log, [*argv(row.listener, row), *words])
    try:
        dialer = lab["b"].popen(
            [*argv(row.dialer, row), *words, "--to", listener.address(), *limit],
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
    if not direct[0]["direct"].startswith(f"/ip4/{OUTSIDE}"):
        return Round(row=row, seconds=None, detail=f"{direct[0]} is not the listener's side")
    return Round(row=row, seconds=float(direct[0]["seconds"]))


def run(wanted: Sequence[Row], rounds: int, done: Counter[Row]) -> Iterator[Round]:
    """Play those that are not done, each row in a laboratory of its own."""
    for row in wanted:
        if done[row] >= rounds:
            continue
        nats = {"a": row.listener_nat, "b": row.dialer_nat}
        with tempfile.TemporaryDirectory() as directory, Lab(**nats, link=LINK) as lab:
            relay = PunchRelay(row.relay, lab["s1"], Path(directory))
            for number in range(done[row], rounds):
                try:
                    played = play(row, relay, lab, Path(directory) / f"{number}.log")
                except RigError as error:  # a listener that does not come up is no success
                    played = Round(row=row, seconds=None, detail=str(error))
                say(played)
                yield played


class Journal:
    """What was played, a line a round, for a run that goes on after an interruption."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rounds: Final[list[Round]] = []
        if path is not None and path.exists():
            text = path.read_text()
            whole = text[: text.rfind("\n") + 1]  # the last line may have been cut off
            path.write_text(whole)
            self.rounds += map(self._read, whole.splitlines())

    @staticmethod
    def _read(line: str) -> Round:
        facts = json.loads(line)
        return Round(**{**facts, "row": Row(**facts["row"])})

    def add(self, played: Round) -> None:
        self.rounds.append(played)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(played)) + "\n")


def say(played: Round) -> None:
    mark = "FAIL" if played.seconds is None else "ok  "
    took = played.detail if played.seconds is None else f"direct after {played.seconds:.3f} s"
    print(f"{mark} {played.row}: {took}", flush=True)


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
        peers = [row.name(row.listener), row.name(row.dialer)]
        nats = [row.listener_nat, row.dialer_nat]
        return [*peers, row.transport, row.relay, *nats, count, *times]

    return table(
        [
            "listener",
            "dialer",
            "transport",
            "relay",
            "listener's NAT",
            "dialer's NAT",
            "direct",
            "median s",
            "longest s",
        ],
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
        js=version("js")[1],
        nat=NAT,
        open_nat=OPEN_NAT,
        public=PUBLIC,
        link=LINK,
    ) + section(rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.dcutr", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one round a row, nothing is written")
    parser.add_argument(
        "--journal", type=Path, help="keep each round there, and do not play it again"
    )
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
        journal = Journal(args.journal)
        wanted = rows(foreign, relays)
        before = len(journal.rounds)
        done = Counter(one.row for one in journal.rounds)
        for played in run(wanted, 1 if args.quick else args.rounds, done):
            journal.add(played)
    except (RigError, LabError) as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    rounds = [one for one in journal.rounds if one.row in wanted]
    print(section(rounds))
    print(f"{len(journal.rounds) - before} rounds in {time.monotonic() - began:.0f} s")
    if not (args.quick or args.only or args.relay):
        RESULTS.write_text(document(rounds, f"python -m interop.dcutr --rounds {args.rounds}"))
        print(f"written {RESULTS.relative_to(ROOT)}")
    return 0 if all(map(good, by_row(rounds).values())) else 1


if __name__ == "__main__":
    sys.exit(main())
