"""The cases of the quic-interop-runner, in short: one process, green or not."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from interop.rig import BIN, ROOT
from pt.lab import unavailable
from pt.quic.select import factories

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(180)]


def test_short_cases_of_all_pairs() -> None:
    if reason := unavailable():
        pytest.skip(reason)
    if not (BIN / "go-peer").exists() and shutil.which("go") is None:
        pytest.skip("no go toolchain to build the Go peer with")
    argv = [sys.executable, "-m", "interop.quic", "--short"]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    for engine in factories():
        for other in ("go", "aioquic"):
            for pair in (f"pt/{engine.name} ← {other} ", f"{other} ← pt/{engine.name} "):
                assert done.stdout.count(pair) == 2, done.stdout
