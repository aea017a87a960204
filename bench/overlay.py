"""The overlay in full: 50 servers with churn, 1,000 names; a `pt relay` with 100,000 records.

    python -m bench.overlay [churn] [relay]

The 50 servers are in this process, on a clock of their own, without sockets; a datagram takes 10 to
80 ms. The relay is a process of its own on loopback, filled over UDP from a hundred addresses.
Records are what `pt tcp` stores, as servers see them. Prints Markdown for RESULTS-overlay.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pt.aio.udp import UdpPort
from pt.identity.keys import PrivateKey
from pt.overlay.adapter import Node
from pt.overlay.messages import Reply
from pt.overlay.rpc import Rpc
from pt.overlay.walk import Store
from pt.relayd.overlay import validate
from pt.rendezvous import ipns
from pt.rendezvous.mailbox import PADDED_SIZES
from tests.unit.overlay.network import Network

SIZE = 50
NAMES = 1000
RECORDS = 100_000
SOURCES = 120
"""Each may bring 1,000 records."""
WINDOW = 2
LATER = 2_500_000_000
HTTP = ("127.0.0.1", 19091)
LISTEN = ("127.0.0.1", 14001)


def mailbox(number: int) -> tuple[bytes, bytes]:
    """The key and the value of one exposer's mailbox: 1,231 bytes."""
    signer = PrivateKey.generate(number.to_bytes(32, "big"))
    payload = number.to_bytes(PADDED_SIZES[0], "big")
    value = ipns.create(signer, payload, seq=LATER, expires=LATER, ttl=60)
    return ipns.overlay_key(ipns.name_of(signer.public)), value


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 95, 99)]
    return " | ".join(f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in at)


def lookups(network: Network, values: dict[bytes, bytes]) -> None:
    first, whole, size, packets, found = [], [], [], [], 0
    for key, value in values.items():
        client = network.client()
        began = network.now
        found += [one.value for one in client.get(key, first=True)] == [value]
        first.append(network.now - began)
        client.close()
        client = network.client()
        began = network.now
        client.get(key)
        whole.append(network.now - began)
        size.append(network.bytes[client.addr])
        packets.append(network.packets[client.addr])
        client.close()
    print(f"\n{found} of {len(values)} names found by clients that know three servers.\n")
    print("| | median | p95 | p99 |\n|---|---|---|---|")
    print(f"| first value, s | {quantiles(first)} |")
    print(f"| whole look-up, s | {quantiles(whole)} |")
    print(f"| bytes of a look-up, both ways | {quantiles(size)} |")
    print(f"| packets of a look-up, both ways | {quantiles(packets)} |")


def upkeep(network: Network) -> None:
    """What servers send and receive in an hour in which nobody asks for anything."""
    network.run(3600)
    bytes_before = network.bytes.copy()
    packets_before = network.packets.copy()
    network.run(3600)
    held = statistics.mean(len(server.storage) for server in network.servers.values())
    size = [network.bytes[addr] - bytes_before[addr] for addr in network.servers]
    packets = [network.packets[addr] - packets_before[addr] for addr in network.servers]
    print(f"\n### An hour of upkeep of a server with {held:.0f} records, both ways\n")
    print("| | median | p95 | p99 |\n|---|---|---|---|")
    print(f"| bytes | {quantiles(size)} |")
    print(f"| packets | {quantiles(packets)} |")


