"""The routing table: buckets, owners, age, and its file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.kad.keyspace import K, common_prefix, point
from pt.kad.messages import PeerInfo
from pt.kad.table import MAX_AGE, MAX_PEERS, STALE, RoutingTable
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.peers import KEY, address, nearest, peer, peer_id

OWN = peer_id(0)
NOW = 1000.0
WALL = 1_700_000_000.0


def in_bucket(bucket: int, count: int, start: int = 1):
    """Peers of one bucket, by number."""
    found = []
    number = start
    while len(found) < count:
        if common_prefix(point(peer_id(number).raw), point(OWN.raw)) == bucket:
            found.append(peer(number))
        number += 1
    return found


def test_the_nearest_come_first() -> None:
    table = RoutingTable(OWN)
    peers = [peer(number) for number in range(1, 30)]
    assert all(table.answered(each, NOW) for each in peers)
    assert table.closest(point(KEY), 5) == nearest(peers)[:5]
    assert len(table.closest(point(KEY), 100)) == len(table) == 29


def test_we_and_peers_without_public_addresses_stay_out() -> None:
    table = RoutingTable(OWN)
    assert not table.answered(PeerInfo(OWN, (address(1),)), NOW)
    assert not table.answered(peer(1, "/ip4/192.168.0.1/tcp/1"), NOW)
    assert table.answered(peer(2, "/ip4/192.168.0.1/tcp/1", "/ip4/130.1.0.1/tcp/1"), NOW)
    assert [str(each) for each in next(iter(table)).addresses] == ["/ip4/130.1.0.1/tcp/1"]
    assert RoutingTable(OWN, public_only=False).answered(peer(1, "/ip4/192.168.0.1/tcp/1"), NOW)


def test_a_full_bucket_keeps_who_answers() -> None:
    table = RoutingTable(OWN)
    *first, late = in_bucket(0, K + 1)
    for each in first:
        assert table.answered(each, NOW)
    assert not table.answered(late, NOW + STALE)
    assert table.answered(first[0], NOW + 10)
    assert table.answered(late, NOW + STALE + 5), "one of the stale ones makes room"
    assert late.id in table
    assert first[0].id in table
    assert len(table) == K


def test_who_fails_makes_room() -> None:
    table = RoutingTable(OWN)
    *first, late = in_bucket(0, K + 1)
    for each in first:
        table.answered(each, NOW)
    table.failed(first[3].id)
    table.failed(peer_id(424242))
    assert table.answered(late, NOW)
    assert first[3].id not in table


def test_of_one_owner_two_in_a_bucket_and_three_in_all() -> None:
    table = RoutingTable(OWN)

    def crowd(bucket: int):
        for number, each in enumerate(in_bucket(bucket, 3)):
            ip = f"/ip4/140.1.{bucket}.{number + 1}/tcp/1"
            yield PeerInfo(each.id, (Multiaddr.parse(ip),))

    assert [table.answered(each, NOW) for each in crowd(0)] == [True, True, False]
    assert [table.answered(each, NOW) for each in crowd(1)] == [True, False, False]
    assert [table.answered(each, NOW) for each in crowd(2)] == [False, False, False]


def test_a_peer_that_moves_into_a_crowd_keeps_its_old_address() -> None:
    table = RoutingTable(OWN)
    one, two, three = in_bucket(0, 3)
    for number, each in enumerate((one, two)):
        table.answered(PeerInfo(each.id, (Multiaddr.parse(f"/ip4/140.1.0.{number}/tcp/1"),)), NOW)
    assert table.answered(three, NOW)
    moved = PeerInfo(three.id, (Multiaddr.parse("/ip4/140.1.0.9/tcp/1"),))
    assert table.answered(moved, NOW + 1)
    assert three in table.closest(point(KEY), K)


def test_newer_addresses_replace_the_older_ones() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    table.answered(peer(1, "/ip4/150.1.0.1/tcp/9"), NOW)
    assert list(table) == [peer(1, "/ip4/150.1.0.1/tcp/9")]


def test_fresh_ones_are_counted() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    table.answered(peer(2), NOW + STALE)
    assert table.fresh(NOW + STALE) == 2
    assert table.fresh(NOW + STALE + 1) == 1


def test_the_file() -> None:
    table = RoutingTable(OWN)
    for number in range(1, 20):
        table.answered(peer(number), NOW + number)
    text = table.to_json(NOW + 100, WALL)
    assert json.loads(text)["peers"][0]["id"] == str(peer_id(19))
    again = RoutingTable(OWN)
    assert again.load_json(text, 5.0, WALL + 60) == 19
    assert set(again) == set(table)
    assert again.fresh(5.0) == 0, "what was read has to prove itself"
    assert again.load_json(text, 5.0, WALL + MAX_AGE) == 0


def test_ages_go_on_through_starts_that_ask_nobody() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    text = table.to_json(NOW + 5, WALL)
    for start in range(1, 4):
        table = RoutingTable(OWN)
        assert table.load_json(text, 0.0, WALL + 10 * start) == 1
        text = table.to_json(1.0, WALL + 10 * start + 1)
    assert json.loads(text)["peers"][0]["age"] == 5 + 3 * 10 + 1


def test_reading_changes_nothing_about_who_is_known() -> None:
    other = RoutingTable(OWN)
    other.answered(peer(1, "/ip4/150.1.0.1/tcp/9"), NOW)
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    assert table.load_json(other.to_json(NOW, WALL), NOW, WALL) == 0
    assert list(table) == [peer(1)]
    assert table.fresh(NOW) == 1


def test_of_those_read_the_ones_seen_last_stay() -> None:
    *first, late = in_bucket(0, K + 1)
    old, new = RoutingTable(OWN), RoutingTable(OWN)
    for number, each in enumerate(first):
        old.answered(each, NOW - 100 + number)
    new.answered(late, NOW)
    table = RoutingTable(OWN)
    assert table.load_json(old.to_json(NOW, WALL), 0.0, WALL) == K
    table.load_json(new.to_json(NOW, WALL), 0.0, WALL)
    assert late.id in table
    assert first[0].id not in table
    assert len(table) == K


def test_who_was_read_makes_room_for_who_answers() -> None:
    table = RoutingTable(OWN)
    *first, late = in_bucket(0, K + 1)
    for each in first:
        table.answered(each, NOW)
    again = RoutingTable(OWN)
    again.load_json(table.to_json(NOW, WALL), 1.0, WALL)
    assert again.answered(late, 1.0)
    assert len(again) == K


def test_reading_does_not_push_out_who_answered() -> None:
    *first, late = in_bucket(0, K + 1)
    other = RoutingTable(OWN)
    other.answered(late, NOW)
    table = RoutingTable(OWN)
    for each in first:
        table.answered(each, NOW)
    assert table.load_json(other.to_json(NOW, WALL), NOW, WALL) == 0
    assert late.id not in table


def test_the_oldest_are_not_written() -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    table.answered(peer(2), NOW + 10)
    assert str(peer_id(1)) not in table.to_json(NOW + MAX_AGE + 5, WALL)
    assert str(peer_id(2)) in table.to_json(NOW + MAX_AGE + 5, WALL)


def one(**changed: object) -> str:
    entry = {"id": str(peer_id(1)), "addresses": [str(address(1))], "age": 1} | changed
    good = {"id": str(peer_id(2)), "addresses": [7, "nonsense", str(address(2))], "age": 1}
    return json.dumps({"version": 1, "saved": WALL, "peers": [entry, 5, None, good]})


@pytest.mark.parametrize(
    "changed",
    [
        {"id": 5},
        {"id": "nobody"},
        {"addresses": "x"},
        {"addresses": []},
        {"age": None},
        {"age": -1},
        {"age": float("nan")},
        {"age": 10**400},
        {"age": "1"},
    ],
)
def test_a_bad_entry_costs_itself_alone(changed: dict[str, object]) -> None:
    table = RoutingTable(OWN)
    assert table.load_json(one(**changed), NOW, WALL) == 1
    assert list(table) == [peer(2)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"version": 2}',
        '{"version": 1, "saved": "x", "peers": []}',
        '{"version": 1, "saved": 1' + "0" * 400 + ', "peers": []}',
        '{"version": 1, "saved": 1, "peers": {}}',
        " " * (1 << 20) + "{}",
    ],
)
def test_a_damaged_file_changes_nothing(text: str) -> None:
    table = RoutingTable(OWN)
    table.answered(peer(1), NOW)
    assert table.load_json(text, NOW, WALL) is None
    assert list(table) == [peer(1)]


@given(st.lists(st.tuples(st.integers(1, 14_000), st.floats(0, 1e6), st.booleans()), max_size=200))
def test_bounds_hold_whatever_happens(events: list[tuple[int, float, bool]]) -> None:
    table = RoutingTable(OWN)
    for number, now, ok in events:
        if ok:
            table.answered(peer(number % 500 + 1), now)
        else:
            table.failed(peer_id(number % 500 + 1))
        buckets: dict[int, int] = {}
        for each in table:
            bucket = common_prefix(point(each.id.raw), point(OWN.raw))
            buckets[bucket] = buckets.get(bucket, 0) + 1
        assert max(buckets.values(), default=0) <= K
        assert len(table) <= MAX_PEERS
