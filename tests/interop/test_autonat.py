"""AutoNAT v2 with go-libp2p as client and as server, over TCP and QUIC, through NATs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pt.lab import unavailable
from tests.interop.test_matrix import CI, ROOT, buildable

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.mark.timeout(600)  # a cold build downloads and compiles go-libp2p
def test_both_roles_over_both_transports() -> None:
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if "go" not in buildable():
            pytest.skip("no go toolchain to build interop/peers/goautonat")
    argv = [sys.executable, "-m", "interop.autonat"]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    green = [line.split()[1:5] for line in done.stdout.splitlines() if line.startswith("ok")]
    wanted = [
        [c, "asks", s, t] for c, s in (("pt", "go"), ("go", "pt")) for t in ("tcp", "quic-v1")
    ]
    assert green == [*wanted, ["pt", "tcp", "asks", "go:"]], done.stdout
