"""UPnP against a fake gateway: ports of a NAT, pinholes of a firewall, and hostile answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from pt.errors import NetworkError, PtError, WaitTimeoutError
from pt.portmap.mapping import LIFETIME, MapRefusedError, PortmapError, Service, Wanted
from pt.portmap.upnp import UpnpFirewall
from pt.wire.nat_facts import Protocol
from tests.unit.portmap.fake import (
    ELSEWHERE,
    EXTERNAL,
    FIREWALL,
    HOST,
    KIND,
    FakeGateway,
    gateway,
    impatient,
)

UDP, TCP = Wanted(Protocol.UDP, 4001), Wanted(Protocol.TCP, 4001)
BOMB = b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'


@pytest.fixture(autouse=True)
def _(monkeypatch):
    impatient(monkeypatch)


def run(coro):
    return asyncio.run(coro)


def test_upnp_tells_that_a_mapping_is_gone():
    async def main():
        async with gateway() as (fake, mappers):
            mapper = mappers[Service.UPNP]
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            fake.mapped.clear()
            assert not await mapper.check(mapping)

    run(main())


def http(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def described(control, kind=KIND):
    return (
        f"<root><service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL>"
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
            mapper._device._search = locations(f"http://{HOST}:1/", "nonsense", good)
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


# --- a firewall ---------------------------------------------------------------------------------


@asynccontextmanager
async def firewall():
    async with FakeGateway() as fake:
        yield fake, UpnpFirewall(fake.place)


def test_pinholes_from_their_beginning_to_their_end():
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            assert mapper.detail == "WANIPv6FirewallControl 1, pinholes allowed"
            one, two = [await mapper.map(each, 1) for each in (UDP, TCP)]
            assert one.pinhole
            assert two.external == two.internal == (HOST, 4001)
            assert two.lifetime == LIFETIME
            assert sorted(fake.pinholes.values()) == [("17", HOST, "4001"), ("6", HOST, "4001")]
            assert await mapper.check(one)
            again = await mapper.map(UDP, 4001)
            assert again == one
            assert len(fake.pinholes) == 2
            assert fake.calls[-1] == "UpdatePinhole"
            await mapper.unmap(again)
            assert not await mapper.check(again)
            assert await mapper.check(two)
            await mapper.unmap(two)
            await mapper.unmap(two)
            assert not fake.pinholes

    run(main())


def test_what_a_firewall_has_forgotten_is_made_anew():
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            fake.pinholes.clear()
            await mapper.map(UDP, 0)
            assert len(fake.pinholes) == 1
            fake.pinholes.clear()
            assert not await mapper.check(mapping)
            await mapper.map(UDP, 0)
            assert fake.calls[-1] == "AddPinhole", "the number may be of another's pinhole"

    run(main())


def test_a_number_that_is_anothers_now_is_not_used():
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            fake.faults = dict.fromkeys(("GetPinholePackets", "UpdatePinhole"), 606)
            assert not await mapper.check(mapping)
            await mapper.map(UDP, 0)
            assert len(fake.pinholes) == 2

    run(main())


def test_a_gateway_that_counts_no_packets_is_believed():
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            mapping = await mapper.map(UDP, 0)
            fake.faults = {"GetPinholePackets": 602}
            assert await mapper.check(mapping)

    run(main())


@pytest.mark.parametrize(
    ("told", "detail"),
    [(("0", "0"), "the firewall is off"), (("1", "0"), "pinholes forbidden")],
)
def test_how_a_firewall_is_set_is_told(told, detail):
    async def main():
        async with firewall() as (fake, mapper):
            fake.firewall = told
            await mapper.probe()
            assert mapper.detail.endswith(detail)

    run(main())


@pytest.mark.parametrize(
    ("code", "why"),
    [(606, "does not let"), (701, "no room"), (702, "is off"), (703, "opens? nothing")],
)
def test_a_refusal_names_the_reason(code, why):
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            fake.faults = {"AddPinhole": code}
            with pytest.raises(MapRefusedError, match=why):
                await mapper.map(UDP, 0)

    run(main())


@pytest.mark.parametrize(
    "reply",
    ["", "<FirewallEnabled>maybe</FirewallEnabled>"],
)
def test_a_firewall_that_answers_nonsense(reply):
    page = described("/ctl", FIREWALL)
    told = f"<GetFirewallStatusResponse>{reply}</GetFirewallStatusResponse>"
    answer = f"<Envelope><Body>{told}</Body></Envelope>".encode()

    async def main():
        async with firewall() as (fake, mapper):
            fake.reply = lambda head: http(200, page if head[:3] == b"GET" else answer)
            with pytest.raises(PortmapError, match="FirewallEnabled"):
                await mapper.probe()

    run(main())


@pytest.mark.parametrize("number", ["", "-1", "65536", "9" * 100, "x"])
def test_a_number_that_is_none(number):
    async def main():
        async with firewall() as (fake, mapper):
            await mapper.probe()
            told = f"<AddPinholeResponse><UniqueID>{number}</UniqueID></AddPinholeResponse>"
            body = f"<Envelope><Body>{told}</Body></Envelope>".encode()
            fake.reply = lambda _: http(200, body)
            with pytest.raises(PortmapError, match="no number"):
                await mapper.map(UDP, 0)

    run(main())


def test_a_gateway_without_a_firewall_to_open():
    async def main():
        async with firewall() as (fake, mapper):
            fake.description = described("/ctl")
            with pytest.raises(PortmapError, match="no service WANIPv6FirewallControl"):
                await mapper.probe()

    run(main())
