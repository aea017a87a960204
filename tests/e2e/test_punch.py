"""Punching with real sockets, through the NATs of the laboratory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pt.lab.lab import Lab

pytestmark = pytest.mark.netns
PEER = [sys.executable, "-m", "tests.e2e.punch_peer"]
RTT = 0.02
SESSION = 0.04
"""The same over the host in the middle, as the session knows it."""
LINK = "delay=5"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(a="eim-apdf", b="eim-apdf", c="fw", d="fw", link=LINK, lan=2) as made:
        server = made["s1"].popen(
            [*PEER, "serve", *made["s1"].addresses[:2]], stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert server.stdout.readline().strip() in (b"ready", "ready")
        yield made


def punch(
    lab: Lab, one: list[str], other: list[str], hosts: tuple[str, str] = ("a", "b")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both ends at once; `one` controls.  Words: UDP class, TCP class, options."""
    server = lab["s1"].ip
    peers = [
        lab[host].popen(
            [*PEER, "punch", server, role, *words, f"ip={lab[host].ip}", f"rtt={SESSION}"],
            stdout=subprocess.PIPE,
        )
        for host, role, words in zip(
            hosts, ("controlling", "controlled"), (one, other), strict=True
        )
    ]
    results = [json.loads(peer.communicate(timeout=40)[0]) for peer in peers]
    return results[0], results[1]


def direct(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both ends have a path, and each other's bytes came over it."""
    assert ours.get("came") == "controlled", (ours, theirs)
    assert theirs.get("came") == "controlling", (ours, theirs)


@pytest.mark.parametrize(
    ("specs", "classes", "strategy", "seconds"),
    [
        (("eim-apdf", "eim-apdf"), ("eim-apdf", "eim-apdf"), "simultaneous", 2 * RTT),
        (
            ("eim-apdf,input=accept", "eim-apdf,input=accept"),
            ("eim-apdf", "eim-apdf"),
            "simultaneous",
            2 * RTT,
        ),
        (("eim-adf", "apdm-apdf-random"), ("eim-adf", "apdm-random-apdf"), "simultaneous", 3 * RTT),
        (("eim-apdf", "apdm-eif-random"), ("eim-apdf", "apdm-random-eif"), "wait", 3 * RTT),
        (("eim-apdf", "apdm-apdf-seq"), ("eim-apdf", "apdm-seq-apdf"), "predict", 3 * RTT),
        (
            ("apdm-apdf-seq", "apdm-apdf-seq"),
            ("apdm-seq-apdf", "apdm-seq-apdf"),
            "lockstep",
            3 * RTT,
        ),
        (("apdm-apdf-random", "eim-apdf"), ("apdm-random-apdf", "eim-apdf"), "birthday", 2.5),
        (
            ("apdm-adf-random", "apdm-apdf-random"),
            ("apdm-random-adf", "apdm-random-apdf"),
            "one-sided-birthday",
            2.5,
        ),
    ],
    ids=lambda value: "-x-".join(value) if isinstance(value, tuple) else None,
)
def test_pairs(
    lab: Lab, specs: tuple[str, str], classes: tuple[str, str], strategy: str, seconds: float
) -> None:
    for side, spec in zip("ab", specs, strict=True):
        lab.set_nat(side, spec)
    ours, theirs = punch(lab, [classes[0], "-"], [classes[1], "-"])
    direct(ours, theirs)
    assert ours["strategy"] == theirs["strategy"] == strategy
    assert ours["seconds"] <= seconds + 0.15  # a busy machine
    assert max(ours["files"], theirs["files"]) < 40


def test_two_firewalls(lab: Lab) -> None:
    ours, theirs = punch(lab, ["fw", "fw"], ["fw", "fw"], ("c", "d"))
    direct(ours, theirs)
    assert ours["strategy"] == "simultaneous"
    assert not ours["tcp"]
    assert ours["seconds"] <= 2 * RTT + 0.15


def test_tcp_where_udp_is_blocked(lab: Lab) -> None:
    lab.set_nat("a", "eim-apdf,udp=0")
    lab.set_nat("b", "eim-apdf")
    ours, theirs = punch(lab, ["blocked", "eim-apdf"], ["eim-apdf", "eim-apdf"])
    direct(ours, theirs)
    assert ours["tcp"]
    assert ours["strategy"] == theirs["strategy"] == "tcp-simultaneous-open"
    assert ours["seconds"] <= 1.0


def test_two_random_sides_are_told_at_once_and_why(lab: Lab) -> None:
    lab.set_nat("a", "apdm-apdf-random")
    lab.set_nat("b", "apdm-apdf-random")
    ours, theirs = punch(lab, ["apdm-random-apdf", "-"], ["apdm-random-apdf", "-"])
    for end in (ours, theirs):
        assert end["best"] == "relay"
        assert "no port can be guessed" in end["error"]
        assert "port mapping" in end["error"]
        assert end["total"] <= 1.0


def test_one_network_is_used_from_inside(lab: Lab) -> None:
    lab.set_nat("a", "apdm-apdf-random,hairpin=on")
    words = ["apdm-random-apdf", "-"]
    ours, theirs = punch(lab, words, words, ("a", "a2"))
    direct(ours, theirs)
    assert ours["strategy"] == "lan"
    assert ours["address"][0] == lab["a2"].ip


def test_the_relay_dies_during_a_punch(lab: Lab, tmp_path: Path) -> None:
    """The attempt goes on without it."""
    lab.set_nat("a", "apdm-apdf-random")
    lab.set_nat("b", "eim-apdf")
    ours, theirs = punch(
        lab,
        ["apdm-random-apdf", "-", f"trace={tmp_path / 'trace'}", "leave=1"],
        ["eim-apdf", "-"],
    )
    direct(ours, theirs)
    records = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert records[0]["event"] == "trace_start"
    assert records[-1]["event"] in ("punch_sent", "punch_received", "punch_won")
