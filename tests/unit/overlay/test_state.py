"""The state file's lines: what was written comes back, and damage costs no more than a line."""

from __future__ import annotations

import base64
import json
import pickle

import pytest

from pt.overlay.messages import MAX_VALUE
from pt.overlay.state import (
    MAX_LINE,
    MAX_NODES,
    State,
    dump,
    dump_record,
    load,
    load_record,
)
from pt.overlay.storage import Entry

ID = bytes(range(32))
VALUE = bytes(range(256))


def test_what_was_written_comes_back():
    nodes = (("10.0.0.1", 5), ("::1", 6))
    assert load(dump(State(ID, nodes))) == State(ID, nodes)
    many = load(dump(State(ID, nodes * 1000)))
    assert many is not None
    assert len(many.nodes) == MAX_NODES


@pytest.mark.parametrize("value", [b"x", VALUE, bytes(MAX_VALUE)])
def test_a_record_comes_back(value):
    line = dump_record(ID, Entry(value, 7, 1_800_000_000.123456, "2a00:1:2:3"))
    assert "\n" not in line
    assert len(line) < MAX_LINE // 2
    found = load_record(line + "\n")
    assert found is not None
    key, entry = found
    assert key == ID
    assert (entry.value, entry.seq, entry.expires, entry.source) == (
        value, 0, 1_800_000_000.123456, "2a00:1:2:3",
    )  # fmt: skip


def text(**changes) -> str:
    return json.dumps({"version": 2, "id": ID.hex(), "nodes": [["10.0.0.1", 5]], **changes})


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "[" * 30000,
        pickle.dumps({"id": ID, "neighbors": []}).decode("latin-1"),
        text() + " " * MAX_LINE,
        text()[:-1],
        text(version=1),
        text(id="00"),
        text(id=5),
        text(id="x" * 64),
        text(nodes=[["name.example", 5]]),
        text(nodes=[["10.0.0.1", 0]]),
        text(nodes=[["10.0.0.1", True]]),
        text(nodes=[["10.0.0.1", "5"]]),
        text(nodes=[["10.0.0.1"]]),
        text(nodes={"a": 1}),
        text(nodes=5),
    ],
)
def test_a_damaged_head_is_none(damaged):
    assert load(text()) is not None
    assert load(damaged) is None


def line(**changes) -> str:
    value = base64.b64encode(VALUE).decode()
    record = {"key": ID.hex(), "value": value, "source": "10.0.0.1", "expires": 9.5}
    return json.dumps({**record, **changes})


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "\n",
        line()[:-2],
        line()[1:],
        line(key="00"),
        line(key=None),
        line(value=""),
        line(value="a=b"),
        line(value="ä"),
        line(value=5),
        line(value=base64.b64encode(bytes(MAX_VALUE + 1)).decode()),
        line(source=""),
        line(source="x" * 100),
        line(source=7),
        line(expires=-1),
        line(expires=float("nan")),
        line(expires=float("inf")),
        line(expires="soon"),
        line(expires=10**400),
        line() + " " * MAX_LINE,
    ],
)
def test_a_damaged_record_is_none(damaged):
    assert load_record(line()) is not None
    assert load_record(damaged) is None
