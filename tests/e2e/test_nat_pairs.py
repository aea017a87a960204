"""The real commands behind NATs of every kind: which way they find, and what they say of none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.lab import Lab
from tests.e2e.harness import NAME, PtProcess, Rig, ask_echo, local_port

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
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
        addresses = process.wait("relay_ready")["addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0])


@contextlib.contextmanager
def rig_of(tmp: Path, a: str, b: str) -> Iterator[NatRig]:
    with Lab(a=a, b=b, public=1, link="delay=5", seed=3) as lab:
        rig = NatRig(lab, tmp)
        try:
            yield rig
        finally:
            rig.close()


def tunnel(rig: NatRig) -> tuple[PtProcess, PtProcess]:
    relay = rig.relay()
    exposer = rig.expose("--port", str(rig.echo_service()), "--relay", relay, *LISTEN)
    peer = exposer.wait("ready")["peer_id"]
    binder = rig.bind("--port", "0", to=f"{relay}/p2p-circuit/p2p/{peer}")
    assert str(binder.wait("connected")["path"]).startswith("relay/")
    ask_echo(rig.dial(local_port(binder)), b"first, through the relay")
    return exposer, binder


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
