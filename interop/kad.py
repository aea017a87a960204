"""Our client of the Amino DHT among real servers of go-libp2p-kad-dht, in a laboratory.

    python -m interop.kad [--servers 30] [--delay 0.025] [--crowd]

prints what look-ups, puts and provider records take in time, requests, sockets and bytes, from a
fresh peer on; `--delay` is that of the link between us and all servers, one way, in seconds. With
`--crowd` servers announce as many addresses as kubo's do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.rig import BIN, RigError, build, table
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.keyspace import K, point
from pt.kad.messages import PeerInfo
from pt.kad.results import Found
from pt.lab.link import Link, Shape
from pt.lab.netns import DEVICE, Host, Lan
from pt.node.amino import Amino
from pt.node.node import Node
from pt.rendezvous import ipns
from pt.wire.multiaddr import Multiaddr

BINARY: Final = BIN / "gokad-peer"
PORT: Final = 4001
GO_TIMEOUT: Final = 40.0
ROUNDS: Final = 20
OUR_IP: Final = "11.9.0.1"
OURS: Final = Multiaddr.tcp(OUR_IP, PORT)
"""An address of ours for provider records, on our host."""

OnHop = Callable[[PeerId, tuple[Multiaddr, ...]], None]


class Servers:
    """Go servers on one host, each in a /16 of its own, until the host is closed."""

    def __init__(
        self,
        host: Host,
        ips: Sequence[str],
        log: Path,
        *,
        relays: int = 0,
        crowd: bool = False,
        tap: Path | None = None,
    ) -> None:
        """`relays`: so many of them relay, too; `crowd`: they announce as many addresses as kubo's
        do; `tap`: file for `interop.observer`.
        """
        argv = [str(BINARY), "servers", "--ips", ",".join(ips), "--port", str(PORT)]
        argv += ["--relays", str(relays), *(["--tap", str(tap)] if tap else [])]
        argv += ["--crowd"] if crowd else []
        with log.open("wb") as sink:
            self._process = host.popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
            )
        self.infos: Final = [_info(self._fact("server")["multiaddr"]) for _ in ips]
        self.known: Final = self._fact("ready")["known"]

    def close(self, index: int) -> None:
        """End one of them."""
        self._order(f"close {index}")
        self._fact("closed")

    def meet(self, other: PeerInfo) -> int:
        """Have them take up a server that runs elsewhere; how many have it in their tables."""
        self._order(f"meet {other.addresses[0].with_peer(other.id.raw)}")
        known = self._fact("met")["known"]
        assert isinstance(known, int)
        return known

    def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def nearest(self, key: bytes) -> list[PeerInfo]:
        """Those that a look-up has to find."""
        return sorted(self.infos, key=lambda info: point(info.id.raw) ^ point(key))[:K]

    def _fact(self, event: str) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {}
        if said.get("event") != event:
            raise RigError(f"gokad said {line!r}, expected {event}")
        assert isinstance(said, dict)
        return said


@dataclass(frozen=True)
class Lab:
    """Two hosts with a link between them: ours, and one with all servers and the Go clients."""

    us: Host
    dht: Host
    servers: Servers
    go_ip: str
    link: Link
    tap: Path
    """What all servers were told, for `interop.observer`."""
    others: Sequence[Host]
    """On the switch of the servers."""

    def carried(self) -> tuple[int, int]:
        """Bytes and packets of the link so far, both directions together."""
        lanes = self.link.stats().values()
        return sum(lane["bytes"] for lane in lanes), sum(lane["packets"] for lane in lanes)


@contextlib.contextmanager
def laboratory(
    count: int,
    delay: float,
    others: Sequence[str] = (),
    *,
    relays: int = 0,
    crowd: bool = False,
) -> Iterator[Lab]:
    """Build it: `count` servers, `delay` seconds away from us; `others`: names of further hosts."""
    ips = [f"11.{20 + number}.0.1" for number in range(count)]
    go_ip = "11.250.0.1"
    with (
        tempfile.TemporaryDirectory() as logs,
        Lan(names=("us", "dht", *others)) as lan,
        Link(lan.hosts[0], lan.hosts[1], Shape(delay=delay)) as link,
    ):
        us, dht, *rest = lan.hosts
        add_addresses(dht, (*ips, go_ip))
        batch(dht, [f"route add {OUR_IP}/32 via {link.a_ip}"])
        add_addresses(us, (OUR_IP,))
        batch(us, [f"route add {ip}/32 via {link.b_ip}" for ip in (*ips, go_ip)])
        tap = Path(logs) / "tap.jsonl"
        servers = Servers(dht, ips, Path(logs) / "servers.log", relays=relays, crowd=crowd, tap=tap)
        yield Lab(us, dht, servers, go_ip, link, tap, rest)


def add_addresses(host: Host, ips: Sequence[str]) -> None:
    """Give a host further addresses; whoever is on its switch reaches them."""
    batch(host, [f"addr add {ip}/32 dev lo" for ip in ips])


def move(host: Host, ip: str) -> None:
    """Have a host speak from another address than that of its switch."""
    add_addresses(host, [ip])
    batch(host, [f"route replace default dev {DEVICE} src {ip}"])


def go(
    host: Host, command: str, *, ip: str, bootstrap: PeerInfo, key: bytes, value: bytes = b""
) -> dict[str, object]:
    """Have a Go client do one thing; what it says."""
    address = bootstrap.addresses[0].with_peer(bootstrap.id.raw)
    argv = [str(BINARY), command, "--ip", ip, "--bootstrap", str(address)]
    argv += ["--key", key.hex(), "--value", value.hex()]
    done = host.run(argv, timeout=GO_TIMEOUT)
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


def batch(host: Host, lines: Sequence[str]) -> None:
    """Run commands of ip(8) on a host."""
    host.run(["ip", "-batch", "-"], feed=("\n".join(lines) + "\n").encode())


def _info(text: object) -> PeerInfo:
    address = Multiaddr.parse(str(text))
    raw, bare = address.peer_id_bytes, address.without_peer()
    assert raw is not None
    assert bare is not None
    return PeerInfo(PeerId(raw), (bare,))


@contextlib.asynccontextmanager
async def our_amino(
    *bootstrap: PeerInfo,
    cache: Path | None = None,
    on_hop: OnHop | None = None,
    node: Node | None = None,
) -> AsyncIterator[Amino]:
    """The DHT for a fresh peer that listens nowhere, or `node`, and knows these servers."""
    node = node or Node(identity=PrivateKey.generate(secrets.token_bytes(32)))
    await node.start()
    known = [info.addresses[0].with_peer(info.id.raw) for info in bootstrap]
    amino = Amino(node, bootstrap=known, cache=cache, on_hop=on_hop)
    try:
        await amino.start()
        yield amino
    finally:
        await amino.close()
        await node.close()


@contextlib.asynccontextmanager
async def our_client(bootstrap: PeerInfo) -> AsyncIterator[Client]:
    """A fresh client that knows one server."""
    async with our_amino(bootstrap) as amino:
        yield amino.client


def mailbox(payload: bytes, seq: int = 1) -> tuple[bytes, bytes, bytes]:
    """A record of a fresh key: the key on the DHT, the mailbox's name, the value."""
    key = PrivateKey.generate(secrets.token_bytes(32))
    name = ipns.name_of(key.public)
    value = ipns.create(key, payload, seq=seq, expires=int(time.time()) + 3600, ttl=60)
    return ipns.routing_key(name), name, value


