"""The library's table and shortlist as corrected, and the scan before msgpack."""

from __future__ import annotations

import pickle
import random

import pytest
import umsgpack
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.overlay.adapter import MAX_PER_HOST, Node, OverlayError, Shortlist, Table, pack, unpack

KEY = bytes(32)


def node(number: int, ip: str = "10.0.0.1", port: int = 4001) -> Node:
    return Node(number.to_bytes(32, "big"), ip, port)


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=300), max_size=8)
)
def test_what_is_packed_is_unpacked(value):
    assert unpack(pack([value, "x"])) == [value, "x"]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        value = unpack(data)
    except OverlayError:
        return
    assert isinstance(value, int | str | bytes | list)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x91" * 1000 + b"\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        umsgpack.packb({"a": 1}),
        umsgpack.packb(None),
        umsgpack.packb(1.5),
        umsgpack.packb(-1),
        umsgpack.packb(umsgpack.Ext(1, b"x")),
        b"\xa1\xff",
        b"\x01\x01",
        b"\x92\x01",
        pickle.dumps(print),
    ],
)
def test_other_types_and_deep_nesting_are_refused(data):
    with pytest.raises(OverlayError):
        unpack(data)


def test_ids_have_32_bytes():
    with pytest.raises(LocalProtocolError):
        Node(bytes(20), "10.0.0.1", 1)


def test_the_nearest_are_really_the_nearest():
    chance = random.Random(1)
    table = Table(chance.randbytes(32), 20)
    nodes = [Node(chance.randbytes(32), f"10.0.0.{i % 250}", 1 + i) for i in range(500)]
    kept = [one for one in nodes if table.answered(one, 1.0)]
    assert len(kept) == len(table) > 60
    key = chance.randbytes(32)
    point = int.from_bytes(key, "big")
    assert table.closest(key, 20) == sorted(kept, key=lambda one: one.long_id ^ point)[:20]


def test_buckets_split_only_around_us_and_the_live_stay():
    table = Table((1 << 255).to_bytes(32, "big"), 20)
    far = [node(i, port=i) for i in range(1, 100)]
    assert [table.answered(one, 1.0) for one in far] == [True] * 20 + [False] * 79
    assert not table.wants(far[50])
    table.failed(far[0].id)
    assert far[0].id in table
    table.answered(far[0], 2.0)
    table.failed(far[0].id)
    table.failed(far[0].id)
    assert far[0].id not in table
    assert table.answered(far[50], 3.0)
    assert len(table.buckets) <= 256


def test_a_node_on_the_border_of_two_buckets_is_in_the_right_one():
    table = Table(node(0).id, 1)
    border = (1 << 255) - 1
    for number in (border, 1, 1 << 255):
        table.answered(node(number, port=number % 7 + 1), 1.0)
    for bucket in table.buckets:
        assert all(bucket.has_in_range(one) for one in bucket.get_nodes())


def test_an_id_does_not_move_to_another_address_while_it_answers():
    table = Table(KEY, 20)
    assert table.answered(node(1), 1.0)
    assert not table.answered(node(1, "10.6.6.6"), 2.0)
    assert [one.ip for one in table] == ["10.0.0.1"]


def test_one_public_address_has_few_places():
    table, nearest = Table(KEY, 20), Shortlist(KEY, 50)
    many = [node(i, "8.8.8.8", i) for i in range(1, 30)]
    assert sum(table.answered(one, 1.0) for one in many) == MAX_PER_HOST
    nearest.push(many)
    assert len(nearest) == MAX_PER_HOST
    net = [node(100 + i, f"9.9.9.{i}") for i in range(1, 40)]
    assert sum(table.answered(one, 1.0) for one in net) == 16


def test_the_shortlist_keeps_the_nearest_in_order():
    nearest = Shortlist(KEY, 10)
    numbers = list(range(1, 60))
    random.Random(2).shuffle(numbers)
    for number in numbers:
        nearest.push([node(number), node(number, "10.9.9.9")])
    assert [one.long_id for one in nearest] == list(range(1, 11))
    assert node(3) in nearest
    assert node(50) not in nearest


def test_the_longest_silent_are_stale_first():
    table = Table(KEY, 20)
    for number in (3, 1, 2):
        table.answered(node(number, port=number), float(number))
    assert [one.long_id for one in table.stale(2.5, 5)] == [1, 2]
