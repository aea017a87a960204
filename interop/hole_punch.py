"""libp2p's hole punch interop contract, between us and go-libp2p.

    python -m interop.hole_punch            every pair; writes interop/RESULTS-hole-punch.md

The network is the contract's: a relay in the open, and two hosts, each behind a router that
masquerades and drops what nobody asked for; but with addresses that are public by the book of
libp2p.  The relay is `pt relay`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from interop.rig import BIN, ROOT, Outcome, Redis, RigError, build, read_latencies, say, table
from pt.lab.nat import Internet, Site
from pt.lab.netns import unavailable

KEY: Final = "5ca1ab1e"
TRANSPORTS: Final = ("tcp", "quic-v1")
PATIENCE: Final = 90.0
RESULTS: Final = ROOT / "interop" / "RESULTS-hole-punch.md"
HEAD: Final = """\
# libp2p's hole punch interop contract

{date}, `python -m interop.hole_punch`; two cores, shared (load {load:.1f}).

One process a part, configured by its environment, with Redis between them; Linux routers that
masquerade and drop what nobody asked for; the relay is `pt relay`. Milliseconds are the dialer's:
from its dial through the relay to the first ping over the direct connection, and that ping.

"""


def argv(peer: str) -> list[str]:
    if peer == "pt":
        return [sys.executable, "-m", "interop.hole_punch_test"]
    return [str(BIN / f"{peer}-peer"), "hole-punch-test"]


def environment(part: str, transport: str, redis: str, *, modern: bool = True) -> dict[str, str]:
    """What the suite sets for the relay, the listener or the dialer."""
    if not modern:
        mode = "dial" if part == "dialer" else "listen"
        short = transport.removesuffix("-v1")
        return {**os.environ, "MODE": mode, "TRANSPORT": short, "REDIS_ADDR": redis}
    found = {"REDIS_ADDR": redis, "TEST_KEY": KEY, "TRANSPORT": transport, "DEBUG": "false"}
    if transport == "tcp":
        found |= {"SECURE_CHANNEL": "noise", "MUXER": "yamux"}
    if part == "relay":
        found["IS_RELAY"] = "true"
    else:
        found["IS_DIALER"] = "true" if part == "dialer" else "false"
    return {**os.environ, **found}


class SuiteRedis(Redis):
    """What the suite does there beside us."""

    def wait_for(self, key: str) -> str:
        """Wait until a key is set.

        Raises: RigError.
        """
        deadline = time.monotonic() + PATIENCE
        while not (found := self._client("get", key).strip()):
            if time.monotonic() > deadline:
                raise RigError(f"nobody has set {key}")
            time.sleep(0.05)  # a process of others: there is no handle to wait on
        return found

    def push(self, key: str, *values: str) -> None:
        self._client("rpush", key, *values)


def play(
    net: Internet, store: SuiteRedis, pair: tuple[str, str], transport: str, *, modern: bool = True
) -> Outcome:
    """One test of the suite; the listener comes first."""
    listener, dialer = pair
    store.clear()
    began = time.monotonic()
    where = {"RELAY_IP": net["relay"].ip}
    relay = start(net, "relay", "pt", {**environment("relay", transport, store.address), **where})
    if not modern:
        address = store.wait_for(f"{KEY}_relay_multiaddr")
        name = "RELAY_TCP_ADDRESS" if transport == "tcp" else "RELAY_QUIC_ADDRESS"
        store.push(name, address, address)  # the older suite's relay pushes it once for each
    parts = {
        part: start(net, part, peer, environment(part, transport, store.address, modern=modern))
        for part, peer in (("listener", listener), ("dialer", dialer))
    }
    try:
        said, complaint = parts["dialer"].communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        parts["dialer"].kill()
        said, complaint = parts["dialer"].communicate()
    others = []
    for process in (parts["listener"], relay):
        process.terminate()
        others.append(process.communicate()[1].decode(errors="replace")[-1000:])
    try:
        detail = read(said.decode(), modern=modern)
        ok = parts["dialer"].returncode == 0
    except (ValueError, KeyError) as error:
        ok, detail = False, f"{said!r}: {error}"
    if not ok:
        detail = "\n".join((detail, complaint.decode(errors="replace")[-1000:], *others))
    return Outcome(
        listener=listener,
        dialer=dialer,
        test=f"hole punch, {transport}{'' if modern else ', older spelling'}",
        ok=ok,
        detail=detail.strip(),
        seconds=time.monotonic() - began,
    )


def start(net: Internet, part: str, peer: str, setting: dict[str, str]) -> subprocess.Popen[bytes]:
    return net[part].popen(
        argv(peer), env=setting, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def read(said: str, *, modern: bool) -> str:
    """What the dialer measured.

    Raises: ValueError, KeyError.
    """
    if not modern:
        return f"ping {int(json.loads(said)['rtt_to_holepunched_peer_millis'])} ms"
    total, ping = read_latencies(said, modern=True)
    if not total > ping > 0:
        raise ValueError("a ping alone takes no longer than everything")
    return f"direct + 1 RTT {total:.1f} ms, ping {ping:.2f} ms"


def run(peers: Sequence[str]) -> Iterator[Outcome]:
    """Every pair over every transport; the older spelling between two of us.

    Raises: RigError.
    """
    sites = {"listener": Site(), "dialer": Site()}
    pairs = [(listener, dialer) for listener in peers for dialer in peers]
    with tempfile.TemporaryDirectory() as directory, Internet(["relay", "redis"], sites) as net:
        store = SuiteRedis(net["redis"], Path(directory))
        store.wait()
        for transport in TRANSPORTS:
            for pair, modern in (*((pair, True) for pair in pairs), (("pt", "pt"), False)):
                outcome = play(net, store, pair, transport, modern=modern)
                say(outcome)
                yield outcome


def document(outcomes: Sequence[Outcome]) -> str:
    head = HEAD.format(date=dt.datetime.now(dt.UTC).date(), load=os.getloadavg()[2])
    rows = (
        [one.listener, one.dialer, one.test, one.detail if one.ok else "**FAIL**"]
        for one in outcomes
    )
    return head + table(["listener", "dialer", "test", "result"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="interop.hole_punch", description=__doc__)
    parser.add_argument("--no-write", action="store_true", help="leave the results as they are")
    args = parser.parse_args(arguments)
    if reason := unavailable():
        print(f"interop: no laboratory: {reason}", file=sys.stderr)
        return 1
    try:
        build(["go"])
        outcomes = list(run(("pt", "go")))
    except RigError as error:
        print(f"interop: {error}", file=sys.stderr)
        return 1
    if not args.no_write:
        RESULTS.write_text(document(outcomes))
        print(f"written {RESULTS.relative_to(ROOT)}")
    return 0 if all(one.ok for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
