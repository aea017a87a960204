"""`pt lab verify|pair|matrix|replay|report` as commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pt.cli.main import main

pytestmark = pytest.mark.netns
EXAMPLE = f"{sys.executable} {Path(__file__).parents[3] / 'examples' / 'lab_puncher.py'}"
PUNCHER = ("--puncher", EXAMPLE, "--budget", "1")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "verify", "eim-adf", "public"]) == 0
    shown = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert shown == [["ok", "eim-adf", "eim-adf"], ["ok", "public", "public"]]
    assert main(["lab", "verify", "apdm-seq", "--json"]) == 0
    (found,) = lines(capsys)
    assert (found["event"], found["ok"], found["found"]) == ("verified", True, "apdm-seq-apdf")


def test_pair(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    command = ["lab", "pair", "eim-apdf", "public", "--runs", "2", *PUNCHER]
    assert main([*command, "--report", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "1/2  direct in" in shown
    assert "eim-apdf with public, delay=5: 2/2 direct" in shown
    assert "2 attempts in 1 cells" in page.read_text()
    assert main([*command, "--json"]) == 0
    *attempts, summary = lines(capsys)
    assert [found["event"] for found in attempts] == ["attempt", "attempt"]
    assert (summary["event"], summary["direct"], summary["runs"]) == ("summary", 2, 2)


def test_matrix_report_and_replay(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, page = tmp_path / "r.jsonl", tmp_path / "m.html"
    command = [
        "lab",
        "matrix",
        "--nats",
        "eim-adf",
        "fw",
        "--runs",
        "1",
        "--out",
        str(out),
        *PUNCHER,
    ]
    assert main(command) == 0
    assert capsys.readouterr().out.count("1/1 direct") == 3
    size = out.stat().st_size
    assert main(command) == 0  # nothing is left to do
    assert out.stat().st_size == size
    capsys.readouterr()
    assert main(["lab", "report", str(out), "--html", str(page)]) == 0
    assert "3 attempts in 3 cells" in page.read_text()
    assert main(["lab", "report", str(out)]) == 0
    assert "eim-adf with fw" in capsys.readouterr().out
    assert main(["lab", "replay", str(out), "--line", "2", *PUNCHER]) == 0
    shown = capsys.readouterr().out
    assert "eim-adf with fw, delay=5, seed" in shown
    assert "b  outcome" in shown


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["pair", "eim", "cone"], "not a NAT"),
        (["pair", "eim", "eim", "--runs", "0"], "at least 1"),
        (["matrix", "--cells", "/nowhere"], "no list of"),
        (["report", "/nowhere"], "no attempts"),
        (["replay", "/nowhere"], "cannot read"),
        (["verify", "eim,x=1"], "no option"),
    ],
)
def test_what_is_wrong_is_named(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *argv]) == 2
    assert named in capsys.readouterr().err
