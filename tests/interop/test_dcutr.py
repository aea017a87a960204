"""DCUtR between us and go-libp2p and rust-libp2p behind NATs, a round of each; `interop.dcutr`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from interop import dcutr
from interop.dcutr import Round, Row
from pt.lab import unavailable
from tests.interop.test_matrix import CI, ROOT, buildable

pytestmark = [pytest.mark.netns, pytest.mark.interop]

ROW = Row(listener="pt", dialer="go", transport="tcp", relay="pt")


@pytest.mark.timeout(1800)  # a cold build downloads and compiles two libp2p implementations
def test_every_peer_in_both_roles_over_both_transports() -> None:
    foreign = [peer for peer in dcutr.PUNCHERS if CI or peer in buildable()]
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if not foreign:
            pytest.skip("no toolchain for any foreign peer")
    only = [word for peer in foreign for word in ("--only", peer)]
    done = subprocess.run(
        [sys.executable, "-m", "interop.dcutr", "--quick", *only],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    green = [line.split()[1:8] for line in done.stdout.splitlines() if line.startswith("ok")]
    for row in dcutr.rows(foreign, ["pt"]):
        words = [row.dialer, "dials", row.listener, "on", row.transport, "via", "pt"]
        assert words in green, done.stdout


def said(**facts: object) -> bytes:
    return json.dumps({"relayed": "/p2p-circuit"}).encode() + b"\n" + json.dumps(facts).encode()


@pytest.mark.parametrize(
    ("facts", "code", "good"),
    [
        ({"direct": "/ip4/11.100.0.1/tcp/5", "seconds": 0.5}, 0, True),
        ({"direct": "/ip4/11.100.0.1/tcp/5", "seconds": 0.5}, 1, False),  # no ping
        ({"direct": "/ip4/11.1.0.1/tcp/4001", "seconds": 0.5}, 0, False),  # the relay
        ({"relayed": "/p2p-circuit"}, 0, False),
    ],
)
def test_only_a_ping_over_the_listeners_nat_counts(
    facts: dict[str, object], code: int, good: bool
) -> None:
    judged = dcutr.judged(ROW, said(**facts), code)
    assert (judged.seconds is not None) is good


def test_nineteen_of_twenty_are_enough_and_eighteen_are_not() -> None:
    direct, failed = Round(row=ROW, seconds=0.5), Round(row=ROW, seconds=None)
    assert dcutr.good([direct] * 19 + [failed])
    assert not dcutr.good([direct] * 18 + [failed] * 2)
    assert "| pt | go | tcp | pt | 19 of 20 | 0.50 | 0.50 |" in dcutr.section(
        [direct] * 19 + [failed]
    )
    assert "18 of 20 **FAIL**" in dcutr.section([direct] * 18 + [failed] * 2)
