"""Our client of the Amino DHT with servers and clients of go-libp2p-kad-dht."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from interop import kad
from interop.rig import build
from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.keyspace import K
from pt.kad.messages import PeerInfo
from pt.lab.netns import LanError
from pt.node.node import Node
from pt.node.relays import RelayNews, Relays
from pt.rendezvous import ipns
from pt.wire.multiaddr import Multiaddr
from pt.wire.multihash import Multihash

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(600)]

SERVERS = 30
DELAY = 0.005
RELAYS = 3
BUDGET = 200_000
"""Bytes of a look-up or a store, with hand-shakes."""
SOCKETS = 30
T = TypeVar("T")


@dataclass
class Lab:
    net: kad.Lab

    @property
    def servers(self) -> kad.Servers:
        return self.net.servers

    @property
    def bootstrap(self) -> PeerInfo:
        return self.servers.infos[0]

    def ours(self, call: Callable[[Client], Awaitable[T]]) -> T:
        """Run something with a fresh client of ours, on our host."""

        async def main() -> T:
            async with kad.our_client(self.bootstrap) as client:
                return await call(client)

        return self.run(main())

    def run(self, main: Coroutine[object, object, T]) -> T:
        """Run something on our host."""
        with self.net.us.inside():
            return asyncio.run(main)

    def go(self, command: str, key: bytes, value: bytes = b"") -> dict[str, object]:
        return kad.go(
            self.net.dht, command, ip=self.net.go_ip, bootstrap=self.bootstrap, key=key, value=value
        )


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if not kad.BINARY.exists() and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/gokad")
    build(["gokad"])
    with kad.laboratory(SERVERS, DELAY, relays=RELAYS) as made:
        yield Lab(made)


def provider_key() -> bytes:
    return Multihash.sha256(secrets.token_bytes(32)).encode()


def test_the_bootstrap_peer_has_an_rsa_key(lab: Lab) -> None:
    """As those of the public DHT: every test here depends on it."""
    assert str(lab.bootstrap.id).startswith("Qm")


def test_the_nearest_servers_are_found(lab: Lab) -> None:
    """By a fresh client each time, which knows one server only."""
    found = wanted = 0
    for _ in range(5):
        key = secrets.token_bytes(32)

        async def look(client: Client, key: bytes = key) -> list[PeerInfo]:
            return await client.closest(key)

        near = lab.ours(look)
        assert len(near) == K
        assert all(info in lab.servers.infos for info in near), "with the addresses they have"
        found += len(set(near) & set(lab.servers.nearest(key)))
        wanted += K
    assert found >= 0.9 * wanted


def test_go_agrees_on_the_nearest(lab: Lab) -> None:
    key = provider_key()
    ours = {str(info.id) for info in lab.ours(lambda client: client.closest(key))}
    said = lab.go("closest", key)["closest"]
    assert isinstance(said, list)
    assert len(ours & set(said)) >= 0.9 * K


def test_a_value_of_ours_is_kept_and_given_back(lab: Lab) -> None:
    key, name, value = kad.mailbox(secrets.token_bytes(4000))

    async def put(client: Client) -> None:
        stored = await client.put_value(key, value)
        assert stored.asked == K
        assert len(stored.acknowledged) >= 0.9 * K
        back = await kad.all_values(client, key, name)  # the read-back
        assert {found.peer for found in back} <= set(stored.acknowledged)
        assert len(back) >= 0.9 * K

    lab.ours(put)
    assert lab.ours(lambda client: kad.first_value(client, key, name)).value == value
    assert lab.go("get", key)["value"] == value.hex()


def test_a_value_of_gos_is_found(lab: Lab) -> None:
    key, name, value = kad.mailbox(b"go's")
    lab.go("put", key, value)
    assert {found.value for found in lab.ours(lambda c: kad.all_values(c, key, name))} == {value}


def test_servers_refuse_what_is_older_or_forged(lab: Lab) -> None:
    key = PrivateKey.generate(secrets.token_bytes(32))
    name = ipns.name_of(key.public)
    expires = int(time.time()) + 3600
    old, new = (ipns.create(key, b"x", seq=seq, expires=expires, ttl=60) for seq in (1, 2))
    forged = bytearray(ipns.create(key, b"x", seq=3, expires=expires, ttl=60))
    forged[60] ^= 1

    async def put(client: Client) -> None:
        where = ipns.routing_key(name)
        assert (await client.put_value(where, bytes(forged))).acknowledged == ()
        assert len((await client.put_value(where, new)).acknowledged) >= 0.9 * K
        assert len((await client.put_value(where, old)).acknowledged) <= 0.1 * K
        assert {found.value for found in await kad.all_values(client, where, name)} >= {new}

    lab.ours(put)


def test_replies_of_somebody_else_are_not_taken(lab: Lab) -> None:
    """A server at the address of another one: its reply would be good, were it who was asked."""
    one, other = lab.servers.infos[1:3]

    async def look(client: Client) -> None:
        posing = Client(client.ask, client.own, bootstrap=[PeerInfo(one.id, other.addresses)])
        with pytest.raises(NetworkError):
            await posing.closest(b"key")
        assert len(posing.table) == 0

    lab.ours(look)


def test_nobody_there(lab: Lab) -> None:
    key, name, _ = kad.mailbox(b"")
    assert lab.ours(lambda client: kad.all_values(client, key, name)) == []
    with pytest.raises(LanError, match="not found"):
        lab.go("get", key)


def test_our_provider_record_is_found_by_go(lab: Lab) -> None:
    key = provider_key()
    ids: list[PeerId] = []

    async def provide(client: Client) -> None:
        ids.append(client.own)
        stored = await client.provide(key, [kad.OURS])
        assert len(stored.acknowledged) >= 0.9 * K

    lab.ours(provide)
    said = lab.go("providers", key)["providers"]
    assert said == [{"id": str(ids[0]), "addresses": [str(kad.OURS)]}]


def test_gos_provider_record_is_found_by_us(lab: Lab) -> None:
    key = provider_key()
    go = PeerId.parse(str(lab.go("provide", key)["id"]))

    async def look(client: Client) -> PeerInfo:
        async with client.providers(key, 1) as search:  # a server may not know where it is
            return await anext(found async for found in search if found.addresses)

    found = lab.ours(look)
    assert found.id == go
    assert [address.host for address in found.addresses] == [("ip4", lab.net.go_ip)]


def test_a_peer_is_found_by_its_id(lab: Lab) -> None:
    target = lab.servers.infos[-1]

    async def look(client: Client) -> PeerInfo:
        async with client.find_peer(target.id) as search:
            return await anext(search)

    assert lab.ours(look) == target
    peer = lab.go("find", target.id.raw)["peer"]
    assert peer == {"id": str(target.id), "addresses": [str(target.addresses[0])]}


def test_the_file_of_known_servers_serves_the_next_start(lab: Lab, tmp_path: Path) -> None:
    """Without any bootstrap peer."""
    path = tmp_path / "dht_peers.json"
    key = secrets.token_bytes(32)

    async def learn() -> None:
        async with kad.our_amino(lab.bootstrap, cache=path) as amino:
            await amino.client.closest(key)

    async def again() -> int:
        async with kad.our_amino(cache=path) as amino:
            assert amino.facts.known == 0, "it is read in the background"
            return len(set(await amino.client.closest(key)) & set(lab.servers.nearest(key)))

    lab.run(learn())
    assert lab.run(again()) >= 0.9 * K


def test_servers_that_relay_are_met(lab: Lab) -> None:
    """And give a reservation: the way of an exposer behind a NAT that knows no relay."""

    async def main() -> None:
        node = Node(identity=PrivateKey.generate(secrets.token_bytes(32)))
        await node.start()
        news: asyncio.Queue[RelayNews] = asyncio.Queue()
        relays = Relays(node, given=(), on_news=news.put_nowait)
        relays.start()
        heard: set[PeerId] = set()

        def met(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
            heard.add(peer)
            relays.offer(peer, addresses)

        async with kad.our_amino(lab.bootstrap, on_hop=met) as amino:
            await amino.client.closest(lab.servers.infos[1].id.raw)
            async with asyncio.timeout(20):
                held = [(await news.get()) for _ in range(2)]
            assert all(each.held for each in held)
            assert {each.relay for each in held} <= heard
            assert heard <= {info.id for info in lab.servers.infos[:RELAYS]}
        assert len(relays.addresses) == 2, "their connections outlive the DHT's"
        await relays.close()
        await node.close()

    lab.run(main())


async def footprint(bootstrap: PeerInfo) -> int:
    """What a peer that knows one server needs for a look-up, or a store, at most; in bytes."""
    key, name, record = kad.mailbox(secrets.token_bytes(700))
    taken = []
    async with kad.our_amino(bootstrap) as amino:
        assert len((await amino.client.put_value(key, record)).acknowledged) >= 0.9 * K
        taken.append(amino.facts)
    async with kad.our_amino(bootstrap) as amino:
        assert (await kad.first_value(amino.client, key, name)).value == record
        taken.append(amino.facts)
    async with kad.our_amino(bootstrap) as amino:
        assert len(await kad.all_values(amino.client, key, name)) >= 0.7 * K
        taken.append(amino.facts)
    assert all(facts.most_sockets <= SOCKETS for facts in taken)
    return max(facts.sent + facts.received for facts in taken)


def test_the_footprint_of_a_look_up(lab: Lab) -> None:
    assert lab.run(footprint(lab.bootstrap)) <= BUDGET


def test_the_footprint_where_servers_have_many_addresses() -> None:
    """As many as those of kubo: the look-up for all values is cut short by the budget."""
    with kad.laboratory(SERVERS, DELAY, crowd=True) as net:
        assert 150_000 < Lab(net).run(footprint(net.servers.infos[0])) <= BUDGET


def test_servers_that_die(lab: Lab) -> None:
    """The last test: it takes half of those that have the value."""
    key, name, value = kad.mailbox(b"before")

    async def put(client: Client) -> None:
        assert len((await client.put_value(key, value)).acknowledged) >= 0.9 * K

    lab.ours(put)
    near = [info for info in lab.servers.nearest(key) if info != lab.bootstrap]
    for info in near[: K // 2]:
        lab.servers.close(lab.servers.infos.index(info))
    began = time.monotonic()
    found = lab.ours(lambda client: kad.all_values(client, key, name))
    assert time.monotonic() - began < 10
    assert {each.value for each in found} == {value}
    assert len(found) >= 0.4 * K
