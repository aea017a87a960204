"""Values in parts: who is asked for what, and what happens when he is slow or lies."""

from __future__ import annotations

import pytest

from pt.overlay.adapter import Node
from pt.overlay.fetch import AT_ONCE, MAX_SOURCES, WINDOW, Fetch
from pt.overlay.messages import MAX_VALUE, PART, Reply, digest

KEY = b"k" * 32
VALUE = bytes(n % 251 for n in range(MAX_VALUE))
NODES = [Node(bytes([n]) * 32, f"11.0.0.{n}", 4001) for n in range(1, 20)]


class Asked:
    """Stands for `Rpc`: notes what is asked, and answers when told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Node, int, object, object]] = []
        self.deaf = False

    def ask(self, node, method, key, mark, offset, *, done, slow, now) -> None:
        assert (method, key) == ("fetch", KEY)
        if self.deaf:
            done(None)
        else:
            self.waiting.append((node, offset, done, slow))

    def answer(self, part=lambda offset: VALUE[offset : offset + PART]) -> Node:
        """Answer whoever was asked first."""
        node, offset, done, _ = self.waiting.pop(0)
        found = part(offset)
        done(None if found is None else Reply(b"", node.id, b"", (found,)))
        return node

    @property
    def nodes(self) -> list[Node]:
        return [node for node, *_ in self.waiting]


class Got:
    def __init__(self, value: bytes = VALUE) -> None:
        self.asked = Asked()
        self.values: list[bytes | None] = []
        self.fetch = Fetch(
            self.asked, KEY, len(value), digest(value), clock=lambda: 0.0, done=self.values.append
        )


@pytest.mark.parametrize("size", [1, PART, PART + 1, 1231, 3 * PART, MAX_VALUE])
def test_a_value_comes_together(size):
    got = Got(VALUE[:size])
    got.fetch.add(NODES[0])
    while got.asked.waiting:
        assert len(got.asked.waiting) <= WINDOW
        got.asked.answer(lambda offset: VALUE[:size][offset : offset + PART])
    assert got.values == [VALUE[:size]]
    assert got.fetch.over
    got.fetch.add(NODES[1])
    assert not got.asked.waiting


def test_parts_may_come_in_any_order():
    got = Got()
    got.fetch.add(NODES[0])
    while got.asked.waiting:
        got.asked.waiting.reverse()
        got.asked.answer()
    assert got.values == [VALUE]


@pytest.mark.parametrize(
    "part",
    [
        lambda offset: None,
        lambda offset: b"",
        lambda offset: b"x",
        lambda offset: VALUE[offset : offset + PART] + b"x",
        lambda offset: bytes(len(VALUE[offset : offset + PART])),
        lambda offset: VALUE[offset : offset + PART] if offset < 5 * PART else None,
    ],
    ids=["silent", "empty", "short", "long", "forged", "half"],
)
def test_the_next_is_asked_in_place_of_one_who_lies(part):
    got = Got()
    got.fetch.add(NODES[0])
    got.fetch.add(NODES[1])
    while got.asked.nodes and got.asked.nodes[0] == NODES[0]:
        got.asked.answer(part)
    assert set(got.asked.nodes) == {NODES[1]}
    while got.asked.waiting:
        got.asked.answer()
    assert got.values == [VALUE]


def test_nobody_is_left():
    got = Got()
    got.fetch.add(NODES[0])
    while got.asked.waiting:
        got.asked.answer(lambda offset: None)
    assert got.values == [None]
    assert not got.fetch.active
    got.fetch.add(NODES[1])
    while got.asked.waiting:
        got.asked.answer()
    assert got.values == [None, VALUE]


def test_one_more_is_asked_along_with_one_who_is_slow():
    got = Got()
    for node in NODES[:4]:
        got.fetch.add(node)
    assert set(got.asked.nodes) == {NODES[0]}
    for _ in range(3):
        got.asked.waiting[0][3]()
    assert set(got.asked.nodes) == {NODES[0], NODES[1]}
    assert got.fetch.active == AT_ONCE
    got.asked.waiting = [one for one in got.asked.waiting if one[0] == NODES[1]]
    while got.asked.waiting:
        got.asked.answer()
    assert got.values == [VALUE]


def test_what_waits_is_bounded():
    got = Got()
    for node in NODES:
        got.fetch.add(node)
    seen = set()
    while got.asked.waiting:
        seen.add(got.asked.answer(lambda offset: None).id)
    assert len(seen) == MAX_SOURCES + 1
    assert got.values == [None]


def test_close_gives_nothing():
    got = Got()
    got.fetch.add(NODES[0])
    got.fetch.close()
    got.asked.waiting[0][3]()
    while got.asked.waiting:
        got.asked.answer()
    assert got.values == []


def test_a_port_that_takes_nothing_more():
    got = Got()
    got.asked.deaf = True
    got.fetch.add(NODES[0])
    got.fetch.add(NODES[1])
    assert got.values == [None, None]
    assert got.fetch.active == 0
