"""A DHT of 500 servers in virtual time: churn, Sybils, stalls, loops and dead providers."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace

import pytest

from pt.errors import RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.kad.aio import MAX_AT_ONCE, Client
from pt.kad.keyspace import K
from pt.kad.lookup import Lookup
from pt.kad.messages import Message, PeerInfo
from pt.kad.results import Found
from tests.sim.loop import run
from tests.unit.kad.network import (
    US,
    Clique,
    Dropping,
    Forging,
    Garbage,
    Looping,
    Network,
    Refusing,
    Server,
    Silent,
    WrongType,
)
from tests.unit.kad.peers import address, peer, peer_id

SIZE = 500
KEYS = [b"/ipns/%d" % number for number in range(20)]
BUDGET = 200_000  # bytes of a look-up
HANDSHAKE, FRAMING = 1300, 250  # bytes, as measured with servers in Go
CROWD = 60


def validate(value: bytes) -> None:
    if value != b"true":
        raise RemoteProtocolError("forged")


def client_of(network: Network, bootstrap: int = 4) -> Client:
    known = list(network.servers.values())[:bootstrap]
    return Client(network.ask, US, bootstrap=[server.info for server in known])


def now() -> float:
    return asyncio.get_running_loop().time()


def clean(client: Client, network: Network) -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert network.at_once == 0
    assert client.room == MAX_AT_ONCE
    assert network.most_at_once <= MAX_AT_ONCE


async def values(client: Client, key: bytes) -> tuple[list[Found], Lookup]:
    async with client.get_value(key, validate) as search:
        return [found async for found in search], search.lookup


def alive(network: Network, key: bytes) -> list[PeerInfo]:
    return [
        info
        for info in network.nearest(key, SIZE)
        if not isinstance(network.servers[info.id], Refusing | Silent)
    ]


def test_a_network_in_good_health() -> None:
    """Each look-up finds exactly the nearest, in few hops, within the budget."""
    network = Network(SIZE)

    async def main() -> None:
        client = client_of(network)
        hops, took, requests = [], [], []
        for key in KEYS:
            began = now()
            before = client.spent.received, client.spent.requests
            assert await client.closest(key) == network.nearest(key)
            took.append(now() - began)
            assert client.spent.received - before[0] <= BUDGET
            requests.append(client.spent.requests - before[1])
        for key in KEYS:
            stored = await client.put_value(key, b"true")
            assert len(stored.acknowledged) == K
            found, lookup = await values(client, key)
            assert len(found) == K
            hops.append(lookup.hops)
        assert max(hops) <= 4  # log₂ 500 / log₂ 20 and one, for a table that is not full yet
        assert statistics.mean(requests) <= 40
        assert statistics.mean(took) <= 1.5
        clean(client, network)

    run(main())


def crowded(network: Network, bootstrap: int = 4) -> Client:
    """A client whose connections cost what they do, to one peer once."""
    connected: set[PeerId] = set()

    async def ask(info: PeerInfo, request: Message) -> Message:
        reply = await network.ask(info, request)
        overhead = FRAMING + (0 if info.id in connected else HANDSHAKE)
        connected.add(info.id)
        return replace(reply, overhead=overhead)

    known = list(network.servers.values())[:bootstrap]
    return Client(ask, US, bootstrap=[server.info for server in known])


def test_where_servers_have_many_addresses_the_budget_is_kept() -> None:
    """Replies have 8 kB: a store and a look-up for all values stay within it, and do their work."""
    network = Network(SIZE, seed=12, addresses=8)

    async def main() -> None:
        for key in KEYS:
            client = crowded(network)
            stored = await client.put_value(key, b"true" * 300)
            assert client.spent.bytes <= BUDGET
            assert len(stored.acknowledged) == K
            nearest = [info.id for info in network.nearest(key)]
            assert len(set(stored.acknowledged) & set(nearest)) >= 0.9 * K
            searcher = crowded(network, bootstrap=2)
            async with searcher.get_value(key, lambda value: None) as search:
                found = [each async for each in search]
            assert search.cost.bytes <= BUDGET
            assert len(found) >= 0.4 * K
            clean(searcher, network)

    run(main())


@pytest.mark.parametrize("kind", [Dropping, Clique, Forging])
def test_a_crowd_next_to_the_key_does_not_use_up_the_budget(kind: type[Server]) -> None:
    """17 Sybils whose replies are as long as others': the copies behind them are found."""
    network = Network(SIZE, seed=13, addresses=8)

    async def main() -> None:
        for number, key in enumerate(KEYS[:6]):
            network.sybils(key, 17, kind, bits=11, first=2**100 * (number + 1))
            stored = await crowded(network).put_value(key, b"true")
            assert len(stored.acknowledged) == K
            assert network.holders(key)
            searcher = crowded(network)
            found, lookup = await values(searcher, key)
            assert found
            assert all(each.value == b"true" for each in found)
            assert lookup.cost.bytes <= (BUDGET if kind is not Forging else 2 * BUDGET)
            clean(searcher, network)

    run(main())


