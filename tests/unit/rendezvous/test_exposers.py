from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pt.identity.peer_id import PeerId
from pt.rendezvous.exposers import MAX_EXPOSERS, MAX_REMEMBERED, Change, Exposers
from pt.rendezvous.record import Record
from pt.wire.multiaddr import Multiaddr

NOW = 1_800_000_000
HERE = (Multiaddr.parse("/ip4/11.1.0.1/tcp/4001"),)
THERE = (Multiaddr.parse("/ip4/11.2.0.1/tcp/4001"),)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def record(number: int, seq: int = 1, **changes: object) -> Record:
    made = Record(peer_id=peer(number), addresses=HERE, seq=seq, expires=NOW + 600)
    return replace(made, **changes)


def order(table: Exposers, now: float = NOW) -> list[PeerId]:
    return [exposer.peer_id for exposer in table.ranked(now)]


def test_the_newest_record_counts() -> None:
    table = Exposers()
    assert table.add(record(1, 5), "amino", NOW) is Change.NEW
    assert table.add(record(1, 5), "amino", NOW) is Change.SAME
    assert table.add(record(1, 4, addresses=THERE), "overlay", NOW) is Change.STALE
    assert table.add(record(1, 5), "overlay", NOW) is Change.CONFIRMED
    exposer = table.get(peer(1))
    assert exposer is not None
    assert (exposer.record.addresses, exposer.media) == (HERE, ("amino", "overlay"))
    assert table.add(record(1, 6, addresses=THERE), "overlay", NOW) is Change.UPDATED
    assert (exposer.record.addresses, exposer.media) == (THERE, ("overlay",))
    assert len(table) == 1


def test_only_news_are_news() -> None:
    table = Exposers()
    steps = [
        (record(1, 7), True),
        (record(1, 7), False),
        (record(1, 6), False),
        (record(2, 1), True),
        (record(1, 8, gone=True), True),
        (record(1, 7), False),
        (record(1, 9), True),
    ]
    news = {Change.NEW, Change.UPDATED, Change.GONE}
    told = [table.add(each, "lan", NOW) in news for each, _ in steps]
    assert told == [expected for _, expected in steps]


def test_gone() -> None:
    table = Exposers()
    table.add(record(1, 5), "amino", NOW)
    assert table.add(record(1, 4, gone=True), "amino", NOW) is Change.STALE
    assert table.add(record(1, 6, gone=True), "amino", NOW) is Change.GONE
    assert len(table) == 0
    assert table.add(record(1, 6, gone=True), "overlay", NOW) is Change.SAME
    assert table.add(record(1, 5), "overlay", NOW) is Change.STALE
    assert table.add(record(1, 6), "overlay", NOW) is Change.STALE
    assert table.add(record(1, 7), "overlay", NOW) is Change.NEW


def test_gone_before_it_was_heard_of() -> None:
    table = Exposers()
    assert table.add(record(1, 6, gone=True), "amino", NOW) is Change.SAME
    assert table.add(record(1, 5), "overlay", NOW) is Change.STALE


def test_expiry() -> None:
    table = Exposers()
    assert table.add(record(1, expires=NOW - 1), "amino", NOW) is Change.EXPIRED
    assert table.add(record(2), "amino", NOW) is Change.NEW
    assert order(table, NOW + 600) == [peer(2)]
    assert order(table, NOW + 601) == []
    assert table.add(record(2), "amino", NOW + 601) is Change.EXPIRED


def test_on_a_lan_hearing_is_enough() -> None:
    """A machine without a clock is found there for as long as it is heard."""
    table = Exposers()
    assert table.add(record(1, expires=0), "lan", NOW) is Change.NEW
    assert order(table, NOW + 10_000) == [peer(1)]
    assert table.lost(peer(1), "amino") is False
    assert table.lost(peer(1), "lan") is True
    assert order(table) == []
    assert table.add(record(1, expires=0), "lan", NOW) is Change.NEW  # back after a silence


def test_lost_on_one_of_two_media() -> None:
    table = Exposers()
    table.add(record(1), "lan", NOW)
    table.add(record(1), "amino", NOW)
    assert table.lost(peer(1), "lan") is False
    assert order(table) == [peer(1)]
    assert order(table, NOW + 601) == []


def test_news_from_a_dht_keeps_the_lan() -> None:
    table = Exposers()
    table.add(record(1), "lan", NOW)
    table.add(record(1, 2), "amino", NOW)
    exposer = table.get(peer(1))
    assert exposer is not None
    assert exposer.media == ("amino", "lan")


