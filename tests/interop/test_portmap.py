"""Port mappings of a real daemon, miniupnpd: by PCP, NAT-PMP and UPnP-IGD, and pinholes over IPv6.

The router lets in only what the daemon opens.  What it has made is read from its firewall.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

import pytest

from pt.lab.nat import INNER, Internet, Site
from pt.lab.netns import DEVICE, Host, setup
from pt.node import portmap
from pt.node.gateways import ANNOUNCEMENTS6, Announcements, find_places
from pt.node.portmap import PortMapper, ask_gateways
from pt.portmap import aio, leases, upnp
from pt.portmap.aio import Datagrams, NatPmp, Pcp, Place
from pt.portmap.mapping import Mapper, Mapping, Service, Wanted
from pt.portmap.upnp import Upnp
from pt.wire.nat_facts import Protocol
from tests.e2e.harness import (
    TIMEOUT,
    Event,
    PtProcess,
    Rig,
    ask_echo,
    finish,
    local_port,
    need,
    relay_addresses,
)
from tests.e2e.igd import Gateway

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

PORT = 4001
WANTED = (Wanted(Protocol.UDP, PORT), Wanted(Protocol.TCP, PORT))
NEIGHBOUR = "192.168.1.3"
HOST6, STABLE6 = "2a00:5:1::2", "2a00:5:1::3"
NAMES = {Service.PCP: "PCP", Service.NAT_PMP: "NAT-PMP", Service.UPNP: "UPnP"}
TERMINATED = 128 + signal.SIGTERM
LIFE = 4
"""Seconds of a short life."""

services = pytest.mark.parametrize("service", Service, ids=lambda each: each.value)
firewalls = pytest.mark.parametrize(
    "service", [Service.PCP, Service.UPNP], ids=lambda each: each.value
)


class IgdRig(Rig):
    """`a` is behind the daemon's router, `b` and `c` are outside."""

    maps = True

    def __init__(self, net: Internet, tmp: Path) -> None:
        self.tmp = tmp
        self.a, self.b, self.c = net["a"], net["out"], net["relay"]
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()
        add_ipv6(net)
        self.gateway = Gateway(net, "a", tmp)

    def open(self, kind: int, host: str = "") -> socket.socket:
        """The port of ours that is to be reached."""
        six = ":" in host
        with self.a.inside():
            sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(TIMEOUT)
            sock.bind((host, PORT))
        return self._stack.enter_context(sock)

    def cross(self, mapping: Mapping) -> None:
        """Have somebody outside send a byte to what a mapping says, and answer it from inside."""
        six = ":" in mapping.external[0]
        kind = {Protocol.UDP: socket.SOCK_DGRAM, Protocol.TCP: socket.SOCK_STREAM}
        with self.b.inside():
            family = socket.AF_INET6 if six else socket.AF_INET
            outside = socket.socket(family, kind[mapping.wanted.protocol])
        ours = self.open(kind[mapping.wanted.protocol], mapping.internal[0])
        with ours, outside:
            outside.settimeout(TIMEOUT)
            if mapping.wanted.protocol is Protocol.TCP:
                ours.listen()
                outside.connect(mapping.external)
                inside, peer = ours.accept()
                with inside:
                    outside.sendall(b"?")
                    assert inside.recv(1) == b"?"
                    inside.sendall(b"!")
                    assert outside.recv(1) == b"!"
            else:
                outside.sendto(b"?", mapping.external)
                data, peer = ours.recvfrom(1)
                assert data == b"?"
                ours.sendto(b"!", peer)
                data, source = outside.recvfrom(1)
                assert (data, source[:2]) == (b"!", mapping.external)
        assert peer[0] in self.b.addresses or peer[0] == "2a00:5::1"

    def stop(self, process: PtProcess) -> None:
        """End it in order."""
        process.signal(signal.SIGTERM)
        assert process.exit_code() == TERMINATED


