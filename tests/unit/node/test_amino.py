"""The public DHT for a node: finding servers, keeping them, and saying how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from dns.rcode import Rcode

from pt.aio.muxed import MuxedStream
from pt.dnsaddr.aio import TxtResolver
from pt.errors import NetworkError, StateError, UsageError
from pt.kad.messages import PROTOCOL, Message, PeerInfo
from pt.kad.results import Progress
from pt.kad.table import RoutingTable
from pt.node import amino as module
from pt.node import standard
from pt.node.amino import Amino, AminoFacts
from pt.node.node import Node
from pt.relay.messages import HOP
from pt.wire.multiaddr import Multiaddr
from tests.unit.dnsaddr.server import refusing, running
from tests.unit.node import dht_lab
from tests.unit.node.dht_lab import DhtServer, fresh_node, nowhere, servers
from tests.unit.tunnel.loopback import until

VALUE = b"value"
KEY = b"/ipns/key"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test has no time for manners."""
    monkeypatch.setattr(module, "SETTLE", 0.02)
    monkeypatch.setattr(module, "RETRY_FIRST", 0.05)


class Running:
    """An Amino, what it says, and what a test waits for."""

    def __init__(self, amino: Amino, said: list[AminoFacts]) -> None:
        self.amino = amino
        self.said = said

    @property
    def client(self):
        return self.amino.client

    async def state(self, wanted: str) -> AminoFacts:
        await until(lambda: self.amino.facts.state == wanted)
        return self.amino.facts


@contextlib.asynccontextmanager
async def amino(
    *bootstrap: DhtServer | Multiaddr,
    cache: Path | None = None,
    node: Node | None = None,
    **options: object,
) -> AsyncIterator[Running]:
    """One that has been started; nothing of it is left afterwards."""
    own = node or fresh_node()
    await own.start()
    before = list(own.on_identified)
    said: list[AminoFacts] = []
    made = Amino(
        own,
        bootstrap=[each.address if isinstance(each, DhtServer) else each for each in bootstrap],
        cache=cache,
        public_only=bool(options.pop("public_only", False)),
        on_change=said.append,
        **options,  # type: ignore[arg-type]
    )
    running = Running(made, said)
    try:
        await made.start()
        yield running
    finally:
        await made.close()
        assert made.facts.sockets == 0
        assert own.on_identified == before
        await own.close()


def run(coro: object) -> None:
    async def main() -> None:
        async with asyncio.timeout(25):
            await coro  # type: ignore[misc]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def values(running: Running, key: bytes = KEY) -> list[bytes]:
    async with running.client.get_value(key, lambda value: None) as search:
        return [found.value async for found in search]


# --- look-ups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("listening", [False, True])
def test_a_value_is_stored_and_found(listening: bool) -> None:
    """By a peer of its own that listens nowhere, and by one that the user's peers know."""
    where = (Multiaddr.tcp("127.0.0.1", 0),) if listening else ()

    async def main() -> None:
        async with (
            servers(12) as many,
            amino(many[0], node=fresh_node(listen=where)) as writer,
            amino(many[1], node=fresh_node(listen=where)) as reader,
        ):
            stored = await writer.client.put_value(KEY, VALUE)
            assert len(stored.acknowledged) == 12
            assert await values(reader) == [VALUE] * 12
            assert reader.amino.facts.state == "online"

    run(main())


def test_a_provider_record_of_the_node_itself() -> None:
    async def main() -> None:
        node = fresh_node(listen=(Multiaddr.tcp("127.0.0.1", 0),))
        async with servers(8) as many, amino(many[0], node=node) as dht:
            await dht.client.provide(b"mh", node.addresses)
            async with dht.client.providers(b"mh", 1) as search:
                found = [each async for each in search]
            assert found == [PeerInfo(node.peer_id, node.addresses)]

    run(main())


def test_the_servers_do_not_learn_that_we_could_be_one() -> None:
    async def main() -> None:
        async with servers(3) as many, amino(many[0]) as dht:
            await dht.client.closest(KEY)
            assert PROTOCOL not in dht.amino._node.protocols

    run(main())


def test_progress_is_told() -> None:
    async def main() -> None:
        said: list[Progress] = []
        async with servers(5) as many, amino(many[0], on_progress=said.append) as dht:
            await dht.client.put_value(KEY, VALUE)
            mine = [each for each in said if each.key == KEY]
            assert mine[0].answered == 1
            assert mine[-1].stored == 5

    run(main())


