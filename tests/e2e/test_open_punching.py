"""Open tunnels of two hosts behind NATs leave their relay as libp2p peers do (DCUtR)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ask_echo, local_port
from tests.e2e.relay_rig import RelayRig, relay_rig_at

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RelayRig]:
    with relay_rig_at(tmp_path) as found:
        found.punches = True
        yield found


def test_connections_take_the_path_through_both_nats(rig: RelayRig) -> None:
    relay = rig.relay()
    secret = ["--relay-secret-file", str(rig.secret)]
    exposer = rig.expose(
        "--port", str(rig.echo_service()), "--open", "--relay", relay.address, *secret
    )
    exposer.wait("published", medium="relay", ok=True)
    circuit = f"{relay.address}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"
    binder = rig.bind("--port", "0", "--no-lan", "--open", "--peer", circuit)
    relayed, direct = (binder.wait("connected", count=count) for count in (1, 2))
    assert str(relayed["path"]).startswith("relay/")
    assert str(direct["path"]).startswith("direct/")
    assert str(direct["address"]).startswith(f"/ip4/{rig.net.router('a').ip}/")
    assert binder.wait("punched", ok=True)["strategy"] == "dcutr"
    assert exposer.wait("punched", ok=True)["strategy"] == "dcutr"
    new = rig.dial(local_port(binder))
    ask_echo(new, b"direct")
    relay.process.signal(signal.SIGKILL)
    relay.process.exit_code()
    ask_echo(new, b"still")
    ask_echo(rig.dial(local_port(binder)), b"and another one")
    assert not binder.matching("disconnected")


def test_a_relay_that_limits_is_enough_to_begin_with(rig: RelayRig) -> None:
    relay = rig.relay(users=False)
    exposer = rig.expose("--port", str(rig.echo_service()), "--open", "--relay", relay.address)
    exposer.wait("published", medium="relay", ok=True)
    circuit = f"{relay.address}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"
    binder = rig.bind("--port", "0", "--no-lan", "--open", "--peer", circuit)
    assert str(binder.wait("connected")["path"]).startswith("direct/")
    ask_echo(rig.dial(local_port(binder)), bytes(1_000_000))
    assert not binder.matching("retrying")