async def measure(lab: Lab) -> None:
    """Print what a fresh peer's calls take; of the counts, the highest.

    Bytes of connections have hand-shakes and identify in them, those of the link headers as well.
    """
    titles = "call", "median s", "p95 s", "requests", "sockets", "bytes", "link bytes", "packets"
    rows: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(ROUNDS):
        async with our_amino(lab.servers.infos[0]) as amino:
            client = amino.client
            key, name, value = mailbox(secrets.token_bytes(700))

            async def timed(label: str, call: Awaitable[object]) -> None:
                before, carried = amino.facts, lab.carried()
                began = time.monotonic()
                await call
                took, after = time.monotonic() - began, amino.facts
                row = (
                    took,
                    after.requests - before.requests,
                    after.most_sockets,
                    after.sent + after.received - before.sent - before.received,
                    *(now - then for then, now in zip(carried, lab.carried(), strict=True)),
                )
                rows.setdefault(label, []).append(row)

            await timed("closest, fresh", client.closest(secrets.token_bytes(32)))
            await timed("closest, again", client.closest(secrets.token_bytes(32)))
            await timed("put_value", client.put_value(key, value))
            await timed("get_value, first", first_value(client, key, name))
            await timed("get_value, all", all_values(client, key, name))
            await timed("provide", client.provide(b"\x12\x20" + secrets.token_bytes(32), [OURS]))
        async with our_amino(lab.servers.infos[0]) as amino:
            client = amino.client
            await timed("get_value, first, fresh", first_value(client, key, name))
        async with our_amino(lab.servers.infos[0]) as amino:
            client = amino.client
            await timed("get_value, all, fresh", all_values(client, key, name))
        async with our_amino(lab.servers.infos[0]) as amino:
            client = amino.client
            await timed("put_value, fresh", client.put_value(*mailbox(b"x" * 700)[::2]))
    lines = []
    for label, found in rows.items():
        took = sorted(row[0] for row in found)
        counts = (f"{max(row[part] for row in found):,}" for part in range(1, len(found[0])))
        median, p95 = statistics.median(took), took[int(len(took) * 0.95)]
        lines.append([label, f"{median:.2f}", f"{p95:.2f}", *counts])
    print(table(titles, lines))


async def all_values(client: Client, key: bytes, name: bytes) -> list[Found]:
    """All values under a key that are valid records of the mailbox."""
    async with client.get_value(key, lambda raw: ipns.validate(raw, name, time.time())) as search:
        return [found async for found in search]


async def first_value(client: Client, key: bytes, name: bytes) -> Found:
    """The first of them."""
    async with client.get_value(key, lambda raw: ipns.validate(raw, name, time.time())) as search:
        return await anext(search)


def main() -> None:
    parser = argparse.ArgumentParser(prog="interop.kad")
    parser.add_argument("--servers", type=int, default=30)
    parser.add_argument("--delay", type=float, default=0.025)
    parser.add_argument("--crowd", action="store_true")
    args = parser.parse_args()
    build(["gokad"])
    with laboratory(args.servers, args.delay, crowd=args.crowd) as lab, lab.us.inside():
        print(f"{args.servers} servers, {args.delay * 2000:g} ms away, {ROUNDS} fresh clients\n")
        asyncio.run(measure(lab))


if __name__ == "__main__":
    main()
