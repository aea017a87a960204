"""The services against a fake gateway: what an honest one grants, and what a hostile one gets."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from pt.errors import NetworkError, PtError, WaitTimeoutError
from pt.portmap import aio
from pt.portmap.aio import Datagrams, NatPmp, Pcp, Upnp
from pt.portmap.mapping import MapRefusedError, PortmapError, Service, Wanted
from pt.wire.nat_facts import Protocol
from tests.unit.portmap.fake import ELSEWHERE, EXTERNAL, HOST, KIND, FakeGateway

UDP = Wanted(Protocol.UDP, 4001)
BOMB = b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'


@asynccontextmanager
async def gateway():
    async with FakeGateway() as made:
        datagrams = Datagrams(made.place)
        try:
            yield (
                made,
                {
                    Service.PCP: Pcp(datagrams),
                    Service.NAT_PMP: NatPmp(datagrams),
                    Service.UPNP: Upnp(made.place),
                },
            )
        finally:
            datagrams.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Silence is told by shorter waits; the order of things is the same."""
    monkeypatch.setattr(aio, "SENDS", (0.0, 0.02, 0.05))
    monkeypatch.setattr(aio, "GIVE_UP", 0.2)
    monkeypatch.setattr(aio, "SEARCH", 0.2)
    monkeypatch.setattr(aio, "HTTP", 0.4)


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


def test_upnp_tells_that_a_mapping_is_gone():
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[Service.UPNP]
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            fake.mapped.clear()
            assert not await mapper.check(mapping)

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


# --- UPnP ---------------------------------------------------------------------------------------


def http(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def described(control):
    return (
        f"<root><service><serviceType>{KIND}</serviceType><controlURL>{control}</controlURL>"
        "</service></root>"
    ).encode()


@pytest.mark.parametrize(
    "location",
    [
        f"http://{ELSEWHERE}:80/root.xml",
        "http://11.0.0.1/root.xml",
        "http://gateway.example/root.xml",
        f"https://{HOST}/root.xml",
        f"file://{HOST}/etc/passwd",
    ],
)
def test_descriptions_elsewhere_are_not_fetched(location):
    async def main():
        async with gateway() as (fake, mappers):
            fake.location = location
            with pytest.raises(PortmapError):
                await mappers[Service.UPNP].probe()
            assert not fake.peers

    run(main())


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (lambda _: http(302, b"", "Location: http://11.0.0.1/"), "redirects"),
        (lambda _: http(404), "404"),
        (lambda _: http(200, BOMB), "document type"),
        (lambda _: http(200, b"x" * (1 << 20)), "over"),
        (lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10000, "HTTP"),
        (lambda _: b"\0" * 100, "HTTP"),
        (lambda _: b"", "HTTP|closed"),
        (lambda _: http(200, described("http://11.0.0.1/ctl")), "another host"),
        (lambda _: http(200, b"<root/>"), "no service"),
    ],
)
def test_hostile_descriptions(reply, why):
    async def main():
        async with gateway() as (fake, mappers):
            fake.reply = reply
            with pytest.raises(PtError, match=why):
                await mappers[Service.UPNP].probe()

    run(main())


def test_a_slow_answer_ends_in_time():
    async def main():
        async with gateway() as (fake, mappers):
            fake.drips = True
            fake.description = b"x" * 100_000
            began = time.monotonic()
            with pytest.raises(WaitTimeoutError, match="no answer"):
                await mappers[Service.UPNP].probe()
            assert time.monotonic() - began < 2.0

    run(main())


def locations(*told):
    async def search():
        return list(told)

    return search


def test_a_good_description_counts_after_bad_ones():
    async def main():
        async with gateway() as (fake, mappers):
            good = f"http://{HOST}:{fake.http_port}/root.xml"
            mapper = mappers[Service.UPNP]
            mapper._search = locations(f"http://{HOST}:1/", "nonsense", good)
            await mapper.probe()
            assert mapper.detail == f"WANIPConnection 1, external address {EXTERNAL}"

    run(main())


def test_a_mapping_to_another_host_is_refused():
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[Service.UPNP]
            await mapper.probe()
            fake.entry = (ELSEWHERE, "22")
            with pytest.raises(PortmapError, match="not to us"):
                await mapper.map(UDP, 0)

    run(main())


@pytest.mark.parametrize("body", [BOMB, b"", b"<a/>", b"x" * (1 << 20)])
def test_hostile_answers_to_calls(body):
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[Service.UPNP]
            await mapper.probe()
            fake.reply = lambda _: http(200, body)
            with pytest.raises(PortmapError):
                await mapper.map(UDP, 0)

    run(main())


def test_nothing_is_asked_before_it_was_found():
    async def main():
        async with gateway() as (_, mappers):
            with pytest.raises(NetworkError, match="no gateway"):
                await mappers[Service.UPNP].map(UDP, 0)

    run(main())
