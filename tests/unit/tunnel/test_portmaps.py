"""Who is told of mappings; with a fake gateway and a node that has only what it takes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pt.autonat.reachability import State
from pt.node import portmap
from pt.node.outside import Outside
from pt.node.portmap import PortMapper
from pt.portmap.mapping import Mapping, Service, Wanted
from pt.trace import NO_TRACE
from pt.tunnel import portmaps
from pt.tunnel.portmaps import PortMappings, map_meanwhile, wanted_of
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Protocol
from tests.unit.portmap.fake import EXTERNAL, FakeGateway

GIVEN = Multiaddr.tcp("11.7.0.1", 1)


class Quic:
    udp = None


VIEW = SimpleNamespace(servers=list, stun=None)
"""Of which nobody can be asked; who made it closes it."""


class Node:
    def __init__(self):
        self.quic = Quic()
        self.points = [("0.0.0.0", 4001), ("127.0.0.1", 1)]
        self.announce = (GIVEN,)
        self.mapped = ()
        self.tracer = NO_TRACE
        self.observed = SimpleNamespace(seen=lambda protocol: self.seen)
        self.seen = []
        self.on_identified = []

    def meet(self, host, port):
        """A peer out there says where it sees our TCP port."""
        made = SimpleNamespace(relay=None, remote_addr=Multiaddr.tcp("11.1.0.1", 4001))
        self.seen = [(host, int(port))]
        for each in self.on_identified:
            each(made)


class World:
    def __init__(self, fake):
        self.fake = fake
        self.node = Node()
        self.events = []
        self.changes = 0
        self.dialed = {}

    def changed(self):
        self.changes += 1

    def make(self):
        return PortMappings(
            self.node,
            VIEW,
            self.events.append,
            changed=self.changed,
            state=lambda address: self.dialed.get(address, State.UNKNOWN),
        )

    async def told(self, outside):
        async with asyncio.timeout(5):
            while not self.events or self.events[-1].outside != outside:
                await asyncio.sleep(0.01)
        return self.events[-1]


@asynccontextmanager
async def world(monkeypatch):
    monkeypatch.setattr(portmap, "LOOK", 0.02)
    monkeypatch.setattr(portmap, "CHECK", 0.05)
    monkeypatch.setattr(portmaps, "PAUSE", 0.01)
    async with FakeGateway() as fake:
        fake.speaks = {"pcp"}

        def mapper(*args, **kwargs):
            return PortMapper(*args, **{**kwargs, "places": lambda: [fake.place]})

        monkeypatch.setattr(portmaps, "PortMapper", mapper)
        yield World(fake)


def test_a_mapping_is_announced_when_a_peer_has_seen_us_there_and_withdrawn(monkeypatch):
    async def main():
        async with world(monkeypatch) as here:
            mappings = here.make()
            mappings.start()
            event = await here.told("unverified")
            assert (event.ok, event.service, event.protocol) == (True, "PCP", "tcp")
            assert here.node.announce == (GIVEN,)
            host, port = event.external.split(":")
            here.node.meet(host, int(port))
            await here.told("verified")
            assert here.node.announce == (GIVEN, Multiaddr.tcp(host, int(port)))
            assert here.changes == 1
            await mappings.close()
            assert here.node.announce == (GIVEN,)
            assert not here.fake.mapped
            assert not here.node.on_identified

    asyncio.run(main())


@pytest.mark.parametrize(
    ("external", "outside"), [("100.64.0.7", "carrier"), ("10.0.0.7", "private")]
)
def test_what_is_not_public_is_told_and_never_announced(monkeypatch, external, outside):
    async def main():
        async with world(monkeypatch) as here:
            here.fake.external = external
            mappings = here.make()
            mappings.start()
            event = await here.told(outside)
            here.node.meet(*event.external.split(":"))
            await asyncio.sleep(0.1)
            assert here.node.announce == (GIVEN,)
            assert len(here.events) == 1
            await mappings.close()

    asyncio.run(main())


def test_another_nat_behind_the_router_is_noticed(monkeypatch):
    async def main():
        async with world(monkeypatch) as here:
            mappings = here.make()
            mappings.start()
            await here.told("unverified")
            here.node.meet("11.99.0.1", 4001)
            assert "another NAT" in (await here.told("elsewhere")).detail
            assert here.node.announce == (GIVEN,)
            await mappings.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "outside"), [(State.REACHABLE, "verified"), (State.UNREACHABLE, "closed")]
)
def test_what_autonat_servers_have_dialed_counts_more_than_what_is_seen(
    monkeypatch, state, outside
):
    async def main():
        async with world(monkeypatch) as here:
            mappings = here.make()
            mappings.start()
            event = await here.told("unverified")
            host, port = event.external.split(":")
            (address,) = mappings.addresses
            assert address == Multiaddr.tcp(host, int(port))
            here.dialed[address] = state
            here.node.meet(host, port)
            await here.told(outside)
            assert (address in here.node.announce) is (state is State.REACHABLE)
            await mappings.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "strangers", "outside"),
    [
        (State.REACHABLE, None, Outside.VERIFIED),
        (State.REACHABLE, False, Outside.CLOSED),
        (State.UNREACHABLE, True, Outside.CLOSED),
        (State.UNKNOWN, True, Outside.VERIFIED),
        (State.UNKNOWN, None, Outside.UNVERIFIED),
    ],
)
def test_whoever_found_it_closed_is_believed(monkeypatch, state, strangers, outside):
    async def seen_by_servers(*_):
        return [], strangers

    async def main():
        async with world(monkeypatch) as here:
            monkeypatch.setattr(portmaps, "seen_by_servers", seen_by_servers)
            here.node.quic.udp = SimpleNamespace(addresses=[("0.0.0.0", 4002)])
            here.dialed[Multiaddr.quic("11.5.0.2", 4002)] = state
            mappings = here.make()
            made = Mapping(
                service=Service.PCP,
                wanted=Wanted(Protocol.UDP, 4002),
                internal=("192.168.1.2", 4002),
                external=("11.5.0.2", 4002),
                lifetime=60,
            )
            assert await mappings._judge(made) is outside
            here.node.quic.udp = None
            await mappings.close()

    asyncio.run(main())


async def nothing():
    pass


def test_a_port_that_is_closed_is_not_mapped_any_more(monkeypatch):
    async def main():
        async with world(monkeypatch) as here:
            mappings = here.make()
            mappings.start()
            await here.told("unverified")
            here.node.points = []
            event = await here.told("gone")
            assert not event.ok
            await mappings.close()

    asyncio.run(main())


def test_mapping_for_as_long_as_it_is_wanted(monkeypatch):
    async def main():
        async with world(monkeypatch) as here:
            job = map_meanwhile(here.node, VIEW, here.events.append, changed=here.changed)
            task = asyncio.get_running_loop().create_task(job)
            await here.told("unverified")
            assert here.fake.mapped
            task.cancel()
            await asyncio.wait([task])
            assert not here.fake.mapped

    asyncio.run(main())


def test_what_is_wanted():
    four, six = "192.168.1.2", "2a00:6000::2"
    node = Node()
    assert wanted_of(node, four) == [Wanted(Protocol.TCP, 4001)]
    assert wanted_of(node, six) == []
    node.quic.udp = SimpleNamespace(addresses=[("0.0.0.0", 4002), ("::", 4003)])
    assert wanted_of(node, four) == [Wanted(Protocol.UDP, 4002), Wanted(Protocol.TCP, 4001)]
    assert wanted_of(node, six) == [Wanted(Protocol.UDP, 4003)]
    node.points = [("127.0.0.1", 4001), ("::1", 4001), (six, 4004)]
    node.quic.udp = SimpleNamespace(addresses=[("192.168.9.9", 4002)])
    assert wanted_of(node, four) == []
    assert wanted_of(node, six) == [Wanted(Protocol.TCP, 4004)]


def test_a_port_that_two_gateways_map_is_told_of_twice(monkeypatch):
    async def main():
        async with world(monkeypatch) as here, FakeGateway() as other:
            other.external = "11.6.0.1"
            places = [here.fake.place, replace(other.place, local="127.0.0.3")]

            def mapper(*args, **kwargs):
                return PortMapper(*args, **{**kwargs, "places": lambda: places})

            monkeypatch.setattr(portmaps, "PortMapper", mapper)
            mappings = here.make()
            mappings.start()
            async with asyncio.timeout(5):
                while len(here.events) < 2:
                    await asyncio.sleep(0.01)
            assert {each.external.split(":")[0] for each in here.events} == {EXTERNAL, "11.6.0.1"}
            await mappings.close()

    asyncio.run(main())
