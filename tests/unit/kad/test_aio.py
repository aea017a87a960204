"""The client's shell: one exchange on a stream, searches and stores, and what they leave behind."""

from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, LocalProtocolError, NetworkError, RemoteProtocolError, ResetError
from pt.kad import aio, search
from pt.kad.aio import MAX_AT_ONCE, Client, exchange
from pt.kad.lookup import MAX_FIRST, Limits
from pt.kad.messages import MAX_MESSAGE, Message, MessageType, PeerInfo, Record
from pt.kad.results import Progress
from pt.wire import protobuf, uvarint
from tests.sim.loop import run
from tests.unit.kad.network import US, Dropping, Network, Resetting, Silent
from tests.unit.kad.peers import KEY, address, peer, peer_id
from tests.unit.memory import stream_pair

FIND = Message(MessageType.FIND_NODE, KEY)
REPLY = Message(MessageType.FIND_NODE, closer=(peer(1), peer(2)))


def client_of(network: Network, **options) -> Client:
    bootstrap = [server.info for server in list(network.servers.values())[:3]]
    return Client(network.ask, US, bootstrap=bootstrap, **options)


async def values(client: Client) -> list[bytes]:
    async with client.get_value(KEY, lambda value: None) as search:
        return [found.value async for found in search]


def nobody_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# --- exchange ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_an_exchange(chunk: int) -> None:
    async def main() -> None:
        ours, theirs = stream_pair(chunk)
        await theirs.write(REPLY.encode())
        assert await exchange(ours, FIND) == REPLY
        assert theirs.other.written == FIND.encode()
        assert ours.closed
        assert ours.reset_code is None

    asyncio.run(main())


def test_an_exchange_with_a_long_reply_ends_in_a_reset() -> None:
    async def main() -> None:
        ours, theirs = stream_pair()
        crowd = b"".join(protobuf.put_bytes(9, peer(number).encode()) for number in range(2000))
        await theirs.write(uvarint.prefix(protobuf.put_uint(1, 3) + crowd))
        reply = await exchange(ours, Message(MessageType.GET_PROVIDERS, KEY))
        assert len(reply.providers) == 40
        assert reply.size > MAX_MESSAGE
        assert ours.reset_code is not None

    asyncio.run(main())


@pytest.mark.parametrize("said", [b"\xff" * 20, b"\x05\x0a"])
def test_an_exchange_with_garbage(said: bytes) -> None:
    async def main() -> None:
        ours, theirs = stream_pair()
        await theirs.write(said)
        await theirs.close_write()
        with pytest.raises((RemoteProtocolError, ClosedError)):
            await exchange(ours, FIND)
        assert ours.reset_code is not None

    asyncio.run(main())


def test_a_provider_record_was_taken_when_the_server_ends_the_stream() -> None:
    record = Message(MessageType.ADD_PROVIDER, KEY, providers=(peer(1),))

    async def main() -> None:
        ours, theirs = stream_pair()
        await theirs.close_write()
        assert await exchange(ours, record) == record

    asyncio.run(main())


def test_a_provider_record_that_is_refused() -> None:
    async def main() -> None:
        ours, theirs = stream_pair()
        await theirs.reset()
        with pytest.raises(ResetError):
            await exchange(ours, Message(MessageType.ADD_PROVIDER, KEY, providers=(peer(1),)))

    asyncio.run(main())


def test_a_server_that_keeps_the_stream_of_a_provider_record_open() -> None:
    async def main() -> None:
        ours, _ = stream_pair()
        began = asyncio.get_running_loop().time()
        await exchange(ours, Message(MessageType.ADD_PROVIDER, KEY, providers=(peer(1),)))
        assert 4 < asyncio.get_running_loop().time() - began < 6

    run(main())


def test_an_exchange_that_is_cancelled_resets_its_stream() -> None:
    async def main() -> None:
        ours, _ = stream_pair()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await exchange(ours, FIND)
        assert ours.reset_code is not None

    run(main())


