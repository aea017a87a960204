"""How soon a byte comes back over a relay, to a host that gets out by TCP 443 alone.

    python -m bench.only_443 [--delay MS] [--runs N]

Host a, which a firewall lets use nothing but TCP port 443, binds; b, behind a NAT, exposes; s1
relays, by WebSocket over TLS on port 443.  `--delay` is of a's link, one way; the others have none.
Prints Markdown for RESULTS-lab.md: how long a client's byte takes to come back through a binder
that runs, on a connection of its own each time, and from the start of a binder, Python's included.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import report
from pt.lab import Lab
from pt.lab.machine import Machine
from pt.lab.report import duration
from pt.lab.stats import percentile
from tests.certificate import self_signed

NAME = "only-443-of-the-benchmark"
PORT = 443
SUFFIX = f"tcp/{PORT}/tls/ws"


class Pt:
    """A running `pt`, and its events."""

    def __init__(self, host: Machine, home: Path, *argv: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PT_")}
        env |= {"PT_NO_PUBLIC": "1", "PT_NO_PORTMAP": "1", "PT_HOME": str(home)}
        self.process = host.popen(
            [sys.executable, "-m", "pt", *argv, "--json"], stdout=subprocess.PIPE, env=env
        )
        self._seen: dict[str, dict[str, Any]] = {}

    def wait(self, event: str) -> dict[str, Any]:
        """Return an event of that kind."""
        assert self.process.stdout is not None
        while event not in self._seen:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"pt ended before it said {event!r}")
            found = json.loads(line)
            self._seen[found["event"]] = found
        return self._seen[event]

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait()


def echo(listener: socket.socket) -> None:
    """Serve one connection after the other."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock:
            while data := sock.recv(4096):
                sock.sendall(data)


def ask(host: Machine, port: int) -> float:
    """Seconds from a client's connect until its byte is back."""
    with host.inside():
        sock = socket.socket()
    began = time.monotonic()
    with sock:
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    return time.monotonic() - began


@contextmanager
def exposed(lab: Lab, tmp: Path) -> Iterator[str]:
    """A relay and an exposer; yields the address that a binder dials."""
    relay, b = lab["s1"], lab["b"]
    pem = str(self_signed(tmp / "both.pem", relay.ip))
    secret = tmp / "secret"
    secret.write_text("a secret of the benchmark\n")
    secret.chmod(0o600)
    serving = Pt(
        relay, tmp / "relay", "relay", "--listen", f"/ip4/{relay.ip}/{SUFFIX}",
        "--tls-cert", pem, "--tls-key", pem, "--secret-file", str(secret),
    )  # fmt: skip
    peer = serving.wait("relay_ready")["peer_id"]
    address = f"/ip4/{relay.ip}/{SUFFIX}/p2p/{peer}"
    with b.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        exposer = Pt(
            b, tmp / "b", "tcp", "--id", NAME, "--no-lan", "--relay", address,
            "--relay-secret-file", str(secret), "--port", str(listener.getsockname()[1]),
        )  # fmt: skip
        own = exposer.wait("ready")["peer_id"]
        exposer.wait("published")
        yield f"{address}/p2p-circuit/p2p/{own}"
        exposer.end()
        serving.end()


def binder(lab: Lab, tmp: Path, peer: str) -> tuple[Pt, int]:
    """A running binder, and its port."""
    argv = ["bind", "--id", NAME, "--port", "0", "--no-lan", "--no-punch", "--peer", peer]
    process = Pt(lab["a"], tmp / "a", *argv)
    return process, int(process.wait("ready")["ports"][0]["local"])


def measure(delay: float, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of the first byte on a running binder, and on one that was just started."""
    links = {"a": f"delay={delay:g}"}
    with (
        Lab(a="tcp443", b="eim-apdf", links=links) as lab,
        tempfile.TemporaryDirectory() as tmp,
        exposed(lab, Path(tmp)) as peer,
    ):
        running, port = binder(lab, Path(tmp), peer)
        running.wait("connected")
        warm = [ask(lab["a"], port) for _ in range(runs)]
        running.end()
        cold = []
        for _ in range(runs):
            began = time.monotonic()
            started, port = binder(lab, Path(tmp), peer)
            ask(lab["a"], port)
            cold.append(time.monotonic() - began)
            started.end()
    return warm, cold


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=25.0)
    parser.add_argument("--runs", type=int, default=100)
    args = parser.parse_args()
    rtt = 2 * args.delay / 1000
    names = ("a new connection of a binder that runs", "from the start of a binder")
    rows = []
    for name, found in zip(names, measure(args.delay, args.runs), strict=True):
        times = [percentile(found, share) for share in (0.5, 0.99)]
        rows.append([name, *(f"{duration(each)}, {each / rtt:.1f} RTT" for each in times)])
    head = [f"until a byte is back, {1000 * rtt:g} ms to the relay and back", "p50", "p99"]
    print(report.table(head, rows))


if __name__ == "__main__":
    main()
