"""Relays of every make, `pt relay` among them, between us and every foreign peer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from interop import relays
from interop.rig import Outcome
from pt.lab import unavailable
from tests.interop.test_matrix import CI, ROOT, TOOLCHAINS, buildable

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.mark.timeout(1800)  # a cold build downloads and compiles three libp2p implementations
def test_every_relay_between_us_and_every_foreign_peer() -> None:
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if not buildable():
            pytest.skip("no toolchain for any foreign peer")
    argv = [sys.executable, "-m", "interop.relays", "--quick"]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    green = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ok")]
    peers = ("pt", *(TOOLCHAINS if CI else buildable()))
    for relay in ("pt/ws", *peers):
        for peer in peers:
            if relay == "pt/ws" and peer in relays.WITHOUT_WEBSOCKET:
                continue
            for dialer, listener in ((peer, "pt"), ("pt", peer)):
                words = [dialer, "dials", listener, "via", relay]
                tests = {line[5] for line in green if line[:5] == words}
                assert tests == set(relays.LIMITED_TESTS), f"{words}: {tests}\n{done.stdout}"


def outcome(relay: str, detail: str) -> Outcome:
    return Outcome(
        listener="go", dialer="pt", test="cutoff", ok=True, detail=detail, seconds=1.0, relay=relay
    )


@pytest.mark.parametrize(
    ("relay", "carried", "good"),
    [
        ("pt", 126976, True),  # 128 KiB less handshakes, identify and framing
        ("pt", 65536, False),  # as if both directions counted together
        ("pt", 135168, False),
        ("rust", 65536, True),
        ("rust", 126976, False),
    ],
)
def test_a_circuit_that_ends_too_early_or_too_late_is_a_failure(
    relay: str, carried: int, good: bool
) -> None:
    judged = relays.judged(outcome(relay, f"{carried} bytes, then a reset"))
    assert judged.ok is good
    assert str(carried) in judged.detail


def test_the_section_shows_what_failed_and_how_circuits_ended() -> None:
    text = relays.section(
        [
            outcome("pt", "126976 bytes, then a reset"),
            relays.judged(outcome("go", "4096 bytes, then a reset")),
        ]
    )
    assert "| pt | go | pt | ok |" in text
    assert "| go | go | pt | **FAIL** |" in text
    assert "| pt | go | pt | 126976 bytes, then a reset |" in text
