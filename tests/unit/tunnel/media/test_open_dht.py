"""What open tunnels make of the DHT's states; the rest is in the tests of its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pt.kad.aio import Client
from pt.kad.messages import PeerInfo
from pt.node.state import StateDir
from pt.rendezvous.topic import provider_key
from pt.trace import NO_TRACE
from pt.tunnel.lookup import GIVEN_ALONE, Candidate, Lookup
from pt.tunnel.media import amino as media_amino
from pt.tunnel.media.open_dht import OpenDht
from pt.tunnel.network import Network as Shared
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.kad.network import US, Network, Silent
from tests.unit.kad.peers import peer_id

NAME = "an id"
HERE, THERE = (Multiaddr.tcp(f"11.0.0.{number}", 4001) for number in (1, 2))
PRIVATE = Multiaddr.tcp("192.168.1.2", 4001)
PROVIDER = peer_id(2**210)


@dataclass
class Facts:
    state: str = "online"
    detail: str = ""
    requests: int = 3
    sent: int = 1000
    received: int = 2000
    most_sockets: int = 5


class FakeAmino:
    def __init__(self, network: Network) -> None:
        bootstrap = [server.info for server in list(network.servers.values())[:3]]
        self.client = Client(network.ask, US, bootstrap=bootstrap)
        self.facts = Facts()
        self.started = self.closed = False

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True


@contextlib.asynccontextmanager
async def opened(
    monkeypatch: pytest.MonkeyPatch, tmp: Path, network: Network, bootstrap=()
) -> AsyncIterator[tuple[OpenDht, FakeAmino]]:
    amino = FakeAmino(network)
    monkeypatch.setattr(media_amino, "Amino", lambda *_, **__: amino)
    state = StateDir(tmp)
    dht = OpenDht(NAME, state, bootstrap, Shared(state, (), lambda _: None, NO_TRACE))
    await dht.start()
    assert amino.started
    try:
        yield dht, amino
    finally:
        await dht.close()
    assert amino.closed


def announced(network: Network) -> set[tuple[Multiaddr, ...]]:
    key = provider_key(NAME)
    held = [server.providers.get(key, {}) for server in network.servers.values()]
    return {there[US].addresses for there in held if US in there}


def test_an_announcement_says_what_it_cost(monkeypatch, tmp_path: Path) -> None:
    async def main() -> None:
        network = Network(40)
        said: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        async with opened(monkeypatch, tmp_path, network) as (dht, _):
            announcer = dht.announcer(lambda: [HERE, PRIVATE], lambda *s: said.put_nowait(s))
            announcer.start()
            ok, detail, _ = await said.get()
            assert ok
            assert detail == "at 20 of 20 servers; 3 requests, 3 kB, 5 sockets at most"
            assert announced(network) == {(HERE,)}
            assert announcer.published == (HERE,)
            await announcer.close()

    run(main())


def test_in_a_private_dht_private_addresses_count(monkeypatch, tmp_path: Path) -> None:
    async def main() -> None:
        network = Network(40)
        said: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        bootstrap = [Multiaddr.parse(f"/ip4/10.0.0.1/tcp/4001/p2p/{PROVIDER}")]
        async with opened(monkeypatch, tmp_path, network, bootstrap) as (dht, _):
            announcer = dht.announcer(lambda: [PRIVATE], lambda *s: said.put_nowait(s))
            announcer.start()
            assert (await said.get())[0]
            assert announced(network) == {(PRIVATE,)}
            await announcer.close()

    run(main())


def test_when_nobody_answers_the_dht_says_why(monkeypatch, tmp_path: Path) -> None:
    async def main() -> None:
        network = Network(40)
        network.turn(list(network.servers), Silent)
        said: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        async with opened(monkeypatch, tmp_path, network) as (dht, amino):
            amino.facts = Facts("offline", "there is no route: connect this machine first")
            search = dht.search(lambda *_: None, lambda *s: said.put_nowait(s))
            search.start()
            assert (await said.get())[:2] == (False, amino.facts.detail)
            await search.close()
            announcer = dht.announcer(lambda: [HERE], lambda *s: said.put_nowait(s))
            announcer.start()
            assert (await said.get())[:2] == (False, amino.facts.detail)
            await announcer.close()

    run(main())


@pytest.mark.parametrize("given", [(), (THERE,)])
def test_a_lookup_yields_providers_as_candidates(monkeypatch, tmp_path: Path, given) -> None:
    """After addresses that were given; with them, it is searched only when those do not do."""

    async def main() -> None:
        network = Network(40)
        for near in network.nearest(provider_key(NAME)):
            network.servers[near.id].providers[provider_key(NAME)] = {
                PROVIDER: PeerInfo(PROVIDER, (HERE,))
            }
        found: list[Candidate] = []
        said: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
        lookup = Lookup(given, lambda one, _: found.append(one), lambda *s: said.put_nowait(s))
        async with opened(monkeypatch, tmp_path, network) as (dht, amino):
            lookup.search_open(dht)
            if given:
                await asyncio.sleep(GIVEN_ALONE - 0.1)
                assert not found
                assert lookup.rounds == (0,)
            assert (await said.get())[:2] == ("amino", True)
            assert lookup.news.is_set()
            assert lookup.rounds in ((0,), (1,))
            wanted = Candidate(PROVIDER, (HERE,), "amino")
            assert found == [wanted]
            assert [one.addresses for one in lookup.candidates()] == [
                *[given] * bool(given),
                (HERE,),
            ]
            lookup.failed(PROVIDER)
            lookup.answered(PROVIDER, 0.1)
            assert wanted in lookup.candidates()
            await lookup.close()
            assert amino.closed

    run(main())