def test_a_look_up_before_any_server_is_known_waits_for_one() -> None:
    """Begun right after the start, before the DNS has answered."""

    async def main() -> None:
        async with servers(4) as many, running() as dns:
            many[1].logic.values[KEY] = VALUE
            zone = {"_dnsaddr.boot.test": [f"dnsaddr={many[0].address}".encode()]}
            later = asyncio.Event()
            transport = dns.transport

            async def answer(data: bytes, source: tuple[str, int]) -> None:
                await later.wait()
                dns.zone = zone
                transport.sendto(dns.answer(data, 1232), source)

            tasks = []
            dns.datagram_received = lambda data, source: tasks.append(  # type: ignore[method-assign]
                asyncio.ensure_future(answer(data, source))
            )
            resolver = TxtResolver([("127.0.0.1", dns.port)])
            boot = Multiaddr.parse("/dnsaddr/boot.test")
            async with amino(boot, resolver=resolver) as dht:
                looking = asyncio.create_task(values(dht))
                await until(lambda: tasks)
                assert not looking.done()
                later.set()
                assert await looking == [VALUE]

    run(main())


@pytest.mark.parametrize(
    "serve",
    [dht_lab.stall, dht_lab.garbage, dht_lab.end, dht_lab.reset, "loop", "dead"],
    ids=["stall", "garbage", "end", "reset", "loop", "dead"],
)
def test_servers_that_stall_lie_or_close(serve) -> None:
    """Half of them, those that are known first among them: the value is found at the others."""

    async def main() -> None:
        async with servers(16) as many, amino(*many[6:10]) as dht:
            bad, good = many[:8], many[8:]
            for server in good:
                server.logic.values[KEY] = VALUE
            for server in bad:
                if serve == "dead":
                    await server.node.close()
                else:
                    server.serve = dht_lab.loop_of(nowhere(4)) if serve == "loop" else serve
            async with dht.client.get_value(KEY, lambda value: None, timeout=3.5) as search:
                found = {each.peer async for each in search}
            assert found == {server.node.peer_id for server in good}
            assert dht.amino.facts.most_sockets <= 30

    run(main())


def test_dead_providers_first_in_the_list() -> None:
    """They come with addresses and without; the living one is told as well."""

    async def main() -> None:
        async with servers(6) as many, amino(many[0]) as dht:
            living = many[5].info
            dead = [PeerInfo(fresh_node().peer_id, (each,)) for each in nowhere(20)]
            bare = [PeerInfo(fresh_node().peer_id) for _ in range(5)]
            for server in many[:5]:
                server.logic.providers[b"mh"] = {each.id: each for each in (*dead, *bare, living)}
            async with dht.client.providers(b"mh", 1000) as search:
                found = [each async for each in search]
            assert living in found
            assert len(found) == 26
            assert dht.amino.facts.state == "online"

    run(main())


# --- the file of known servers -------------------------------------------------------------------


def file_of(infos: Sequence[PeerInfo]) -> str:
    table = RoutingTable(fresh_node().peer_id, public_only=False)
    for number, info in enumerate(infos):
        table.answered(info, 100.0 + number)
    return table.to_json(200.0, time.time())


def test_who_answered_is_asked_at_the_next_start(tmp_path: Path) -> None:
    """Without a bootstrap peer or the DNS."""
    path = tmp_path / "state" / "dht_peers.json"

    async def main() -> None:
        async with servers(8) as many:
            async with amino(many[0], cache=path) as dht:
                await dht.client.put_value(KEY, VALUE)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert len(json.loads(path.read_text())["peers"]) == 8
            async with amino(cache=path) as dht:
                assert len(await values(dht)) == 8
                assert dht.amino.facts.cache_detail == ""

    run(main())


def test_the_file_is_written_without_waiting_for_the_end(tmp_path: Path) -> None:
    path = tmp_path / "dht_peers.json"

    async def main() -> None:
        async with servers(3) as many, amino(many[0], cache=path):
            await until(path.exists)

    run(main())


