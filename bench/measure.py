"""The measurements, each of one row at a time; who calls them interleaves the rows."""

from __future__ import annotations

import json
import subprocess
import time
from typing import NamedTuple

from bench.load import BINARY, Marked, one_shot
from bench.proc import busy_seconds, cpu_seconds, rss_bytes, wait_quiet
from bench.rows import Forwarder

__all__ = ["Sample", "connections", "echo", "memory", "rss_bytes", "start_up", "throughput"]

WARM = 0.5


class Sample(NamedTuple):
    """One value of one metric, such as ("fwd1.gbit", 8.1)."""

    metric: str
    value: float


def throughput(
    row: Forwarder, server: Marked, direction: str, streams: int, seconds: float, warm: float = WARM
) -> list[Sample]:
    """Rate at the receiver and CPU of both ends, in a window while the transfer runs."""
    key = f"{direction}{streams}"
    with Marked(row.near, direction, row.address, str(streams)) as client:
        receiver = server if direction == "fwd" else client
        load = [client.process.pid, server.process.pid]
        time.sleep(warm)
        busy = busy_seconds() - cpu_seconds([*row.pids, *load])
        before, cpu = receiver.mark(), cpu_seconds(row.pids)
        time.sleep(seconds)
        after, cpu_after = receiver.mark(), cpu_seconds(row.pids)
        busy = busy_seconds() - cpu_seconds([*row.pids, *load]) - busy
    octets = after["rx"] - before["rx"]
    wait_quiet(row.pids)
    samples = [
        Sample(f"{key}.gbit", octets * 8 / (after["t"] - before["t"])),
        Sample(f"{key}.other_cores", max(0.0, busy / seconds)),
    ]
    if row.pids and octets:
        samples.append(Sample(f"{key}.cpu_gb", (cpu_after - cpu) / (octets / 1e9)))
    return samples


def echo(row: Forwarder, count: int) -> list[Sample]:
    """Round trips of one byte on one connection."""
    answer = one_shot(row.near, "echo", row.address, str(count))
    return [Sample("echo.p50_us", answer["p50_us"]), Sample("echo.p99_us", answer["p99_us"])]


def connections(row: Forwarder, parallel: int, seconds: float) -> list[Sample]:
    """Connect, echo one byte, close: how many a second, and the CPU of both ends for each."""
    cpu = cpu_seconds(row.pids)
    answer = one_shot(row.near, "conns", row.address, str(parallel), str(seconds))
    wait_quiet(row.pids)
    count = max(1, answer["count"])
    key = f"conns{parallel}"
    samples = [
        Sample(f"{key}.per_s", answer["count"] / answer["seconds"]),
        Sample(f"{key}.failed", answer["failed"]),
    ]
    if row.pids:
        samples.append(Sample(f"{key}.cpu_us", (cpu_seconds(row.pids) - cpu) / count * 1e6))
    return samples


def start_up(row: Forwarder, port: int, limit: float = 20.0) -> list[Sample]:
    """From fork+exec of another binder to its accept and to the first byte through it."""
    argv = row.binder_argv(port, "start")
    polling = row.near.popen(
        [str(BINARY), "first", f"127.0.0.1:{port}", str(limit)], stdout=subprocess.PIPE
    )
    assert polling.stdout is not None
    polling.stdout.readline()
    began = time.time_ns()
    binder = row.spawn(row.near, argv, "binder-start")
    line = polling.stdout.readline()
    polling.communicate()
    binder.terminate()
    try:
        binder.wait(5)
    except subprocess.TimeoutExpired:
        binder.kill()
        binder.wait()
    if not line:
        raise RuntimeError(f"{row.name}: nothing came through a new binder within {limit} s")
    answer = json.loads(line)
    return [
        Sample("start.listen_ms", (answer["accept"] - began) / 1e6),
        Sample("start.first_byte_ms", (answer["byte"] - began) / 1e6),
    ]


def memory(row: Forwarder, steps: list[int]) -> list[Sample]:
    """Resident memory of both ends with so many idle streams, on a pair that did nothing else."""
    assert row.exposer is not None
    assert row.binder is not None
    ends = {"exposer": row.exposer.pid, "binder": row.binder.pid}
    one_shot(row.near, "echo", row.address, "1")
    wait_quiet(row.pids)
    samples = [Sample(f"rss.{end}.idle", rss_bytes(pid)) for end, pid in ends.items()]
    holders: list[Marked] = []
    held = 0
    try:
        for step in steps:
            holders.append(Marked(row.near, "idle", row.address, str(step - held)))
            held = step
            wait_quiet(row.pids)
            samples += [Sample(f"rss.{end}.{step}", rss_bytes(pid)) for end, pid in ends.items()]
    finally:
        for holder in holders:
            holder.close()
        wait_quiet(row.pids, 10.0)
    return samples