def test_a_fresh_client_needs_few_hops() -> None:
    network = Network(SIZE, seed=2)

    async def main() -> None:
        for key in KEYS:
            client = client_of(network, bootstrap=1)
            async with client.get_value(key, validate) as search:
                await search.finish()
            assert search.lookup.closest() == network.nearest(key)
            assert 1 <= search.lookup.hops <= 4

    run(main())


@pytest.mark.parametrize("kind", [Refusing, Silent])
def test_values_survive_churn(kind: type[Server]) -> None:
    """A third of the servers goes after the store, and as many new ones come."""
    network = Network(SIZE, seed=3)

    async def main() -> None:
        client = client_of(network)
        for key in KEYS:
            await client.put_value(key, b"true")
        gone = network.rng.sample(list(network.servers)[4:], SIZE // 3)
        network.turn(gone, kind)
        everyone = list(network.servers.values())
        for number in range(1000, 1000 + SIZE // 3):
            server = network.add(Server(peer(number)))
            network.fill(server, everyone)
            for other in server.known:  # whom it asks learns of it
                network.servers[other.id].learn(server.info)
        for key in KEYS:
            began = now()
            found, lookup = await values(client, key)
            assert found, key
            assert now() - began < 25
            near = {info.id for info in lookup.closest()}
            wanted = {info.id for info in alive(network, key)[:K]}
            assert len(near & wanted) >= 0.8 * K
            assert lookup.cost.received <= BUDGET
        clean(client, network)

    run(main())


def test_servers_that_stall_delay_a_store_by_seconds() -> None:
    """A third of them: it goes to others that are near and alive, the nearest always."""
    network = Network(SIZE, seed=11)
    network.turn(network.rng.sample(list(network.servers)[4:], SIZE // 3), Silent)

    async def main() -> None:
        client = client_of(network)
        for key in KEYS:
            began = now()
            stored = await client.put_value(key, b"true")
            assert now() - began < 10
            assert stored.asked == K
            assert len(stored.acknowledged) >= 0.9 * K
            wanted = [info.id for info in alive(network, key)[:K]]
            assert len(set(stored.acknowledged) & set(wanted)) >= 0.7 * K
            assert set(stored.acknowledged) >= set(wanted[: K // 4])
            found, _ = await values(client, key)
            assert len(found) >= 0.8 * K
        clean(client, network)

    run(main())


@pytest.mark.parametrize("kind", [Dropping, Clique, Forging, Silent, Garbage, Looping, WrongType])
@pytest.mark.parametrize("count", [10, 15])
def test_sybils_around_the_key(kind: type[Server], count: int) -> None:
    """They are nearer to the key than any honest server, and there before the value is stored."""
    network = Network(SIZE, seed=4)
    key = KEYS[0]
    sybils = {server.info.id for server in network.sybils(key, count, kind, bits=12)}
    assert {info.id for info in network.nearest(key, count)} == sybils

    async def main() -> None:
        client = client_of(network)
        stored = await client.put_value(key, b"true")
        honest = [each for each in stored.acknowledged if each not in sybils]
        assert len(honest) >= K - count
        began = now()
        found, lookup = await values(client, key)
        assert {each.peer for each in found} & set(honest)
        assert all(each.value == b"true" for each in found)
        assert now() - began < 30
        assert lookup.cost.requests <= 120
        clean(client, network)

    run(main())


@pytest.mark.parametrize("kind", [Silent, Garbage, WrongType])
def test_a_crowd_of_sybils_that_do_not_answer_is_passed_by(kind: type[Server]) -> None:
    """Of 500 servers the 60 nearest; the value is at the honest ones behind them."""
    network = Network(SIZE - CROWD, seed=4)
    key = KEYS[0]
    sybils = {server.info.id for server in network.sybils(key, CROWD, kind, bits=12)}

    async def main() -> None:
        client = client_of(network)
        began = now()
        stored = await client.put_value(key, b"true")
        assert now() - began < 10
        assert len(stored.acknowledged) == K
        assert not sybils & set(stored.acknowledged)
        other = client_of(network)
        async with other.get_value(key, validate) as search:
            began = now()
            assert (await anext(search)).value == b"true"
            assert now() - began < 10
        found, lookup = await values(client_of(network), key)
        assert len(found) == K
        assert lookup.cost.requests <= 120
        clean(client, network)

    run(main())


@pytest.mark.parametrize("kind", [Dropping, Clique, Forging, Looping])
@pytest.mark.parametrize("count", [K + 5, 60])
def test_more_sybils_than_copies_are_found_out_by_reading_back(
    kind: type[Server], count: int
) -> None:
    """They acknowledge the value and drop it: nothing but a read-back tells."""
    network = Network(SIZE - count, seed=4)
    key = KEYS[0]
    sybils = {server.info.id for server in network.sybils(key, count, kind, bits=12)}

    async def main() -> None:
        client = client_of(network)
        stored = await client.put_value(key, b"true")
        assert sybils >= set(stored.acknowledged)
        assert len(stored.acknowledged) == K
        began = now()
        found, lookup = await values(client, key)
        assert found == []
        assert now() - began < 15
        assert lookup.cost.requests <= 120
        assert lookup.cost.received <= BUDGET
        clean(client, network)

    run(main())


@pytest.mark.parametrize("when", [0.1, 0.3, 0.5])
def test_servers_that_die_during_a_look_up(when: float) -> None:
    """Every third one, those already asked among them."""
    network = Network(SIZE, seed=10)

    async def main() -> None:
        client = client_of(network)
        for key in KEYS[:4]:
            await client.put_value(key, b"true")
        fresh = client_of(network)
        looking = [asyncio.create_task(values(fresh, key)) for key in KEYS[:4]]
        await asyncio.sleep(when)
        assert not all(task.done() for task in looking)
        network.turn(network.rng.sample(list(network.servers), SIZE // 3), Silent)
        for task in looking:
            found, _ = await task
            assert found
        clean(fresh, network)

    run(main())


@pytest.mark.parametrize("count", [12, 60])
@pytest.mark.parametrize(
    "kind", [Dropping, Clique, Forging, Silent, Garbage, Looping, WrongType, Refusing]
)
def test_sybils_that_come_after_the_store_do_not_hide_the_value(
    kind: type[Server], count: int
) -> None:
    """Those who have it are met on the way, even when all the nearest are Sybils now."""
    network = Network(SIZE - count, seed=5)
    key = KEYS[1]

    async def main() -> None:
        client = client_of(network)
        await client.put_value(key, b"true")
        network.sybils(key, count, kind, bits=12)
        other = client_of(network)
        found, lookup = await values(other, key)
        assert len(found) >= (K - count if count < K else 1)
        assert all(each.value == b"true" for each in found)
        assert lookup.cost.received <= BUDGET
        clean(other, network)

    run(main())


def test_everybody_a_client_knows_stalls_but_one() -> None:
    """The first answers come late, not never."""
    network = Network(SIZE, seed=6)

    async def main() -> None:
        client = client_of(network)
        await client.refresh()
        network.turn([info.id for info in client.table][1:], Silent)
        began = now()
        assert await client.closest(KEYS[2])
        assert now() - began <= 60
        clean(client, network)

    run(main())


def test_a_cached_table_of_dead_servers_and_live_bootstrap_peers() -> None:
    network = Network(SIZE, seed=7)

    async def main() -> None:
        dead = Client(network.ask, US)
        for number in range(2000, 2200):
            dead.table.answered(peer(number), now())
        client = client_of(network)
        assert client.table.load_json(dead.table.to_json(now(), 1e9), now(), 1e9) > 80
        await client.put_value(KEYS[3], b"true")
        assert {server.info.id for server in network.holders(KEYS[3])} == {
            info.id for info in network.nearest(KEYS[3])
        }
        assert client.spent.failures < 40
        clean(client, network)

    run(main())


def test_dead_providers_first_in_the_list() -> None:
    """All of them are found; which one lives is for the caller to find out, all at once."""
    network = Network(SIZE, seed=8)
    key = KEYS[4]
    dead = {peer_id(number): peer(number) for number in range(3000, 3030)}

    async def main() -> None:
        client = client_of(network)
        for info in network.nearest(key):
            network.servers[info.id].providers[key] = dict(dead)
        await client.provide(key, [address(1)])
        async with client_of(network).providers(key, 100) as search:
            found = [each.id async for each in search]
        assert set(found) == {*dead, US}
        assert US in found
        clean(client, network)

    run(main())


def test_a_hostile_network_is_bounded() -> None:
    """Every server but the first invents nearer ones: the look-up ends, soon."""
    network = Network(SIZE, seed=9)
    network.turn(list(network.servers)[1:], Looping)

    async def main() -> None:
        client = client_of(network)
        began = now()
        await client.closest(KEYS[5])
        assert now() - began <= 60
        assert client.spent.requests <= 120
        clean(client, network)

    run(main())
