"""A look-up on a loop: how it begins, what it waits for, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pt.errors import NetworkError
from pt.kad.aio import Client
from pt.kad.messages import Message, PeerInfo
from pt.kad.search import MAX_AT_ONCE
from tests.sim.loop import run
from tests.unit.kad.network import US, Network, Resetting, Silent
from tests.unit.kad.peers import KEY, peer, peer_id


def client_of(network: Network) -> Client:
    bootstrap = [server.info for server in list(network.servers.values())[:3]]
    return Client(network.ask, US, bootstrap=bootstrap)


def nobody_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def network() -> Network:
    return Network(80)


def test_a_search_that_is_left_leaves_nothing(network: Network) -> None:
    async def main() -> None:
        for info in network.nearest(KEY):
            network.servers[info.id].providers[KEY] = {peer_id(9): peer(9)}
        client = client_of(network)
        async with client.providers(KEY, 100) as search:
            assert await anext(search) == peer(9)
        assert nobody_left()
        assert network.at_once == 0
        assert client.room == MAX_AT_ONCE
        assert client.searches == set()

    run(main())


def test_the_deadline_ends_a_look_up_with_what_is_known(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        await client.refresh()
        network.turn([info.id for info in network.nearest(KEY)], Silent)
        began = asyncio.get_running_loop().time()
        near = await client.closest(KEY, timeout=5)
        assert asyncio.get_running_loop().time() - began < 5.1
        assert near
        assert nobody_left()

    run(main())


def test_a_bug_in_ask_is_not_hidden(network: Network) -> None:
    crashes: list[dict[str, object]] = []

    async def ask(info: PeerInfo, request: Message) -> Message:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: crashes.append(what))
        with pytest.raises(NetworkError):
            await Client(ask, US, bootstrap=[peer(1)]).closest(KEY)

    asyncio.run(main())
    assert isinstance(crashes[0]["exception"], ZeroDivisionError)


def test_while_servers_are_still_sought_a_look_up_waits_for_one(network: Network) -> None:
    async def main() -> None:
        client = Client(network.ask, US)
        client.seeding = True
        looking = asyncio.create_task(client.closest(KEY))
        dead = asyncio.create_task(client.closest(KEY[::-1]))
        await asyncio.sleep(30)
        assert not looking.done()
        client.offer([next(iter(network.servers.values())).info])
        assert await looking == network.nearest(KEY)
        assert await dead == network.nearest(KEY[::-1])
        assert nobody_left()

    run(main())


def test_servers_that_a_file_named_meanwhile_are_asked(network: Network) -> None:
    async def main() -> None:
        client = Client(network.ask, US)
        client.seeding = True
        looking = asyncio.create_task(client.closest(KEY))
        await asyncio.sleep(1)
        known = client_of(network)
        await known.refresh()
        now = asyncio.get_running_loop().time()
        client.table.load_json(known.table.to_json(now, 1e9), now, 1e9)
        client.offer(())
        assert await looking == network.nearest(KEY)

    run(main())


def test_a_look_up_ends_when_nobody_else_will_be_offered(network: Network) -> None:
    async def main() -> None:
        client = Client(network.ask, US, bootstrap=[peer(9999)])
        network.add(Resetting(peer(9999)))
        network.turn([peer(9999).id], Silent)
        client.seeding = True
        began = asyncio.get_running_loop().time()
        looking = asyncio.create_task(client.closest(KEY))
        await asyncio.sleep(20)
        assert not looking.done(), "the one that is known does not answer"
        client.seeded()
        with pytest.raises(NetworkError, match="none of 1"):
            await looking
        assert asyncio.get_running_loop().time() - began < 21
        assert nobody_left()

    run(main())


def test_what_connections_take_is_counted(network: Network) -> None:
    async def ask(info: PeerInfo, request: Message) -> Message:
        return replace(await network.ask(info, request), overhead=1300)

    async def main() -> None:
        bootstrap = [server.info for server in list(network.servers.values())[:3]]
        client = Client(ask, US, bootstrap=bootstrap)
        async with client.get_value(KEY, lambda value: None) as search:
            await search.finish()
        cost = search.cost
        assert cost.overhead == 1300 * cost.replies > 0
        assert cost.bytes == cost.sent + cost.received + cost.overhead
        assert client.spent.bytes == cost.bytes

    run(main())


def test_no_look_up_exceeds_its_budget_where_servers_have_many_addresses() -> None:
    network = Network(300, addresses=8)

    async def ask(info: PeerInfo, request: Message) -> Message:
        return replace(await network.ask(info, request), overhead=1300)

    async def main() -> None:
        cut = 0
        for number in range(10):
            bootstrap = [server.info for server in list(network.servers.values())[:3]]
            client = Client(ask, US, bootstrap=bootstrap)
            async with client.get_value(b"%d" % number, lambda value: None) as search:
                await search.finish()
            assert 180_000 <= search.cost.bytes <= 200_000
            cut += search.lookup.cut
        assert cut > 5

    run(main())
