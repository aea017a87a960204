"""Hole punching with go-libp2p and rust-libp2p, and AutoNAT v2 with go-libp2p, through NATs.

    python -m interop.nat [--runs N] [--only PEER] [--out FILE]

Both ends are behind NATs that keep a port for all destinations and let in only whom was written to;
the relay is `pt relay`.  Each run has fresh peers and NATs without memory.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from interop.rig import BIN, ROOT, build, table
from pt.lab.lab import Lab
from pt.lab.machine import Machine

FOREIGN: Final = {"go": str(BIN / "gonat-peer"), "rust": str(BIN / "rustnat-peer")}
PT: Final = str(Path(sys.executable).with_name("pt"))
NAT: Final = "eim-apdf"
LINK: Final = "delay=5"
PAIRS: Final = (("go", "pt"), ("pt", "go"), ("rust", "pt"), ("pt", "rust"), ("pt", "pt"))
"""Listener (who opens the hole punching stream) and dialer."""
TIMEOUT: Final = 30.0
PORTS: Final = itertools.count(5000)


class Peer:
    """A process that says one JSON line a fact."""

    def __init__(self, name: str, host: Machine, words: Sequence[str]) -> None:
        ours = [sys.executable, "-m", "interop.ptnat"]
        argv = ours if name == "pt" else [FOREIGN[name]]
        self._facts: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process = host.popen(
            [*argv, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._facts.put(json.loads(line))
        self._facts.put(None)

    def wait(self, *keys: str, **values: object) -> dict[str, Any]:
        """The next fact with such keys and values.

        Raises: TimeoutError when it does not come, or the peer ends.
        """
        ends = time.monotonic() + TIMEOUT
        while (left := ends - time.monotonic()) > 0:
            try:
                fact = self._facts.get(timeout=left)
            except queue.Empty:
                break
            if fact is None:
                break
            if all(key in fact for key in keys) and values.items() <= fact.items():
                return fact
        raise TimeoutError(f"nothing with {keys} {values}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def relay(lab: Lab, home: str) -> dict[bool, str]:
    """Start `pt relay`; its address by whether it is QUIC's."""
    ip = lab["s1"].ip
    listen = (f"/ip4/{ip}/tcp/4001", f"/ip4/{ip}/udp/4001/quic-v1")
    process = lab["s1"].popen(
        [PT, "relay", "--json", "--no-overlay", "--no-stun", "--listen", *listen],
        stdout=subprocess.PIPE,
        env={**os.environ, "PT_HOME": home, "PT_NO_PUBLIC": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "relay_ready":
            addresses = [str(each) for each in event["addresses"]]
            return {
                quic: next(each for each in addresses if ("/quic-v1" in each) == quic)
                for quic in (False, True)
            }
    raise TimeoutError("the relay does not start")


def punch(lab: Lab, through: str, pair: tuple[str, str], *, quic: bool) -> tuple[bool, float]:
    """Whether a direct connection came, and how long after the relayed one."""
    for side in "ab":
        lab.flush(side)
    # another port each time: nothing of an earlier run, at NATs or the relay, is in the way
    more = ["--port", str(next(PORTS)), *(["--quic"] if quic else [])]
    listener = Peer(pair[0], lab["b"], ["listen", "--relay", through, *more])
    dialer = None
    try:
        circuit = str(listener.wait("multiaddr")["multiaddr"])
        dialer = Peer(pair[1], lab["a"], ["dial", "--to", circuit, *more])
        first = dialer.wait("connected", relayed=True)
        while True:
            direct = dialer.wait("connected", relayed=False)
            if "11.1.0.1" not in direct["connected"]:  # the relay's own
                return True, float(direct["seconds"]) - float(first["seconds"])
    except TimeoutError:
        return False, 0.0
    finally:
        listener.stop()
        if dialer is not None:
            dialer.stop()


def autonat(lab: Lab, through: dict[bool, str], client: str, *, quic: bool) -> tuple[bool, str]:
    """Whether `client` ("pt" with go's server, "go" with ours) learns what is true of two NATs."""
    server = None
    said = []
    to = through[quic]
    if client == "pt":
        server = Peer("go", lab["s2"], ["autonat", "--ip", lab["s2"].ip])
        found = [str(server.wait("multiaddr")["multiaddr"]) for _ in range(2)]
        to = next(each for each in found if ("/quic-v1" in each) == quic)
    try:
        for spec, truth in (("eim-eif", True), (NAT, False)):
            lab.set_nat("a", spec)
            lab.flush("a")
            port = next(PORTS)
            more = ["--port", str(port), *(["--quic"] if quic else [])]
            words = ["autonat", "--to", to, *more]
            if client == "go":
                own = "/ip4/11.100.0.1/" + (f"udp/{port}/quic-v1" if quic else f"tcp/{port}")
                words = ["ask", "--to", to, "--own", own, *more]
            peer = Peer(client, lab["a"], words)
            fact = peer.wait("address")
            word = fact.get("reachable", fact.get("reachability"))
            right = word in ((True, "Public") if truth else (False, "Private"))
            said.append((right, f"{spec}: {word}"))
            peer.stop()
    except TimeoutError as error:
        return False, str(error)
    finally:
        lab.set_nat("a", NAT)
        if server is not None:
            server.stop()
    return all(right for right, _ in said), ", ".join(text for _, text in said)


def main() -> None:
    """Run all, print a line each; exit 1 if one failed too often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", default="", help="pairs that name this peer")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    build(["gonat", "rustnat"])
    rows: list[tuple[str, ...]] = []
    failed = False
    with (
        tempfile.TemporaryDirectory() as home,
        Lab(a=NAT, b=NAT, link=LINK) as lab,
    ):
        through = relay(lab, home)
        for quic in (False, True):
            transport = "QUIC" if quic else "TCP"
            for pair in PAIRS:
                if args.only and args.only not in pair:
                    continue
                results = [punch(lab, through[quic], pair, quic=quic) for _ in range(args.runs)]
                times = sorted(seconds for direct, seconds in results if direct)
                share = len(times) / len(results)
                ok = share >= 0.95
                median = f"{times[len(times) // 2] * 1000:.0f} ms" if times else ""
                what = f"DCUtR, {pair[1]} dials {pair[0]}"
                rows.append((what, transport, f"{len(times)}/{len(results)}", median))
                failed |= not ok
                print("ok  " if ok else "FAIL", *rows[-1], flush=True)
            for client in ("pt", "go") if args.only in ("", "go") else ():
                ok, detail = autonat(lab, through, client, quic=quic)
                server = "go" if client == "pt" else "pt relay"
                rows.append((f"AutoNAT v2, {client} asks {server}", transport, detail, ""))
                failed |= not ok
                print("ok  " if ok else "FAIL", *rows[-1], flush=True)
    if args.out:
        now = dt.datetime.now(tz=dt.UTC)
        head = f"Written by `python -m interop.nat {' '.join(sys.argv[1:])}` on {now:%Y-%m-%d}.\n\n"
        text = table(("what", "transport", "direct or said", "median after the circuit"), rows)
        args.out.write_text(head + text)
    sys.exit(failed)


if __name__ == "__main__":
    main()
