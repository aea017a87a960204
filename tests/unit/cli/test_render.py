from __future__ import annotations

import argparse
import json
import stat
import sys
from pathlib import Path

import pytest

from pt.cli.render import Renderer, open_trace
from pt.errors import ConnectError, UsageError
from tests.unit.cli.samples import EVENTS, READY_TCP


def renderer(*, stdio: bool = False, **given: object) -> Renderer:
    args = {"json": False, "quiet": False, "verbose": 0, "trace": None} | given
    return Renderer(argparse.Namespace(**args), name="x.y", stdio=stdio)


def test_text_puts_ready_on_stdout_and_talk_on_stderr(capfd: pytest.CaptureFixture) -> None:
    show = renderer()
    show.heading("hello")
    for event in EVENTS:
        show(event)
    out, err = capfd.readouterr()
    assert all("pt bind" in line or "2022" in line for line in out.splitlines())
    assert err.startswith("hello\n")
    assert "READY" not in err


def test_json_tells_single_connections_only_when_asked(capfd: pytest.CaptureFixture) -> None:
    for verbose in (0, 1):
        show = renderer(json=True, verbose=verbose)
        for event in EVENTS:
            show(event)
        told = {json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()}
        assert ("stream_closed" in told) is bool(verbose)
        assert "stream_refused" in told


def test_json_is_all_there_is_on_stdout(capfd: pytest.CaptureFixture) -> None:
    show = renderer(json=True, verbose=1)
    show.heading("only for people")
    for event in EVENTS:
        show(event)
    show.failed(ConnectError("no path"))
    out, err = capfd.readouterr()
    assert err == ""
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == len(EVENTS) + 1
    assert lines[-1]["exit_code"] == 5


@pytest.mark.parametrize("as_json", [False, True])
def test_stdio_keeps_stdout_for_the_data(capfd: pytest.CaptureFixture, as_json: bool) -> None:
    show = renderer(stdio=True, json=as_json)
    for event in EVENTS:
        show(event)
    out, err = capfd.readouterr()
    assert out == ""
    assert err


def test_colour_of_each_stream_by_itself(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pt.cli.render.use_colour", lambda stream: stream is sys.stderr)
    show = renderer()
    for event in EVENTS:
        show(event)
    out, err = capfd.readouterr()
    assert "\x1b[" in err
    assert "\x1b[" not in out


def test_the_trace_holds_every_event_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    show = renderer(trace=str(path))
    for event in EVENTS:
        show(event)
    show.failed(ConnectError("no path"))
    show.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines[:4]] == ["trace_start", "started", "published", "ready"]
    assert lines[3]["bind_command"] == READY_TCP.bind_command
    assert lines[-1]["event"] == "error"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the trace"):
        open_trace(str(tmp_path))
