"""Attempts with programs of anybody's: signals, outcomes, budgets, resuming, replaying."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pt.lab import verify as verify_module
from pt.lab.campaign import (
    Plan,
    attempt,
    cells_from_file,
    cells_of_trace,
    check,
    pairs,
    remaining,
    run,
)
from pt.lab.facts import facts_of
from pt.lab.lab import Lab
from pt.lab.model.spec import SpecError, parse_nat
from pt.lab.results import Attempt, Cell, append, read
from pt.lab.verify import verify

EXAMPLE = f"{sys.executable} {Path(__file__).parents[3] / 'examples' / 'lab_puncher.py'}"
EASY = Cell(a="eim-apdf", b="eim-apdf", link="delay=5")
netns = pytest.mark.netns


def plan(puncher: str = EXAMPLE, **words) -> Plan:
    return Plan(**{"cells": (EASY,), "runs": 1, "puncher": puncher, "budget": 0.5, **words})


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "puncher.py"
    path.write_text("import json, os, sys, time\n" + text)
    return f"{sys.executable} {path}"


@netns
def test_the_example_punches_where_it_can() -> None:
    found = attempt(EASY, 0, plan())
    assert found.direct, found.reason
    assert found.seconds is not None
    assert 0.02 <= found.seconds < 0.3
    assert found.classes == {"a": "eim-apdf", "b": "eim-apdf"}
    assert set(found.packets) == {"a", "b"}
    assert [event["event"] for event in found.timeline] == [
        "signal",
        "signal",
        "outcome",
        "outcome",
    ]
    hard = attempt(replace(EASY, b="apdm-apdf"), 0, plan())
    assert not hard.direct
    assert hard.reason == "no direct path"


@netns
def test_pts_own_puncher_and_a_strategy_that_is_asked_for() -> None:
    found = attempt(EASY, 0, plan("pt", budget=5))
    assert (found.direct, found.winner) == (True, "simultaneous")
    assert {"punch_plan", "punch_sent", "punch_won"} <= {each["event"] for each in found.timeline}
    hard = replace(EASY, b="apdm-apdf", strategy="predict")
    found = attempt(hard, 0, plan("pt", budget=5))
    assert not found.direct
    assert "predict is not for this pair" in found.reason


@netns
def test_a_hopeless_pair_is_decided_and_later_timelines_are_short() -> None:
    hopeless = attempt(replace(EASY, a="apdm", b="apdm"), 10, plan("pt", budget=5))
    assert hopeless.decided is not None
    assert hopeless.decided < 2
    assert "punch_plan" in {each["event"] for each in hopeless.timeline}
    later = attempt(EASY, 10, plan("pt", budget=5))
    assert later.direct
    assert {each["event"] for each in later.timeline} == {"signal", "outcome"}


@netns
def test_pts_own_puncher_over_ipv6_alone() -> None:
    found = attempt(Cell(a="v6", b="none,v6=adf", link="delay=5"), 0, plan("pt", budget=5))
    assert (found.direct, found.winner) == (True, "ipv6-pinhole"), found.reason


@netns
def test_programs_that_misbehave_are_told_of(tmp_path: Path) -> None:
    crash = attempt(EASY, 0, plan(program(tmp_path, "sys.exit('no such luck')")))
    assert crash.reason.endswith("ended without an outcome: no such luck")
    code = (
        "print('hello'); print(json.dumps({'event': 'note', 't': 'x', 'n': 1}), flush=True)\n"
        "if os.environ['PT_LAB_ROLE'] == 'a':\n"
        "    print(json.dumps({'event': 'outcome', 'direct': True, 'seconds': 1}), flush=True)\n"
        "time.sleep(60)\n"
    )
    silent = attempt(EASY, 0, plan(program(tmp_path, code), budget=0.1))
    assert silent.reason == "no outcome in time"
    assert silent.timeline[0] == {**silent.timeline[0], "event": "text", "text": "hello"}


@netns
def test_signals_take_the_way_over_the_relay(tmp_path: Path) -> None:
    code = (
        "print(json.dumps({'event': 'signal', 'data': [1, time.monotonic()]}), flush=True)\n"
        "_, sent = json.loads(sys.stdin.readline())['data']\n"
        "took = time.monotonic() - sent\n"
        "print(json.dumps({'event': 'outcome', 'direct': True, 'seconds': took}), flush=True)\n"
    )
    found = attempt(replace(EASY, link="delay=25"), 0, plan(program(tmp_path, code)))
    assert found.seconds is not None
    assert found.seconds >= 0.100


def test_what_is_left_is_done_breadth_first() -> None:
    cells = pairs(["eim", "apdm"], ["auto"], link="")
    assert [(cell.a, cell.b) for cell in cells] == [
        ("eim", "eim"),
        ("eim", "apdm"),
        ("apdm", "apdm"),
    ]
    todo = Plan(cells=cells, runs=2)
    assert len(list(remaining(todo, []))) == 6
    done = Attempt(cell=cells[1], run=0, seed=1, puncher="pt", direct=True)
    left = list(remaining(todo, [done, replace(done, puncher="other", run=1)]))
    assert [(cell.b, number) for cell, number in left] == [
        ("eim", 0), ("apdm", 0), ("eim", 1), ("apdm", 1), ("apdm", 1),
    ]  # fmt: skip


@netns
def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    whole = plan(runs=3, traces=tmp_path / "traces")
    shown: list[tuple[int, int]] = []
    first = attempt(EASY, 1, plan())
    append(out, [first])
    found = run(whole, out, lambda _, done, total: shown.append((done, total)))
    assert shown == [(2, 3), (3, 3)]
    assert sorted(each.run for each in found) == [0, 1, 2]
    assert found == list(read(out))
    traces = sorted(path.suffix for path in (tmp_path / "traces").iterdir())
    assert traces == [".jsonl", ".jsonl", ".pcap", ".pcap"]
    assert run(whole, out, lambda *_: shown.append((0, 0))) == found
    assert len(shown) == 2
    with pytest.raises(SpecError, match="more than"):
        run(plan(runs=10**6), None, lambda *_: None)


def test_cells_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cells.toml"
    path.write_text('[[cell]]\na = "eim"\nb = "linux"\nruns = 20\n[[cell]]\na = "eim"\nb = "v6"\n')
    assert cells_from_file(path) == [(Cell(a="eim", b="linux"), 20), (Cell(a="eim", b="v6"), None)]
    for text in ('[[cell]]\na = "eim"\n', "x = 1", "[[cell]]\nq = 1\n", "="):
        path.write_text(text)
        with pytest.raises(SpecError, match="no list of"):
            cells_from_file(path)
    path.write_text('[[cell]]\na = "eim"\nb = "cone"\n')
    with pytest.raises(SpecError, match="not a NAT"):
        cells_from_file(path)


@netns
def test_results_and_traces_of_three_kinds_are_replayed(tmp_path: Path) -> None:
    results, trace, real = (tmp_path / name for name in ("r.jsonl", "t.jsonl", "pt.jsonl"))
    found = attempt(replace(EASY, b="apdm-adf"), 4, plan())
    append(results, [found])
    assert cells_of_trace(results) == [(found.cell, 4, found.seed)]
    again = attempt(found.cell, 4, plan(), found.seed)
    assert (again.seed, again.direct) == (found.seed, found.direct)
    with Lab(a="eim", b="linux", link="delay=1", seed=9, trace=trace):
        pass
    assert cells_of_trace(trace) == [(Cell(a="eim", b="linux", link="delay=1"), 0, 9)]
    record = {
        "event": "punch_plan",
        "rtt": 0.08,
        "ours": ["tcp4 eim-adf", "udp4 apdm-random-apdf"],
        "theirs": ["udp4 fw-adf"],
    }
    real.write_text("junk\n" + json.dumps(record) + "\n")
    expected = Cell(a="apdm-apdf-random", b="fw-adf", link="delay=10")
    assert cells_of_trace(real) == [(expected, 0, None)]
    real.write_text('{"event": "punch_plan"}\n')
    with pytest.raises(SpecError, match="tells of no attempt"):
        cells_of_trace(real)


@netns
@pytest.mark.parametrize(
    ("spec", "engine"),
    [
        ("eim-adf", "user"),
        ("apdm-seq,step=3", "user"),
        ("eim-eif,hairpin=on", "user"),
        ("adm-apdf-random", "kernel"),
        ("eim-eif+apdm-adf-random", "user"),
        ("public", "user"),
        ("fw-adf", "kernel"),
    ],
)
def test_discovery_finds_what_the_spec_says(spec, engine) -> None:
    found = verify(spec, engine=engine)
    assert found.ok, found.differences


@netns
def test_a_nat_that_is_not_what_it_says_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "facts_of", lambda *_, **__: _wrong())
    found = verify("eim-adf")
    assert found.differences == ("mapping is independent, not address",)


def _wrong():
    return facts_of(parse_nat("adm-adf-preserve"))


@netns
def test_pts_own_puncher_has_its_port_mapped_where_the_gateway_does_that() -> None:
    hard = "apdm-apdf-random"
    cell = Cell(a=f"{hard},pmp=on", b=hard, link="delay=5")
    found = attempt(cell, 0, plan("pt", budget=5))
    assert (found.direct, found.winner) == (True, "simultaneous"), found.reason
    (told,) = (each for each in found.timeline if each["event"] == "outcome" and "mapped" in each)
    assert told["side"] == "a"
    assert told["mapped"] < 1.0


@netns
def test_packets_a_second_are_the_cells() -> None:
    cell = Cell(a="eim-apdf", b="apdm-apdf-random", link="delay=5", pps=100)
    found = attempt(cell, 0, plan("pt", budget=20))
    plans = [each for each in found.timeline if each["event"] == "punch_plan"]
    steps = [step for each in plans for step in each["steps"]]
    assert {step.split("pps=")[1] for step in steps if step.startswith("birthday ")} == {"100"}


@pytest.mark.parametrize("pps", [-1, "many", 2.5])
def test_packets_a_second_that_are_no_number(pps: object) -> None:
    with pytest.raises(SpecError, match="packets a second"):
        check(replace(EASY, pps=pps))
