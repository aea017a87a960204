"""Whom a look-up asks, and when it is done."""

from __future__ import annotations

from pt.overlay.adapter import Node
from pt.overlay.lookup import ALPHA, MAX_ASKED, K, Lookup

KEY, OWN = bytes(32), b"\xff" * 32


def node(number: int) -> Node:
    return Node(number.to_bytes(32, "big"), "10.0.0.1", number % 60000 + 1)


def ids(nodes: list[Node]) -> list[int]:
    return [one.long_id for one in nodes]


def test_the_nearest_are_asked_first_and_few_at_a_time():
    lookup = Lookup(KEY, OWN)
    lookup.heard_of(node(i) for i in (9, 3, 7, 1, 5))
    assert ids(lookup.next_nodes()) == [1, 3, 5, 7]
    assert lookup.next_nodes() == []
    lookup.answered(node(3), [node(2)])
    assert ids(lookup.next_nodes()) == [2]


def test_it_ends_when_the_nearest_have_answered():
    lookup = Lookup(KEY, OWN, width=3)
    lookup.heard_of(node(i) for i in range(1, 10))
    while not lookup.done:
        for one in lookup.next_nodes():
            if one.long_id == 2:
                lookup.failed(one)
            else:
                lookup.answered(one)
    assert ids(lookup.found())[:3] == [1, 3, 4]
    assert lookup.asked <= 3 + ALPHA
    lookup.width = 5
    assert not lookup.done


def test_a_slow_node_gives_its_place_away():
    lookup = Lookup(KEY, OWN)
    lookup.heard_of(node(i) for i in range(1, 10))
    first = lookup.next_nodes()
    lookup.slow(first[0])
    assert ids(lookup.next_nodes()) == [5]
    lookup.answered(first[0])
    assert lookup.next_nodes() == []


def test_nobody_leads_it_on_for_ever():
    lookup, nearer, named = Lookup(KEY, OWN), 1 << 200, 0
    lookup.heard_of([node(nearer)])
    while not lookup.done:
        for one in lookup.next_nodes():
            named += 30
            lookup.answered(one, [node(nearer - named - i) for i in range(30)])
    assert lookup.asked == MAX_ASKED
    assert len(lookup.found()) >= K


def test_we_and_those_who_failed_are_not_asked():
    lookup = Lookup(KEY, OWN)
    lookup.heard_of([Node(OWN, "10.0.0.1", 1)])
    assert lookup.done
    lookup.heard_of([node(1)])
    lookup.next_nodes()
    lookup.failed(node(1))
    lookup.heard_of([node(1)])
    assert lookup.done
    assert lookup.next_nodes() == lookup.found() == []
