"""`pt tcp` asks its relays, which are AutoNAT servers, which of its addresses others can dial.

Two relays agree within seconds; one alone is asked twice, two minutes apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.lab import Lab
from tests.e2e.harness import Event, PtProcess, Rig, ask_echo, local_port, relay_addresses

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
LISTEN = ["--listen", "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"]
NAT_A = "11.100.0.1"


class LabRig(Rig):
    """`a` and `b` expose, behind what a test says; relays at two public hosts, `c` is a third."""

    def __init__(self, lab: Lab, tmp: Path, *, maps: bool) -> None:
        self.maps = maps
        self.lab = lab
        self.tmp = tmp
        self.a, self.b, self.c = lab["a"], lab["b"], lab["s3"]  # type: ignore[assignment]
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()
        self.relays = [self._relay(name) for name in ("s1", "s2")]

    def _relay(self, name: str) -> str:
        host = self.lab[name]
        process = self.pt(
            *("relay", "--json", "--listen", f"/ip4/{host.ip}/tcp/4001"),
            host=host,  # type: ignore[arg-type]
            home=name,
        )
        return next(each for each in relay_addresses(process) if "/tcp/4001/p2p" in each)

    def exposer(self, name: str) -> PtProcess:
        host = self.lab[name]
        flags = ["--relay", *self.relays, *LISTEN]
        port = str(self.echo_service(host))  # type: ignore[arg-type]
        return self.expose("--port", port, *flags, host=host, home=name)  # type: ignore[arg-type]


@contextlib.contextmanager
def rig_of(tmp: Path, a: str, b: str, *, maps: bool = False) -> Iterator[LabRig]:
    with Lab(a=a, b=b, public=3, link="delay=1") as lab:
        rig = LabRig(lab, tmp, maps=maps)
        try:
            yield rig
        finally:
            rig.close()


def verdict(exposer: PtProcess, address: str) -> Event:
    return exposer.wait("address_reachability", address=address)


def told(exposer: PtProcess) -> set[str]:
    """All addresses that servers were asked about, as far as they agree."""
    return {str(each["address"]) for each in exposer.matching("address_reachability")}


def test_a_public_address_is_confirmed_and_one_behind_a_nat_is_not(tmp_path: Path) -> None:
    with rig_of(tmp_path, "eim-apdf", "public") as rig:
        inside, outside = rig.exposer("a"), rig.exposer("b")
        for address in (f"/ip4/{rig.b.ip}/tcp/4001", f"/ip4/{rig.b.ip}/udp/4001/quic-v1"):
            found = verdict(outside, address)
            assert (found["reachable"], found["published"]) == (True, True)
        found = inside.wait("address_reachability")
        assert str(found["address"]).startswith(f"/ip4/{NAT_A}/")
        assert (found["reachable"], found["published"]) == (False, False)
        assert all(each.startswith(f"/ip4/{NAT_A}/") for each in told(inside))
        ready = inside.wait("ready")["addresses"]
        assert isinstance(ready, list)
        assert not any(NAT_A in str(each) for each in ready)


def found_by(rig: LabRig, exposer: PtProcess, since: Event, *, there: str, wanted: bool) -> Event:
    """A binder that finds the record which has, or has not, an address beginning with `there`.

    A record that was under way when the verdict came may be told of after it.
    """
    for count in range(1, 9):
        published = exposer.wait("published", medium="overlay", ok=True, count=count)
        if float(str(published["time"])) < float(str(since["time"])):
            continue
        flags = ("--port", "0", "--no-lan", "--relay", rig.relays[0])
        binder = rig.bind(*flags, host=rig.c, home=f"c-{count}")
        found = binder.wait("found", medium="overlay")
        addresses = found["addresses"]
        assert isinstance(addresses, list)
        if any(str(each).startswith(there) for each in addresses) is wanted:
            with rig.dial(local_port(binder), host=rig.c) as client:
                ask_echo(client, b"found by its name")
            return binder.wait("connected")
    raise AssertionError(f"the record stays as it was\n{rig.describe()}")


def test_an_address_behind_a_firewall_is_withdrawn_from_the_record(tmp_path: Path) -> None:
    with rig_of(tmp_path, "fw-apdf", "public") as rig:
        exposer = rig.exposer("a")
        own = [f"/ip4/{rig.a.ip}/tcp/4001", f"/ip4/{rig.a.ip}/udp/4001/quic-v1"]
        ready = exposer.wait("ready")["addresses"]
        assert isinstance(ready, list)
        assert any(str(each).startswith(own[0]) for each in ready)  # nobody knew better then
        verdicts = [verdict(exposer, each) for each in own]
        assert [each["reachable"] for each in verdicts] == [False, False]
        assert not any(each["published"] for each in verdicts)
        last = max(verdicts, key=lambda each: float(str(each["time"])))
        path = found_by(rig, exposer, last, there=f"/ip4/{rig.a.ip}/", wanted=False)
        assert str(path["path"]).startswith("relay/")


def test_where_a_full_cone_nat_lets_everybody_in_is_published(tmp_path: Path) -> None:
    with rig_of(tmp_path, "eim-eif", "public") as rig:
        exposer = rig.exposer("a")
        found = exposer.wait("address_reachability", reachable=True)
        assert str(found["address"]).startswith(f"/ip4/{NAT_A}/")
        assert found["published"]
        path = found_by(rig, exposer, found, there=f"/ip4/{NAT_A}/", wanted=True)
        assert str(path["path"]).startswith("direct/")
        assert str(path["address"]).startswith(f"/ip4/{NAT_A}/")


def test_a_mapped_port_of_a_symmetric_nat_is_published_once_it_was_dialed(tmp_path: Path) -> None:
    """Servers see this machine at other ports: by that alone nobody knows that it leads here."""
    with rig_of(tmp_path, "symmetric,pmp=pmp", "public", maps=True) as rig:
        exposer = rig.exposer("a")
        told = {
            protocol: exposer.wait("mapped", outside="verified", protocol=protocol)
            for protocol in ("tcp", "udp")
        }
        assert {str(each["external"]).split(":")[0] for each in told.values()} == {NAT_A}
        last = max(told.values(), key=lambda each: float(str(each["time"])))
        path = found_by(rig, exposer, last, there=f"/ip4/{NAT_A}/", wanted=True)
        assert str(path["path"]).startswith("direct/")
        assert str(path["address"]).startswith(f"/ip4/{NAT_A}/")
