"""Results are read back as they were written, and damaged lines passed over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pt.lab.results import Attempt, Cell, append, read

CELL = Cell(a="eim", b="apdm", link="delay=5", strategy="auto", label="easy-hard")
DONE = Attempt(
    cell=CELL,
    run=3,
    seed=7,
    puncher="pt",
    direct=True,
    seconds=0.04,
    winner="birthday",
    packets={"a": 5},
    classes={"a": "eim-apdf"},
    timeline=[{"side": "a", "event": "signal", "t": 0.1}],
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert list(read(path)) == []
    append(path, [DONE, replace(DONE, run=4, direct=False, seconds=None)])
    with path.open("a") as file:
        file.write('{"v": 1, "event": "attempt", "a": "eim", "b\n')
        file.write('{"v": 1, "event": "summary"}\n{"v": 2, "event": "attempt"}\n[]\n')
    append(path, [DONE])
    assert list(read(path)) == [DONE, replace(DONE, run=4, direct=False, seconds=None), DONE]


def test_the_schema_is_flat_and_versioned() -> None:
    line = json.loads(DONE.line())
    assert (line["v"], line["event"]) == (1, "attempt")
    assert (line["a"], line["b"], line["link"], line["run"]) == ("eim", "apdm", "delay=5", 3)


def test_seeds_are_of_the_cell_and_not_of_its_label() -> None:
    assert CELL.seed(1, 0) == replace(CELL, label="other").seed(1, 0)
    others = [replace(CELL, b="adm"), replace(CELL, link=""), replace(CELL, strategy="birthday")]
    others.append(replace(CELL, pps=200))
    seeds = {each.seed(1, 0) for each in (CELL, *others)} | {CELL.seed(1, 1), CELL.seed(2, 0)}
    assert len(seeds) == 7
