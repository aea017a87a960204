"""The command as people and service managers meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pt.tunnel.selftest import CASES
from tests.e2e.harness import LISTEN, NAME, PT, Rig, direct_address

pytestmark = pytest.mark.netns
ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "echo.py": "came back: hello through the tunnel",
    "listen.py": "port 1002 says: good night",
}


def lines(text: bytes) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_demo(shared_rig: Rig) -> None:
    done = shared_rig.a.run([str(PT), "demo", "--json", "--size", "8"])
    steps = lines(done.stdout)
    assert [step["step"] for step in steps] == [
        "service", "pt relay", "pt tcp", "pt bind", "direct", "http", "transfer", "cut",
    ]  # fmt: skip
    assert all(step["ok"] for step in steps)
    assert [step["bytes"] for step in steps if "bytes" in step] == [8 << 20, 8 << 20]
    assert done.stderr == b""


def test_demo_for_people_and_by_time(shared_rig: Rig) -> None:
    done = shared_rig.a.run([str(PT), "demo", "--seconds", "0.5"])
    text = done.stdout.decode()
    assert text.count("✓") == 8
    assert "✗" not in text
    assert "\x1b" not in text
    assert "pt tcp --port 22" in text


@pytest.mark.timeout(180)
def test_selftest(shared_rig: Rig) -> None:
    done = shared_rig.a.run([str(PT), "selftest", "wire", "--json", "--size", "8"], timeout=150)
    *cases, total = lines(done.stdout)
    assert [case["name"] for case in cases] == list(CASES)
    assert total["passed"] == len(CASES)
    assert total["failed"] == total["skipped"] == 0


def test_selftest_through_something_else(shared_rig: Rig) -> None:
    with shared_rig.a.inside(), socket.create_server(("127.0.0.1", 0)) as nothing:
        port = nothing.getsockname()[1]
    done = shared_rig.a.run(
        [str(PT), "selftest", "wire", "fin", "--through", f"127.0.0.1:{port}"], check=False
    )
    assert done.returncode == 1
    assert b"FAIL  fin" in done.stdout


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(shared_rig: Rig, name: str) -> None:
    path = ROOT / "examples" / name
    assert len(path.read_text().splitlines()) < 60
    done = shared_rig.a.run([sys.executable, "-W", "error", str(path)])
    assert EXAMPLES[name] in done.stdout.decode()
    assert done.stderr == b""


def test_text_of_both_ends(rig: Rig) -> None:
    exposer = rig.pt("tcp", "--port", "9", "--id", NAME, host=rig.a, home="a")
    command = wait_for_line(exposer, "READY")
    found = re.fullmatch(rf"READY +on the other machine:  (pt bind .*--id {NAME})", command)
    assert found, command
    second = wait_for_line(exposer, "from another network")
    assert f"--peer /ip4/{rig.a.ip}/tcp/" in second
    argv = second.partition("pt ")[2].split()
    binder = rig.pt(*argv, "--no-lan")
    assert wait_for_line(binder, "READY").startswith("READY    127.0.0.1:")
    for process in (binder, exposer):
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 143
    assert "pinned" in binder.log
    assert "path" in binder.log
    for process in (binder, exposer):
        assert "\x1b" not in process.log
        assert all(line.startswith(("READY", " ")) for line in process.output.decode().splitlines())


def wait_for_line(process, word: str) -> str:
    """Wait for a line of stdout that holds `word`."""
    with process._news:
        found = process._news.wait_for(lambda: word.encode() in process.output, 30)
    assert found, process.describe()
    text = process.output.decode()
    return next(line for line in text.splitlines() if word in line)


def test_ready_is_told_when_it_is_true_and_not_before(rig: Rig, tmp_path: Path) -> None:
    """`pt bind` tells systemd and --ready-fd only when the exposer is really reached."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        os.mkfifo(tmp_path / "ready")
        reader = os.open(tmp_path / "ready", os.O_RDONLY | os.O_NONBLOCK)
        exposer = rig.expose("--port", "9", ready=True)
        address = direct_address(exposer)
        exposer.process.kill()
        exposer.exit_code()
        env = {
            "PATH": os.environ["PATH"],
            "PT_HOME": str(rig.home("b")),
            "PT_ID": NAME,
            "PT_PEER": address,
            "PT_JSON": "1",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        command = f"exec {PT} bind --port 0 --no-lan --ready-fd 3 3>{tmp_path / 'ready'}"
        binder = rig.b.popen(
            ["sh", "-c", command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert binder.stdout is not None
        for line in binder.stdout:  # it has tried, in vain
            if json.loads(line)["event"] == "retrying":
                break
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        manager.settimeout(30)
        rig.expose("--port", "9", "--listen", LISTEN)
        assert manager.recv(100) == b"READY=1"
        os.set_blocking(reader, True)
        with os.fdopen(reader, "rb") as file:
            assert file.read() == b"READY=1\n"
        binder.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        binder.communicate(timeout=30)
        assert binder.returncode == 143


def test_the_end_of_the_reader_does_not_end_the_tunnel(rig: Rig) -> None:
    """As in `pt tcp ... | head -1`."""
    argv = [str(PT), "tcp", "--port", "9", "--id", NAME, "--no-lan", "--no-public", "--json"]
    env = {"PATH": os.environ["PATH"], "PT_HOME": str(rig.home("a"))}
    exposer = rig.a.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert exposer.stdout is not None
    ready = next(line for line in exposer.stdout if b'"ready"' in line)
    exposer.stdout.close()
    (address,) = [a for a in json.loads(ready)["addresses"] if f"/ip4/{rig.a.ip}/tcp/" in a]
    rig.bind("--port", "0", to=address)  # makes the exposer write
    exposer.send_signal(signal.SIGTERM)
    _, log = exposer.communicate(timeout=30)
    assert exposer.returncode == 143, log


def test_errors_are_an_exit_code_a_line_and_an_event(rig: Rig) -> None:
    binder = rig.bind("--port", "0", "--timeout", "0.5", "--no-lan", to="/ip4/11.9.9.9/tcp/9",
                      ready=False)  # fmt: skip
    code = binder.exit_code()
    assert code in {3, 5}
    assert binder.wait("error")["exit_code"] == code
    assert binder.log.startswith("pt: ") or "\npt: " in binder.log
    assert "Traceback" not in binder.log


def test_the_trace_is_json_lines(rig: Rig, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    exposer = rig.expose("--port", "9", "--trace", str(trace))
    rig.bind("--port", "0", to=exposer)
    exposer.wait("connected")
    exposer.signal(signal.SIGTERM)
    exposer.exit_code()
    names = [event["event"] for event in lines(trace.read_bytes())]
    assert names[0] == "trace_start"
    assert {"started", "ready", "connected"} <= set(names)
    assert trace.stat().st_mode & 0o777 == 0o600
