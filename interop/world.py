"""A small internet: servers of the public DHT, relays, and two hosts behind NATs far from them.

       a ──25 ms── NAT ─┐                    ┌─ dht   servers of go-libp2p-kad-dht, a /16 for each
                        ├──  11.0.0.0/8  ────┼─ k0 k1 kubo
       b ──25 ms── NAT ─┘                    └─ r1 r2 pt relay

`a` has the sshd. Nothing leads out of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop.kad import Servers, add_addresses, batch, move
from interop.kubo import Kubo
from pt.lab.link import DEVICE, Link, Shape
from pt.lab.nat import Internet, Site
from pt.lab.netns import DEVICE as ETHERNET
from pt.lab.netns import Host, Lan
from tests.e2e.harness import PtProcess, Rig
from tests.e2e.sshd import start_sshd

KUBOS: Final = {"k0": "11.160.0.1", "k1": "11.161.0.1"}
RELAYS: Final = {"r1": "11.170.0.1", "r2": "11.171.0.1"}
SILENT: Final = "11.254.0.1"
"""Whatever is sent there vanishes."""
NOBODY: Final = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
INSIDE: Final = {"a": "192.168.5", "b": "192.168.6"}
DELAY: Final = 0.025


@dataclass
class Far:
    """What is there beside the two hosts; `kubo` and `relays` may be empty."""

    servers: Servers
    tap: Path
    kubo: tuple[Kubo, ...]
    relays: tuple[str, ...]
    """Addresses of `pt relay`s, for --relay."""


class World(Rig):
    """Runs `pt` on `a` and `b`; an sshd runs on `a`."""

    def __init__(self, a: Host, b: Host, tmp: Path) -> None:
        self.a, self.b, self.tmp = a, b, tmp
        self.c = b
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()
        self.ssh_keys = start_sshd(self)


@dataclass
class Net:
    """The internet, with a world that begins at its NATs."""

    world: World
    far: Far
    nats: dict[str, Host]
    """Of `a` and of `b`; what the internet sees as their addresses is `ip`."""


@contextlib.contextmanager
def internet(tmp: Path, *, servers: int, relaying: int, delay: float = DELAY) -> Iterator[Net]:
    """Build it; of the DHT's servers, the first `relaying` relay with libp2p's limits."""
    sites = {name: Site() for name in INSIDE}
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Internet(["dht", *KUBOS, *RELAYS], sites, congestion="reno"))
        for name, inside in INSIDE.items():
            host, router = net[name], net.router(name)
            host.link_down()  # the slow cable takes the place of the one that is there
            link = Link(host, router, Shape(delay=delay), subnet=inside)
            stack.enter_context(link)
            batch(
                host,
                [
                    f"addr flush dev {ETHERNET}",
                    f"route replace default via {link.b_ip} dev {DEVICE}",
                ],
            )
            router.nft(f'add rule inet wall pass iifname "{DEVICE}" accept')
        _swallow(net["dht"])
        world = World(net["a"], net["b"], tmp)
        stack.callback(world.close)
        far = _populate(net, world, tmp, servers, relaying)
        yield Net(world, far, {name: net.router(name) for name in INSIDE})


@contextlib.contextmanager
def lan(tmp: Path) -> Iterator[World]:
    """The two hosts on one switch, and a third that swallows what goes to SILENT."""
    with Lan(names=["a", "b", "c"], congestion="reno") as there:
        a, b, c = there.hosts
        _swallow(c)
        world = World(a, b, tmp)
        try:
            yield world
        finally:
            world.close()


def silent(number: int, transport: str = "tcp") -> str:
    """The multiaddr of a peer that never answers; `number` up to 9 tells them apart."""
    return f"/ip4/{SILENT}/{transport}/{4001 + number}/p2p/{NOBODY}"


def _swallow(host: Host) -> None:
    add_addresses(host, [SILENT])
    host.nft(f"add rule inet lab path ip daddr {SILENT} drop")


def _populate(net: Internet, world: World, tmp: Path, count: int, relaying: int) -> Far:
    ips = [f"11.{20 + number}.0.1" for number in range(count)]
    add_addresses(net["dht"], ips)
    tap = tmp / "tap.jsonl"
    servers = Servers(net["dht"], ips, tmp / "servers.log", relays=relaying, tap=tap)
    bootstrap = [str(info.addresses[0].with_peer(info.id.raw)) for info in servers.infos[:6]]
    kubos = []
    for name, ip in KUBOS.items():
        move(net[name], ip)
        kubos.append(Kubo(net[name], ip, tmp / name, bootstrap=bootstrap, relay=True))
        servers.meet(kubos[-1].info)
    relays = []
    for name, ip in RELAYS.items():
        move(net[name], ip)
        words = ["relay", "--json", "--listen", f"/ip4/{ip}/tcp/4001"]
        if relays:
            words += ["--bootstrap", relays[0]]
        process = world.pt(*words, host=net[name], home=name)
        addresses = process.wait("relay_ready")["addresses"]
        assert isinstance(addresses, list)
        relays.append(str(addresses[0]))
    return Far(servers, tap, tuple(kubos), tuple(relays))
