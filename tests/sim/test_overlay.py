"""An overlay of 50 servers in virtual time: churn, Sybils, floods and lost datagrams."""

from __future__ import annotations

import pytest

from pt.overlay.adapter import Node
from pt.overlay.messages import encode_nodes, encode_reply
from tests.unit.overlay.network import Network
from tests.unit.overlay.records import key_of, record, signer

SIZE = 50
NAMES = 60
BUDGET = 200_000  # bytes of a look-up
LATER = 1_000_000_000


@pytest.fixture
def network():
    network = Network()
    network.grow(SIZE, republish=600)
    return network


def put_all(network: Network, names: int) -> dict[bytes, bytes]:
    values = {}
    for number in range(1, names + 1):
        one = signer(number)
        values[key_of(one)] = record(one, expires=LATER)
        client = network.client()
        stored = client.put(key_of(one), values[key_of(one)])
        assert stored.acknowledged == 20
        client.close()
    return values


def test_half_of_the_servers_are_replaced_and_every_record_is_found(network):
    values = put_all(network, NAMES)
    old = list(network.servers.values())
    for server in old[: SIZE // 2]:
        network.kill(server)
        known = [one.addr for one in list(network.servers.values())[-3:]]
        network.server(known, republish=600)
        network.run(30)
    missing, latencies, costs = [], [], []
    for key, value in values.items():
        client = network.client()
        began = network.now
        found = client.get(key, first=True)
        latencies.append(network.now - began)
        if [one.value for one in found] != [value]:
            missing.append(key)
        client.close()
        client = network.client()
        client.get(key)
        costs.append(network.bytes[client.addr])
        client.close()
    assert missing == []
    assert sorted(latencies)[NAMES * 95 // 100] < 1.0
    assert max(costs) < BUDGET


def test_half_of_the_servers_are_gone_at_once(network):
    values = put_all(network, NAMES)
    for server in network.random.sample(list(network.servers.values()), SIZE // 2):
        network.kill(server)
    found = [len(network.client().get(key, first=True)) for key in values]
    assert found == [1] * NAMES


class Sybil:
    """A server next to a key that drops what it is given, and names only its like."""

    def __init__(self, network: Network, near: bytes, number: int, gang: list) -> None:
        self.id = near[:30] + number.to_bytes(2, "big")
        self.addr = network.address()
        self.node = Node(self.id, *self.addr)
        self.gang = gang
        self.seen = 0
        self._send = network.sender(self.addr)
        network.ends[self.addr] = self
        gang.append(self)

    def receive_datagram(self, data, addr):
        self.seen += 1
        if data[0] == 0:
            nodes = encode_nodes([one.node for one in self.gang], 800)
            fields = {
                b"\xaafind_value": (nodes, 0, b"", b""),
                b"\xa9find_node": (nodes,),
                b"\xa4ping": (b"",),
            }
            for name, result in fields.items():
                if data[22:].startswith(name):
                    self._send(encode_reply(data[1:21], self.id, b"t" * 8, *result), addr)

    def next_timeout(self):
        return None


def test_sybils_around_a_key_that_drop_what_they_get(network):
    one = signer(1)
    key, value = key_of(one), record(one, expires=LATER)
    gang: list[Sybil] = []
    for number in range(16):
        Sybil(network, key, number, gang)
    for server in network.servers.values():
        for sybil in gang:
            server.rpc.table.answered(sybil.node, network.now)
    client = network.client()
    stored = client.put(key, value)
    assert stored.acknowledged >= 4
    assert sum(sybil.seen for sybil in gang) > 0
    assert [found.value for found in network.client().get(key)] == [value]


def test_records_that_expired_are_gone_everywhere(network):
    one = signer(1)
    network.client().put(key_of(one), record(one, expires=int(network.wall()) + 300))
    network.run(400)
    assert sum(len(server.storage) for server in network.servers.values()) == 0


def test_an_update_replaces_the_old_record_at_once_and_for_ever(network):
    one = signer(1)
    owner = network.client()
    owner.put(key_of(one), record(one, 1, LATER))
    owner.put(key_of(one), record(one, 2, LATER))
    network.run(700)
    found = network.client().get(key_of(one))
    assert [value.facts.seq for value in found] == [2]


def test_lost_datagrams():
    network = Network(loss=0.05)
    network.grow(20)
    for number in range(1, 11):
        one = signer(number)
        value = record(one, expires=LATER)
        assert network.client().put(key_of(one), value).acknowledged >= 15
        assert [found.value for found in network.client().get(key_of(one))] == [value]