def test_a_dead_dns_and_a_living_file(tmp_path: Path) -> None:
    path = tmp_path / "dht_peers.json"

    async def main() -> None:
        async with servers(4) as many, running(trouble=refusing(Rcode.REFUSED)) as server:
            many[3].logic.values[KEY] = VALUE
            path.write_text(file_of([server.info for server in many[:2]]))
            path.chmod(0o600)
            boot = Multiaddr.parse("/dnsaddr/boot.test")
            resolver = TxtResolver([("127.0.0.1", server.port)])
            async with amino(boot, cache=path, resolver=resolver) as dht:
                assert await values(dht) == [VALUE]
                assert dht.amino.facts.state == "online"
                await until(lambda: dht.amino.facts.dns_cause)
                facts = dht.amino.facts
                assert facts.dns_cause == "refused"
                assert "boot.test" in facts.dns_detail
                assert (facts.state, facts.cause) == ("online", "")

    run(main())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text('{"version": 1, "saved": 0, "pee'),
        lambda path: path.write_bytes(b"\xff\xfe\x00" * 100),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b" " * (3 << 20)),
        lambda path: path.mkdir(),
        lambda path: (path.write_text(file_of([])), path.chmod(0o666)),
    ],
    ids=["empty", "cut", "binary", "deep", "huge", "directory", "open to all"],
)
def test_a_damaged_file_is_named_and_costs_nothing_else(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "dht_peers.json"
    damage(path)
    if path.is_file() and path.stat().st_mode & 0o077 == 0o044:
        path.chmod(0o600)

    async def main() -> None:
        async with servers(4) as many:
            async with amino(many[0], cache=path) as dht:
                await dht.client.put_value(KEY, VALUE)
                assert any(str(path) in facts.cache_detail for facts in dht.said)
                assert len(await values(dht)) == 4
            if path.is_dir():
                assert "in its place" in dht.amino.facts.cache_detail
            else:
                assert dht.amino.facts.cache_detail == "", "it was written anew"
                assert len(json.loads(path.read_text())["peers"]) == 4
                assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(main())


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dht_peers.json"

    def full(*_: object) -> None:
        raise StateError(f"cannot write {path}: the disk or quota is full: free some space")

    monkeypatch.setattr(module, "replace_file", full)

    async def main() -> None:
        async with servers(2) as many, amino(many[0], cache=path) as dht:
            await dht.client.put_value(KEY, VALUE)
            await until(lambda: dht.amino.facts.cache_detail)
            assert "free some space" in dht.amino.facts.cache_detail
            assert dht.amino.facts.state == "online"

    run(main())


def test_when_nobody_answers_the_file_stays(tmp_path: Path) -> None:
    """It is worth more than nothing: the machine may be cut off for an hour."""
    path = tmp_path / "dht_peers.json"
    text = file_of([PeerInfo(fresh_node().peer_id, (each,)) for each in nowhere(3)])
    path.write_text(text)
    path.chmod(0o600)

    async def main() -> None:
        async with amino(cache=path) as dht:
            await dht.state("offline")
            assert dht.amino.facts.known == 3
        assert path.read_text() == text

    run(main())


# --- states, and trying again --------------------------------------------------------------------


def test_nobody_to_ask() -> None:
    async def main() -> None:
        async with amino() as dht:
            facts = await dht.state("offline")
            assert facts.cause == "no-peers"
            assert "--bootstrap" in facts.detail
            with pytest.raises(NetworkError, match="--bootstrap"):
                await dht.client.closest(KEY)

    run(main())


def test_nobody_there() -> None:
    async def main() -> None:
        dead = [each.with_peer(fresh_node().peer_id.raw) for each in nowhere(3)]
        async with amino(*dead) as dht:
            facts = await dht.state("offline")
            assert (facts.cause, facts.requests, facts.replies) == ("refused", 3, 0)
            assert "--peer" in facts.detail
            assert facts.dns_cause == ""

    run(main())


@pytest.mark.parametrize(
    ("serve", "cause"), [(dht_lab.garbage, "not-dht"), (dht_lab.reset, "closed")]
)
def test_nobody_who_speaks_the_protocol(serve, cause: str) -> None:
    async def main() -> None:
        async with servers(2, serve) as many, amino(*many) as dht:
            assert (await dht.state("offline")).cause == cause

    run(main())


def test_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        node = fresh_node()

        async def unreachable(address: Multiaddr) -> socket.socket:
            raise OSError(101, os.strerror(101))

        monkeypatch.setattr(node, "dial_socket", unreachable)
        public = Multiaddr.parse("/ip4/11.1.1.1/tcp/4001").with_peer(fresh_node().peer_id.raw)
        async with amino(public, node=node, public_only=True) as dht:
            facts = await dht.state("offline")
            assert facts.cause == "no-network"

    run(main())


def test_only_other_transports() -> None:
    async def main() -> None:
        other = Multiaddr.parse("/ip4/11.1.1.1/tcp/4001/ws")
        async with amino() as dht:
            dht.amino.offer([PeerInfo(fresh_node().peer_id, (other,))])
            await until(lambda: dht.amino.facts.cause == "no-tcp")

    run(main())


def test_private_bootstrap_peers_where_public_ones_are_wanted() -> None:
    async def main() -> None:
        async with servers(1) as (one,), amino(one, public_only=True) as dht:
            facts = await dht.state("offline")
            assert (facts.cause, facts.requests) == ("private-peers", 0)

    run(main())


def test_the_dns_fails_by_cause_and_comes_back() -> None:
    async def main() -> None:
        async with servers(2) as many, running() as dns:
            resolver = TxtResolver([("127.0.0.1", dns.port)])
            async with amino(Multiaddr.parse("/dnsaddr/boot.test"), resolver=resolver) as dht:
                facts = await dht.state("offline")
                assert (facts.cause, facts.dns_cause) == ("dns", "no-name")
                assert facts.detail == facts.dns_detail
                dns.zone["_dnsaddr.boot.test"] = [f"dnsaddr={many[0].address}".encode()]
                facts = await dht.state("online")
                assert (facts.cause, facts.detail, facts.dns_cause) == ("", "", "")

    run(main())


def test_it_is_tried_again_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.0)
    monkeypatch.setattr(module, "RETRY_MOST", 0.2)

    async def main() -> None:
        times: list[float] = []
        async with servers(1) as (one,), amino(one) as dht:

            async def refuse(stream: MuxedStream, request: Message) -> None:
                times.append(asyncio.get_running_loop().time())
                await stream.reset()

            one.serve = refuse
            await until(lambda: len(times) >= 7)
            gaps = [after - before for before, after in pairwise(times)]
            assert all(least <= gap for least, gap in zip((0.05, 0.1, 0.2), gaps, strict=False))
            assert 0.2 <= min(gaps[3:]) < 0.4, "and no later than that"
            one.serve = None
            await dht.state("online")

    run(main())


