"""`pt nat` behind NATs of the laboratory: what it finds is what they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab import Lab
from pt.lab.machine import Machine
from tests.e2e.harness import PT, TIMEOUT

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

OUTSIDE = "11.100.0.1"
"""Of side a's router."""
SIDES = {
    "a": "eim-eif",
    "b": "adm-adf-random",
    "c": "apdm-apdf-seq,step=2",
    "d": "apdm-eif-block",
    "e": "eim-apdf,hairpin=on,v6=apdf",
    "f": "fw-adf",
    "g": "eim-apdf+apdm-adf-random",
    "h": "tcp443",
}
LABELS = {
    "a": ("eim-eif", "preserving"),
    "b": ("adm-random-adf", "random"),
    "c": ("apdm-seq-apdf", "sequential"),
    "d": ("apdm-block-eif", "random"),
    "e": ("eim-apdf", "preserving"),
    "f": ("fw-adf", None),
    "g": ("apdm-random-apdf", "random"),  # the home router filters more than its carrier
}


def env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PT_")}


def relay(host: Machine, home: Path, *argv: str) -> None:
    """A relay that serves."""
    command = [str(PT), "relay", "--json", "--home", str(home), *argv]
    process = host.popen(command, stdout=subprocess.PIPE, env=env())
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "relay_ready"


