"""`pt tcp` and `pt bind` that know nothing but the name and where to enter a network: how long?

    python -m interop.rendezvous [--rounds 20] [--only VARIANT …] [--servers 30]

In the world of `interop.world`, with a fresh exposer, name and state directory a round: `pt tcp`
exposes an sshd, `pt bind` finds it, its first bytes are awaited, and an ssh command runs through.
Writes RESULTS-rendezvous.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from interop.rig import ROOT, build, table
from interop.world import DELAY, Far, World, internet, lan, silent
from pt.lab.netns import unavailable
from pt.rendezvous.name import generate_name
from pt.wire.multiaddr import Multiaddr
from tests.e2e.harness import PtProcess, local_port
from tests.e2e.sshd import SSH_PORT, Ssh

RESULTS: Final = ROOT / "interop" / "RESULTS-rendezvous.md"
FIRST_BYTE: Final = b"SSH-2.0-"
SSH_TIMEOUT: Final = 60.0
RELAYING: Final = 6


@dataclass(frozen=True)
class Variant:
    """What both ends are told besides the name."""

    name: str
    what: str
    flags: Callable[[Far | None], Sequence[str]]
    medium: str
    """The one that has to work; others are broken or not there."""
    on_lan: bool = False


def _bootstrap(far: Far | None) -> list[str]:
    """Two servers that are none of the relays."""
    assert far is not None
    chosen = far.servers.infos[RELAYING : RELAYING + 2]
    return ["--bootstrap", *(str(one.addresses[0].with_peer(one.id.raw)) for one in chosen)]


def _relays(far: Far | None) -> list[str]:
    assert far is not None
    return ["--relay", *far.relays]


_DEAD_DHT: Final = ("--bootstrap", silent(0), silent(1), silent(2))
_DEAD_RELAYS: Final = ("--relay", silent(3), silent(4))

VARIANTS: Final = (
    Variant("dht", "`--bootstrap` alone: the DHT, relays met on it", _bootstrap, "amino"),
    Variant(
        "relays",
        "`--relay --no-public`: two `pt relay`s",
        lambda far: [*_relays(far), "--no-public"],
        "overlay",
    ),
    Variant("lan", "`--lan-only`", lambda _: ["--lan-only"], "lan", on_lan=True),
    Variant(
        "dht-broken",
        "relays work; every server of the DHT is silent, nobody is on the LAN",
        lambda far: [*_DEAD_DHT, *_relays(far)],
        "overlay",
    ),
    Variant(
        "relays-broken",
        "the DHT works; the relays given are silent, nobody is on the LAN",
        lambda far: [*_bootstrap(far), *_DEAD_RELAYS],
        "amino",
    ),
    Variant(
        "lan-alone-works",
        "the LAN works; DHT and relays are silent",
        lambda _: [*_DEAD_DHT, *_DEAD_RELAYS],
        "lan",
        on_lan=True,
    ),
)


@dataclass
class Round:
    """Seconds from the start of a command."""

    published: float
    """`pt tcp` says that the medium took its record."""
    exposed: float
    """`pt tcp` is READY."""
    outside: float | None
    """It says that machines of other networks get through; None where none is led here."""
    found: float
    """`pt bind` has a verified record."""
    bound: float
    """`pt bind` is ready."""
    first_byte: float
    """Of the service, at a client of `pt bind`."""
    ssh: float
    """A whole ssh command, from its own start."""
    again: float
    """First byte, with the state directory of the first time."""
    medium: str
    """Which one found it first."""
    path: str
    name: str
    exposer: str
    binder: str
    """Peer ids."""
    addresses: tuple[Multiaddr, ...]
    """Of the exposer."""


@contextlib.contextmanager
def ended(process: PtProcess) -> Iterator[PtProcess]:
    """Stop the command cleanly, so that rounds leave nothing to each other."""
    try:
        yield process
    finally:
        if process.running():
            process.signal(signal.SIGTERM)
            process.exit_code()


def run_round(world: World, variant: Variant, flags: Sequence[str], number: int) -> Round:
    """One exposer, two binders one after the other, a connection through each."""
    name = generate_name(os.urandom(10))
    home = f"{variant.name}-{number}"
    began = time.time()
    words = ["tcp", "--id", name, "--json", "--drain", "1", "--port", f"22:127.0.0.1:{SSH_PORT}"]
    with ended(world.pt(*words, *flags, host=world.a, home=f"{home}-a")) as exposer:
        published = at(exposer.wait("published", medium=variant.medium, ok=True)) - began
        ready = exposer.wait("ready")
        exposed = at(ready) - began
        started = began

        began = time.time()
        with ended(bind(world, name, home, flags)) as binder:
            bound = at(binder.wait("ready")) - began
            first_byte = until_first_byte(world, binder, began)
            found = binder.wait("found")
            found_at = at(found) - began
            connected = binder.wait("connected")
            ssh = ssh_command(world, local_port(binder))
            me = str(binder.wait("started")["peer_id"])
        began = time.time()
        with ended(bind(world, name, home, flags)) as binder:
            binder.wait("ready")
            again = until_first_byte(world, binder, began)
        outside = None
        if not variant.on_lan:
            said = ready if ready["outside"] else exposer.wait("reachable")
            outside = at(said) - started
    return Round(
        published=published, exposed=exposed, outside=outside, found=found_at, bound=bound,
        first_byte=first_byte, ssh=ssh, again=again, medium=str(found["medium"]),
        path=str(connected["path"]), name=name, exposer=str(ready["peer_id"]),
        binder=me, addresses=addresses_of(ready),
    )  # fmt: skip


def bind(world: World, name: str, home: str, flags: Sequence[str]) -> PtProcess:
    words = ["bind", "--id", name, "--json", "--drain", "1", "--port", "0"]
    return world.pt(*words, *flags, host=world.b, home=f"{home}-b")


def addresses_of(ready: dict[str, object]) -> tuple[Multiaddr, ...]:
    """Without the peer's own id, as its record has them."""
    texts = ready["addresses"]
    assert isinstance(texts, list)
    found = (Multiaddr.parse(text).without_peer() for text in texts)
    return tuple(each for each in found if each is not None)


