"""The table of bindings: what it is asked beside what test_box.py shows, and its bounds."""

from __future__ import annotations

import pytest

from pt.lab.model import bindings
from pt.lab.model.bindings import Binding, Table
from pt.lab.model.spec import NatSpec

A, E, R = (b"\xc0\xa8\x01\x0a", 40000), (b"\x0b\x64\0\x01", 40000), (b"\x0b\x01\0\x01", 3478)


def test_it_counts_by_host_and_forgets_wholly() -> None:
    ended: list[str] = []
    table = Table(NatSpec(timeout=30), lambda binding, why, now: ended.append(why))
    binding = Binding(17, A, E, 0.0)
    table.add("key", binding)
    table.refresh(binding, R, binding.session(R), 0.0)
    table.alias("other", binding)
    assert (len(table), table.held[A[0]], list(table)) == (1, 1, [binding])
    assert table.find("key") is table.find("other") is binding
    table.expire(119.0)
    assert ended == []
    table.expire(200.0)
    assert ended == ["timeout"]
    assert table.find("key") is table.find("other") is None
    assert (len(table), table.at(17, E), dict(table.held)) == (0, [], {})


def test_sessions_and_bindings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "MAX_SESSIONS", 3)
    monkeypatch.setattr(bindings, "MAX_BINDINGS", 2)
    binding = Binding(17, A, E, 0.0)
    for port in range(5):
        binding.session((R[0], port))
    assert [port for _, port in binding.sessions] == [2, 3, 4]
    table = Table(NatSpec(), lambda *_: None)
    for number in range(2):
        assert not table.full
        table.add(number, Binding(17, (A[0], number), (E[0], number), 0.0))
    assert table.full
    for key in "abcdef":
        table.alias(key, binding)
    assert len(binding.keys) <= 3
