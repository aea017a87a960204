"""`pt lab up|exec|ctl|down`: laboratories that stay between commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns
Pt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pt(tmp_path: Path) -> Iterator[Pt]:
    """Run `pt lab`, with sessions of this test's own."""
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(*argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pt", "lab", *argv],
            capture_output=True,
            text=True,
            env=env,
            check=False,
            timeout=30,
        )
        assert done.returncode == code, done.stderr
        return done

    yield run
    run("down", "--all")


def lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_up_exec_ctl_down(pt: Pt, tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    up = pt("up", "--a", "eim", "--side", "c=fw", "--json", "--trace", str(trace), "--seed", "3")
    hosts = {line["name"]: line for line in lines(up) if line["event"] == "host"}
    assert hosts["a"]["addresses"] == ["192.168.1.10"]
    assert hosts["c"]["addresses"] == ["11.101.0.10"]
    shown = pt("exec", "a", "--", "ip", "-o", "-4", "addr", "show", "eth0").stdout
    assert "192.168.1.10" in shown
    assert pt("exec", "a", "--", "sh", "-c", "exit 7", code=7)
    send = "import socket; socket.socket(2, 2).sendto(b'x', ('11.1.0.1', 9))"
    pt("exec", "a", "--", sys.executable, "-c", send)
    (mapping,) = lines(pt("ctl", "mappings", "--json"))
    assert (mapping["nat"], mapping["remotes"]) == ("a", ["11.1.0.1:9"])
    (reboot,) = lines(pt("ctl", "flush", "a", "--renumber", "--json"))
    assert reboot["addresses"] == ["11.100.0.2"]
    assert pt("ctl", "mappings").stdout == ""
    pt("ctl", "link", "a", "delay=5")
    pt("ctl", "nat", "a", "symmetric")
    pt("ctl", "cut", "a")
    pt("exec", "a", "--", sys.executable, "-c", send)
    drops = [line for line in lines(pt("ctl", "stats", "--json")) if line["event"] == "drops"]
    assert [(drop["at"], drop["why"], drop["count"]) for drop in drops] == [("a", "cut", 1)]
    assert "drop a      1 cut" in pt("ctl", "stats").stdout
    pt("ctl", "restore", "a")
    pt("ctl", "mark", "here")
    assert "is up already" in pt("up", code=1).stderr
    pt("down")
    events = [json.loads(line)["event"] for line in trace.read_text().splitlines()]
    assert events[0] == "lab"
    assert {"map", "unmap", "reboot", "drop", "mark"} <= set(events)
    assert "no laboratory 'lab' is up" in pt("down", code=1).stderr


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        (["up", "--a", "cone"], 2, "not a NAT"),
        (["up", "--side", "c"], 2, "NAME="),
        (["up", "--link", "speed=1"], 2, "delay, jitter"),
        (["up", "--name", "../x"], 1, "not a laboratory's name"),
        (["exec", "a"], 2, "no program"),
        (["exec", "a", "--", "true"], 1, "pt lab up"),
        (["ctl", "flush"], 2, "flush NAME"),
    ],
)
def test_what_is_wrong_is_named(pt: Pt, argv: list[str], code: int, named: str) -> None:
    assert named in pt(*argv, code=code).stderr


def test_several_at_a_time_in_either_engine(pt: Pt) -> None:
    pt("up", "--name", "one", "--a", "eim")
    pt("up", "--name", "two", "--a", "eim", "--engine", "kernel")
    for name in ("one", "two"):
        shown = pt("exec", "--name", name, "a", "--", "ip", "-o", "-4", "addr").stdout
        assert "192.168.1.10" in shown
    pt("ctl", "--name", "two", "mappings")
    pt("down", "--all")
    assert "up: none" in pt("ctl", "hosts", code=1).stderr
