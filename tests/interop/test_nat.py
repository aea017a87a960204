"""Hole punching and AutoNAT v2 with libp2p peers, both roles, over TCP and QUIC, through NATs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pt.lab import unavailable
from tests.interop.test_matrix import CI, ROOT, buildable

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.mark.timeout(900)  # a cold build downloads and compiles go-libp2p and rust-libp2p
def test_direct_connections_and_verdicts() -> None:
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if not {"go", "rust"} <= set(buildable()):
            pytest.skip("no toolchains to build interop/peers/gonat and rustnat")
    argv = [sys.executable, "-m", "interop.nat", "--runs", "1"]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    green = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line[:3] == "ok "]
    for transport in ("TCP", "QUIC"):
        punches = [
            f"DCUtR, {a} dials {b}" for f in ("go", "rust") for a, b in ((f, "pt"), ("pt", f))
        ]
        for words in (*punches, "AutoNAT v2, pt asks go"):
            assert any(line.startswith(f"{words} {transport} ") for line in green), done.stdout
        assert f"AutoNAT v2, go asks pt relay {transport} eim-eif: Public" in done.stdout
