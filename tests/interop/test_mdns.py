"""mDNS with go-libp2p: it sees us, we see it, whoever was there first."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.netns import Lan
from tests.e2e.lan_lab import NAME, PEER, ROOT, Peer, Talker, publish

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(600)]

SOURCE = ROOT / "interop" / "peers" / "gomdns"
BINARY = ROOT / "interop" / "bin" / "go-mdns"


@pytest.fixture(scope="module")
def go_mdns() -> Path:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is not None:
        argv = [go, "build", "-o", str(BINARY), "."]
        built = subprocess.run(argv, cwd=SOURCE, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    elif not BINARY.exists():
        pytest.skip("no go toolchain to build interop/peers/gomdns")
    return BINARY


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(hosts=2) as made:
        yield made


def test_go_was_first(lan: Lan, go_mdns: Path) -> None:
    a, b = lan.hosts
    go = Talker(b, [str(go_mdns)])
    ready = go.next("ready")
    publish(a).next("started")
    assert go.next("found", id=str(PEER))["addresses"] == [f"/ip4/{a.ip}/tcp/4001"]
    heard = Peer(a, "browse").next("heard", sealed=None)
    assert set(heard["addresses"]) == {f"{addr}/p2p/{ready['id']}" for addr in ready["addresses"]}
    assert 32 <= len(heard["instance"]) <= 63


def test_we_were_first(lan: Lan, go_mdns: Path) -> None:
    a, b = lan.hosts
    publish(a).next("started")
    browser = Peer(a, "browse")
    browser.next("heard", instance=NAME)
    go = Talker(b, [str(go_mdns)])
    ready = go.next("ready")
    assert go.next("found", id=str(PEER))["addresses"] == [f"/ip4/{a.ip}/tcp/4001"]
    heard = browser.next("heard", sealed=None)
    assert any(address.endswith(ready["id"]) for address in heard["addresses"])


def test_the_sealed_record_does_not_disturb_go(lan: Lan, go_mdns: Path) -> None:
    """The biggest record, in five strings that go-libp2p does not know."""
    a, b = lan.hosts
    publish(a, size=768).next("started")
    go = Talker(b, [str(go_mdns)])
    assert go.next("found", id=str(PEER))["addresses"] == [f"/ip4/{a.ip}/tcp/4001"]
