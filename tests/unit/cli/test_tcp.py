from __future__ import annotations

import pytest

from pt.cli.main import build_parser, main
from pt.cli.tcp import config_from
from pt.errors import UsageError
from pt.rendezvous.name import estimate_strength
from pt.tunnel.config import ExposeConfig, default_listen
from tests.unit.cli.samples import LAN, PEER


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PT_ID", "PT_ID_FILE", "PT_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


def config(*argv: str) -> ExposeConfig:
    return config_from(build_parser(("tcp",)).parse_args(["tcp", *argv]))


def test_the_plain_form() -> None:
    got = config("--port", "22", "--id", "x.y")
    assert got.name == "x.y"
    assert [(s.port, s.target) for s in got.services] == [(22, ("127.0.0.1", 22))]
    assert got.lan
    assert not got.open
    assert got.listen == default_listen()


def test_everything() -> None:
    got = config(
        "-p", "22", "--port", "80:8080", "-p", "443:[::1]:8443", "--host", "10.0.0.1", "--id", "x",
        "--open", "--allow", str(PEER), "--listen", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2",
        "--announce", str(LAN), "--no-lan",
    )  # fmt: skip
    assert [(s.port, s.target) for s in got.services] == [
        (22, ("10.0.0.1", 22)),
        (80, ("10.0.0.1", 8080)),
        (443, ("::1", 8443)),
    ]
    assert got.open
    assert not got.lan
    assert got.allow == {PEER}
    assert [str(each) for each in got.listen] == ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"]
    assert got.announce == (LAN,)


def test_without_a_name_a_strong_one_is_made() -> None:
    one, other = config("-p", "22"), config("-p", "22")
    assert one.name != other.name
    assert estimate_strength(str(one.name)).label == "strong"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--id", "x"], "--port"),
        (["-p", "0", "--id", "x"], "0 is not a port"),
        (["-p", "22", "-p", "22", "--id", "x"], "twice"),
        (["-p", "22", "--id", ""], "empty"),
        (["-p", "22", "--open"], "--id"),
        (["-p", "22", "--id", "x", "--allow", "nobody"], "peer id"),
        (["-p", "22", "--id", "x", "--listen", "localhost:1"], "multiaddr"),
    ],
)
def test_bad_options_exit_2_and_say_why(
    argv: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UsageError):
        config(*argv)
    assert main(["tcp", *argv]) == 2
    assert message in capsys.readouterr().err
