"""What the laboratory costs and carries: time to build, packets and bytes through a NAT.

    python -m bench.lab [--seconds 2] [--cycles 50]

Prints tables in Markdown; bench/RESULTS-lab.md keeps them with their date. On a shared machine: the
best of three for throughput, percentiles for building.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time

from pt.lab.lab import Engine, Lab
from pt.lab.stats import percentile

RECEIVER = """
import socket, sys, time
kind, ip, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if kind == "tcp":
    server = socket.create_server((ip, 5000)); print("ready", flush=True)
    conn, _ = server.accept(); total = 0; buffer = bytearray(1 << 20); begin = time.monotonic()
    while size := conn.recv_into(buffer):
        total += size
    print(total * 8 / (time.monotonic() - begin) / 1e6, flush=True)
else:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind((ip, 5000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20); print("ready", flush=True)
    sock.recv(2048); begin = last = time.monotonic(); count = 1; sock.settimeout(0.5)
    try:
        while True:
            sock.recv(2048); count += 1; last = time.monotonic()
    except TimeoutError:
        print(count / max(last - begin, 1e-9), flush=True)
"""
SENDER = """
import socket, sys, time
kind, ip, seconds, size = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
end = time.monotonic() + seconds
if kind == "tcp":
    sock = socket.create_connection((ip, 5000)); data = bytes(1 << 18)
    while time.monotonic() < end:
        sock.sendall(data)
else:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.connect((ip, 5000))
    data = bytes(size)
    pace = 1 / float(sys.argv[5]); due = time.monotonic()
    while (now := time.monotonic()) < end:
        while due <= now:
            sock.send(data); due += pace
"""


def carried(engine: Engine, spec: str, kind: str, seconds: float, size: int, pps: float) -> float:
    with Lab(a=spec, public=1, engine=engine) as lab:
        ip = lab["s1"].ip
        argv = [sys.executable, "-S", "-c", RECEIVER, kind, ip, str(seconds)]
        receiver = lab["s1"].popen(argv, stdout=subprocess.PIPE)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        sender = [sys.executable, "-S", "-c", SENDER, kind, ip, str(seconds), str(size), str(pps)]
        lab["a"].run(sender, timeout=60)
        return float(receiver.stdout.readline())


def sustained(engine: Engine, spec: str, seconds: float, size: int) -> float:
    """The highest offered rate of which at least 99 % arrives, in packets a second."""
    best = 0.0
    for offered in (10e3, 15e3, 20e3, 30e3, 40e3, 60e3, 80e3, 120e3):
        got = max(carried(engine, spec, "udp", seconds / 2, size, offered) for _ in range(2))
        if got < 0.97 * offered:
            return max(best, got)
        best = got
    return best


def building(engine: Engine, link: str, cycles: int) -> tuple[list[float], list[float]]:
    ups, downs = [], []
    for _ in range(cycles):
        began = time.monotonic()
        lab = Lab(a="eim-apdf", b="apdm-random", engine=engine, link=link).__enter__()
        built = time.monotonic()
        lab.close()
        ups.append(1000 * (built - began))
        downs.append(1000 * (time.monotonic() - built))
    return ups, downs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cycles", type=int, default=50)
    args = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Linux {os.uname().release}, "
          f"Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| two sides, two public hosts | up p50 / p95 ms | down p50 / p95 ms |\n|---|---|---|")
    variants: list[tuple[str, Engine, str]] = [
        ("user", "user", "delay=10"),
        ("kernel", "kernel", ""),
        ("kernel with slow links (hybrid)", "kernel", "delay=10"),
    ]
    for name, engine, link in variants:
        cells = [
            f"{percentile(times, 0.5):.0f} / {percentile(times, 0.95):.0f}"
            for times in building(engine, link, args.cycles)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| engine, NAT | TCP Mbit/s | UDP 1,400 B packets/s | UDP 100 B packets/s |")
    print("|---|---|---|---|")
    for engine, spec in (
        ("user", "public"), ("user", "eim-apdf"), ("user", "apdm-random"), ("user", "eim+eim"),
        ("kernel", "public"), ("kernel", "linux"), ("kernel", "eim-eif"), ("kernel", "apdm-random"),
    ):  # fmt: skip
        chosen: Engine = "user" if engine == "user" else "kernel"
        tcp = max(carried(chosen, spec, "tcp", args.seconds, 0, 1) for _ in range(3))
        udp = [sustained(chosen, spec, args.seconds, size) for size in (1400, 100)]
        cells = [f"{tcp:,.0f}", *(f"{each:,.0f}" for each in udp)]
        print(f"| {engine}, {spec} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    socket.setdefaulttimeout(60)
    main()