def add_ipv6(net: Internet) -> None:
    """Public addresses, which the router's firewall protects; it is known by its link-local one."""
    router = net.router("a")
    told: dict[Host, Sequence[str]] = {
        net["a"]: (
            f"addr add {NEIGHBOUR}/24 dev {DEVICE}",
            f"addr add {STABLE6}/64 dev {DEVICE} nodad",
            f"addr add {HOST6}/64 dev {DEVICE} nodad",
            f"route add default via inet6 fe80::1 dev {DEVICE} src {HOST6}",
        ),
        router: (
            f"addr add 2a00:5:1::1/64 dev {INNER} nodad",
            f"addr add fe80::1/64 dev {INNER} nodad",
            f"addr add 2a00:5::ff/64 dev {DEVICE} nodad",
        ),
        net["out"]: (
            f"addr add 2a00:5::1/64 dev {DEVICE} nodad",
            "route add 2a00:5:1::/64 via inet6 2a00:5::ff",
        ),
        net["relay"]: (
            f"addr add 2a00:5::2/64 dev {DEVICE} nodad",
            "route add 2a00:5:1::/64 via inet6 2a00:5::ff",
        ),
    }
    for host, lines in told.items():
        setup([*host.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
    router.sysctl("net.ipv6.conf.all.forwarding", "1")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IgdRig]:
    need("miniupnpd")
    with Internet(public=["out", "relay"], sites={"a": Site()}) as net:
        made = IgdRig(net, tmp_path_factory.mktemp("igd"))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def clean(rig: IgdRig) -> Iterator[None]:
    """Whatever a test leaves behind is its failure."""
    rig.gateway.only(*Service)
    yield
    assert rig.gateway.rules == []


async def until(true: Callable[[], bool]) -> None:
    """Wait for what a program of others does, which does not tell."""
    async with asyncio.timeout(TIMEOUT):
        while not true():
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def keeper(*families: int):
    """Mappings that are kept at the gateways of these IP versions."""
    here = [each for each in find_places() if each.gateway.family in families]
    made = PortMapper(lambda local: WANTED, lambda: None, places=lambda: here)
    made.start()
    try:
        yield made
    finally:
        await made.close()


def run(rig: IgdRig, job: Coroutine[object, object, None]) -> None:
    with rig.a.inside():
        asyncio.run(job)


# --- whole programs -----------------------------------------------------------------------------


def listen(family: int) -> list[str]:
    host = "/ip4/0.0.0.0" if family == 4 else "/ip6/::"
    return ["--listen", f"{host}/tcp/{PORT}", f"{host}/udp/{PORT}/quic-v1"]


def mapped(process: PtProcess, protocol: str, **facts: object) -> Event:
    return process.wait("mapped", protocol=protocol, **facts)


def ask_through(rig: IgdRig, address: str, path: str, *, home: str) -> None:
    """A binder gets in at an address, by this path, and bytes pass."""
    binder = rig.bind("--port", "0", to=address, home=home)
    assert binder.wait("connected")["path"] == path
    with rig.dial(local_port(binder)) as client:
        ask_echo(client, b"through the router")
        finish(client)
    rig.stop(binder)


@services
def test_a_tunnel_through_mapped_ports_which_are_given_back_at_the_end(
    rig: IgdRig, service: Service
) -> None:
    rig.gateway.only(service)
    echo = rig.echo_service()
    exposer = rig.expose("--port", str(echo), "--drain", "1", *listen(4), home=f"a-{service.value}")
    peer = exposer.wait("ready")["peer_id"]
    router = rig.gateway.router.ip
    for protocol, transport in (("tcp", ""), ("udp", "/quic-v1")):
        told = mapped(exposer, protocol, outside="unverified")  # nobody there to ask
        assert (told["service"], told["external"]) == (NAMES[service], f"{router}:{PORT}")
        address = f"/ip4/{router}/{protocol}/{PORT}{transport}/p2p/{peer}"
        path = "direct/quic" if transport else "direct/tcp"
        ask_through(rig, address, path, home=f"b-{service.value}-{protocol}")
    assert len(rig.gateway.rules) == 4  # of either protocol: a translation, and a way in
    rig.stop(exposer)
    assert rig.gateway.rules == []


@firewalls
def test_a_tunnel_over_ipv6_through_the_routers_firewall(rig: IgdRig, service: Service) -> None:
    rig.gateway.only(service)
    with rig.open(socket.SOCK_STREAM, HOST6) as ours, rig.b.inside():
        ours.listen()
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as client:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):  # nobody has asked for it
                client.connect((HOST6, PORT))
    relay = rig.pt(
        "relay",
        "--json",
        "--listen",
        f"/ip6/2a00:5::2/tcp/{PORT}",
        host=rig.c,
        home=f"relay-{service.value}",
    )
    at = next(each for each in relay_addresses(relay) if "/tcp/" in each)
    echo = rig.echo_service()
    exposer = rig.expose(
        "--port", str(echo), "--drain", "1", "--relay", at, *listen(6), home=f"six-{service.value}"
    )
    peer = exposer.wait("ready")["peer_id"]
    for protocol, transport in (("tcp", ""), ("udp", "/quic-v1")):
        told = mapped(exposer, protocol, external=f"[{HOST6}]:{PORT}", outside="verified")
        assert told["service"] == NAMES[service]
        address = f"/ip6/{HOST6}/{protocol}/{PORT}{transport}/p2p/{peer}"
        path = "direct/quic" if transport else "direct/tcp"
        ask_through(rig, address, path, home=f"b-six-{service.value}-{protocol}")
    assert len(rig.gateway.rules) == 4  # of either protocol and address
    rig.stop(exposer)
    assert rig.gateway.rules == []
    rig.stop(relay)


# --- the keeper of mappings ---------------------------------------------------------------------


