"""coturn, in both roles: its server tells us what NAT we are behind, and its clients ask our relay.

Both have to find what the laboratory's NAT is, and so each other's findings. One fault of coturn's
client is known: its third request goes to the first address again, at the other port, so that it
takes an address-dependent mapping for one that depends on the port, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pt.aio.udp import UdpPort
from pt.errors import WaitTimeoutError
from pt.lab import Lab
from pt.lab.machine import Machine
from pt.stun.aio import StunClient, bind_over_tcp
from pt.stun.transactions import Schedule
from tests.e2e.harness import PT, TIMEOUT, need, soak

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.soak, pytest.mark.timeout(120)]

MAPPINGS = {
    "eim": ("endpoint-independent", "Endpoint Independent Mapping"),
    "adm": ("address-dependent", "Address and Port Dependent Mapping"),  # the fault
    "apdm": ("address-and-port-dependent", "Address and Port Dependent Mapping"),
}
FILTERINGS = {
    "eif": ("endpoint-independent", "Endpoint Independent Filtering"),
    "adf": ("address-dependent", "Address Dependent Filtering"),
    "apdf": ("address-and-port-dependent", "Address and Port Dependent Filtering"),
}


@dataclass
class Rig:
    """coturn on s1, a relay on s2, each with two addresses; a host behind a NAT."""

    lab: Lab
    home: Path

    @property
    def a(self) -> Machine:
        return self.lab["a"]

    def ask_coturn(self) -> dict[str, object]:
        """What `pt nat` finds, asking coturn."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PT_")}
        argv = [str(PT), "nat", "--json", "--stun", f"{self.lab['s1'].ip}:3478"]
        done = self.a.run(argv, env=env)
        told = json.loads(done.stdout)
        assert told["event"] == "nat"
        return told

    def ask_us(self, *options: str) -> str:
        """What coturn's client says of our relay."""
        done = self.a.run(["turnutils_natdiscovery", *options, "-p", "3478", self.lab["s2"].ip])
        return done.stdout.decode()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    need("turnserver", "turnutils_natdiscovery", "turnutils_stunclient")
    tmp = tmp_path_factory.mktemp("coturn")
    with Lab(a="eim-apdf") as lab:
        own = [each for each in lab["s1"].addresses if ":" not in each]
        argv = ["turnserver", "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls"]
        argv += [word for each in own for word in ("--listening-ip", each)]
        argv += ["--alt-listening-port", "3479", "--log-file", "stdout", "--no-stdout-log"]
        argv += ["--pidfile", str(tmp / "pid"), "--userdb", str(tmp / "db")]
        with (tmp / "coturn.log").open("wb") as log:
            lab["s1"].popen(argv, stdout=log, stderr=subprocess.STDOUT)
        listen = [f"/ip4/{each}/tcp/3478" for each in lab["s2"].addresses if ":" not in each]
        argv = [str(PT), "relay", "--json", "--home", str(tmp / "home"), "--listen", *listen]
        relay = lab["s2"].popen(argv, stdout=subprocess.PIPE)
        assert relay.stdout is not None
        assert json.loads(relay.stdout.readline())["event"] == "relay_ready"
        wait_for_coturn(lab)
        yield Rig(lab, tmp)


def wait_for_coturn(lab: Lab) -> None:
    async def main() -> None:
        port = UdpPort()
        client = StunClient(port.send)
        port.received = client.received
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    await client.binding((lab["s1"].ip, 3478), schedule=Schedule((0.0,), 0.2))
                except WaitTimeoutError:  # it does not tell when it serves
                    continue
                break
        client.close()
        port.close()

    with lab["a"].inside():
        asyncio.run(main())


@pytest.mark.parametrize("filtering", FILTERINGS)
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_both_find_what_the_nat_is(rig: Rig, mapping: str, filtering: str) -> None:
    rig.lab.set_nat("a", f"{mapping}-{filtering}-random")
    path = next(each for each in rig.ask_coturn()["paths"] if each["protocol"] == "udp")
    assert path["works"]
    assert path["mapping"] == MAPPINGS[mapping][0]
    assert path["filtering"] == FILTERINGS[filtering][0]
    assert path["ports"] == "random"
    # Its test of filters waits 3 s for each answer that does not come: once for each filter.
    filters = mapping == "eim" or soak()
    said = rig.ask_us("-m", *(["-f"] if filters else []))
    assert re.findall(r"NAT with (.*Mapping)!", said) == [MAPPINGS[mapping][1]]
    wanted = [FILTERINGS[filtering][1]] if filters else []
    assert re.findall(r"NAT with (.*Filtering)!", said) == wanted


def test_coturns_client_finds_that_there_is_no_nat(rig: Rig) -> None:
    host, relay = rig.lab["s1"], rig.lab["s2"]
    argv = ["turnutils_natdiscovery", "-m", "-f", "-L", host.ip, "-p", "3478", relay.ip]
    assert b"No NAT!" in host.run(argv).stdout


def test_coturns_client_finds_how_long_a_mapping_lives(rig: Rig) -> None:
    """By RESPONSE-PORT, which our relay has to do as coturn expects it."""
    rig.lab.set_nat("a", "eim-apdf,timeout=2")
    assert "Mapping Lifetime Behavior Discovery" in rig.ask_us("-t", "-T", "1")


def test_coturns_client_with_padding(rig: Rig) -> None:
    rig.lab.set_nat("a", "eim-eif")
    said = rig.ask_us("-m", "-P")
    assert re.findall(r"NAT with (.*Mapping)!", said) == ["Endpoint Independent Mapping"]


def test_coturns_stunclient(rig: Rig) -> None:
    """From a host without NAT: it wants an answer at its next port, which no NAT lets in."""
    relay = rig.lab["s2"]
    done = rig.lab["s1"].run(["turnutils_stunclient", "-f", "-p", "3478", relay.ip])
    said = done.stdout.decode()
    assert f"UDP reflexive addr: {rig.lab['s1'].ip}:" in said
    assert f"Response origin: : {relay.addresses[1]}:3479" in said


def test_coturns_server_over_udp_and_tcp(rig: Rig) -> None:
    rig.lab.set_nat("a", "eim-eif")
    server = (rig.lab["s1"].ip, 3478)

    async def main() -> None:
        port = UdpPort()
        client = StunClient(port.send)
        port.received = client.received
        found = await client.binding(server)
        assert found.mapped[0] == "11.100.0.1"
        assert found.other == (rig.lab["s1"].addresses[1], 3479)
        assert "Coturn" in found.software
        refused = await client.ask(server, attributes=[(0x7FFF, b"")])
        assert refused.error is not None
        assert refused.error[0] == 420
        over_tcp, _ = await bind_over_tcp(server)
        assert over_tcp.mapped[0] == "11.100.0.1"
        client.close()
        port.close()

    with rig.a.inside():
        asyncio.run(main())
