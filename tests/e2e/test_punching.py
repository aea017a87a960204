"""Two hosts behind NATs find a direct path, and go on with what runs when they do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import MIB, local_port, soak, take_waiting
from tests.e2e.relay_rig import GapTransfer, RelayRig, relay_rig_at
from tests.e2e.sshd import SSH_PORT, Ssh, start_sshd
from tests.e2e.transfer import Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900 if soak() else 180)]
MOVES = 10 if soak() else 2
OUTAGE = 2.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RelayRig]:
    with relay_rig_at(tmp_path) as found:
        found.punches = True
        yield found


def test_a_session_leaves_the_relay_through_both_nats(rig: RelayRig) -> None:
    relay = rig.relay()
    listener = rig.listen(rig.a)
    exposer = rig.expose_through(listener.getsockname()[1], relay)
    take_waiting(listener)
    binder = rig.bind_through(exposer, relay)
    client = rig.dial(local_port(binder))
    both = Transfer(client, rig.accept(listener), 64 * MIB)
    threads = both.start()
    punched = binder.wait("punched")
    assert punched["ok"], punched
    direct = binder.wait("connected", count=2)
    assert str(direct["path"]).startswith("direct/")
    both.finish(threads)
    assert not binder.matching("disconnected")
    assert exposer.wait("punched", ok=True)["strategy"] == punched["strategy"]


@pytest.mark.parametrize("over", ["tcp", "ssh"])
def test_a_running_transfer_moves_from_relay_to_direct_and_back(rig: RelayRig, over: str) -> None:
    """The direct path vanishes and comes back, again and again; the connection never notices."""
    relay = rig.relay()
    listener = rig.listen(rig.a)
    service = listener.getsockname()[1]
    keys = start_sshd(rig) if over == "ssh" else None
    exposer = rig.expose_through(SSH_PORT if keys else service, relay)
    take_waiting(listener)
    binder = rig.bind_through(exposer, relay)
    if keys is None:
        client = rig.dial(local_port(binder))
    else:
        client = Ssh(rig, keys, local_port(binder)).dial(service)
    both = GapTransfer(client, rig.accept(listener), 1 << 40)
    threads = both.start()
    outer = rig.net.router("a"), rig.net.router("b")
    gaps: list[float] = []
    for move in range(1, MOVES + 1):
        binder.wait("connected", count=2 * move)
        assert str(binder.matching("connected")[-1]["path"]).startswith("direct/")
        both.wait_for(sum(both.received.values()) + 4 * MIB)
        both.watch()
        rig.net.cut(*outer)
        binder.wait("connected", count=2 * move + 1)
        back = time.monotonic() + OUTAGE
        while time.monotonic() < back:  # the transfer goes on meanwhile
            both.wait_for(sum(both.received.values()) + MIB)
        gaps.append(both.gap)
        assert str(binder.matching("connected")[-1]["path"]).startswith("relay/")
        rig.net.restore(*outer)
    both.stop()
    both.finish(threads)
    told = " ".join(f"{1000 * gap:.0f}" for gap in sorted(gaps))
    print(f"{MOVES} times there and back; milliseconds without a byte: {told}")
    assert sorted(gaps)[len(gaps) // 2] < 1.0
