from __future__ import annotations

import json

import pytest

from pt.cli import demo, demo_traffic
from pt.cli.main import main


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PT_JSON", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("argv", [["--size", "0"], ["--seconds", "0"], ["--seconds", "-1"]])
def test_bad_amounts(argv: list[str]) -> None:
    assert main(["demo", *argv]) == 2


def test_the_story(capsys: pytest.CaptureFixture) -> None:
    assert main(["demo", "--json", "--size", "2"]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["step"] for step in steps][-3:] == ["http", "transfer", "cut"]
    assert all(step["ok"] for step in steps)


def test_a_step_that_fails_is_told_and_is_exit_1(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "get_with_half_close", lambda port: (b"", demo_traffic.PAGE))
    assert main(["demo", "--size", "1"]) == 1
    out = capsys.readouterr().out
    assert "✗ http" in out
    assert "Something failed" in out
