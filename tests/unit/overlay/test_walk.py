"""Puts and gets against servers that answer, lie, drop or are gone."""

from __future__ import annotations

import pytest

from pt.overlay.messages import MAX_VALUE
from pt.overlay.walk import best_first
from tests.unit.overlay.network import Network
from tests.unit.overlay.records import key_of, record, signer

ONE = signer(1)
KEY = key_of(ONE)


@pytest.mark.parametrize("size", [120, 500, 1100, 2000, MAX_VALUE])
def test_a_record_of_any_size_is_put_and_found(size):
    network = Network()
    network.grow(5)
    value = record(ONE, size=size)
    stored = network.client().put(KEY, value)
    assert (stored.acknowledged, stored.asked) == (5, 5)
    (found,) = network.client().get(KEY)
    assert (found.value, found.facts.seq) == (value, 1)


def test_losses_are_made_up_for():
    network = Network(loss=0.1)
    network.grow(12)
    value = record(ONE, size=4000)
    assert network.client().put(KEY, value).acknowledged >= 6
    assert [one.value for one in network.client().get(KEY)] == [value]


def test_a_refusal_says_why():
    network = Network()
    network.grow(3)
    client = network.client()
    client.put(KEY, record(ONE, seq=2))
    stored = client.put(KEY, record(ONE, seq=1))
    assert (stored.acknowledged, stored.refusals) == (0, ("stale",))


def test_all_distinct_values_are_found_and_sorted():
    network = Network()
    servers = network.grow(3)
    values = [record(ONE, seq=seq) for seq in (2, 3, 1)]
    for server, value in zip(servers, values, strict=True):
        server.storage.put(KEY, value, "a", network.wall())
    found = best_first(network.client().get(KEY))
    assert [one.facts.seq for one in found] == [3, 2, 1]


def test_invalid_values_are_dropped_and_counted():
    network = Network()
    servers = network.grow(4)
    network.client().put(KEY, record(ONE))
    liar = servers[0]
    liar.storage._entries[KEY].value = b"\x00" * 500
    client = network.client()
    assert [one.value for one in client.get(KEY)] == [record(ONE)]
    assert client.rpc.counts["dropped: invalid value"] == 1


def test_an_expired_record_is_not_found():
    network = Network()
    network.grow(3)
    network.client().put(KEY, record(ONE, expires=int(network.wall()) + 20))
    assert network.client().get(KEY)
    network.run(60)
    assert network.client().get(KEY) == []


def test_dead_bootstraps_cost_a_timeout_at_most():
    network = Network()
    (server, *_) = network.grow(3)
    client = network.client([("10.9.9.9", 1), ("10.9.9.8", 1), server.addr])
    began = network.now
    assert client.put(KEY, record(ONE)).acknowledged == 3
    assert network.now - began < 5
    assert network.client([("10.9.9.9", 1)]).put(KEY, record(ONE)).asked == 0


def test_servers_that_are_gone_are_replaced_by_the_bootstrap():
    network = Network()
    old = network.grow(3)
    client = network.client()
    client.get(KEY)
    for server in old:
        network.kill(server)
    new = network.grow(3)
    client.bootstrap = [new[0].addr]
    assert client.put(KEY, record(ONE)).acknowledged == 3


def test_a_closed_walk_reports_nothing():
    network = Network()
    network.grow(3)
    client = network.client()
    client.close()
    client.network.ends[client.addr] = client
    assert client.get(KEY) == []
