"""What a server does unasked: records reach those who should have them, one after the other."""

from __future__ import annotations

from collections import Counter

import pytest

from pt.overlay.adapter import Node
from pt.overlay.messages import MAX_VALUE, Request, decode
from pt.overlay.storage import Facts, Storage
from pt.overlay.upkeep import INSIST, MAX_WAITING, RATE, WINDOW, Handover
from tests.unit.overlay.network import EPOCH, Network
from tests.unit.overlay.records import key_of, record, signer

LATER = 1_000_000_000


def trusting() -> Storage:
    """Signatures are not what is tested here."""
    return Storage(lambda key, value, now: Facts(1, LATER), max_value=MAX_VALUE, quota=10_000)


def filled(count: int, size: int = 600) -> Storage:
    storage = trusting()
    for number in range(count):
        key = (number << 200).to_bytes(32, "big")
        assert storage.put(key, number.to_bytes(size, "big"), "10.9.9.9", EPOCH) is None
    return storage


class Listener:
    """Notes when each request of a method is sent."""

    def __init__(self, network: Network, method: str) -> None:
        self.times: list[float] = []
        self.targets: Counter[object] = Counter()
        make = network.sender

        def sender(source):
            send = make(source)

            def noting(data, target):
                message = decode(data)
                if isinstance(message, Request) and message.method == method:
                    self.times.append(network.now)
                    self.targets[target] += 1
                send(data, target)

            return noting

        network.sender = sender

    def busiest(self, window: float) -> int:
        """The most that were sent within so many seconds."""
        return max(
            sum(begin <= at < begin + window for at in self.times[first:])
            for first, begin in enumerate(self.times)
        )


def test_a_newcomer_is_given_thousands_of_records_little_by_little():
    network = Network()
    stores, offers = Listener(network, "store"), Listener(network, "offer")
    first = network.server(storage=filled(3000), republish=100)
    newcomer = network.server([first.addr], storage=trusting(), republish=100)
    network.run(20)
    assert 100 < len(newcomer.storage) < 1000
    network.run(400)
    assert len(newcomer.storage) == 3000
    assert stores.busiest(1.0) <= RATE + 1
    assert offers.busiest(1.0) <= 5
    assert first.rpc.counts["dropped: too many requests"] == 0
    assert first.rpc.counts["timeouts"] == newcomer.rpc.counts["timeouts"] == 0
    assert newcomer.rpc.counts["dropped: rate"] == 0


def test_records_of_many_parts_take_their_time():
    network = Network()
    stores = Listener(network, "store")
    first = network.server(storage=filled(60, size=MAX_VALUE), republish=20)
    newcomer = network.server([first.addr], storage=trusting())
    network.run(60)
    assert len(newcomer.storage) == 60
    assert stores.busiest(1.0) <= RATE + 10  # the last one was begun within the second
    assert newcomer.rpc.counts["dropped: rate"] == 0


def test_one_of_those_who_hold_a_record_offers_it():
    network = Network()
    offers = Listener(network, "offer")
    network.grow(10, republish=100)
    one = signer(1)
    stored = network.client().put(key_of(one), record(one, expires=LATER))
    assert stored.acknowledged == 10
    network.run(200)
    before, rounds = len(offers.times), 30
    network.run(100 * rounds)
    a_round = (len(offers.times) - before) / rounds
    assert a_round >= 9  # somebody does, to the nine others
    assert a_round <= 9 * (1 + 9 * INSIST / 256) * 1.6
    assert all(len(server.storage) == 1 for server in network.servers.values())


def test_when_the_one_is_gone_another_takes_over():
    network = Network()
    servers = network.grow(6, republish=100)
    one = signer(1)
    network.client().put(key_of(one), record(one, expires=LATER))
    network.run(250)
    for server in servers[:4]:
        network.kill(server)
    late = network.server([servers[5].addr], republish=100)
    network.run(400)
    assert len(late.storage) == 1


def test_nobody_keeps_a_holder_quiet():
    network = Network()
    offers = Listener(network, "offer")
    first, second = network.grow(2, republish=10)
    key = key_of(signer(1))
    first.storage.put(key, record(signer(1), expires=LATER), "a", network.wall())
    network.run(30)
    for _ in range(100):  # ten in each round, all of which say that others take care
        first.storage.note(key, network.now)
        network.run(1)
    before = offers.targets[second.addr]
    for _ in range(2000):
        first.storage.note(key, network.now)
        network.run(1)
    rounds = 200
    assert rounds * INSIST / 256 / 3 < offers.targets[second.addr] - before < rounds / 2


def handover(network: Network, storage: Storage, count: int):
    """A server that gives, and nodes that take or are not there."""
    giver = network.server(storage=storage)
    taking = [network.server(storage=trusting()) for _ in range(count)]
    network.run(1)
    give = giver.upkeep.handover
    assert isinstance(give, Handover)
    return giver, give, [Node(one.rpc.sender, *one.addr) for one in taking], taking


def test_what_waits_is_bounded():
    network = Network()
    storage = filled(MAX_WAITING + 100)
    _, give, (node,), (taker,) = handover(network, storage, 1)
    assert not give.full(node)
    give.give(node, [])
    assert give.next_timeout() is None
    give.give(node, list(storage)[:10])
    give.give(node, list(storage)[10:])
    assert give.full(node)
    assert len(give) == MAX_WAITING
    network.run(60)
    assert len(give) == 0
    assert len(taker.storage) == MAX_WAITING
    assert not give.full(node)


def test_the_dead_do_not_hold_up_the_living():
    network = Network()
    storage = filled(200)
    giver, give, nodes, takers = handover(network, storage, 3)
    network.kill(takers[0])
    for node in nodes:
        give.give(node, list(storage)[:100])
    network.run(8)
    assert len(give) == 0
    assert [len(taker.storage) for taker in takers] == [0, 100, 100]
    assert giver.rpc.counts["timeouts"] <= WINDOW


def test_what_has_expired_or_gone_is_not_given():
    network = Network()
    _, give, (node, other), (taker, _) = handover(network, filled(1), 2)
    (key,) = give._storage
    give.give(node, [b"g" * 32, b"h" * 32, key])
    give.give(other, [b"g" * 32])
    network.run(5)
    assert list(taker.storage) == [key]
    assert give.next_timeout() is None


@pytest.mark.parametrize("records", [0, 1, 24, 25, 1000])
def test_every_record_is_offered_once_a_round(records):
    network = Network()
    offered: Counter[bytes] = Counter()
    first = network.server(storage=filled(records), republish=100)
    second = network.server([first.addr], storage=filled(records), republish=1e9)
    network.run(20)
    wanted = second._wanted

    def noting(request, addr):
        raw = request.get(0, bytes)
        offered.update(raw[at : at + 32] for at in range(0, len(raw), 40))
        return wanted(request, addr)

    second._wanted = noting
    network.run(1000)
    assert set(offered) == set(first.storage)
    assert all(8 <= times <= 11 for times in offered.values())
