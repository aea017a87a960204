"""DCUtR between us and go-, rust- and js-libp2p behind NATs, a round of each; `interop.dcutr`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from interop import dcutr
from interop.dcutr import Journal, Round, Row
from pt.lab import unavailable
from tests.interop.test_matrix import CI, ROOT, buildable

pytestmark = [pytest.mark.netns, pytest.mark.interop]

ROW = Row(listener="pt", dialer="go", transport="tcp", relay="pt")


@pytest.mark.timeout(1800)  # a cold build downloads and compiles three libp2p implementations
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
    for row in dcutr.rows(foreign, ["pt"]):
        assert f"ok   {row}: direct after" in done.stdout, done.stdout


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
    assert "| pt | go | tcp | pt | eim-apdf | eim-apdf | 19 of 20 | 0.50 | 0.50 |" in dcutr.section(
        [direct] * 19 + [failed]
    )
    assert "18 of 20 **FAIL**" in dcutr.section([direct] * 18 + [failed] * 2)


def test_a_journal_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "rounds"
    told = Row(listener="js", dialer="pt", transport="quic", relay="go")
    played = [Round(row=ROW, seconds=0.5), Round(row=told, seconds=None, detail="no\nanswer")]
    journal = Journal(path)
    for one in played:
        journal.add(one)
    with path.open("a") as file:
        file.write('{"row": {"listener"')  # cut off in the middle of a line
    again = Journal(path)
    assert again.rounds == played
    again.add(Round(row=ROW, seconds=0.25))
    assert Journal(path).rounds == [*played, Round(row=ROW, seconds=0.25)]
    assert not list(dcutr.run([ROW, told], 1, Counter(one.row for one in played)))


def test_js_libp2p_is_told_where_it_is_seen_only_where_both_must_punch() -> None:
    both = [row for row in dcutr.rows(("js",), ("pt", "go")) if "js" in (row.listener, row.dialer)]
    punching = [row for row in both if row.told]
    easier = [row for row in both if not row.told]
    assert [row.relay for row in punching] == ["pt"] * 4 + ["go"] * 4
    assert (
        len({(row.transport, row.listener, row.listener_nat, row.dialer_nat) for row in easier})
        == 12
    )
    for row in both:
        words = dcutr.argv("js", row)
        nat = row.listener_nat if row.listener == "js" else row.dialer_nat
        assert ("--tell" in words) is row.told
        assert ("--open" in words) is (nat == dcutr.PUBLIC)
