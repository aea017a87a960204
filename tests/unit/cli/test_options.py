from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pytest

from pt.cli.options import (
    parse_forward,
    parse_service,
    peers_from,
    read_name,
    wants_json,
)
from pt.errors import UsageError
from pt.tunnel.config import Forward
from tests.unit.cli.samples import LAN, PUBLIC


@pytest.mark.parametrize(
    ("text", "port", "target"),
    [
        ("22", 22, ("h", 22)),
        ("22:8022", 22, ("h", 8022)),
        ("22:db.lan:5432", 22, ("db.lan", 5432)),
        ("22:[::1]:23", 22, ("::1", 23)),
        ("65535::1", 65535, ("h", 1)),
    ],
)
def test_service(text: str, port: int, target: tuple) -> None:
    service = parse_service(text, "h")
    assert (service.port, service.target) == (port, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0",
        "65536",
        "-1",
        "22:",
        "22:x",
        "22:h:",
        "22:h:0",
        "22:::1:22",
        "٢٢",
        "1e3",
        " 22",
    ],
)
def test_bad_service(text: str) -> None:
    if text == "22:":  # an empty target is the plain form
        assert parse_service(text, "h").target == ("h", 22)
        return
    with pytest.raises(UsageError):
        parse_service(text, "h")


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("2022", Forward(local_port=2022, host="h")),
        ("0", Forward(local_port=0, host="h")),
        ("2022:22", Forward(local_port=2022, remote_port=22, host="h")),
        ("-", 0),
        ("-:22", 22),
    ],
)
def test_forward(text: str, forward: Forward | int) -> None:
    assert parse_forward(text, "h") == forward


@pytest.mark.parametrize("text", ["", "x", "70000", "1:0", "1:", "1:2:3", "-:", "--"])
def test_bad_forward(text: str) -> None:
    with pytest.raises(UsageError):
        parse_forward(text, "h")


def names(**given: str | None) -> argparse.Namespace:
    return argparse.Namespace(**{"id": None, "id_file": None, **given})


def test_name_by_precedence(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\r\nsecond line\n")
    secret.chmod(0o600)
    env = {"PT_ID": "from env", "PT_ID_FILE": str(secret)}
    assert read_name(names(id="given"), env) == "given"
    assert read_name(names(id_file=str(secret)), env) == "from file"
    assert read_name(names(), env) == "from env"
    assert read_name(names(), {"PT_ID_FILE": str(secret)}) == "from file"
    assert read_name(names(), {"PT_SECRET_FILE": str(secret)}) == "from file"
    assert read_name(names(), {}) is None


@pytest.mark.parametrize(
    ("given", "env"),
    [
        ({"id": ""}, {}),
        ({"id": "  "}, {}),
        ({}, {"PT_ID": ""}),
        ({"id_file": "/nonexistent/name"}, {}),
        ({}, {"PT_SECRET_FILE": "/nonexistent/name"}),
        ({"id_file": "/dev/null"}, {}),
    ],
)
def test_no_usable_name(given: dict, env: dict) -> None:
    with pytest.raises(UsageError) as caught:
        read_name(names(**given), env)
    assert "nonexistent" in str(caught.value) or "empty" in str(caught.value)


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        read_name(names(id_file=str(secret)), {})


def test_a_name_file_open_to_others_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    assert read_name(names(id_file=str(secret)), {}) == "x"
    assert "chmod 600" in capsys.readouterr().err


def test_a_name_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\nrest"))
    assert read_name(names(id="-"), {}) == "piped"


def test_peers() -> None:
    env = {"PT_PEER": f" {LAN}, {PUBLIC} "}
    assert peers_from([], env) == (LAN, PUBLIC)
    assert peers_from([str(PUBLIC)], env) == (PUBLIC,)
    assert peers_from(None, {}) == ()
    with pytest.raises(UsageError):
        peers_from(["nonsense"], {})


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [(False, None, False), (True, None, True), (False, "1", True), (False, "0", False),
     (True, "0", True), (False, "", False), (False, "TRUE", True)],
)  # fmt: skip
def test_json_wanted(flag: bool, value: str | None, wanted: bool) -> None:
    env = {} if value is None else {"PT_JSON": value}
    assert wants_json(argparse.Namespace(json=flag), env) is wanted


def test_json_unclear() -> None:
    with pytest.raises(UsageError, match="PT_JSON"):
        wants_json(argparse.Namespace(json=False), {"PT_JSON": "perhaps"})