@pytest.mark.parametrize("how", ["another network", "offer"])
def test_it_is_tried_again_at_once_when_there_is_a_reason(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 3600.0)
    monkeypatch.setattr(module, "RETRY_MOST", 3600.0)
    monkeypatch.setattr(module, "WATCH", 0.01)
    here = {"192.0.2.1"}

    async def main() -> None:
        look = lambda: frozenset(here)  # noqa: E731
        async with servers(2) as (one, two), amino(one, addresses=look) as dht:
            one.serve = dht_lab.reset
            await dht.state("offline")
            if how == "another network":
                one.serve = None
                asked = one.asked
                await asyncio.sleep(0.05)
                assert one.asked == asked, "it is the same one yet"
                here.add("192.0.2.77")
            else:
                dht.amino.offer([two.info])
            await dht.state("online")

    run(main())


def test_connections_of_another_network_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH", 0.01)
    here = {"192.0.2.1"}

    async def main() -> None:
        look = lambda: frozenset(here)  # noqa: E731
        async with servers(4) as many, amino(many[0], addresses=look) as dht:
            await dht.client.put_value(KEY, VALUE)
            assert dht.amino.facts.sockets == 4
            before = links(many)
            here.clear()
            await until(lambda: not any(link in links(many) for link in before))
            here.add("198.51.100.1")
            assert len(await values(dht)) == 4

    run(main())


def test_the_table_is_refreshed_while_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH", 0.1)

    async def main() -> None:
        async with servers(3) as many, amino(many[0]) as dht:
            await until(lambda: all(server.asked >= 3 for server in many))
            for server in many:
                server.serve = dht_lab.reset
            await dht.state("offline")

    run(main())


def test_the_owners_look_ups_make_the_first_one_needless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE", 0.1)

    async def main() -> None:
        async with servers(25) as many, amino(many[0]) as dht:
            saved = asyncio.Event()

            async def save() -> None:
                saved.set()

            monkeypatch.setattr(dht.amino, "_save", save)
            await values(dht)
            await saved.wait()
            before = dht.amino.facts.requests
            await asyncio.sleep(0.05)
            assert dht.amino.facts.requests == before <= 25

    run(main())


