"""`pt tcp` and `pt bind` find each other with nothing but the name, and the relays of a network."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pt.identity.peer_id import PeerId
from tests.e2e.harness import PtProcess, ask_echo, local_port
from tests.e2e.relay_rig import Relay, RelayRig, relay_rig_at

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RelayRig]:
    with relay_rig_at(tmp_path) as made:
        yield made


def network_file(rig: RelayRig, *relays: Relay) -> str:
    path = rig.tmp / "network"
    lines = ["# the relays of this network", "", *(f"{each.address}  # fine" for each in relays)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def expose(rig: RelayRig, *argv: str, **options: Any) -> PtProcess:
    port = rig.echo_service(options.get("host"))
    return rig.expose("--port", str(port), *argv, **options)


def bind(rig: RelayRig, *argv: str, **options: Any) -> PtProcess:
    return rig.bind("--port", "0", *argv, **options)


def check(rig: RelayRig, binder: PtProcess) -> socket.socket:
    client = rig.dial(local_port(binder), host=binder.host)
    ask_echo(client, b"through the overlay")
    return client


def position(process: PtProcess, event: str, **facts: object) -> int:
    """The place of the first such event among all."""
    return process.events.index(process.wait(event, **facts))


@pytest.fixture
def relays(rig: RelayRig) -> tuple[Relay, Relay]:
    """Two that know each other."""
    first = rig.relay(users=False)
    return first, rig.relay("--bootstrap", first.address, host=rig.r2, users=False)


def test_two_relays_alone_lead_one_to_the_other(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    exposer = expose(rig, "--relay", relays[0].address)
    told = exposer.wait("published", medium="overlay", ok=True)
    assert "relays" in str(told["detail"])
    assert position(exposer, "published", medium="overlay") < position(exposer, "ready")
    assert str(exposer.wait("ready")["bind_command"]).endswith(f"--relay {relays[0].address}")
    binder = bind(rig, "--no-lan", "--relay", relays[1].address)
    assert binder.wait("looking_up")["media"] == ["overlay"]
    assert binder.wait("searched", medium="overlay")["ok"]
    assert binder.wait("found")["medium"] == "overlay"
    assert str(binder.wait("connected")["path"]).startswith("relay/")
    check(rig, binder)
    # the second relay has the record, too
    relays[0].process.signal(signal.SIGKILL)
    later = bind(rig, "--no-lan", "--relay", relays[1].address, home="c", ready=False)
    assert later.wait("found")["peer_id"] == exposer.wait("ready")["peer_id"]


def test_a_network_in_a_file(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    file = network_file(rig, *relays)
    exposer = expose(rig, "--network", file)
    assert exposer.wait("published", medium="relay", ok=True, count=2)
    check(rig, bind(rig, "--no-lan", "--network", file))


def test_a_wrong_name_finds_nobody(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    expose(rig, "--relay", relays[0].address)
    wrong = bind(
        rig, "--no-lan", "--relay", relays[0].address, "--timeout", "4", name="another", ready=False
    )
    assert wrong.exit_code() == 3
    assert "nobody has published this name here" in str(wrong.wait("error")["message"])
    assert not wrong.matching("found")


def test_who_said_goodbye_is_not_dialed(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    exposer = expose(rig, "--relay", relays[0].address)
    exposer.signal(signal.SIGTERM)
    assert exposer.exit_code() == 143
    late = bind(rig, "--no-lan", "--relay", relays[1].address, "--timeout", "4", ready=False)
    assert late.exit_code() == 3
    assert not late.matching("found")


def test_a_dead_medium_delays_nothing(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    """The DHT's only peer does not exist; both ends are at work long before that is told."""
    peer = PeerId(b"\x12\x20" + b"p" * 32)
    nowhere = f"/ip4/11.255.255.1/tcp/4001/p2p/{peer}"
    media = ["--bootstrap", nowhere, "--relay", relays[0].address]
    exposer = expose(rig, *media)
    assert not exposer.matching("published", medium="amino", ok=True)
    binder = bind(rig, "--no-lan", *media)
    assert not binder.matching("searched", medium="amino")
    check(rig, binder)
    failed = exposer.wait("published", medium="amino", timeout=60)
    assert not failed["ok"]
    assert failed["detail"]


def test_another_exposer_of_the_name_takes_over(rig: RelayRig, relays: tuple[Relay, Relay]) -> None:
    one = expose(rig, "--relay", relays[0].address)
    two = expose(rig, "--relay", relays[1].address, host=rig.c, home="two")
    ids = {each.wait("ready")["peer_id"]: each for each in (one, two)}
    binder = bind(rig, "--no-lan", "--any", "--relay", relays[0].address)
    first = binder.wait("connected")["peer_id"]
    check(rig, binder).close()
    ids[first].signal(signal.SIGKILL)
    (other,) = ids.keys() - {first}
    assert binder.wait("connected", peer_id=other, timeout=60)
    check(rig, binder)


def test_another_exposer_is_refused_by_who_knows_the_first(
    rig: RelayRig, relays: tuple[Relay, Relay]
) -> None:
    one = expose(rig, "--relay", relays[0].address)
    binder = bind(rig, "--no-lan", "--relay", relays[0].address, "--once")
    binder.signal(signal.SIGTERM)
    one.signal(signal.SIGTERM)
    assert (binder.exit_code(), one.exit_code()) == (143, 143)
    two = expose(rig, "--relay", relays[0].address, home="two")
    again = bind(rig, "--no-lan", "--relay", relays[0].address, ready=False)
    assert again.exit_code() == 9
    told = str(again.wait("error")["message"])
    assert str(two.wait("ready")["peer_id"]) in told
    assert "--any" in told
