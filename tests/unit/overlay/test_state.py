"""The state file: what was written comes back, and damage costs no more than the file."""

from __future__ import annotations

import json
import pickle

import pytest

from pt.overlay.adapter import Node
from pt.overlay.state import MAX_NODES, MAX_TEXT, dump, load

ID = bytes(range(32))


def test_what_was_written_comes_back():
    nodes = [Node(ID, "10.0.0.1", 5), Node(ID, "::1", 6)]
    state = load(dump(ID, nodes))
    assert state is not None
    assert state.id == ID
    assert state.nodes == (("10.0.0.1", 5), ("::1", 6))
    many = load(dump(ID, nodes * 1000))
    assert many is not None
    assert len(many.nodes) == MAX_NODES


def text(**changes) -> str:
    return json.dumps({"version": 1, "id": ID.hex(), "nodes": [["10.0.0.1", 5]], **changes})


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "[]",
        "[" * 60000,
        pickle.dumps({"id": ID, "neighbors": []}).decode("latin-1"),
        text() + " " * MAX_TEXT,
        text()[:-1],
        text(version=2),
        text(id="00"),
        text(id=5),
        text(id="x" * 64),
        text(nodes=[["name.example", 5]]),
        text(nodes=[["10.0.0.1", 0]]),
        text(nodes=[["10.0.0.1", "5"]]),
        text(nodes=[["10.0.0.1"]]),
        text(nodes={"a": 1}),
        text(nodes=5),
    ],
)
def test_a_damaged_file_is_an_empty_one(damaged):
    assert load(text()) is not None
    assert load(damaged) is None