def test_changes_are_told_once() -> None:
    async def main() -> None:
        async with servers(6) as many, amino(many[0]) as dht:
            await dht.state("online")
            for _ in range(3):
                await dht.client.closest(KEY)
            assert [facts.state for facts in dht.said] == ["starting", "online"]

    run(main())


def test_facts_are_for_programs_and_people() -> None:
    async def main() -> None:
        async with servers(6) as many, amino(many[0]) as dht:
            await dht.client.put_value(KEY, VALUE)
            # A look-up of its own may have begun meanwhile.
            await until(lambda: dht.amino.facts.requests == dht.amino.facts.replies)
            facts = dht.amino.facts
            assert json.loads(json.dumps(dataclasses.asdict(facts)))["state"] == "online"
            assert (facts.sockets, facts.most_sockets, facts.known) == (6, 6, 6)
            assert facts.requests == facts.replies > 6
            there = sum(link.bytes_in for link in links(many))
            assert facts.sent == there > 6 * 400
            assert str(facts).startswith("online, 6 servers known, 6 sockets (6 at most)")

    run(main())


def links(many: Sequence[DhtServer]):
    return [connection.link for server in many for connection in server.node.connections]


# --- relays, life --------------------------------------------------------------------------------


def test_servers_that_relay_are_told_of_once() -> None:
    async def main() -> None:
        heard: list[object] = []
        async with servers(4) as many:

            async def hop(stream: MuxedStream, connection: object) -> None:
                pass

            for server in many[:2]:
                server.node.handle(HOP, hop)
            async with amino(many[0], on_hop=lambda *said: heard.append(said)) as dht:
                await dht.client.closest(KEY)
                await until(lambda: len(heard) == 2)
                for connection in dht.amino._node.connections:
                    await connection.identify()  # again
                assert sorted(heard) == sorted(
                    (server.node.peer_id, server.node.addresses) for server in many[:2]
                )

    run(main())


@pytest.mark.parametrize("wanted", [None, 0, 32])
def test_servers_are_asked_who_they_are_only_while_relays_are_wanted(
    wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HOPS", wanted or 0)
    monkeypatch.setattr(standard, "GREET_DELAY", 0.01)

    async def main() -> None:
        asked: list[DhtServer] = []
        async with servers(3) as many:
            for server in many:

                async def identify(stream: MuxedStream, connection: object, server=server) -> None:
                    asked.append(server)

                server.node.handle(standard.IDENTIFY, identify)
            on_hop = None if wanted is None else lambda peer, addresses: None
            async with amino(many[0], on_hop=on_hop) as dht:
                await dht.client.closest(KEY)
                await asyncio.sleep(0.1)
        assert len(asked) == (3 if wanted else 0)

    run(main())


def test_peers_that_have_nothing_to_do_with_the_dht_are_not_told_of() -> None:
    async def main() -> None:
        heard: list[object] = []
        node = fresh_node()
        async with servers(1) as (one,), amino(node=node, on_hop=lambda *s: heard.append(s)):

            async def hop(stream: MuxedStream, connection: object) -> None:
                pass

            one.node.handle(HOP, hop)
            connection = await node.connect(one.address)
            await connection.identify()
            assert heard == []

    run(main())


def test_closing_in_the_middle_of_everything() -> None:
    """Look-ups that run end with an error, or with what they have."""

    async def main() -> None:
        async with servers(6, dht_lab.stall) as many, amino(*many) as dht:
            looking = [asyncio.create_task(dht.client.closest(b"%d" % n)) for n in range(3)]
            await until(lambda: all(server.asked for server in many))
            await dht.amino.close()
            done, _ = await asyncio.wait(looking, timeout=5)
            assert done == set(looking)
            assert all(isinstance(task.exception(), NetworkError) for task in looking)

    run(main())


def test_the_node_may_be_closed_first() -> None:
    async def main() -> None:
        async with servers(3) as many, amino(many[0]) as dht:
            await dht.client.closest(KEY)
            await dht.amino._node.close()
            with pytest.raises(NetworkError):
                await dht.client.closest(KEY)

    run(main())


def test_a_bootstrap_address_without_an_id_is_refused() -> None:
    with pytest.raises(UsageError):
        Amino(fresh_node(), bootstrap=[Multiaddr.parse("/ip4/11.0.0.1/tcp/1")], cache=None)
