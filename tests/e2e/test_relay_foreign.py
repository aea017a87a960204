"""Relays that we did not write, and the Go program through ours."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.netns import Host
from pt.tunnel.selftest.wire import pattern
from tests.e2e.harness import PtProcess, ask_echo, local_port, soak
from tests.e2e.relay_rig import RelayRig, converse, relay_rig_at

pytestmark = [
    pytest.mark.netns,
    pytest.mark.interop,
    pytest.mark.timeout(1800 if soak() else 120),
]
PEERS = Path(__file__).resolve().parents[2] / "interop" / "bin"
GO_PEER = PEERS / "go-peer"
GO_TUNNEL = PEERS / "gokad-peer"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RelayRig]:
    if not GO_PEER.exists() or not GO_TUNNEL.exists():
        pytest.skip("the Go peers are not built (interop/build.sh go gokad)")
    with relay_rig_at(tmp_path) as made:
        yield made


def go(rig: RelayRig, host: Host, *argv: str, peer: Path = GO_PEER) -> dict[str, object]:
    """Start a Go peer on a host; its first line, which says that it is ready."""
    with (rig.tmp / "go.log").open("ab") as log:
        process = host.popen([str(peer), *argv], stdout=subprocess.PIPE, stderr=log, env=os.environ)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (rig.tmp / "go.log").read_text()
    said: dict[str, object] = json.loads(line)
    return said


def go_relay(rig: RelayRig, *argv: str) -> str:
    said = go(rig, rig.r1, "relay", "--ip", rig.r1.ip, "--port", "4001", *argv)
    return str(said["multiaddr"])


def exposed(rig: RelayRig, relay: str, *argv: str) -> tuple[PtProcess, str]:
    """An echo service exposed behind a NAT through `relay`; the exposer and its circuit address."""
    exposer = rig.expose("--port", str(rig.echo_service()), "--relay", relay, *argv)
    exposer.wait("published", medium="relay", ok=True)
    return exposer, f"{relay}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"


@pytest.mark.soak
def test_a_dialogue_lives_on_go_libp2ps_relay(rig: RelayRig) -> None:
    """With the limits of public relays in the long form, tighter ones in the short form."""
    limits = [] if soak() else ["--data", "24576", "--duration", "6"]
    seconds = 900 if soak() else 15
    _, circuit = exposed(rig, go_relay(rig, *limits))
    binder = rig.bind("--port", "0", "--no-lan", "--peer", circuit)
    told = converse(rig.dial(local_port(binder)), seconds)
    paths = binder.matching("connected")
    print(f"{told}, {len(paths)} circuits")
    assert {path["path"] for path in paths} == {"relay/circuit"}
    assert len(paths) >= 4
    assert not binder.matching("disconnected")
    assert "pt relay" in str(binder.wait("warned")["message"])


def test_go_libp2ps_relay_without_limits_carries_bulk(rig: RelayRig) -> None:
    _, circuit = exposed(rig, go_relay(rig, "--unlimited"))
    binder = rig.bind("--port", "0", "--no-lan", "--peer", circuit)
    ask_echo(rig.dial(local_port(binder)), bytes(pattern(0, 2_000_000)))
    assert not binder.matching("warned")


# --- PeerTunnel in Go --------------------------------------------------------------------------


def through_go_bind(rig: RelayRig, host: Host, circuit: str, *argv: str) -> None:
    """A Go binder on `host`, and 200 kB through it."""
    words = ["v1-bind", "--listen", "127.0.0.1:2022", "--peer", circuit, *argv]
    go(rig, host, *words, peer=GO_TUNNEL)
    client = rig.dial(2022, host=host)
    ask_echo(client, bytes(pattern(0, 200_000)))


def test_a_go_binder_reaches_our_exposer_through_a_relay_without_limits(rig: RelayRig) -> None:
    relay = go_relay(rig, "--unlimited")
    _, circuit = exposed(rig, relay, "--open")
    through_go_bind(rig, rig.b, circuit)


def test_a_go_binder_reaches_our_exposer_through_our_relay(rig: RelayRig) -> None:
    relay = rig.relay()
    secret = ["--relay-secret-file", str(rig.secret)]
    _, circuit = exposed(rig, relay.address, "--open", *secret)
    through_go_bind(rig, rig.b, circuit)
    assert relay.process.wait("circuit_opened", kind="libp2p")["grade"] == "user"


def test_a_public_go_binder_is_dialed_back_when_the_relay_limits(rig: RelayRig) -> None:
    """It opens no stream on a limited connection, and makes no direct one: ours does."""
    relay = rig.relay(users=False)
    _, circuit = exposed(rig, relay.address, "--open")
    began = time.monotonic()
    through_go_bind(rig, rig.c, circuit, "--at", f"/ip4/{rig.c.ip}/tcp/4005")
    assert time.monotonic() - began < 8  # Go gives up after 10


def test_our_open_binder_says_what_a_limited_relay_cannot_do(rig: RelayRig) -> None:
    relay = rig.relay(users=False)
    _, circuit = exposed(rig, relay.address, "--open")
    binder = rig.bind("--port", "0", "--no-lan", "--open", "--once", "--peer", circuit, ready=False)
    assert binder.exit_code() == 5
    assert "pt relay" in str(binder.wait("error")["message"])
