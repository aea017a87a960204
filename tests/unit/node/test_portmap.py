"""The keeper of mappings with fake gateways; real ones: tests/interop/test_portmap.py."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from pt.node import portmap
from pt.node.portmap import PortMapper, ask_gateways
from pt.portmap import aio, leases, upnp
from pt.portmap.aio import Place
from pt.portmap.gateway import Gateway
from pt.portmap.mapping import Service, Wanted
from pt.wire.nat_facts import Protocol
from tests.unit.portmap import fake
from tests.unit.portmap.fake import EXTERNAL, HOST, FakeGateway

UDP = Wanted(Protocol.UDP, 4001)
TCP = Wanted(Protocol.TCP, 4002)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    fake.impatient(monkeypatch)
    monkeypatch.setattr(portmap, "LOOK", 0.02)
    monkeypatch.setattr(portmap, "CHECK", 0.05)
    monkeypatch.setattr(portmap, "PROBE_AGAIN", 0.3)


class World:
    """Who is the default gateway, and what is wanted."""

    def __init__(self, fake: FakeGateway) -> None:
        self.fake = fake
        self.gateways = [fake]
        self.wanted = [UDP, TCP]
        self.changes = 0
        self._news = asyncio.Event()
        self.mapper = PortMapper(
            lambda local: self.wanted,
            self._changed,
            places=lambda: [each.place for each in self.gateways],
        )

    def _changed(self) -> None:
        self.changes += 1
        self._news.set()

    async def until(self, true):
        async with asyncio.timeout(5):
            while not true():
                self._news.clear()
                with_timeout = asyncio.wait_for(self._news.wait(), 0.02)
                try:
                    await with_timeout
                except TimeoutError:
                    continue

    @property
    def externals(self):
        return {each.wanted: each.external for each in self.mapper.mappings}


@asynccontextmanager
async def world(*, start=True):
    async with FakeGateway() as fake:
        made = World(fake)
        if start:
            made.mapper.start()
        try:
            yield made
        finally:
            await made.mapper.close()


def run(coro):
    asyncio.run(coro)


@pytest.mark.parametrize(
    ("speaks", "service"),
    [
        ({"pcp", "nat-pmp", "upnp"}, Service.PCP),
        ({"nat-pmp", "upnp"}, Service.NAT_PMP),
        ({"upnp"}, Service.UPNP),
    ],
)
def test_the_best_service_maps_all_ports_and_gives_them_back(speaks, service):
    async def main():
        async with world() as here:
            here.fake.speaks = speaks
            await here.until(lambda: len(here.externals) == 2)
            assert {each.service for each in here.mapper.mappings} == {service}
            assert {host for host, _ in here.externals.values()} == {EXTERNAL}
            assert len(here.fake.mapped) == 2
            await here.mapper.close()
            assert not here.fake.mapped
            assert not here.mapper.mappings

    run(main())


def test_another_service_does_what_the_first_refuses():
    async def main():
        async with world() as here:
            here.fake.result = 2  # of PCP and NAT-PMP
            await here.until(lambda: len(here.externals) == 2)
            assert {each.service for each in here.mapper.mappings} == {Service.UPNP}

    run(main())


@pytest.mark.parametrize("speaks", [{"pcp"}, {"nat-pmp"}, {"upnp"}])
def test_a_gateway_that_has_rebooted_is_asked_again(speaks):
    async def main():
        async with world() as here:
            here.fake.speaks = speaks
            await here.until(lambda: len(here.externals) == 2)
            here.fake.epoch = 1
            here.fake.mapped.clear()
            await here.until(lambda: len(here.fake.mapped) == 2 and len(here.externals) == 2)
            assert {each.external[1] for each in here.mapper.mappings} == set(
                here.fake.mapped.values()
                if speaks != {"upnp"}
                else [port for _, port in here.fake.mapped]
            )

    run(main())


def test_another_external_address_is_news():
    async def main():
        async with world() as here:
            here.fake.speaks = {"nat-pmp"}
            await here.until(lambda: len(here.externals) == 2)
            here.fake.external = "11.5.0.9"
            await here.until(lambda: {host for host, _ in here.externals.values()} == {"11.5.0.9"})

    run(main())


def test_a_clock_that_lies_all_the_time_brings_no_storm():
    async def main():
        async with world() as here:
            here.fake.speaks = {"pcp"}
            await here.until(lambda: len(here.externals) == 2)

            def lie(data):
                here.fake.epoch = (here.fake.epoch + 5000) % 100_000
                return [data]

            here.fake.mangle = lie
            asked = here.fake.asked
            await asyncio.sleep(0.5)  # ten checks, each a lie
            assert here.fake.asked - asked < 40
            assert not here.externals
            await here.mapper.close()
            assert not here.fake.mapped, "what is not counted on is given back, too"

    run(main())


def test_what_a_gateway_has_is_renewed_by_what_it_knows(monkeypatch):
    """PCP's nonce, for one: services that are probed again have not forgotten it."""
    monkeypatch.setattr(portmap, "PROBE_AGAIN", 0.0)
    monkeypatch.setattr(leases, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(leases, "SOONEST", 0.05)

    async def main():
        async with world() as here:
            here.fake.speaks = {"pcp"}
            await here.until(lambda: len(here.externals) == 2)
            ((site, _),) = here.mapper._sites.values()
            before = dict(site._mappers[Service.PCP]._nonces)
            here.fake.epoch, here.fake.result, here.fake.lifetime = 1, 2, 0
            await here.until(lambda: not here.externals)
            here.fake.result, here.fake.lifetime = 0, 7200
            await here.until(lambda: len(here.externals) == 2)
            assert site._mappers[Service.PCP]._nonces == before

    run(main())


def test_what_is_granted_when_nobody_wants_it_any_more_is_given_back():
    async def main():
        async with world() as here:
            here.fake.speaks = {"pcp"}

            def too_late(data):
                if here.fake.mapped:
                    here.wanted = []
                    ((site, _),) = here.mapper._sites.values()
                    site.want([TCP])
                return [data]

            here.fake.mangle = too_late
            await here.until(lambda: here.wanted == [])
            await here.until(lambda: not here.fake.mapped)

    run(main())


def test_a_port_that_is_not_wanted_any_more_is_given_back():
    async def main():
        async with world() as here:
            await here.until(lambda: len(here.externals) == 2)
            here.wanted = [UDP]
            await here.until(lambda: set(here.externals) == {UDP})
            await here.until(lambda: set(here.fake.mapped) == {("UDP", 4001)})

    run(main())


def test_the_last_port_is_given_back_as_well():
    async def main():
        async with world() as here:
            await here.until(lambda: len(here.externals) == 2)
            here.wanted = []
            await here.until(lambda: not here.externals and not here.fake.mapped)
            here.wanted = [TCP]
            await here.until(lambda: set(here.externals) == {TCP})

    run(main())


def test_nothing_is_asked_before_something_is_wanted():
    async def main():
        async with world(start=False) as here:
            here.wanted = []
            here.mapper.start()
            await asyncio.sleep(0.1)
            assert here.fake.asked == 0
            here.wanted = [UDP]
            await here.until(lambda: set(here.externals) == {UDP})

    run(main())


def test_another_network_has_another_gateway():
    async def main():
        async with world() as here, FakeGateway() as other:
            await here.until(lambda: len(here.externals) == 2)
            other.external = "11.6.0.1"
            here.gateways = [other]
            await here.until(lambda: {host for host, _ in here.externals.values()} == {"11.6.0.1"})
            here.gateways = []
            await here.until(lambda: not here.externals)

    run(main())


def test_a_gateway_without_services_is_asked_again_later():
    async def main():
        async with world() as here:
            here.fake.speaks = set()
            await here.until(lambda: here.fake.asked >= 2 * len(aio.SENDS))
            assert not here.externals
            here.fake.speaks = {"pcp"}
            await here.until(lambda: len(here.externals) == 2)

    run(main())


def test_what_is_granted_while_closing_is_given_back():
    async def main():
        async with world() as here:
            here.fake.speaks = {"pcp"}
            closing = []

            def close_first(data):
                if here.fake.mapped and not closing:
                    closing.append(asyncio.get_running_loop().create_task(here.mapper.close()))
                return [data]

            here.fake.mangle = close_first
            await here.until(lambda: closing)
            await closing[0]
            assert not here.fake.mapped

    run(main())


def test_closing_does_not_wait_for_a_silent_gateway():
    async def main():
        async with world() as here:
            await here.until(lambda: len(here.externals) == 2)
            here.fake.speaks = set()
            async with asyncio.timeout(portmap.RELEASE + 1):
                await here.mapper.close()

    run(main())


def test_a_public_address_needs_no_mapping_and_a_firewall_over_ipv6_may():
    assert not portmap._needed(Place(Gateway(0, "11.0.0.1", "eth0"), "11.0.0.2"))
    assert portmap._needed(Place(Gateway(0, "192.168.1.1", "eth0"), "192.168.1.2"))
    assert portmap._needed(Place(Gateway(0, "100.64.0.1", "eth0"), "100.64.0.2"))
    assert portmap._needed(Place(Gateway(0, "fe80::1", "eth0"), "2a00:6000::2"))


def test_the_services_are_told():
    async def main():
        async with FakeGateway() as fake:
            fake.speaks = {"nat-pmp", "upnp"}
            found = await ask_gateways(lambda: [fake.place])
            assert [(each.service, each.ok) for each in found] == [
                (Service.PCP, False),
                (Service.NAT_PMP, True),
                (Service.UPNP, True),
            ]
            assert found[1].detail == f"external address {EXTERNAL}"
            assert [each.external for each in found] == ["", EXTERNAL, EXTERNAL]
            assert found[0].place.host == HOST
            assert not fake.mapped

    run(main())


def test_a_gateway_that_is_silent_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(aio, "GIVE_UP", 60.0)
    monkeypatch.setattr(upnp, "SEARCH", 60.0)
    monkeypatch.setattr(portmap, "SILENCE", 0.2)
    monkeypatch.setattr(portmap, "ASK", 30.0)

    async def main():
        async with FakeGateway() as fake:
            fake.speaks = set()
            async with asyncio.timeout(10):
                found = await ask_gateways(lambda: [fake.place])
            assert [each.ok for each in found] == [False] * 3

    run(main())


def test_a_service_that_dawdles_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(portmap, "ASK", 0.2)

    async def main():
        async with FakeGateway() as fake:
            fake.drips = True
            found = await ask_gateways(lambda: [fake.place])
            assert [each.ok for each in found] == [True, True, False]
            assert found[2].detail == "no answer in 0.2 s"

    run(main())