def test_what_the_gateways_have(rig: IgdRig) -> None:
    async def main() -> None:
        found = await ask_gateways()
        told = [(each.place.local, each.service, each.ok) for each in found]
        four = [("192.168.1.2", each, True) for each in Service]
        six = [
            (host, each, True) for host in (HOST6, STABLE6) for each in (Service.PCP, Service.UPNP)
        ]
        assert told == [*four, *six]
        assert found[-1].detail == "WANIPv6FirewallControl 1, pinholes allowed"

    run(rig, main())


@pytest.mark.parametrize(
    ("service", "family"),
    [*((each, 4) for each in Service), (Service.PCP, 6), (Service.UPNP, 6)],
    ids=lambda each: getattr(each, "value", str(each)),
)
def test_mappings_are_renewed_before_they_end(
    rig: IgdRig, service: Service, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds of short lives; without us the daemon ends them itself."""
    for module in (aio, upnp):
        monkeypatch.setattr(module, "LIFETIME", LIFE)
    monkeypatch.setattr(aio, "SHORTEST", 1)
    monkeypatch.setattr(leases, "SOONEST", 0.5)
    rig.gateway.only(service)

    async def main() -> None:
        async with keeper(family) as kept:
            await until(lambda: len(kept.mappings) == (2 if family == 4 else 4))
            first, began = kept.mappings, time.monotonic()
            assert {each.lifetime for each in first} == {LIFE}
            await until(lambda: time.monotonic() > began + 2 * LIFE)
            assert {each.external for each in kept.mappings} == {each.external for each in first}
            for each in kept.mappings:
                rig.cross(each)
            rig.gateway.only()
        await until(lambda: rig.gateway.rules == [])

    run(rig, main())


@contextlib.asynccontextmanager
async def neighbour(service: Service):
    """Somebody else behind the router, who has the port that we want."""
    place = Place(find_places()[0].gateway, NEIGHBOUR)
    datagrams = Datagrams(place)
    make: dict[Service, Callable[[], Mapper]] = {
        Service.PCP: lambda: Pcp(datagrams),
        Service.NAT_PMP: lambda: NatPmp(datagrams),
        Service.UPNP: lambda: Upnp(place),
    }
    made = make[service]()
    await made.probe()
    theirs = [await made.map(each, PORT) for each in WANTED]
    assert {each.external[1] for each in theirs} == {PORT}
    try:
        yield theirs
    finally:
        for each in theirs:
            await made.unmap(each)
        datagrams.close()


@services
def test_a_port_that_is_anothers_is_left_to_it(rig: IgdRig, service: Service) -> None:
    rig.gateway.only(service)

    async def main() -> None:
        async with neighbour(service) as theirs:
            before = rig.gateway.rules
            async with keeper(4) as kept:
                await until(lambda: len(kept.mappings) == 2)
                assert PORT not in {each.external[1] for each in kept.mappings}
                for each in (*kept.mappings, *theirs):
                    rig.cross(each)
            assert rig.gateway.rules == before

    run(rig, main())


@pytest.mark.parametrize(
    ("service", "families"),
    [*((each, (4,)) for each in Service), (Service.PCP, (4, 6)), (Service.UPNP, (4, 6))],
    ids=["pcp", "nat-pmp", "upnp", "pcp over both", "upnp over both"],
)
def test_a_daemon_that_has_forgotten_all_is_asked_again(
    rig: IgdRig, service: Service, families: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces its start, which is believed when it says the same on being asked.

    Over IPv6 this daemon announces to the wrong side, so that what it says over IPv4 counts.
    """
    monkeypatch.setattr(portmap, "HEED", 0.2)
    rig.gateway.only(service)
    count = 2 * (1 if families == (4,) else 3)

    async def main() -> None:
        async with keeper(*families) as kept:
            await until(lambda: len(kept.mappings) == count)
            await until(lambda: rig.gateway.age > 4)  # or its clock does not tell of the start
            rules = rig.gateway.rules
            await asyncio.to_thread(rig.gateway.reboot)
            assert rig.gateway.rules != rules
            await until(lambda: sorted(rig.gateway.rules) == sorted(rules))
            await until(lambda: len(kept.mappings) == count)
            for each in kept.mappings:
                rig.cross(each)

    run(rig, main())


def test_what_the_router_announces_over_ipv6_is_heard(rig: IgdRig) -> None:
    async def main() -> None:
        heard = asyncio.Event()
        place = next(each for each in find_places() if each.gateway.family == 6)
        announcements = Announcements(place, heard.set)
        with rig.gateway.router.inside(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            link = socket.if_nametoindex(INNER)
            sock.bind(("fe80::1", 0, 0, link))
            sock.sendto(bytes(24), (*ANNOUNCEMENTS6, 0, link))
        async with asyncio.timeout(TIMEOUT):
            await heard.wait()
        announcements.close()

    run(rig, main())
