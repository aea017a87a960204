"""The matrix of foreign peers, whole but for the long silence: one process, green or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pt.lab import unavailable

pytestmark = [pytest.mark.netns, pytest.mark.interop]

ROOT = Path(__file__).resolve().parent.parent.parent
CI = os.environ.get("CI") == "true"
TOOLCHAINS = {"go": ("go",), "rust": ("cargo",), "js": ("node", "npm")}
SEARCH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/local/go/bin", str(Path.home() / ".cargo" / "bin")]
)


def buildable() -> list[str]:
    return [
        peer
        for peer, tools in TOOLCHAINS.items()
        if all(shutil.which(tool, path=SEARCH) for tool in tools)
    ]


@pytest.mark.timeout(1800)  # a cold build downloads and compiles three libp2p implementations
def test_every_foreign_peer_both_roles_every_test() -> None:
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if not buildable():
            pytest.skip("no toolchain for any foreign peer")
    argv = [sys.executable, "-m", "interop.matrix", "--quick"]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    for peer in ("pt", *(TOOLCHAINS if CI else buildable())):
        for role in (f"{peer} dials pt", f"pt dials {peer}"):
            green = [line for line in lines if line.startswith("ok") and role in line]
            assert len(green) >= 7, f"{role}: {len(green)} tests ran\n{done.stdout}"
