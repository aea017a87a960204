"""Our QUIC engines with go-libp2p's QUIC, in both roles, on a plain socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.rig import BIN, ROOT, build
from pt.lab import Lan, unavailable
from pt.lab.netns import Host
from pt.quic.select import factories

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

GO = str(BIN / "go-peer")
ENGINES = [factory.name for factory in factories()]
MIB = 1 << 20
STRANGER = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    if reason := unavailable():
        pytest.skip(reason)
    if not Path(GO).exists() and shutil.which("go") is None:
        pytest.skip("no go toolchain to build the Go peer with")
    build(["go"])
    with Lan(hosts=2) as made:
        yield made


def listener(host: Host, *argv: str) -> tuple[str, subprocess.Popen[bytes]]:
    """Its multiaddr."""
    process = host.popen([*argv, "--ip", host.ip], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["multiaddr"]), process


def ours(role: str, engine: str) -> list[str]:
    return [sys.executable, "-m", "tests.interop.quic_peer", role, "--engine", engine]


def facts(host: Host, *argv: str, code: int = 0) -> list[dict[str, object]]:
    process = host.popen([*argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == code, said.decode()
    return [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]


@pytest.mark.parametrize("engine", ENGINES)
def test_go_dials_us(lan: Lan, engine: str) -> None:
    here, there = lan
    address, process = listener(here, *ours("listen", engine))
    assert process.stdout is not None
    for test, options in (
        ("ping", []),
        ("echo64", ["--bytes", str(4 * MIB)]),
        ("halfclose", []),
        ("reset", []),
        ("streams1000", ["--streams", "200"]),
    ):
        (outcome,) = facts(there, GO, "dial", "--to", address, "--test", test, *options)
        assert outcome["ok"], outcome
        connected = json.loads(process.stdout.readline())
        assert connected["engine"] == engine
        assert connected["peer"].startswith("12D3KooW")
        assert json.loads(process.stdout.readline())["event"] == "closed"
    wrong = address.rsplit("/", 1)[0] + "/" + STRANGER
    (outcome,) = facts(there, GO, "dial", "--to", wrong, "--test", "ping", code=1)
    assert "peer id mismatch" in str(outcome["detail"])
    process.terminate()


@pytest.mark.parametrize("engine", ENGINES)
def test_we_dial_go(lan: Lan, engine: str) -> None:
    here, there = lan
    address, process = listener(there, GO, "listen", "--quic")
    for options in (
        ["--test", "ping"],
        ["--test", "echo", "--bytes", str(4 * MIB)],
        ["--test", "echo", "--bytes", "20000", "--streams", "200"],
    ):
        said = facts(here, *ours("dial", engine), "--ip", here.ip, "--to", address, *options)
        assert said[0] == {
            "event": "connected",
            "peer": address.rsplit("/", 1)[1],
            "engine": engine,
        }
        assert said[1]["event"] == options[1]
    wrong = address.rsplit("/", 1)[0] + "/" + STRANGER
    said = facts(here, *ours("dial", engine), "--ip", here.ip, "--to", wrong, code=1)
    assert "this address belongs to peer" in str(said[0]["error"])
    process.terminate()
