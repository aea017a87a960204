from __future__ import annotations

import subprocess
import sys

import pytest

from pt.cli.bind import config_from
from pt.cli.main import build_parser, main
from pt.errors import UsageError
from pt.tunnel.config import BindConfig, Forward
from tests.unit.cli.samples import LAN, PEER, PUBLIC

NOT_BEFORE_LISTENING = (
    "zeroconf", "noise", "platformdirs", "ifaddr", "shtab", "google", "pt.tunnel.exposer",
    "pt.node.node", "pt.rendezvous.lan", "pt.noise.handshake", "pt.cli.tcp", "pt.cli.demo",
    "concurrent.futures.process", "multiprocessing", "email", "http", "importlib.metadata",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PT_ID", "PT_ID_FILE", "PT_SECRET_FILE", "PT_PEER"):
        monkeypatch.delenv(name, raising=False)


def config(*argv: str) -> BindConfig:
    return config_from(build_parser(("bind",)).parse_args(["bind", *argv]))


def test_the_plain_form() -> None:
    got = config("--port", "2022", "--id", "x.y")
    assert got.forwards == (Forward(local_port=2022),)
    assert got.name == "x.y"
    assert got.timeout is None
    assert got.lan
    assert (got.stdio, got.once, got.open) == (False, False, False)


def test_everything() -> None:
    got = config(
        "-p", "2022:22", "--port", "0", "--bind-host", "::1", "--id", "x", "--peer", str(LAN),
        str(PUBLIC), "--pin", str(PEER), "--open", "--no-lan", "--once", "--timeout", "2.5",
    )  # fmt: skip
    assert got.forwards == (
        Forward(local_port=2022, remote_port=22, host="::1"),
        Forward(local_port=0, host="::1"),
    )
    assert got.peers == (LAN, PUBLIC)
    assert got.pins == (PEER,)
    assert got.timeout == 2.5
    assert got.once
    assert got.open
    assert not got.lan


@pytest.mark.parametrize(("argv", "port"), [(["--port", "-"], 0), (["--port=-:22"], 22)])
def test_stdio(argv: list[str], port: int) -> None:
    got = config(*argv, "--id", "x")
    assert got.stdio
    assert got.stdio_port == port
    assert got.forwards == ()


def test_a_peer_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PT_PEER", str(LAN))
    assert config("-p", "1", "--id", "x").peers == (LAN,)
    assert config("-p", "1", "--id", "x", "--peer", str(PUBLIC)).peers == (PUBLIC,)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "2022"], "--id"),
        (["--id", "x"], "--port"),
        (["--port", "2022", "--id", ""], "empty"),
        (["--port", "-", "-p", "22", "--id", "x"], "one connection"),
        (["--port", "-", "--id", "-"], "stdin"),
        (["-p", "5", "-p", "5", "--id", "x"], "twice"),
        (["-p", "5", "--id", "x", "--peer", "nonsense"], "multiaddr"),
        (["-p", "5", "--id", "x", "--pin", "nobody"], "peer id"),
        (["-p", "5", "--id", "x", "--timeout", "0"], "timeout"),
    ],
)
def test_bad_options_exit_2_and_say_why(
    argv: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UsageError):
        config(*argv)
    assert main(["bind", *argv]) == 2
    assert message in capsys.readouterr().err


def test_imports_before_listening() -> None:
    code = (
        "import sys, pt.cli.bind\n"
        f"found = [name for name in {NOT_BEFORE_LISTENING!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=30, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
