from __future__ import annotations

from pt.tunnel.media.provider_table import MAX_PROVIDERS, ProviderTable
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.peers import peer_id

HERE, THERE = (Multiaddr.tcp(f"11.0.0.{number}", 4001) for number in (1, 2))


def ids(table: ProviderTable) -> list[object]:
    return [peer for peer, _ in table.ranked()]


def table_of(count: int) -> ProviderTable:
    table = ProviderTable()
    for number in range(count):
        assert table.add(peer_id(number), (HERE,))
    return table


def test_the_order() -> None:
    table = table_of(6)
    assert ids(table) == [peer_id(number) for number in range(6)]
    table.failed(peer_id(0), 10.0)
    table.failed(peer_id(1), 5.0)
    table.answered(peer_id(4), 0.2)
    table.answered(peer_id(5), 0.1)
    table.answered(peer_id(77), 0.1)
    table.failed(peer_id(77), 1.0)
    assert ids(table) == [peer_id(number) for number in (5, 4, 2, 3, 1, 0)]
    table.failed(peer_id(5), 20.0)
    table.answered(peer_id(1), 0.3)
    assert ids(table) == [peer_id(number) for number in (4, 1, 2, 3, 0, 5)]


def test_only_other_addresses_are_news_and_another_chance() -> None:
    table = table_of(2)
    table.failed(peer_id(0), 1.0)
    assert not table.add(peer_id(0), (HERE,))
    assert ids(table) == [peer_id(1), peer_id(0)]
    assert table.add(peer_id(0), (HERE, THERE))
    table.failed(peer_id(1), 1.0)
    assert table.ranked() == [(peer_id(0), (HERE, THERE)), (peer_id(1), (HERE,))]


def test_who_failed_last_makes_room() -> None:
    table = table_of(MAX_PROVIDERS)
    table.answered(peer_id(0), 0.1)
    table.failed(peer_id(1), 1.0)
    table.failed(peer_id(2), 2.0)
    for number in range(1000, 1003):
        assert table.add(peer_id(number), (HERE,))
        assert len(table.ranked()) == MAX_PROVIDERS
    gone = {peer_id(number) for number in range(MAX_PROVIDERS)} - set(ids(table))
    assert gone == {peer_id(1), peer_id(2)}, "and then the newest of those not tried"
    assert ids(table)[0] == peer_id(0)
