"""The services against a fake gateway: what an honest one grants, and what a hostile one gets."""

from __future__ import annotations

import asyncio
import time

import pytest

from pt.errors import NetworkError, PtError, WaitTimeoutError
from pt.portmap import aio
from pt.portmap.aio import Datagrams, Pcp
from pt.portmap.mapping import MapRefusedError, Service, Wanted
from pt.wire.nat_facts import Protocol
from tests.unit.portmap.fake import EXTERNAL, HOST, FakeGateway, gateway, impatient

UDP = Wanted(Protocol.UDP, 4001)


@pytest.fixture(autouse=True)
def _(monkeypatch):
    impatient(monkeypatch)


def run(coro):
    return asyncio.run(coro)


@pytest.mark.parametrize("service", Service)
def test_a_mapping_from_its_beginning_to_its_end(service):
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[service]
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            assert mapping.service is service
            assert mapping.internal == (HOST, 4001)
            assert mapping.external[0] == EXTERNAL
            assert fake.mapped
            assert await mapper.check(mapping)
            again = await mapper.map(UDP, mapping.external[1])
            assert again.external == mapping.external
            await mapper.unmap(mapping)
            assert not fake.mapped

    run(main())


@pytest.mark.parametrize("service", [Service.PCP, Service.NAT_PMP])
def test_a_reboot_shows_in_the_epoch(service):
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[service]
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            assert await mapper.check(mapping)
            fake.epoch = 1
            assert not await mapper.check(mapping)
            assert mapper.rebooted

    run(main())


@pytest.mark.parametrize("service", [Service.PCP, Service.NAT_PMP])
def test_refusals_name_the_result(service):
    async def main():
        async with gateway() as (fake, mappers):
            fake.result = 2
            with pytest.raises(MapRefusedError, match="NOT_AUTHORIZED"):
                await mappers[service].map(UDP, 0)

    run(main())


def test_a_gateway_of_pcp_need_not_know_its_announcements():
    async def main():
        async with gateway() as (fake, mappers):
            fake.result = 4
            await mappers[Service.PCP].probe()
            fake.result = 1
            with pytest.raises(MapRefusedError, match="UNSUPP_VERSION"):
                await mappers[Service.PCP].probe()

    run(main())


def test_a_gateway_of_nat_pmp_alone_says_so_to_pcp():
    async def main():
        async with gateway() as (fake, mappers):
            fake.speaks = {"nat-pmp"}
            with pytest.raises(MapRefusedError, match="NAT-PMP alone"):
                await mappers[Service.PCP].probe()
            await mappers[Service.NAT_PMP].probe()

    run(main())


@pytest.mark.parametrize("service", Service)
def test_silence_is_noticed(service):
    async def main():
        async with gateway() as (fake, mappers):
            fake.speaks = set()
            began = time.monotonic()
            with pytest.raises(WaitTimeoutError):
                await mappers[service].probe()
            assert time.monotonic() - began < 2.0
            assert fake.asked in (0, len(aio.SENDS))

    run(main())


def test_a_closed_port_is_noticed_at_once():
    async def main():
        async with FakeGateway() as fake:
            place = fake.place
        datagrams = Datagrams(place)
        with pytest.raises(NetworkError, match="no such service"):
            await Pcp(datagrams).probe()
        datagrams.close()

    run(main())


@pytest.mark.parametrize("service", Service)
def test_another_host_is_not_heard(service):
    async def main():
        async with gateway() as (fake, mappers):
            fake.answer_from_elsewhere()
            with pytest.raises(WaitTimeoutError):
                await mappers[service].probe()

    run(main())


@pytest.mark.parametrize("service", [Service.PCP, Service.NAT_PMP])
@pytest.mark.parametrize(
    "mangle",
    [
        lambda data: [b""],
        lambda data: [data[:7]],
        lambda data: [data * 40],
        lambda data: [bytes(each ^ 0xFF for each in data)],
        lambda data: [data[:24] + bytes(12) + data[36:]] if data[0] else [data[:8] + bytes(8)],
    ],
    ids=["empty", "cut", "oversize", "noise", "of another request"],
)
def test_what_is_no_answer_to_us_is_not_heard(service, mangle):
    async def main():
        async with gateway() as (fake, mappers):
            fake.mangle = mangle
            with pytest.raises(WaitTimeoutError):
                await mappers[service].map(UDP, 0)
            # NAT-PMP's external address comes without anything that tells one request from another
            fake.mangle = lambda data: [data] if data[:2] == b"\0\x80" else [*mangle(data), data]
            assert (await mappers[service].map(UDP, 0)).external[0] == EXTERNAL

    run(main())


def test_a_flood_of_answers_does_no_harm():
    async def main():
        async with gateway() as (fake, mappers):
            fake.mangle = lambda data: [b"x"] * 200 + [data] * 50
            for _ in range(5):
                assert (await mappers[Service.PCP].map(UDP, 0)).external[0] == EXTERNAL

    run(main())


@pytest.mark.parametrize("service", Service)
@pytest.mark.parametrize("external", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_external_addresses_that_none_can_have(service, external):
    async def main():
        async with gateway() as (fake, mappers):
            fake.external = external
            with pytest.raises(PtError, match="external address"):
                await mappers[service].probe()
                await mappers[service].map(UDP, 0)

    run(main())


@pytest.mark.parametrize("service", [Service.PCP, Service.NAT_PMP])
def test_mappings_that_end_at_once_are_refused(service):
    async def main():
        async with gateway() as (fake, mappers):
            fake.lifetime = 1
            with pytest.raises(MapRefusedError, match="1 s alone"):
                await mappers[service].map(UDP, 0)

    run(main())


def test_questions_are_bounded():
    async def main():
        async with gateway() as (fake, mappers):
            fake.speaks = set()
            asked = [mappers[Service.PCP].probe() for _ in range(aio.MAX_PENDING + 4)]
            ended = await asyncio.gather(*asked, return_exceptions=True)
            refused = [each for each in ended if "at a time" in str(each)]
            assert len(refused) == 4

    run(main())
