"""How soon a byte comes back over a relay, to a host that gets out by TCP 443 alone.

    python -m bench.only_443 [--delay MS] [--runs N]

Host b, which a firewall lets use nothing but TCP port 443, binds; a, behind a NAT, exposes; s1
relays, by WebSocket over TLS on port 443.  `--delay` is of b's link, one way; the others have none.
Prints Markdown for RESULTS-lab.md: how long a client's byte takes to come back through a binder
that runs, on a connection of its own each time, and from the start of a binder, Python's included.
"""

from __future__ import annotations

import argparse
import time

from bench import report
from bench.lab_rig import lab_rig
from pt.lab.report import duration
from pt.lab.stats import percentile
from tests.certificate import self_signed
from tests.e2e.harness import ask_echo, local_port, relay_addresses
from tests.e2e.relay_rig import RelayRig


def exposed(rig: RelayRig) -> str:
    """Start a relay and an exposer; the address that a binder dials."""
    pem = str(self_signed(rig.tmp / "both.pem", rig.r1.ip))
    relay = rig.pt(
        "relay", "--json", "--listen", f"/ip4/{rig.r1.ip}/tcp/443/tls/ws",
        "--tls-cert", pem, "--tls-key", pem, "--secret-file", str(rig.secret),
        host=rig.r1, home="relay",
    )  # fmt: skip
    address = next(each for each in relay_addresses(relay) if "/tcp/443/" in each)
    exposer = rig.expose(
        "--port", str(rig.echo_service()), "--relay", address,
        "--relay-secret-file", str(rig.secret),
    )  # fmt: skip
    exposer.wait("published", medium="relay", ok=True)
    return f"{address}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"


def ask(rig: RelayRig, port: int) -> float:
    """Seconds from a client's connect until its byte is back."""
    began = time.monotonic()
    with rig.dial(port) as sock:
        ask_echo(sock, b"x")
        return time.monotonic() - began


def measure(delay: float, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of the first byte on a running binder, and on one that was just started."""
    with lab_rig({"b": f"delay={delay:g}"}, a="eim-apdf", b="tcp443") as rig:
        peer = exposed(rig)
        running = rig.bind("--port", "0", to=peer)
        running.wait("connected")
        warm = [ask(rig, local_port(running)) for _ in range(runs)]
        running.process.terminate()
        cold = []
        for _ in range(runs):
            began = time.monotonic()
            started = rig.bind("--port", "0", to=peer)
            ask(rig, local_port(started))
            cold.append(time.monotonic() - began)
            started.process.terminate()
            started.exit_code()
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
