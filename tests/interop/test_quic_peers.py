"""Our QUIC engines with the QUIC of go-, rust- and js-libp2p, in both roles, on a plain socket."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from interop.rig import BIN, ROOT, build
from pt.lab import Lan, unavailable
from pt.lab.netns import Host
from pt.quic.select import factories

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

TOOLS = {"go": "go", "rust": "cargo", "js": "npm"}
ENGINES = [factory.name for factory in factories()]
MIB = 1 << 20
STRANGER = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    if reason := unavailable():
        pytest.skip(reason)
    with Lan(hosts=2) as made:
        yield made


@pytest.fixture(scope="module", params=TOOLS)
def peer(request: pytest.FixtureRequest) -> str:
    """The program of a foreign peer."""
    name = request.param
    program = BIN / f"{name}-peer"
    if not program.exists() and shutil.which(TOOLS[name]) is None:
        pytest.skip(f"no {TOOLS[name]} to build the {name} peer with")
    build([name])
    return str(program)


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
def test_they_dial_us(lan: Lan, peer: str, engine: str) -> None:
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
        (outcome,) = facts(there, peer, "dial", "--to", address, "--test", test, *options)
        assert outcome["ok"], outcome
        # Those that go without a word are missed later.
        while (said := json.loads(process.stdout.readline()))["event"] == "closed":
            pass
        assert said["engine"] == engine
        assert said["peer"].startswith("12D3KooW")
    wrong = address.rsplit("/", 1)[0] + "/" + STRANGER
    (outcome,) = facts(there, peer, "dial", "--to", wrong, "--test", "ping", code=1)
    assert re.search("(?i)mismatch|unexpected peer|connected to", str(outcome["detail"])), outcome
    process.terminate()


@pytest.mark.parametrize("engine", ENGINES)
def test_we_dial_them(lan: Lan, peer: str, engine: str) -> None:
    here, there = lan
    address, process = listener(there, peer, "listen", "--quic")
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
