"""Tunnels through ports that a router maps: by PCP and NAT-PMP of the laboratory's NATs.

A real daemon, and UPnP: tests/interop/test_portmap.py.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab import Lab
from tests.e2e.harness import Event, PtProcess, Rig, ask_echo, finish, local_port, relay_addresses

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

OUTSIDE = "11.100.0.1"
LISTEN = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1")
TERMINATED = 128 + signal.SIGTERM


class LabRig(Rig):
    """`a` exposes behind a NAT that maps ports, `b` is behind a symmetric one, `c` in the open."""

    maps = True

    def __init__(self, lab: Lab, tmp: Path) -> None:
        self.lab = lab
        self.tmp = tmp
        self.a, self.b, self.c = lab["a"], lab["b"], lab["s2"]  # type: ignore[assignment]
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()
        self._port = 4000

    def relay(self, home: str = "relay") -> str:
        """A relay on s1, by its address."""
        host = self.lab["s1"]
        self._port += 1
        process = self.pt(
            *("relay", "--json", "--listen", f"/ip4/{host.ip}/tcp/{self._port}"),
            host=host,  # type: ignore[arg-type]
            home=home,
        )
        return next(each for each in relay_addresses(process) if "/tcp/" in each)

    def leases(self) -> list[str]:
        """External UDP endpoints that stand for longer than traffic would make them."""
        return [
            each["external"]
            for each in self.lab.mappings()["a"]
            if each["protocol"] == "udp" and each["left"] > 300
        ]

    def stop(self, process: PtProcess) -> None:
        """End it in order."""
        process.signal(signal.SIGTERM)
        assert process.exit_code() == TERMINATED


@contextlib.contextmanager
def rig_of(tmp: Path, nat: str) -> Iterator[LabRig]:
    with Lab(a=nat, b="symmetric") as lab:
        rig = LabRig(lab, tmp)
        try:
            yield rig
        finally:
            rig.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabRig]:
    with rig_of(tmp_path_factory.mktemp("portmap"), "eim-apdf,pmp=on") as made:
        yield made


def mapped(process: PtProcess, outside: str, protocol: str = "udp", count: int = 1) -> Event:
    return process.wait("mapped", outside=outside, protocol=protocol, count=count)


def test_a_mapped_port_is_published_once_a_relay_has_seen_it_and_given_back_at_the_end(
    rig: LabRig,
) -> None:
    service = rig.echo_service()
    exposer = rig.expose("--port", str(service), "--relay", rig.relay(), "--listen", *LISTEN)
    told = {each: mapped(exposer, "verified", each) for each in ("udp", "tcp")}
    assert {each["service"] for each in told.values()} == {"PCP"}
    external = {protocol: str(each["external"]) for protocol, each in told.items()}
    assert {each.split(":")[0] for each in external.values()} == {OUTSIDE}
    peer = exposer.wait("ready")["peer_id"]
    for protocol, path in (("udp", "direct/quic"), ("tcp", "direct/tcp")):
        transport = "/quic-v1" if protocol == "udp" else ""
        port = external[protocol].split(":")[1]
        address = f"/ip4/{OUTSIDE}/{protocol}/{port}{transport}/p2p/{peer}"
        binder = rig.bind("--port", "0", to=address, host=rig.c, home=f"c-{protocol}")
        assert binder.wait("connected")["path"] == path
        with rig.dial(local_port(binder), host=rig.c) as client:
            ask_echo(client, b"through the mapping")
            finish(client)
        rig.stop(binder)
    assert rig.leases() == [external["udp"]]
    rig.stop(exposer)
    assert not rig.leases()


def test_a_binder_finds_the_mapped_address_by_the_name_alone(rig: LabRig) -> None:
    """The relay is only where the record is: whoever is behind the worst of NATs gets in."""
    relay = rig.relay("second")
    service = rig.echo_service()
    exposer = rig.expose("--port", str(service), "--relay", relay, "--listen", *LISTEN)
    mapped(exposer, "verified")
    exposer.wait("published", medium="overlay", ok=True, count=2)
    binder = rig.bind("--port", "0", "--no-lan", "--relay", relay, home="b-name")
    where = binder.wait("connected")  # whichever of both ports was in the record by then
    assert str(where["path"]).startswith("direct/")
    assert str(where["address"]).startswith(f"/ip4/{OUTSIDE}/")
    with rig.dial(local_port(binder)) as client:
        ask_echo(client, b"found by its name")
    rig.stop(exposer)


def test_without_anybody_to_ask_it_is_a_candidate_alone(tmp_path: Path) -> None:
    """Two symmetric NATs: nothing but the mapping gets through, and no server sees it as it is."""
    with rig_of(tmp_path, "symmetric,pmp=pmp") as rig:
        relay = rig.relay()
        service = rig.echo_service()
        exposer = rig.expose("--port", str(service), "--relay", relay, "--listen", *LISTEN)
        assert mapped(exposer, "unverified")["service"] == "NAT-PMP"
        peer = exposer.wait("ready")["peer_id"]
        assert not any(OUTSIDE in str(each) for each in exposer.wait("ready")["addresses"])
        circuit = f"{relay}/p2p-circuit/p2p/{peer}"
        binder = rig.bind("--port", "0", to=circuit)
        punched = binder.wait("punched")
        assert punched["ok"], punched
        assert str(punched["detail"]).startswith(f"/ip4/{OUTSIDE}/udp/")
        assert str(binder.wait("connected", count=2)["path"]) == "direct/quic"


def test_a_router_behind_a_carrier_is_said_to_be_of_no_use(tmp_path: Path) -> None:
    with rig_of(tmp_path, "eim-apdf,pmp=on+eim-apdf") as rig:
        exposer = rig.expose(
            "--port", str(rig.echo_service()), "--relay", rig.relay(), "--listen", *LISTEN
        )
        told = mapped(exposer, "carrier")
        assert "carrier" in str(told["detail"])
        external = str(told["external"]).split(":")[0]
        assert external.startswith("100.64.")
        assert not any(external in str(each) for each in exposer.wait("ready")["addresses"])


def test_no_portmap_asks_nobody(rig: LabRig) -> None:
    flags = ["--relay", rig.relay("third"), "--no-portmap", "--listen", *LISTEN]
    exposer = rig.expose("--port", str(rig.echo_service()), *flags)
    exposer.wait("published", medium="overlay", ok=True)
    assert not exposer.matching("mapped")
    assert not rig.leases()
    rig.stop(exposer)
