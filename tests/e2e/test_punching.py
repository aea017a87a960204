"""Two hosts behind NATs find a direct path, and go on with what runs when they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import MIB, local_port, take_waiting
from tests.e2e.relay_rig import RelayRig, relay_rig_at
from tests.e2e.transfer import Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


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
