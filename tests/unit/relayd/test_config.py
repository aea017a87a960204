"""What a relay may be told to be, and what is refused with which words."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pt.cli import relay as command
from pt.errors import UsageError
from pt.identity.peer_id import PeerId
from pt.relay.messages import Limit
from pt.relay.registry import STRANGERS, USERS
from pt.relayd.config import RelayConfig, amount, quotas_from, rate, read_allow, read_secret
from pt.wire.multiaddr import Multiaddr

PEER = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
SECRET = "sixteen-characters-and-more"


def parsed(*argv: str) -> RelayConfig:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.config_from(parser.parse_args(argv))


def written(tmp: Path, text: str, name: str = "relay.toml") -> str:
    path = tmp / name
    path.write_text(text)
    return str(path)


def test_nothing_said_is_a_public_relay_on_port_4001() -> None:
    config = parsed()
    assert [str(each) for each in config.listen] == [
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001/ws",
        "/ip6/::/tcp/4001",
        "/ip6/::/tcp/4001/ws",
    ]
    assert (config.strangers, config.users) == (STRANGERS, USERS)
    assert config.http is None
    assert not config.private
    assert config.secret is None


def test_the_secret_is_not_shown_when_the_config_is(tmp_path: Path) -> None:
    config = parsed("--secret-file", written(tmp_path, SECRET, "secret"))
    assert config.secret == SECRET
    assert SECRET not in repr(config)


def test_a_file_says_everything_and_options_win(tmp_path: Path) -> None:
    secret = written(tmp_path, f"{SECRET}\nnot this line\n", "secret")
    allow = written(tmp_path, f"# friends\n\n{PEER}  # one\n", "allow")
    file = written(
        tmp_path,
        f"""
        listen = ["/ip4/127.0.0.1/tcp/0"]
        announce = ["/dns4/relay.example/tcp/4001"]
        secret-file = "{secret}"
        allow-file = "{allow}"
        private = true
        http = "[::1]:9090"
        rate = "12.5M"
        circuit-rate = 2000000
        connections = 99
        websocket = false
        [strangers]
        limit-data = "1M"
        limit-duration = 60
        per-host = 0
        [users]
        circuits = 7
        limit-data = "2G"
        """,
    )
    config = parsed("--config", file)
    assert config.listen == (Multiaddr.tcp("127.0.0.1", 0),)
    assert config.announce == (Multiaddr.parse("/dns4/relay.example/tcp/4001"),)
    assert config.secret == SECRET
    assert config.allow == {PeerId.parse(PEER)}
    assert config.private
    assert config.http == ("::1", 9090)
    assert (config.rate, config.circuit_rate, config.connections) == (12.5e6, 2e6, 99)
    assert config.strangers.limit == Limit(60, 1 << 20)
    assert config.strangers.per_host is None
    assert config.users.circuits == 7
    assert config.users.limit == Limit(0, 2 << 30)
    wins = parsed(
        "--config", file, "--stranger-data", "64K", "--http", "127.0.0.1:1", "--rate", "5M"
    )
    assert wins.strangers.limit == Limit(60, 64 << 10)
    assert wins.http == ("127.0.0.1", 1)
    assert wins.rate == 5e6


def test_strangers_may_have_no_limit_at_all() -> None:
    assert parsed("--stranger-data", "0", "--stranger-duration", "0").strangers.limit is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("colour = 3", "'colour' is not known"),
        ("[strangers]\nspeed = 1", r"\[strangers\] speed is not known"),
        ("[strangers]\nlimit-data = 'much'", "not a number of bytes"),
        ("[users]\ncircuits = -1", "give a whole number"),
        ("[users]\nttl = 5", "at least 60"),
        ("users = 3", "is not a table"),
        ("listen = '/ip4/1.2.3.4/tcp/1'", "list of multiaddrs"),
        ("listen = ['nonsense']", "not a usable multiaddr"),
        ("private = 1", "true or false"),
        ("connections = 'many'", "whole number"),
        ("connections = 0", "up to"),
        ("http = '9090'", "address and port"),
        ("rate = 10", "too slow"),
        ("private = true", "serves nobody"),
        ("tls-cert = 'c.pem'", "give both"),
        ("listen = ['/ip4/127.0.0.1/tcp/443/tls/ws']", "needs a certificate"),
        ("secret-file = '/nowhere/secret'", "cannot read /nowhere/secret"),
        ("not toml", "is not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parsed("--config", written(tmp_path, text))


def test_secrets_that_could_be_guessed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="16 characters"):
        parsed("--secret-file", written(tmp_path, "short\n", "secret"))
    with pytest.raises(UsageError, match="is empty"):
        read_secret(written(tmp_path, "\n", "empty"))
    with pytest.raises(UsageError, match="is not text"):
        path = tmp_path / "binary"
        path.write_bytes(b"\xff\xfe" * 20)
        read_secret(str(path))


def test_a_list_with_a_bad_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2"):
        read_allow(written(tmp_path, f"{PEER}\nsomebody\n", "allow"))


@pytest.mark.parametrize(
    ("value", "bytes_"),
    [(0, 0), (131072, 131072), ("128K", 131072), ("1.5k", 1536), ("2M", 2 << 20), ("1 G", 1 << 30)],
)
def test_amounts(value: object, bytes_: int) -> None:
    assert amount(value, "x") == bytes_


@pytest.mark.parametrize("value", ["", "K", "-1", -1, True, "1T", None, "1.2.3"])
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(UsageError, match="not a number of bytes"):
        amount(value, "x")


def test_rates_are_decimal() -> None:
    assert rate("12.5M", "x") * 8 == 100e6


def test_a_secret_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "secret"
    assert command.make_secret(str(path)) == 0
    made = read_secret(str(path))
    assert len(made) >= 32
    assert path.stat().st_mode & 0o077 == 0
    assert made not in capsys.readouterr().out
    with pytest.raises(UsageError, match="there already"):
        command.make_secret(str(path))
    assert read_secret(str(path)) == made
    RelayConfig(secret=made, listen=(Multiaddr.tcp("127.0.0.1", 0),))


def test_quotas_keep_what_is_not_said() -> None:
    assert quotas_from({}, USERS, "users") == USERS
    assert quotas_from({"limit-duration": 9}, STRANGERS, "s").limit == Limit(9, 131072)