def nat(host: Machine, *argv: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = host.run([str(PT), "nat", *argv], check=False, env=env(), timeout=TIMEOUT)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done


def path(told: dict, protocol: str, family: int = 4) -> dict:
    (found,) = [
        each for each in told["paths"] if (each["protocol"], each["family"]) == (protocol, family)
    ]
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    tmp = tmp_path_factory.mktemp("nat")
    with Lab(**SIDES) as made:
        s1 = made["s1"]
        listen = [f"/ip{6 if ':' in each else 4}/{each}/tcp/4001" for each in s1.addresses]
        relay(s1, tmp / "s1", "--listen", *listen)
        relay(made["s2"], tmp / "s2", "--listen", f"/ip4/{made['s2'].ip}/tcp/443")
        yield made


def test_every_kind_of_nat_at_once(lab: Lab) -> None:
    address = f"/ip4/{lab['s1'].ip}/tcp/4001"
    argv = [str(PT), "nat", "--json", "--relay", address]
    running = {name: lab[name].popen(argv, stdout=subprocess.PIPE, env=env()) for name in LABELS}
    for name, process in running.items():
        out, _ = process.communicate(timeout=TIMEOUT)
        told = json.loads(out)
        udp, tcp = path(told, "udp"), path(told, "tcp")
        assert (udp["label"], udp["ports"]) == LABELS[name]
        assert udp["works"]
        assert tcp["works"]
        assert tcp["translated"] == udp["translated"] == (name != "f")
        assert tcp["mapping"] == udp["mapping"]
        assert tcp["filtering"] == udp["filtering"]
        assert udp["mtu"] == 1500
        assert udp["hairpin"] is tcp["hairpin"] is {"a": False, "d": False, "e": True}.get(name)
        assert udp["carrier_grade"] is {"f": False, "g": True}.get(name)
        if name == "c":
            assert udp["step"] == 2
        if name == "d":
            first, last = udp["block"]
            assert last - first < 2048


def test_both_ip_versions(lab: Lab) -> None:
    addresses = [f"/ip4/{lab['s1'].ip}/tcp/4001", f"/ip6/{lab['s1'].ip6}/tcp/4001"]
    told = json.loads(nat(lab["e"], "--json", "--relay", *addresses).stdout)
    assert path(told, "udp", 6)["label"] == "fw-apdf"
    assert path(told, "tcp", 6)["translated"] is False
    assert path(told, "udp", 4)["label"] == "eim-apdf"
    told = json.loads(nat(lab["a"], "--json", "--relay", *addresses).stdout)
    assert path(told, "udp", 4)["label"] == "eim-eif"
    (problem,) = told["problems"]
    assert "no route for IPv6" in problem


def test_the_screen_says_it_in_words(lab: Lab) -> None:
    said = nat(lab["c"], "--relay", f"/ip4/{lab['s1'].ip}/tcp/4001").stdout.decode()
    for words in (
        "IPv4 UDP  apdm-seq-apdf",
        "another external port for each destination",
        "one after the other, in steps of 2",
        "only addresses and ports that were written to get in",
        "not measured (--lifetime)",
        "1500 or more",
        "IPv4 TCP  apdm-seq",
        "symmetric (random, apdf)",
    ):
        assert words in said
    assert len(said.splitlines()) <= 40


def test_udp_that_is_blocked_and_tcp_443_that_is_not(lab: Lab) -> None:
    open_, shut = f"/ip4/{lab['s2'].ip}/tcp/443", f"/ip4/{lab['s1'].ip}/tcp/4001"
    told = json.loads(nat(lab["h"], "--json", "--relay", open_).stdout)
    assert path(told, "udp")["works"] is False
    assert path(told, "tcp")["works"] is True
    assert {each["strategy"] for each in told["works_with"]} == {"relay"}
    said = nat(lab["h"], "--relay", shut, open_).stdout.decode()
    assert "TCP 443 open, TCP 4001 silent" in said
    assert "have a relay listen there" in said
    said = nat(lab["h"], "--relay", shut, code=7).stdout.decode()  # which nobody listens at, but
    assert "TCP 443 gets through, TCP 4001 silent" in said
    assert "have a relay listen there" in said


def test_how_long_a_mapping_lives(lab: Lab) -> None:
    address = f"/ip4/{lab['s1'].ip}/tcp/4001"
    lab.set_nat("a", "eim-apdf,timeout=1.5,refresh=out")
    told = json.loads(nat(lab["a"], "--json", "--relay", address, "--lifetime", "2").stdout)
    udp = path(told, "udp")
    assert (udp["lifetime_at_least"], udp["lifetime_at_most"]) == (1.0, 2.0)
    assert udp["inbound_refreshes"] is False
    lab.set_nat("a", "eim-eif")


@pytest.mark.parametrize(
    ("spec", "keeps"),
    [("eim-apdf,tcpest=1.5", True), ("fw-apdf,tcpest=1.5", True), ("apdm-apdf,maxage=1.5", False)],
)
def test_how_long_a_tcp_connection_may_be_silent(tmp_path: Path, spec: str, keeps: bool) -> None:
    """Keep-alives help, but where a mapping ends at an age."""
    with Lab(a=spec) as one:
        relay(one["s1"], tmp_path / "home", "--listen", f"/ip4/{one['s1'].ip}/tcp/4001")
        argv = ("--json", "--no-portmap", "--relay", f"/ip4/{one['s1'].ip}/tcp/4001")
        tcp = path(json.loads(nat(one["a"], *argv, "--lifetime", "2").stdout), "tcp")
        assert (tcp["lifetime_at_least"], tcp["lifetime_at_most"]) == (1.0, 2.0)
        assert tcp["lifetime"] == 1.0
        assert tcp["keepalive_refreshes"] is keeps


def gateways(told: dict) -> dict[str, dict]:
    return {each["service"]: each for each in told["gateways"]}


def test_what_the_router_maps_ports_by(lab: Lab) -> None:
    """The laboratory's NATs speak PCP and NAT-PMP; with UPnP: tests/interop/test_miniupnpd.py."""
    address = f"/ip4/{lab['s1'].ip}/tcp/4001"
    lab.set_nat("a", "eim-eif,pmp=on")
    found = gateways(json.loads(nat(lab["a"], "--json", "--relay", address).stdout))
    assert {name: each["ok"] for name, each in found.items()} == {
        "PCP": True,
        "NAT-PMP": True,
        "UPnP": False,
    }
    assert (found["NAT-PMP"]["external"], found["NAT-PMP"]["outside"]) == (OUTSIDE, "same")
    assert not [each for each in lab.mappings()["a"] if each["left"] > 300]
    told = json.loads(nat(lab["a"], "--json", "--relay", address, "--no-portmap").stdout)
    assert told["gateways"] is None
    lab.set_nat("a", "eim-eif")


def test_a_router_behind_another_one(tmp_path: Path) -> None:
    with Lab(a="eim-apdf,pmp=pmp+eim-apdf") as double:
        relay(double["s1"], tmp_path / "home", "--listen", f"/ip4/{double['s1'].ip}/tcp/4001")
        argv = ("--relay", f"/ip4/{double['s1'].ip}/tcp/4001")
        told = json.loads(nat(double["a"], "--json", *argv).stdout)
        assert gateways(told)["NAT-PMP"]["outside"] == "carrier"
        assert path(told, "udp")["carrier_grade"] is True
        assert b"a carrier's: double NAT" in nat(double["a"], *argv).stdout


def test_two_relays_with_one_address_each(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret of two relays\n")
    with Lab(a="apdm-adf-random") as two:
        hosts = (two["s1"], two["s2"])
        for host, other in (hosts, hosts[::-1]):
            peer = ("--stun-peer", f"/ip4/{other.ip}/tcp/4001", "--stun-secret-file", str(secret))
            relay(host, tmp_path / host.name, "--listen", f"/ip4/{host.ip}/tcp/4001", *peer)
        told = json.loads(nat(two["a"], "--json", "--relay", f"/ip4/{hosts[0].ip}/tcp/4001").stdout)
        assert path(told, "udp")["label"] == "apdm-random-adf"


def test_one_relay_with_one_address_says_what_it_does_not_know(tmp_path: Path) -> None:
    with Lab(a="eim-adf") as lab:
        relay(lab["s1"], tmp_path / "home", "--listen", f"/ip4/{lab['s1'].ip}/tcp/4001")
        done = nat(lab["a"], "--relay", f"/ip4/{lab['s1'].ip}/tcp/4001")
        assert b"it takes a server with a second address" in done.stdout


def test_whom_to_ask(lab: Lab) -> None:
    assert b"no server is asked that is not named" in nat(lab["a"], code=2).stderr
    done = nat(lab["a"], "--stun", f"{lab['s2'].ip}:9", code=7)
    assert b"neither over UDP nor over TCP" in done.stderr
    assert b"refused" in done.stderr
