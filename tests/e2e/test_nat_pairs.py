"""The real commands behind NATs of every kind: which way they find, and what they say of none."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.lab import Lab
from tests.e2e.harness import (
    MIB,
    NAME,
    PtProcess,
    Rig,
    ask_echo,
    local_port,
    need,
    relay_addresses,
    soak,
    take_waiting,
)
from tests.e2e.relay_rig import GapTransfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
CUTS = 9 if soak() else 2
OUTAGE = 3.0
"""Seconds that a path is dead."""
LISTEN = ["--listen", "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"]


class NatRig(Rig):
    """`a` exposes and `b` binds behind NATs of a laboratory; a `pt relay` with two addresses."""

    def __init__(self, lab: Lab, tmp: Path) -> None:
        self.lab = lab
        self.tmp = tmp
        self.a, self.b = lab["a"], lab["b"]
        self.processes: list[PtProcess] = []
        self._stack = contextlib.ExitStack()

    def relay(self) -> str:
        """Its first address."""
        own = [f"/ip4/11.1.{number}.1/tcp/4001" for number in (0, 1)]
        flags = ["--listen", *own, "--stranger-data", "0", "--stranger-duration", "0"]
        process = self.pt("relay", "--json", *flags, host=self.lab["s1"], home="relay")
        return relay_addresses(process)[0]


@contextlib.contextmanager
def rig_of(tmp: Path, a: str, b: str, link: str = "delay=5", relay: str = "") -> Iterator[NatRig]:
    links = {"s1": relay} if relay else None
    with Lab(a=a, b=b, public=1, link=link, links=links, seed=3) as lab:
        rig = NatRig(lab, tmp)
        try:
            yield rig
        finally:
            rig.close()


def relayed(rig: NatRig, port: int) -> tuple[PtProcess, PtProcess]:
    relay = rig.relay()
    exposer = rig.expose("--port", str(port), "--relay", relay, *LISTEN)
    peer = exposer.wait("ready")["peer_id"]
    binder = rig.bind("--port", "0", to=f"{relay}/p2p-circuit/p2p/{peer}")
    assert str(binder.wait("connected")["path"]).startswith("relay/")
    return exposer, binder


def tunnel(rig: NatRig) -> tuple[PtProcess, PtProcess]:
    exposer, binder = relayed(rig, rig.echo_service())
    ask_echo(rig.dial(local_port(binder)), b"first, through the relay")
    return exposer, binder


def transfer(rig: NatRig) -> tuple[PtProcess, PtProcess, GapTransfer]:
    listener = rig.listen(rig.a)
    exposer, binder = relayed(rig, listener.getsockname()[1])
    take_waiting(listener)
    client = rig.dial(local_port(binder))
    return exposer, binder, GapTransfer(client, rig.accept(listener), 1 << 40)


class Wall:
    """Drops what `host` exchanges with one address, while it stands."""

    def __init__(self, rig: NatRig, event: dict[str, object]) -> None:
        found = re.match(r"/ip4/([^/]+)/", str(event["address"]))
        assert found is not None
        self._host = rig.b
        self._peer = found[1]

    def build(self) -> None:
        chain = "chain {0} {{ type filter hook {0} priority 0; ip {1} {2} drop; }};"
        inward = chain.format("input", "saddr", self._peer)
        self._nft(f"table ip wall {{ {inward} {chain.format('output', 'daddr', self._peer)} }}")

    def remove(self) -> None:
        self._nft("delete table ip wall")

    def _nft(self, rules: str) -> None:
        self._host.run(["nft", rules])


@pytest.mark.parametrize(
    ("a", "b", "path", "strategies"),
    [
        ("eim-apdf", "eim-apdf", "direct/quic", {"simultaneous"}),
        ("eim-apdf", "apdm-apdf-seq", "direct/quic", {"predict"}),
        ("apdm-apdf-random", "eim-apdf", "direct/quic", {"birthday"}),
        ("apdm-adf-random", "apdm-apdf-random", "direct/quic", {"one-sided-birthday"}),
        ("eim-apdf,udp=0", "eim-apdf", "direct/tcp", {"tcp-simultaneous-open"}),
    ],
)
def test_a_direct_path(tmp_path: Path, a: str, b: str, path: str, strategies: set[str]) -> None:
    with rig_of(tmp_path, a, b) as rig:
        _, binder = tunnel(rig)
        client = rig.dial(local_port(binder))
        ask_echo(client, b"before")
        punched = binder.wait("punched", ok=True)
        assert punched["strategy"] in strategies
        direct = binder.wait("connected", count=2)
        assert direct["path"] == path
        ask_echo(client, b"after")


def test_where_there_is_none_the_relay_is_explained(tmp_path: Path) -> None:
    with rig_of(tmp_path, "apdm-apdf-random", "apdm-apdf-random") as rig:
        _, binder = tunnel(rig)
        punched = binder.wait("punched")
        assert not punched["ok"]
        assert "random" in str(punched["detail"])
        ask_echo(rig.dial(local_port(binder)), b"still there")
        peers = [str(each) for each in binder.argv if "p2p-circuit" in str(each)]
        for home, argv in (("c", ["--json"]), ("d", [])):
            told = rig.pt("explain", "--id", NAME, "--no-lan", "--peer", *peers, *argv, home=home)
            assert told.exit_code() == 0
            text = told.output.decode()
            assert "relayed" in text
            assert "random" in text


def test_a_peer_that_is_held_up_keeps_its_path(tmp_path: Path) -> None:
    """A stopped process is silent on both paths: the session does not leave the direct one."""
    with rig_of(tmp_path, "eim-apdf", "eim-apdf") as rig:
        exposer, binder, both = transfer(rig)
        threads = both.start()
        binder.wait("connected", count=2)
        for process in (exposer, binder) * 2:
            both.wait_for(sum(both.received.values()) + 4 * MIB)
            process.signal(signal.SIGSTOP)
            time.sleep(0.4)  # how long it is held up; nothing is waited for
            process.signal(signal.SIGCONT)
        both.wait_for(sum(both.received.values()) + 4 * MIB)
        both.stop()
        both.finish(threads)
        paths = [str(event["path"]) for event in binder.matching("connected")]
        assert all(path.startswith("direct/") for path in paths[1:]), paths


def test_after_an_interruption_of_a_moment_the_path_is_direct_again(tmp_path: Path) -> None:
    with rig_of(tmp_path, "eim-apdf", "eim-apdf") as rig:
        _, binder, both = transfer(rig)
        threads = both.start()
        before = binder.wait("connected", count=2)
        wall = Wall(rig, before)
        both.wait_for(sum(both.received.values()) + 4 * MIB)
        wall.build()
        assert str(binder.wait("connected", count=3)["path"]).startswith("relay/")
        wall.remove()
        after = binder.wait("connected", count=4)
        assert str(after["path"]).startswith("direct/")
        both.wait_for(sum(both.received.values()) + 4 * MIB)
        both.stop()
        both.finish(threads)
        again = len(binder.matching("punched")) == 1
        print("the same path" if again else "another path")  # the same, unless all is slow


@pytest.mark.parametrize("delay", [5, 12])
def test_a_direct_path_that_falls_silent_costs_a_transfer_little(
    tmp_path: Path, delay: int
) -> None:
    """It goes on over the relay, byte-exact, and comes back when the path does."""
    need("nft")
    with rig_of(tmp_path, "eim-apdf", "eim-apdf", f"delay={delay}", "delay=1") as rig:
        _, binder, both = transfer(rig)
        threads = both.start()
        gaps: list[float] = []
        for cut in range(1, CUTS + 1):
            wall = Wall(rig, binder.wait("connected", count=2 * cut))
            assert str(binder.matching("connected")[-1]["path"]).startswith("direct/")
            both.wait_for(sum(both.received.values()) + 4 * MIB)
            both.watch()
            wall.build()
            binder.wait("connected", count=2 * cut + 1)
            assert str(binder.matching("connected")[-1]["path"]).startswith("relay/")
            end = time.monotonic() + OUTAGE
            while time.monotonic() < end:  # bytes move meanwhile
                both.wait_for(sum(both.received.values()) + MIB // 4)
            gaps.append(both.gap)
            wall.remove()
        both.stop()
        both.finish(threads)
        told = " ".join(f"{1000 * gap:.0f}" for gap in sorted(gaps))
        print(f"{4 * delay} ms of round trip, {CUTS} cuts; milliseconds without a byte: {told}")
        assert sorted(gaps)[len(gaps) // 2] < 1.0


def await_rotation(binder: PtProcess, since: int) -> int:
    """Wait for a direct path that follows a direct path; its number among all paths."""
    before = str(binder.wait("connected", count=since)["path"])
    while True:
        since += 1
        now = str(binder.wait("connected", count=since)["path"])
        if before == now == "direct/quic":
            return since
        before = now


def test_a_path_is_replaced_before_its_mapping_is_too_old(tmp_path: Path) -> None:
    """Two paths die of their mappings' age; those that come then are left in time."""
    with rig_of(tmp_path, "eim-apdf", "eim-apdf-random,maxage=6") as rig:
        _, binder, both = transfer(rig)
        threads = both.start()
        first = await_rotation(binder, 1)
        both.watch()
        last = await_rotation(binder, await_rotation(binder, first))
        gap = both.gap
        assert last == first + 2  # without the relay between
        both.stop()
        both.finish(threads)
        print(f"two rotations; {1000 * gap:.0f} ms without a byte")
        assert gap < 1.0