def at(event: dict[str, object]) -> float:
    moment = event["time"]
    assert isinstance(moment, float | int)
    return moment


def until_first_byte(world: World, binder: PtProcess, began: float) -> float:
    """A client that connects as soon as there is a port, and waits for the service to speak."""
    with world.b.inside():
        client = socket.create_connection(("127.0.0.1", local_port(binder)), SSH_TIMEOUT)
    with client:
        data = client.recv(len(FIRST_BYTE))
        took = time.time() - began
        while len(data) < len(FIRST_BYTE) and (more := client.recv(1)):
            data += more
    if data != FIRST_BYTE:
        raise AssertionError(f"{data!r} is not an sshd\n{world.describe()}")
    return took


def ssh_command(world: World, port: int) -> float:
    began = time.monotonic()
    ssh = Ssh(world, world.ssh_keys, port)
    said = world.b.run(ssh.command("echo through the tunnel"), timeout=SSH_TIMEOUT).stdout
    if said != b"through the tunnel\n":
        raise AssertionError(f"ssh said {said!r}\n{world.describe()}")
    return time.monotonic() - began


# --- many rounds ---------------------------------------------------------------------------------


@dataclass
class Outcome:
    """All rounds of a variant."""

    variant: Variant
    rounds: list[Round] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def quantiles(self, part: str) -> str:
        """Median and p95 of a figure."""
        values = sorted(getattr(one, part) for one in self.rounds if getattr(one, part) is not None)
        if not values:
            return "none"
        p95 = values[min(len(values) - 1, int(len(values) * 0.95))]
        return f"{statistics.median(values):.2f} / {p95:.2f}"

    def kinds(self, part: str) -> str:
        """How often each word came."""
        words = [getattr(one, part) for one in self.rounds]
        return ", ".join(f"{word} {words.count(word)}" for word in sorted(set(words)))