def test_rank() -> None:
    table = Exposers(pins=frozenset({peer(9)}))
    for number in range(1, 8):
        table.add(record(number, expires=NOW + 600 + (number == 4)), "amino", NOW)
    table.answered(peer(1), 0.2)
    table.answered(peer(2), 0.1)
    table.failed(peer(5), NOW)
    table.failed(peer(6), NOW - 5)
    expected = [2, 1, 4, 3, 7, 6, 5]
    assert order(table) == [peer(number) for number in expected]
    table.add(record(9), "amino", NOW)
    table.failed(peer(9), NOW)
    assert order(table) == [peer(number) for number in (9, *expected)]
    assert [one.peer_id for one in table.ranked(NOW, only_pinned=True)] == [peer(9)]


def test_fails_over_and_comes_back() -> None:
    table = Exposers()
    for number in (1, 2):
        table.add(record(number), "amino", NOW)
    table.answered(peer(1), 0.01)
    assert order(table) == [peer(1), peer(2)]
    table.failed(peer(1), NOW)
    assert order(table) == [peer(2), peer(1)]
    table.failed(peer(2), NOW + 1)
    assert order(table) == [peer(1), peer(2)]
    table.add(record(2, 2, addresses=THERE), "amino", NOW)  # it moved: worth a try before
    assert order(table) == [peer(2), peer(1)]
    table.answered(peer(3), 1.0)  # not there: nothing happens
    table.failed(peer(3), NOW)
    assert len(table) == 2


def test_an_address_that_changes_every_minute() -> None:
    table = Exposers()
    for minute in range(100):
        address = (Multiaddr.parse(f"/ip4/11.1.0.{minute}/tcp/4001"),)
        now = NOW + 60 * minute
        change = table.add(record(1, minute, addresses=address, expires=now + 600), "amino", now)
        assert change is (Change.UPDATED if minute else Change.NEW)
    assert [one.record.addresses for one in table] == [address]
    for minute in range(99):
        assert table.add(record(1, minute, expires=now), "overlay", now) is Change.STALE


def test_full() -> None:
    table = Exposers(pins=frozenset({peer(1000)}))
    for number in range(MAX_EXPOSERS):
        assert table.add(record(number), "amino", NOW) is Change.NEW
    assert table.add(record(500), "amino", NOW) is Change.FULL
    table.answered(peer(3), 0.1)
    table.failed(peer(7), NOW)
    assert table.add(record(500), "amino", NOW) is Change.NEW  # in the place of the failing one
    assert table.get(peer(7)) is None
    assert table.add(record(501), "amino", NOW) is Change.FULL
    assert table.add(record(1000), "amino", NOW) is Change.NEW
    assert table.get(peer(3)) is not None
    assert len(table) == MAX_EXPOSERS
    # Once the others' records have expired there is room again.
    assert table.add(record(501, expires=NOW + 9999), "amino", NOW + 601) is Change.NEW
    assert len(table) == 1


def test_a_flood_of_exposers_forgets_neither_pin_nor_those_there() -> None:
    table = Exposers(pins=frozenset({peer(0)}))
    table.add(record(0, 9, gone=True), "amino", NOW)
    table.add(record(1, 9), "amino", NOW)
    for number in range(2, 2 + 2 * MAX_REMEMBERED):
        table.add(record(number, gone=True), "amino", NOW)
    assert table.add(record(0, 8), "amino", NOW) is Change.STALE
    assert table.add(record(1, 8), "amino", NOW) is Change.STALE
    assert len(table._newest) == MAX_REMEMBERED
    for number in range(2, 2 + 2 * MAX_REMEMBERED):
        table.add(record(number, 2), "amino", NOW)
        table.failed(peer(number), NOW)
    assert len(table) <= MAX_EXPOSERS
    assert table.get(peer(1)) is not None


steps = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 5), st.booleans(), st.sampled_from(["lan", "amino"])
    ),
    max_size=40,
)


@given(steps)
def test_never_older_than_what_was_heard(taken: list[tuple[int, int, bool, str]]) -> None:
    """Whatever the order: what is there is the newest heard, and a goodbye that is newest holds."""
    table = Exposers()
    for number, seq, gone, medium in taken:
        table.add(record(number, seq, gone=gone), medium, NOW)
    for number in range(4):
        heard = [(seq, gone) for who, seq, gone, _ in taken if who == number]
        exposer = table.get(peer(number))
        if not heard or max(heard)[1]:
            assert exposer is None
        else:
            assert exposer is not None
            assert exposer.record.seq == max(heard)[0]
