"""Open tunnels that are found by their id, on a DHT of go-libp2p-kad-dht servers.

The other end is a Go peer that does what the Go program does: routing discovery on its topic, and
of the providers found the first one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from interop import kad
from interop.rig import build
from pt.lab.nat import Internet
from pt.lab.netns import Host
from pt.rendezvous.topic import cid, provider_key, topic
from tests.e2e.harness import TIMEOUT, PtProcess, ask_echo, local_port
from tests.e2e.relay_rig import SITES, RelayRig

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

SERVERS = 25
GO_CLIENT = "11.253.0.1"
DEAD = "11.254.0.1"
ANY = "/ip4/0.0.0.0/tcp/0"
SOON = 8.0
"""Seconds; a dial to somebody silent takes longer to fail."""


@dataclass
class Lab:
    rig: RelayRig
    servers: kad.Servers
    dht: Host

    @property
    def bootstrap(self) -> list[str]:
        info = self.servers.infos[0]
        return ["--bootstrap", str(info.addresses[0].with_peer(info.id.raw))]

    def go(self, host: Host, *argv: str) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
        """Start a Go peer; it and its first line, which says that it is ready."""
        with (self.rig.tmp / "go.log").open("ab") as log:
            process = host.popen(
                [str(kad.BINARY), *argv, *self.bootstrap],
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (self.rig.tmp / "go.log").read_text() + self.rig.describe()
        said = json.loads(line)
        assert isinstance(said, dict)
        return process, said

    def provide(self, name: str, ip: str) -> str:
        """Leave a provider of the id behind that is not there any more; its peer id."""
        said = kad.go(
            self.dht, "provide", ip=ip, bootstrap=self.servers.infos[0], key=provider_key(name)
        )
        return str(said["id"])

    def expose(self, name: str, *argv: str, host: Host | None = None) -> PtProcess:
        port = self.rig.echo_service(host)
        words = ["--open", "--port", str(port), "--listen", ANY, *self.bootstrap, *argv]
        return self.rig.expose(*words, name=name, host=host, home=f"a-{name}")

    def bind(self, name: str, *argv: str, ready: bool = True) -> PtProcess:
        words = ["--open", "--no-lan", "--port", "0", *self.bootstrap, *argv]
        return self.rig.bind(*words, name=name, home=f"b-{name}", ready=ready)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not kad.BINARY.exists() and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/gokad")
    build(["gokad"])
    tmp = tmp_path_factory.mktemp("open")
    with Internet(["dht", "r1", "r2", "c"], SITES, congestion="reno") as net:
        dht = net["dht"]
        ips = [f"11.{20 + number}.0.1" for number in range(SERVERS)]
        kad.add_addresses(dht, [*ips, GO_CLIENT, DEAD])
        rig = RelayRig(net, tmp)
        try:
            yield Lab(rig, kad.Servers(dht, ips, tmp / "servers.log"), dht)
        finally:
            rig.close()


def test_go_makes_the_same_key_of_an_id(lab: Lab) -> None:
    ids = ["test", "a b", "\u00fc", "u\u0308", "~", "\u732b"]
    out = lab.dht.run([str(kad.BINARY), "topic", *ids]).stdout
    for name, said in zip(ids, map(json.loads, out.splitlines()), strict=True):
        assert said["topic"].encode() == topic(name)
        assert said["key"] == provider_key(name).hex()
        assert said["cid"] == cid(name)


def test_a_go_binder_finds_our_exposer(lab: Lab) -> None:
    exposer = lab.expose("ours", host=lab.rig.c)
    published = exposer.wait("published", medium="amino")
    assert published["ok"], published
    assert "servers" in str(published["detail"])
    words = [str(event["event"]) for event in exposer.events]
    assert words.index("published") < words.index("ready")
    through_go(lab, "ours", exposer)
    exposer.signal(signal.SIGTERM)
    assert exposer.exit_code() == 143


def through_go(lab: Lab, name: str, exposer: PtProcess) -> dict[str, object]:
    """A Go binder that knows the id, and 100 kB through it."""
    process, ready = lab.go(lab.rig.r2, "v1-bind", "--find", name)
    found = ready["exposer"]
    assert isinstance(found, dict)
    assert found["id"] == exposer.wait("ready")["peer_id"]
    client = lab.rig.dial(int(str(ready["listen"]).rpartition(":")[2]), host=lab.rig.r2)
    ask_echo(client, os.urandom(100_000))
    process.terminate()
    process.wait(TIMEOUT)
    return found


def test_a_go_binder_finds_our_exposer_behind_a_nat(lab: Lab) -> None:
    """Through a relay without limits; of the addresses, only the relayed one is of any use."""
    relay = lab.rig.relay()
    secret = ["--relay", relay.address, "--relay-secret-file", str(lab.rig.secret)]
    exposer = lab.expose("behind", *secret, host=lab.rig.a)
    exposer.wait("published", medium="amino", ok=True)
    found = through_go(lab, "behind", exposer)
    addresses = found["addresses"]
    assert isinstance(addresses, list)
    assert f"{relay.address}/p2p-circuit" in addresses
    assert all(str(each).endswith("/p2p-circuit") for each in addresses)


def test_we_find_a_go_exposer_among_dead_ones(lab: Lab) -> None:
    """Every run of the Go program leaves a provider behind; here, some are at silent addresses."""
    rig = lab.rig
    lab.provide("gos", GO_CLIENT)
    for _ in range(3):
        lab.provide("gos", DEAD)
    lab.dht.nft(f"add rule inet lab path ip daddr {DEAD} drop")
    listen = f"/ip4/{rig.c.ip}/tcp/4003"
    port = str(rig.echo_service(rig.c))
    _, said = lab.go(rig.c, "v1-tcp", "--port", port, "--listen", listen, "--advertise", "gos")
    began = time.monotonic()
    binder = lab.bind("gos")
    assert time.monotonic() - began < SOON
    assert binder.wait("ready")["peer_id"] == said["id"]
    ask_echo(rig.dial(local_port(binder)), os.urandom(100_000))


def test_a_go_exposer_that_comes_later_is_found(lab: Lab) -> None:
    rig = lab.rig
    binder = lab.bind("later", ready=False)
    searched = binder.wait("searched", medium="amino")
    assert not searched["ok"]
    listen = f"/ip4/{rig.c.ip}/tcp/4005"
    port = str(rig.echo_service(rig.c))
    lab.go(rig.c, "v1-tcp", "--port", port, "--listen", listen, "--advertise", "later")
    binder.wait("ready")
    ask_echo(rig.dial(local_port(binder)), os.urandom(1000))


def test_two_of_ours_behind_nats(lab: Lab) -> None:
    relay = lab.rig.relay(host=lab.rig.r2)
    secret = ["--relay", relay.address, "--relay-secret-file", str(lab.rig.secret)]
    exposer = lab.expose("both", *secret, host=lab.rig.a)
    binder = lab.bind("both")
    assert binder.wait("ready")["peer_id"] == exposer.wait("ready")["peer_id"]
    assert binder.wait("found")["medium"] == "amino"
    ask_echo(lab.rig.dial(local_port(binder)), os.urandom(100_000))


def test_nobody_there(lab: Lab) -> None:
    binder = lab.bind("nobody at all", "--timeout", "4", ready=False)
    assert binder.exit_code() == 3
    assert "nobody provides this id" in str(binder.wait("error")["message"])