def run_variant(world: World, variant: Variant, flags: Sequence[str], rounds: int) -> Outcome:
    outcome = Outcome(variant)
    for number in range(rounds):
        try:
            outcome.rounds.append(run_round(world, variant, flags, number))
            print(f"{variant.name} {number}: {outcome.rounds[-1]}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError, RuntimeError) as error:
            outcome.failures.append(str(error))
            print(f"{variant.name} {number} FAILED: {error}", flush=True)
        world.processes[:] = [one for one in world.processes if one.running()]
    return outcome


def run_all(variants: Iterable[Variant], rounds: int, servers: int, tmp: Path) -> list[Outcome]:
    variants = list(variants)
    outcomes = []
    if far := [one for one in variants if not one.on_lan]:
        with internet(tmp, servers=servers, relaying=RELAYING) as net:
            outcomes += [run_variant(net.world, one, one.flags(net.far), rounds) for one in far]
    near = [one for one in variants if one.on_lan]
    for one in near:
        (tmp / one.name).mkdir()
        with lan(tmp / one.name) as world:
            outcomes.append(run_variant(world, one, one.flags(None), rounds))
    return sorted(outcomes, key=lambda one: variants.index(one.variant))


HEAD: Final = """\
# Finding each other

{date}: `{command}`, commit {commit}. {cores} shared cores (load {load:.1f}
at the end, this run's own part about 1), Linux {kernel}, Python {python}.

{servers} servers of go-libp2p-kad-dht in as many /16s, {relaying} of which relay with libp2p's
limits, two nodes of kubo that do, and two `pt relay`s; {delay:g} ms one way between each of the two
hosts and its NAT, nothing beyond. The LAN rows are two hosts on a switch. Each round has a new name
and new state directories on both sides; `again` is `pt bind` once more, with what it remembers.
Times are seconds from the start of the command, Python's start and the scrypt of the name included:
median / p95.

"""
TITLES: Final = (
    "variant", "`pt tcp`: published", "READY", "for other networks", "`pt bind`: ready",
    "first byte", "again", "ssh command", "found by", "path", "green",
)  # fmt: skip


def report(outcomes: Sequence[Outcome], command: str, servers: int) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    head = HEAD.format(
        date=dt.datetime.now(dt.UTC).date(), command=command, commit=commit, cores=os.cpu_count(),
        load=os.getloadavg()[2],
        kernel=platform.release(), python=platform.python_version(), servers=servers,
        relaying=RELAYING, delay=DELAY * 1000,
    )  # fmt: skip
    parts = ("published", "exposed", "outside", "bound", "first_byte", "again", "ssh")
    rows = [
        [
            one.variant.name,
            *(one.quantiles(part) for part in parts),
            one.kinds("medium"),
            one.kinds("path"),
            f"{len(one.rounds)} of {len(one.rounds) + len(one.failures)}",
        ]
        for one in outcomes
    ]
    notes = [f"- {one.variant.name}: {one.variant.what}." for one in outcomes]
    return head + table(TITLES, rows) + "\n" + "\n".join(notes) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.rendezvous", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--servers", type=int, default=30)
    parser.add_argument("--only", choices=[one.name for one in VARIANTS], action="append")
    parser.add_argument("--no-write", action="store_true", help="leave the results file alone")
    args = parser.parse_args(arguments)
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    build(["gokad", "kubo"])
    chosen = [one for one in VARIANTS if args.only is None or one.name in args.only]
    with tempfile.TemporaryDirectory() as tmp:
        outcomes = run_all(chosen, args.rounds, args.servers, Path(tmp))
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    text = report(outcomes, f"python -m interop.rendezvous {given}".strip(), args.servers)
    print(text)
    if not args.no_write:
        RESULTS.write_text(text)
    return 1 if any(one.failures for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
