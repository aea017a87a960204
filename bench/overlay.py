"""The overlay in full: 50 servers with churn, 1,000 names; memory of 100,000 records.

    python -m bench.overlay

All servers are in this process, on a clock of their own, without sockets; a datagram takes 10 to
80 ms. Prints Markdown for RESULTS-overlay.md.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc

from pt.overlay.messages import MAX_VALUE
from pt.overlay.storage import Facts, Storage
from tests.unit.overlay.network import Network
from tests.unit.overlay.records import key_of, record, signer

SIZE = 50
NAMES = 1000
RECORDS = 100_000
VALUE = 600
LATER = 1_000_000_000


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


def churn() -> None:
    network = Network()
    network.grow(SIZE)
    values, acknowledged = {}, []
    for number in range(1, NAMES + 1):
        one = signer(number)
        values[key_of(one)] = record(one, expires=LATER, size=VALUE)
        client = network.client()
        acknowledged.append(client.put(key_of(one), values[key_of(one)]).acknowledged)
        client.close()
    print(
        f"Servers that keep a record, of 20: at least {min(acknowledged)}, "
        f"{statistics.mean(acknowledged):.1f} on average."
    )
    print("\n### Before churn")
    lookups(network, values)
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


def memory() -> None:
    def trust(key: bytes, value: bytes, now: float) -> Facts:
        return Facts(1, now + 86400)

    tracemalloc.start()
    storage = Storage(trust, max_value=MAX_VALUE, quota=1000)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(RECORDS):
        key = number.to_bytes(32, "big")
        assert storage.put(key, bytes(VALUE), f"10.0.0.{number % 200}", 0.0) is None
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.perf_counter()
    storage.put(b"x" * 32, bytes(VALUE), "new", 0.0)
    took = time.perf_counter() - began
    print(f"\n### {RECORDS:,} records of {VALUE} bytes\n")
    print(
        f"{(after - before) / 1e6:.0f} MB, {(after - before) / RECORDS - VALUE:.0f} bytes a record "
        f"beside its value; one more, which displaces one: {took * 1e6:.0f} µs."
    )


if __name__ == "__main__":
    churn()
    memory()
