from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pt.cli.main import main
from pt.identity.keys import PublicKey
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_show_makes_the_identity_once(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["key", "--home", str(home)]) == 0
    first = capsys.readouterr().out
    assert main(["key", "show", "--home", str(home)]) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("peer id  12D3KooW")
    assert str(home / "identity.key") in first


def test_no_output_holds_the_private_key(home: Path, capsys: pytest.CaptureFixture) -> None:
    for action in ("show", "path", "export"):
        for extra in ([], ["--json"]):
            main(["key", action, "--home", str(home), *extra])
    private = StateDir(home).identity().to_protobuf()
    out = capsys.readouterr().out
    assert base64.b64encode(private).decode().rstrip("=")[:-4] not in out
    assert private.hex() not in out


def test_export_is_the_public_key(home: Path, capsys: pytest.CaptureFixture) -> None:
    main(["key", "export", "--home", str(home)])
    public = PublicKey.from_protobuf(base64.b64decode(capsys.readouterr().out))
    assert PeerId.from_public_key(public) == PeerId.from_public_key(
        StateDir(home).identity().public
    )


def test_new_needs_force_when_there_is_one(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["key", "new", "--json", "--home", str(home)]) == 0
    first = json.loads(capsys.readouterr().out)["peer_id"]
    assert main(["key", "new", "--home", str(home)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["key", "new", "--force", "--json", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out)["peer_id"] != first


def test_path_touches_nothing(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["key", "path", "--home", str(home)]) == 0
    assert capsys.readouterr().out == f"{home / 'identity.key'}\n"
    assert not home.exists()


def test_forget(home: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PT_ID", raising=False)
    state = StateDir(home)
    state.pin("x.y", PeerId.from_public_key(state.identity().public))
    for answer in ("yes", "nothing was remembered"):
        assert main(["key", "forget", "--id", "x.y", "--home", str(home)]) == 0
        assert capsys.readouterr().out == answer + "\n"
    assert state.pinned("x.y") is None
    assert main(["key", "forget", "--home", str(home)]) == 2


def test_a_home_that_cannot_be_used_is_exit_11(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["key", "--home", str(tmp_path / "file" / "home")]) == 11
    assert "--home" in capsys.readouterr().err


def test_pt_home_moves_the_directory(
    home: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PT_HOME", str(home))
    assert main(["key", "path"]) == 0
    assert capsys.readouterr().out == f"{home / 'identity.key'}\n"