def churn() -> None:
    network = Network(validate=validate)
    network.grow(SIZE)
    values, acknowledged = {}, []
    for number in range(1, NAMES + 1):
        key, value = mailbox(number)
        values[key] = value
        client = network.client()
        acknowledged.append(client.put(key, value).acknowledged)
        client.close()
    print(
        f"Servers that keep a record, of 20: at least {min(acknowledged)}, "
        f"{statistics.mean(acknowledged):.1f} on average."
    )
    print("\n### Before churn")
    lookups(network, values)
    upkeep(network)
    old = list(network.servers.values())[: SIZE // 2]
    began = network.now
    for server in old:
        network.kill(server)
        network.server([one.addr for one in list(network.servers.values())[-3:]])
        network.run(72)
    print(
        f"\n### Right after half of the servers were replaced, one by one, "
        f"in {(network.now - began) / 60:.0f} minutes"
    )
    lookups(network, values)


# --- a real relay --------------------------------------------------------------------------------


class Relay:
    """`pt relay` on loopback, and what /proc and its status page say of it."""

    def __init__(self, home: Path) -> None:
        pt = Path(sys.executable).with_name("pt")
        argv = [str(pt), "relay", "--json", "--home", str(home), "--listen"]
        argv += [f"/ip4/{LISTEN[0]}/tcp/{LISTEN[1]}", "--http", f"{HTTP[0]}:{HTTP[1]}"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.wait("relay_ready")

    def wait(self, event: str) -> dict[str, object]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == event:
                return said
        raise AssertionError(f"no {event}")

    def memory(self, field: str = "VmRSS") -> float:
        """MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024 / 1e6
        raise AssertionError(field)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def overlay(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://{HTTP[0]}:{HTTP[1]}/status.json", timeout=30) as page:
            return json.load(page)["overlay"]

    def stop(self) -> float:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        return time.monotonic() - began


class Source:
    """One address that stores records, a few at a time."""

    def __init__(self, number: int, records: Iterator[tuple[bytes, bytes]]) -> None:
        self.port = UdpPort((f"127.1.0.{number}", 0))
        self.clock = asyncio.get_running_loop().time
        self.rpc = Rpc(b"", os.urandom(32), self.port.send, os.urandom)
        self.port.received = lambda data, addr: self.rpc.receive_datagram(data, addr, self.clock())
        self.records = records
        self.kept = 0

    async def answer(self, method: str) -> Reply | None:
        done = asyncio.get_running_loop().create_future()
        self.rpc.ask(LISTEN, method, done=done.set_result, now=self.clock())
        return await done

    async def store(self, node: Node) -> None:
        for key, value in self.records:
            status = ""
            while status != "ok":
                done = asyncio.get_running_loop().create_future()
                Store(self.rpc, key, value, clock=self.clock, done=done.set_result).to(node)
                status = await done
                assert status in ("ok", "no answer"), status
            self.kept += 1

    async def fill(self) -> None:
        ticking = asyncio.create_task(self.tick())
        while (reply := await self.answer("ping")) is None:
            pass
        node = Node(reply.sender, *LISTEN)
        async with asyncio.TaskGroup() as group:
            for _ in range(WINDOW):
                group.create_task(self.store(node))
        ticking.cancel()
        self.port.close()

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.rpc.handle_timeout(self.clock())


async def fill(count: int) -> None:
    records = map(mailbox, range(1, count + 1))
    async with asyncio.TaskGroup() as group:
        for number in range(1, SOURCES + 1):
            group.create_task(Source(number, records).fill())


async def pings(until: asyncio.Event) -> list[float]:
    """How long the relay took to answer, in ms, in order."""
    source = Source(250, iter(()))
    ticking = asyncio.create_task(source.tick())
    times = []
    while not until.is_set():
        began = time.monotonic()
        await source.answer("ping")
        times.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(0.02)
    ticking.cancel()
    source.port.close()
    return sorted(times)


async def restored(one: Relay) -> tuple[dict[str, object], list[float]]:
    """What the relay says when its records are back, and its pings until then."""
    over = asyncio.Event()
    asking = asyncio.create_task(pings(over))
    said = await asyncio.to_thread(one.wait, "overlay_restored")
    over.set()
    return said, await asking


def relay() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        home = Path(tmp)
        one = Relay(home)
        before, cpu = one.memory(), one.cpu()
        began = time.monotonic()
        asyncio.run(fill(RECORDS))
        took = time.monotonic() - began
        view = one.overlay()
        after = one.memory()
        cpu = one.cpu() - cpu
        assert view["records"] == RECORDS, view
        size = view["bytes"] / RECORDS
        each = (after - before) * 1e6 / RECORDS
        ended = one.stop()
        file = (home / "overlay.jsonl").stat().st_size / 1e6
        two = Relay(home)
        back, times = asyncio.run(restored(two))
        assert back["records"] == RECORDS, back
        again = two.memory()
        two.stop()
    print(f"\n### A `pt relay` with {RECORDS:,} records of {size:,.0f} bytes\n")
    print("| | |\n|---|---|")
    print(f"| resident memory when it serves, empty | {before:.0f} MB |")
    print(f"| with the records, filled over UDP | {after:.0f} MB |")
    print(f"| a record, beside its value | {each - size:.0f} bytes |")
    print(f"| filled in | {took:.0f} s, {RECORDS / took:,.0f} records a second |")
    print(f"| the relay's CPU time of a record | {cpu / RECORDS * 1e6:.0f} µs |")
    print(f"| end, the file written | {ended:.1f} s, {file:.0f} MB |")
    print(f"| records back after the start, all checked | {back['seconds']:.0f} s |")
    print(
        f"| pings meanwhile: median, p95, p99 of {len(times)}; slowest, ms | "
        f"{quantiles(times).replace(' |', ',')}; {times[-1]:.0f} |"
    )
    print(f"| memory after that | {again:.0f} MB |")


if __name__ == "__main__":
    asked = set(sys.argv[1:]) or {"churn", "relay"}
    if "churn" in asked:
        churn()
    if "relay" in asked:
        relay()