# --- the client ----------------------------------------------------------------------------------


@pytest.fixture
def network() -> Network:
    return Network(80)


def test_nobody_known_and_nobody_there(network: Network) -> None:
    async def main() -> None:
        with pytest.raises(NetworkError, match="known"):
            await Client(network.ask, US).closest(KEY)
        lost = Client(network.ask, US, bootstrap=[peer(5000), peer(5001)])
        with pytest.raises(NetworkError, match="none of 2"):
            await lost.closest(KEY)
        async with lost.providers(KEY, 1) as search:
            with pytest.raises(NetworkError):
                await anext(search)
        assert nobody_left()
        assert lost.room == MAX_AT_ONCE

    run(main())


def test_stale_servers_stay_in_the_table_while_we_are_cut_off(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        await client.closest(KEY)
        known = len(client.table)
        assert known >= 20
        network.turn(list(network.servers), Silent)
        with pytest.raises(NetworkError):
            await client.closest(KEY)
        assert len(client.table) == known

    run(main())


def test_who_fails_leaves_the_table(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        await client.closest(KEY)
        gone = network.nearest(KEY)[0]
        assert gone.id in client.table
        network.turn([gone.id], Silent)
        await client.closest(KEY)
        assert gone.id not in client.table

    run(main())


def test_bootstrap_peers_that_come_late_help(network: Network) -> None:
    async def main() -> None:
        client = Client(network.ask, US, bootstrap=[peer(5000)])
        looking = asyncio.create_task(client.closest(KEY))
        await asyncio.sleep(3)
        client.offer([next(iter(network.servers.values())).info])
        assert await looking == network.nearest(KEY)

    run(main())


def test_bootstrap_peers_are_not_asked_when_the_table_will_do(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        await client.refresh()
        boot = [peer(5000 + number) for number in range(MAX_FIRST)]
        client.offer(boot)
        asked = client.spent.requests
        assert await client.closest(KEY) == network.nearest(KEY)
        assert client.spent.failures == 0
        assert client.spent.requests - asked <= 40

    run(main())


def test_put_and_get(network: Network) -> None:
    async def main() -> None:
        said: list[Progress] = []
        client = client_of(network, on_progress=said.append)
        putting = asyncio.create_task(client.put_value(KEY, b"v"))
        while not putting.done():
            await asyncio.sleep(0.01)
            assert client.idle == putting.done()
        stored = await putting
        assert stored.acknowledged == tuple(each.id for each in network.nearest(KEY))
        assert stored.asked == 20
        assert said[-1].stored == 20
        assert said[-1].key == KEY
        assert {server.info for server in network.holders(KEY)} == set(network.nearest(KEY))
        async with client.get_value(KEY, lambda value: None) as search:
            found = [each async for each in search]
        assert {each.peer for each in found} == set(stored.acknowledged)
        assert client.spent.at_once <= MAX_AT_ONCE
        assert network.at_once == 0
        assert nobody_left()

    run(main())


def test_no_value(network: Network) -> None:
    async def main() -> None:
        assert await values(client_of(network)) == []

    run(main())


def test_several_values_are_all_told(network: Network) -> None:
    async def main() -> None:
        for number, info in enumerate(network.nearest(KEY)):
            network.servers[info.id].values[KEY] = b"%d" % (number % 3)
        assert set(await values(client_of(network))) == {b"0", b"1", b"2"}

    run(main())


def test_who_has_a_forged_value_is_out_and_the_true_one_is_found(network: Network) -> None:
    near = network.nearest(KEY)
    for info in near:
        network.servers[info.id].values[KEY] = b"forged"
    network.servers[near[7].id].values[KEY] = b"true"

    def validate(value: bytes) -> None:
        if value != b"true":
            raise RemoteProtocolError("forged")

    async def main() -> None:
        client = client_of(network)
        async with client.get_value(KEY, validate) as search:
            found = [each async for each in search]
        assert [(each.value, each.peer) for each in found] == [(b"true", near[7].id)]
        assert search.lookup.closest()[0] == near[7]
        assert near[0].id not in client.table

    run(main())


def test_a_store_that_some_refuse(network: Network) -> None:
    async def main() -> None:
        near = network.nearest(KEY)
        network.turn([info.id for info in near[:5]], Resetting)
        stored = await client_of(network).put_value(KEY, b"v")
        assert stored.acknowledged == tuple(info.id for info in near[5:])
        assert stored.asked == 20
        assert (stored.cost.replies, stored.cost.failures) == (15, 5)

    run(main())


def test_a_server_that_acknowledges_another_value(network: Network) -> None:
    near = network.nearest(KEY)[0]

    async def ask(info: PeerInfo, request: Message) -> Message:
        if request.type is MessageType.PUT_VALUE and info.id == near.id:
            return Message(MessageType.PUT_VALUE, KEY, Record(KEY, b"other"))
        return await network.ask(info, request)

    async def main() -> None:
        boot = [next(iter(network.servers.values())).info]
        stored = await Client(ask, US, bootstrap=boot).put_value(KEY, b"v")
        assert near.id not in stored.acknowledged
        assert len(stored.acknowledged) == 19

    run(main())


def test_who_stalls_while_storing_is_replaced(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        near = network.nearest(KEY, 40)

        async def ask(info: PeerInfo, request: Message) -> Message:
            if request.type is MessageType.PUT_VALUE and info in near[:5]:
                await asyncio.sleep(3600)
            return await network.ask(info, request)

        client.ask = ask  # type: ignore[misc]
        began = asyncio.get_running_loop().time()
        stored = await client.put_value(KEY, b"v")
        assert stored.acknowledged[:15] == tuple(info.id for info in near[5:20])
        assert len(stored.acknowledged) == stored.asked == 20
        assert stored.cost.requests == 25
        assert asyncio.get_running_loop().time() - began < 4
        assert client.room == MAX_AT_ONCE
        assert nobody_left()

    run(main())


@pytest.mark.parametrize(("stalling", "least", "most"), [(10, 3, 7), (12, 30, 35)])
def test_stalls_while_storing_are_bounded(stalling: int, least: float, most: float) -> None:
    """Half of the copies are enough not to wait long for the others, when there is nobody else."""
    network = Network(21)

    async def main() -> None:
        client = client_of(network)
        near = network.nearest(KEY, 21)

        async def ask(info: PeerInfo, request: Message) -> Message:
            if request.type is MessageType.PUT_VALUE and info in near[:stalling]:
                await asyncio.sleep(3600)
            return await network.ask(info, request)

        client.ask = ask  # type: ignore[misc]
        began = asyncio.get_running_loop().time()
        stored = await client.put_value(KEY, b"v")
        assert len(stored.acknowledged) == 21 - stalling
        assert least <= asyncio.get_running_loop().time() - began < most
        assert client.room == MAX_AT_ONCE

    run(main())


def test_a_budget_that_is_used_up_ends_the_look_up_and_not_the_store() -> None:
    """Then it goes to the nearest that are known, and that is said."""
    network = Network(300, addresses=8)

    async def main() -> None:
        said: list[Progress] = []
        limits = Limits(budget=60_000)
        client = client_of(network, on_progress=said.append, limits=limits)
        stored = await client.put_value(KEY, bytes(8000))
        ends = [each for each in said if each.done]
        assert [each.cut for each in ends] == [True, False]
        assert len(stored.acknowledged) == ends[-1].stored == 20
        assert ends[0].carried <= limits.budget // 2

    run(main())


def test_a_store_is_kept_back_from_the_budget() -> None:
    network = Network(300, addresses=8)

    async def main() -> None:
        for number in range(10):
            said: list[Progress] = []
            client = client_of(network, on_progress=said.append)
            stored = await client.put_value(b"%d" % number, bytes(1200))
            near = {info.id for info in network.nearest(b"%d" % number)}
            assert len(near & set(stored.acknowledged)) >= 18
            ends = {each.call: each for each in said if each.done}
            assert len(ends) == 2
            assert sum(each.carried for each in ends.values()) == client.spent.bytes <= 200_000

    run(main())


def test_a_value_that_no_message_holds(network: Network) -> None:
    async def main() -> None:
        with pytest.raises(LocalProtocolError):
            await client_of(network).put_value(KEY, bytes(MAX_MESSAGE))
        with pytest.raises(LocalProtocolError):
            await client_of(network).provide(KEY, [])

    run(main())


def test_provide_and_find_providers(network: Network) -> None:
    async def main() -> None:
        client = client_of(network)
        stored = await client.provide(KEY, [address(77)])
        assert len(stored.acknowledged) == 20
        async with client.providers(KEY, 1) as search:
            assert [each async for each in search] == [PeerInfo(US, (address(77),))]
        assert search.cost.requests < stored.asked + 20
        assert nobody_left()

    run(main())


def test_as_many_providers_as_wanted_end_the_search(network: Network) -> None:
    async def main() -> None:
        for info in network.nearest(KEY):
            crowd = {peer_id(n): peer(n) for n in range(900, 905)} | {peer_id(1): PeerInfo(US)}
            network.servers[info.id].providers[KEY] = crowd
        async with client_of(network).providers(KEY, 5) as search:
            found = [each async for each in search]
        assert len([each for each in found if each.addresses]) == 5
        assert search.cost.replies < 15

    run(main())


def test_find_peer(network: Network) -> None:
    """Of a client its neighbours know the addresses; they come while the search goes on."""
    target = peer(123_456, "/ip4/192.168.7.7/tcp/1")
    other = peer(123_456, "/ip4/150.1.0.1/tcp/1")
    for info, known in zip(network.nearest(target.id.raw, 2), (target, other), strict=True):
        network.servers[info.id].learn(known)

    async def main() -> None:
        async with client_of(network).find_peer(target.id) as search:
            first = await anext(search)
            assert first in (target, other)
            second = await anext(search)
            assert set(second.addresses) == {*target.addresses, *other.addresses}
        assert nobody_left()

    run(main())


@pytest.mark.parametrize("after", [0.0, 0.01, 0.1, 0.2, 0.3, 0.35])
def test_a_call_that_is_cancelled_leaves_nothing(network: Network, after: float) -> None:
    async def main() -> None:
        client = client_of(network)
        call = asyncio.create_task(client.put_value(KEY, b"v"))
        await asyncio.sleep(after)
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert nobody_left()
        assert network.at_once == 0
        assert client.room == MAX_AT_ONCE

    run(main())


def test_all_look_ups_share_the_sockets() -> None:
    network = Network(300)

    async def main() -> None:
        client = client_of(network)
        keys = [b"key %d" % number for number in range(20)]
        found = await asyncio.gather(*[client.closest(key) for key in keys])
        assert found == [network.nearest(key) for key in keys]
        stored = await asyncio.gather(*[client.put_value(key, b"v") for key in keys[:4]])
        assert [len(each.acknowledged) for each in stored] == [20] * 4
        assert network.most_at_once == client.spent.at_once == MAX_AT_ONCE
        assert client.room == MAX_AT_ONCE

    run(main())


def test_servers_that_drop_are_no_reason_to_fail(network: Network) -> None:
    async def main() -> None:
        network.turn([info.id for info in network.nearest(KEY)[:15]], Dropping)
        client = client_of(network)
        await client.put_value(KEY, b"v")
        assert len(network.holders(KEY)) == 5
        assert set(await values(client)) == {b"v"}

    run(main())


def test_the_request_timeouts_are_those_of_the_reference() -> None:
    assert (search.REQUEST_TIMEOUT, aio.STORE_TIMEOUT) == (10.0, 30.0)
