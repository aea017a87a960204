"""Provider records of open tunnels, on a DHT in memory and a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.messages import MessageType, PeerInfo
from pt.rendezvous.topic import provider_key
from pt.tunnel.media import providers
from pt.tunnel.media.providers import (
    ADDRESS_WAIT,
    AGAIN_FIRST,
    AGAIN_MOST,
    LOOK_UP_TIMEOUT,
    LOOK_UPS,
    MAX_NEW,
    RENEWAL,
    SPACING,
    ProviderAnnouncer,
    ProviderSearch,
    reachable,
)
from pt.tunnel.media.rounds import MIN_GAP
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.kad.network import US, Dropping, Network, Resetting, Server, Silent
from tests.unit.kad.peers import peer_id

KEY = provider_key("test")
RELAY = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
DIRECT = Multiaddr.parse("/ip4/11.0.0.7/tcp/4001")
RELAYED = Multiaddr.parse(f"/ip4/11.0.0.8/tcp/4001/p2p/{RELAY}/p2p-circuit")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.7/tcp/4001")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.0.7/udp/4001/quic-v1")

Said = list[tuple[bool, str, float]]


def client_of(network: Network) -> Client:
    bootstrap = [server.info for server in list(network.servers.values())[:3]]
    return Client(network.ask, US, bootstrap=bootstrap)


async def until(condition, most: float = 7200.0, step: float = 0.05) -> None:
    """Wait for it, on the virtual clock."""
    async with asyncio.timeout(most):
        while not condition():
            await asyncio.sleep(step)


def now() -> float:
    return asyncio.get_running_loop().time()


def holders(network: Network, key: bytes = KEY) -> list[tuple[Multiaddr, ...]]:
    return [
        server.providers[key][US].addresses
        for server in network.servers.values()
        if US in server.providers.get(key, {})
    ]


# --- which addresses ---------------------------------------------------------------------------


def test_reachable_addresses() -> None:
    assert reachable([PRIVATE, LOOPBACK, QUIC, RELAYED, DIRECT]) == (QUIC, DIRECT, RELAYED)
    assert reachable([PRIVATE, LOOPBACK, RELAYED], public_only=False) == (PRIVATE, RELAYED)
    assert reachable([]) == ()


def test_many_direct_addresses_leave_room_for_relayed_ones() -> None:
    direct = [Multiaddr.parse(f"/ip4/11.0.0.{number}/tcp/4001") for number in range(1, 40)]
    relayed = [
        Multiaddr.parse(f"/ip4/12.0.0.{number}/tcp/1/p2p/{RELAY}/p2p-circuit")
        for number in range(1, 40)
    ]
    for some, others in ((40, 40), (40, 2), (2, 40), (40, 0), (0, 40)):
        found = reachable([*relayed[:others], *direct[:some]])
        count = sum(each.is_circuit for each in found)
        assert len(found) == min(16, len(direct[:some]) + len(relayed[:others]))
        assert count >= min(8, others)
        assert len(found) - count >= min(8, some)


# --- announcing --------------------------------------------------------------------------------


@dataclass
class Announced:
    network: Network
    announcer: ProviderAnnouncer
    addresses: list[Multiaddr]
    said: Said = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    attempts: int = 0


@contextlib.asynccontextmanager
async def announcing(network: Network, *addresses: Multiaddr) -> AsyncIterator[Announced]:
    own = list(addresses)

    def tell(*state: object) -> None:
        made.said.append(state)
        made.times.append(now())

    client = client_of(network)
    provide = client.provide

    def counted(*what: object) -> object:
        made.attempts += 1
        return provide(*what)

    client.provide = counted
    made = Announced(network, ProviderAnnouncer(client, KEY, lambda: own, tell), own)
    made.announcer.start()
    try:
        yield made
    finally:
        await made.announcer.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_it_is_published_when_a_search_finds_it() -> None:
    async def main() -> None:
        network = Network(80)
        async with announcing(network, DIRECT, PRIVATE, RELAYED) as ours:
            await until(lambda: ours.said)
            ok, detail, seconds = ours.said[0]
            assert ok
            assert detail == "20 of 20 servers"
            assert 0 < seconds < 5
            assert holders(network) == [(DIRECT, RELAYED)] * 20
            await asyncio.sleep(RENEWAL / 2)
            assert len(ours.said) == 1

    run(main())


def test_it_is_renewed_in_time() -> None:
    async def main() -> None:
        network = Network(40)
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            for server in network.servers.values():
                server.providers.clear()
            await asyncio.sleep(RENEWAL * 0.8 - 10)
            assert not holders(network)
            await until(lambda: len(ours.said) == 2, 2 * RENEWAL, step=10.0)
            assert RENEWAL * 0.8 <= ours.times[1] - ours.times[0] <= RENEWAL * 1.2 + 10
            assert holders(network)

    run(main())


def test_new_addresses_are_published_at_once_but_not_too_often() -> None:
    async def main() -> None:
        network = Network(40)
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            await asyncio.sleep(60)
            ours.announcer.changed()  # without a change
            await asyncio.sleep(1)
            assert len(ours.said) == 1
            ours.addresses[:] = [RELAYED]
            ours.announcer.changed()
            changed_at = now()
            await until(lambda: len(ours.said) == 2)
            assert now() - changed_at < 5
            assert holders(network) == [(RELAYED,)] * 20
            for number in range(1, 61):
                ours.addresses[:] = [Multiaddr.parse(f"/ip4/11.0.1.{number}/tcp/1")]
                ours.announcer.changed()
                await asyncio.sleep(1)
            assert len(ours.said) <= 2 + 60 / SPACING + 1
            await until(lambda: holders(network) == [tuple(ours.addresses)] * 20)

    run(main())


def test_a_change_that_nobody_told_is_seen() -> None:
    async def main() -> None:
        network = Network(40)
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            ours.addresses[:] = [RELAYED]
            await until(lambda: len(ours.said) == 2, 60)
            assert holders(network) == [(RELAYED,)] * 20

    run(main())


def test_without_a_public_address_it_says_so_and_waits_for_one() -> None:
    async def main() -> None:
        network = Network(40)
        async with announcing(network, PRIVATE) as ours:
            began = now()
            await until(lambda: ours.said)
            assert now() - began >= ADDRESS_WAIT
            await asyncio.sleep(3600)
            [(ok, detail, _)] = ours.said  # once
            assert not ok
            assert "--relay" in detail
            ours.addresses.append(RELAYED)
            ours.announcer.changed()
            changed_at = now()
            await until(lambda: len(ours.said) == 2)
            assert ours.said[1][0]
            assert now() - changed_at < 5

    run(main())


def test_an_address_that_comes_in_a_moment_is_waited_for() -> None:
    async def main() -> None:
        async with announcing(Network(40)) as ours:
            await asyncio.sleep(1)
            ours.addresses.append(RELAYED)
            ours.announcer.changed()
            await until(lambda: ours.said)
            assert ours.said[0][0]
            assert ours.said[0][2] < 5

    run(main())


@pytest.mark.parametrize(
    ("kind", "message"), [(Resetting, "none of 20 servers"), (Dropping, "does not find it")]
)
def test_servers_that_refuse_or_drop_are_told_apart_and_asked_again(kind, message: str) -> None:
    async def main() -> None:
        network = Network(60)
        honest = dict(network.servers)
        network.turn(list(network.servers), kind)
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            ok, detail, _ = ours.said[0]
            assert not ok
            assert message in detail
            await asyncio.sleep(600)
            assert len(ours.said) == 1
            network.servers.update(honest)
            await until(lambda: len(ours.said) == 2, 900)
            assert ours.said[1][0]

    run(main())


def test_servers_that_keep_no_address_are_not_success() -> None:
    async def main() -> None:
        network = Network(60)
        ask = network.ask

        async def strip(info, request):
            reply = await ask(info, request)
            for server in network.servers.values():
                if KEY in server.providers:
                    server.providers[KEY] = {US: PeerInfo(US)}
            return reply

        network.ask = strip
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            ok, detail, _ = ours.said[0]
            assert not ok
            assert "none of its addresses" in detail

    run(main())


def test_a_record_of_our_past_is_not_taken_for_the_new_one() -> None:
    async def main() -> None:
        network = Network(60)
        network.turn(list(network.servers), Forgetful)
        for server in network.servers.values():
            server.providers[KEY] = {US: PeerInfo(US, (RELAYED,))}
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            assert not ours.said[0][0]

    run(main())


class Forgetful(Server):
    """Acknowledges provider records, and keeps those that it had."""

    def reply(self, request):
        return request if request.type is MessageType.ADD_PROVIDER else super().reply(request)


def test_without_a_network_it_goes_on_trying() -> None:
    async def main() -> None:
        network = Network(40)
        honest = dict(network.servers)
        network.turn(list(network.servers), Silent)
        async with announcing(network, DIRECT) as ours:
            await until(lambda: ours.said)
            assert not ours.said[0][0]
            await asyncio.sleep(3600)
            assert ours.attempts <= 20
            ours.addresses[:] = [RELAYED]
            ours.announcer.changed()
            before = ours.attempts
            await asyncio.sleep(300)
            assert ours.attempts >= before + 3
            network.servers.update(honest)
            await until(lambda: ours.said[-1][0], 1200)

    run(main())


# --- searching ---------------------------------------------------------------------------------


@dataclass
class Searched:
    network: Network
    search: ProviderSearch
    client: Client
    said: Said = field(default_factory=list)
    found: dict[PeerId, tuple[Multiaddr, ...]] = field(default_factory=dict)
    calls: list[PeerId] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    """When each began."""


@contextlib.asynccontextmanager
async def searching(network: Network, *, start: bool = True) -> AsyncIterator[Searched]:
    def found(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        made.found[peer] = addresses
        made.calls.append(peer)

    client = client_of(network)
    providers_ = client.providers

    def counted(*what: object) -> object:
        made.rounds.append(now())
        return providers_(*what)

    client.providers = counted
    made = Searched(
        network,
        ProviderSearch(client, KEY, found, lambda *state: made.said.append(state)),
        client,
    )
    if start:
        made.search.start()
    try:
        yield made
    finally:
        await made.search.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert client.room == 30


def provide(network: Network, *infos: PeerInfo) -> None:
    """Have the nearest servers know these providers."""
    for near in network.nearest(KEY):
        kept = network.servers[near.id].providers.setdefault(KEY, {})
        kept.update({info.id: info for info in infos})


def provider(number: int, *addresses: Multiaddr) -> PeerInfo:
    return PeerInfo(peer_id(2**210 + number), addresses)


def somewhere(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/11.1.{number // 250}.{1 + number % 250}/tcp/4001")


def test_providers_come_while_the_search_runs() -> None:
    async def main() -> None:
        network = Network(80)
        provide(network, provider(1, DIRECT, PRIVATE), provider(2, RELAYED))
        for near in network.nearest(KEY)[3:10]:
            network.servers[near.id].delay = 9.0
        async with searching(network) as ours:
            await until(lambda: len(ours.found) == 2)
            assert ours.client.searches, "it has not ended yet"
            assert ours.found == {provider(1).id: (DIRECT,), provider(2).id: (RELAYED,)}
            await until(lambda: len(ours.rounds) > 3)
            [(ok, detail, seconds)] = ours.said
            assert (ok, detail) == (True, "")
            assert 0 < seconds < 5
            for server in network.servers.values():
                server.providers.clear()
            await until(lambda: len(ours.said) > 1)
            assert ours.said[1][:2] == (False, "nobody provides this id")
            provide(network, provider(3))
            await until(lambda: len(ours.said) > 2)
            assert ours.said[2][:2] == (
                False,
                "1 say to provide this id, and nobody knows where they are",
            )
        assert len(ours.calls) == 2

    run(main())


def test_we_are_not_our_own_provider() -> None:
    async def main() -> None:
        network = Network(40)
        provide(network, PeerInfo(US, (DIRECT,)))
        async with searching(network) as ours:
            await until(lambda: ours.said)
            assert ours.said[0][:2] == (False, "nobody provides this id")
            assert not ours.found

    run(main())


def test_rounds_are_ever_rarer_until_somebody_comes() -> None:
    async def main() -> None:
        network = Network(40)
        async with searching(network) as ours:
            await asyncio.sleep(3600)
            rounds = len(ours.rounds)
            assert 3600 / (AGAIN_MOST * 1.2 + 10) <= rounds <= 3600 / (AGAIN_MOST * 0.8) + 8
            provide(network, provider(1, DIRECT))
            await until(lambda: ours.found, AGAIN_MOST * 1.2 + 10)

    run(main())


def test_pause_and_resume() -> None:
    async def main() -> None:
        network = Network(40)
        async with searching(network) as ours:
            assert not ours.search.rounds
            await until(lambda: ours.search.rounds)
            assert ours.said
            ours.search.pause()
            await asyncio.sleep(3600)
            assert len(ours.rounds) <= 2
            provide(network, provider(1, DIRECT))
            asked_at = now()
            ours.search.resume()
            await until(lambda: ours.found)
            assert now() - asked_at < MIN_GAP + AGAIN_FIRST + 3
            rounds = len(ours.rounds)
            began = now()
            while now() - began < 30:
                ours.search.resume()
                await asyncio.sleep(0.05)
            assert len(ours.rounds) - rounds <= 6

    run(main())


def test_it_may_begin_later() -> None:
    async def main() -> None:
        network = Network(40)
        provide(network, provider(1, DIRECT))
        async with searching(network, start=False) as ours:
            ours.search.start(now=False)
            await asyncio.sleep(600)
            assert not ours.rounds
            ours.search.resume()
            await until(lambda: ours.found, 10)

    run(main())


def test_no_server_answers() -> None:
    async def main() -> None:
        network = Network(20)
        network.turn(list(network.servers), Silent)
        async with searching(network) as ours:
            await until(lambda: ours.said)
            ok, detail, _ = ours.said[0]
            assert not ok
            assert "none of 3 servers of the DHT answered" in detail

    run(main())


def test_a_provider_without_addresses_is_looked_for() -> None:
    """Servers forget addresses sooner than providers."""

    async def main() -> None:
        network = Network(80)
        provide(network, provider(1), provider(2, PRIVATE))
        for number in (1, 2):
            known = provider(number, DIRECT, PRIVATE)
            for near in network.nearest(known.id.raw):
                network.servers[near.id].learn(known)
        async with searching(network) as ours:
            await until(lambda: len(ours.found) == 2)
            assert set(ours.found.values()) == {(DIRECT,)}

    run(main())


def test_the_dead_do_not_delay_the_living() -> None:
    """Those who left no address are looked for, in vain, while the one that has one is told."""

    async def main() -> None:
        network = Network(30)
        provide(network, *(provider(number) for number in range(2, 16)), provider(1, DIRECT))
        async with searching(network) as ours:
            began = now()
            await until(lambda: ours.found)
            assert now() - began < 2
            await asyncio.sleep(200)
            assert list(ours.found) == [provider(1).id]

    run(main())


def test_look_ups_of_the_dead_are_few_and_ever_rarer() -> None:
    async def main() -> None:
        network = Network(12)
        provide(network, *(provider(number) for number in range(2, 14)))
        looked: dict[PeerId, set[float]] = {}
        running: list[int] = []

        async with searching(network, start=False) as ours:
            find_peer = ours.client.find_peer

            def counted(peer, *, timeout):
                assert timeout == LOOK_UP_TIMEOUT
                looked.setdefault(peer, set()).add(now())
                running.append(len(ours.search._scope))
                return find_peer(peer, timeout=timeout)

            ours.client.find_peer = counted
            ours.search.start()
            await asyncio.sleep(1200)
            assert not ours.found
            assert max(running) <= LOOK_UPS
            assert len(looked) == 12
            assert max(len(times) for times in looked.values()) <= 6
            for server in network.servers.values():  # one of them is found after all
                server.learn(provider(3, DIRECT))
            provide(network, provider(1))  # and a new one goes first
            for server in network.servers.values():
                server.learn(provider(1, RELAYED))
            began = now()
            await until(lambda: provider(1).id in ours.found, step=1.0)
            assert now() - began < AGAIN_MOST * 1.2 + LOOK_UP_TIMEOUT
            await until(lambda: provider(3).id in ours.found, step=10.0)
            assert len(ours.found) == 2

    run(main())


def test_of_very_many_every_one_has_its_turn() -> None:
    async def main() -> None:
        network = Network(80)
        everyone = [provider(number, somewhere(number)) for number in range(100)]
        async with searching(network) as ours:
            await asyncio.sleep(600)
            for near in network.nearest(KEY):
                kept = network.servers[near.id].providers.setdefault(KEY, {})
                for info in network.rng.sample(everyone, 35):
                    kept[info.id] = info
            await until(lambda: ours.found)
            await until(lambda: not ours.client.searches)
            assert len(ours.found) == MAX_NEW
            await until(lambda: len(ours.found) == 100, 60)

    run(main())


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(providers, "MAX_PROVIDERS", 20)

    async def main() -> None:
        network = Network(22)
        async with searching(network) as ours:
            for turn in range(4):
                for server in network.servers.values():
                    server.providers.clear()
                made = [provider(40 * turn + number, somewhere(number)) for number in range(15)]
                bare = [provider(40 * turn + number) for number in range(15, 30)]
                provide(network, *made, *bare)
                ours.search.resume()
                ours.rounds.clear()
                await until(lambda: len(ours.rounds) >= 3)
            assert len(ours.found) > 40
            assert len(ours.search._told) <= 20
            assert len(ours.search._tries) <= 20

    run(main())


def test_more_addresses_of_a_provider_are_told() -> None:
    async def main() -> None:
        network = Network(60)
        provide(network, provider(1, DIRECT))
        async with searching(network) as ours:
            await until(lambda: ours.said)
            provide(network, provider(1, RELAYED))
            await until(lambda: len(ours.calls) == 2)
            assert set(ours.found[provider(1).id]) == {DIRECT, RELAYED}
            await asyncio.sleep(600)
            assert len(ours.calls) == 2

    run(main())
