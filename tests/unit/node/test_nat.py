"""What servers are asked, and what their silence means; NATs are in tests/e2e/test_nat.py."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from pt.aio.udp import UdpPort
from pt.errors import DnsCause, DnsError, NetworkError, UsageError
from pt.identity.keys import PrivateKey
from pt.node import nat_family
from pt.node.nat import MAX_SERVERS, StunServer, Survey, survey
from pt.node.nat_gateways import Agreement
from pt.node.nat_tcp import TcpDiscovery
from pt.node.node import Node
from pt.node.portmap import Finding
from pt.node.resolve import Resolver
from pt.portmap.aio import Place
from pt.portmap.gateway import Gateway
from pt.portmap.mapping import Service
from pt.stun.aio import Explorer
from pt.stun.discovery import Discovery, Wishes
from pt.stun.server import PRIMARY, Server
from pt.stun.transactions import Schedule
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import NatFacts, Protocol
from tests.sim.loop import run
from tests.unit.portmap.fake import FakeGateway


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(nat_family, "TCP_PATIENCE", 0.3)


QUICKLY = Wishes(mtu=False, schedule=Schedule((0.0, 0.05), 0.2))


@contextlib.asynccontextmanager
async def serving(*, udp: bool = True, tcp: bool = True):
    """A server's port number on loopback, for one protocol or both."""
    server = Server({})

    running: set[asyncio.Task[None]] = set()

    async def stream(reader, writer) -> None:
        running.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            data = await reader.readexactly(28)
            source = writer.get_extra_info("peername")
            answer = server.receive(data, source, PRIMARY, 0.0, stream=True)
            if tcp:
                writer.write(answer.data)
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = await asyncio.start_server(stream, "127.0.0.1", 0)
    number = listener.sockets[0].getsockname()[1]
    port = UdpPort(("127.0.0.1", number))

    def asked(data, source) -> None:
        answer = server.receive(data, source, PRIMARY, 0.0)
        if udp and answer is not None:
            port.send(answer.data, answer.to)

    port.received = asked
    try:
        yield number
    finally:
        listener.close()
        await listener.wait_closed()
        await asyncio.gather(*running)
        port.close()


async def ask(*servers: StunServer, names=None, wishes=QUICKLY, places=None) -> Survey:
    async def look_up(host: str, family: int) -> list[str]:
        if names is None or host not in names:
            raise DnsError(f"{host} has no address", DnsCause.NO_NAME)
        return names[host]

    resolver = Resolver(ask=look_up)
    try:
        return await survey(servers, wishes, resolver=resolver, places=places)
    finally:
        await resolver.close()


def here(port: int) -> StunServer:
    return StunServer("ip4", "127.0.0.1", port)


def test_both_protocols_are_asked():
    async def main() -> None:
        async with serving() as port:
            found = await ask(here(port))
        udp, tcp = found.facts
        assert (udp.protocol, tcp.protocol) == (Protocol.UDP, Protocol.TCP)
        assert udp.works
        assert tcp.works
        assert found.answered
        assert found.problems == ()

    run(main())


def test_silence_of_one_protocol_is_blocked_if_the_other_one_answers():
    async def main() -> None:
        async with serving(udp=False) as port:
            udp, tcp = (await ask(here(port))).facts
        assert (udp.works, tcp.works) == (False, True)
        assert udp.label == "blocked"

    run(main())


def test_nobody_there():
    async def main() -> None:
        async with serving() as port:
            pass
        found = await ask(here(port))
        assert not found.answered
        assert "refused" in found.tcp[0].problem

    run(main())


def test_how_far_each_port_is():
    async def main() -> None:
        async with serving() as gone:
            pass
        async with serving() as port, serving(udp=False, tcp=False) as mute:
            found = await ask(here(gone), here(mute), here(port))
        named = [each for each in found.reach if each.named]
        assert [(each.protocol.name, each.address[1], each.how.value) for each in named] == [
            ("UDP", gone, "silent"),
            ("UDP", mute, "silent"),
            ("UDP", port, "open"),
            ("TCP", gone, "refused"),
            ("TCP", mute, "silent"),
            ("TCP", port, "open"),
        ]

    run(main())


def test_gateways_are_asked_meanwhile_if_that_is_wanted():
    async def main() -> None:
        async with serving() as port, FakeGateway() as fake:
            found = await ask(here(port), places=lambda: [fake.place])
            assert [each.service for each in found.gateways if each.ok] == list(Service)
            assert not fake.mapped
            assert {found.outside(each) for each in found.gateways} == {None, Agreement.ELSEWHERE}
            assert found.seen == ("127.0.0.1",)
            asked = fake.asked
            assert (await ask(here(port))).gateways is None
            assert fake.asked == asked

    run(main())


def test_a_router_with_a_carriers_address_tells_of_the_carriers_nat():
    place = Place(Gateway(0, "192.168.1.1", "eth0"), "192.168.1.2")
    finding = Finding(place, Service.NAT_PMP, ok=True, detail="", external="100.64.0.2")
    facts = NatFacts(external="11.5.0.9", carrier_grade=False)
    six = replace(facts, family=6, external=None)
    alone = Survey(
        udp=(Discovery(facts=facts), Discovery(facts=six)), tcp=(TcpDiscovery(facts=facts),)
    )
    found = alone.with_gateways((finding,))
    assert [each.carrier_grade for each in found.facts] == [True, False, True]
    for other in ("11.5.0.9", "192.168.0.2", ""):
        assert alone.with_gateways((finding._replace(external=other),)).facts == alone.facts


def test_names_are_looked_up():
    async def main() -> None:
        async with serving() as port:
            named = StunServer("dns", "relay.example", port)
            found = await ask(named, names={"relay.example": ["127.0.0.1"]})
            assert found.answered
            assert found.names == {"relay.example": ("127.0.0.1",)}
            lost = StunServer("dns", "lost.example", port)
            found = await ask(named, lost, names={"relay.example": ["127.0.0.1"]})
            assert found.answered
            assert found.problems == ("lost.example has no address",)
            with pytest.raises(DnsError, match="lost"):
                await ask(lost)

    run(main())


def test_no_route_at_all(monkeypatch):
    monkeypatch.setattr("pt.stun.aio.source_address", lambda _: None)
    with pytest.raises(NetworkError, match="no route"):
        run(ask(here(9)))


def test_a_second_server_stands_in_for_a_dead_one():
    async def main() -> None:
        async with serving() as dead:
            pass
        async with serving() as port:
            found = await ask(here(dead), here(port))
        assert found.answered
        assert found.udp[0].silent == (("127.0.0.1", dead),)
        assert found.tcp[0].server == ("127.0.0.1", port)

    run(main())


def test_servers_are_bounded():
    async def main() -> None:
        async with serving() as port:
            several = [here(port)] * MAX_SERVERS
            found = await ask(*several, StunServer("dns", "one.more", 1))
            assert found.problems == ()

    run(main())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/ip4/11.0.0.1/tcp/4001", StunServer("ip4", "11.0.0.1", 4001)),
        ("/ip4/11.0.0.1/udp/4001/quic-v1", StunServer("ip4", "11.0.0.1", 4001)),
        ("/ip6/2001:db8::1/tcp/443/tls/ws", StunServer("ip6", "2001:db8::1", 443)),
        ("/dns4/a.example/tcp/4001", StunServer("dns4", "a.example", 4001)),
    ],
)
def test_a_relay_serves_at_its_ports_number(text, wanted):
    assert StunServer.of_relay(Multiaddr.parse(text)) == wanted


@pytest.mark.parametrize("text", ["/ip4/11.0.0.1", "/dnsaddr/a.example", "/ip4/11.0.0.1/tcp/0"])
def test_addresses_without_a_port(text):
    with pytest.raises(UsageError, match="relay's address"):
        StunServer.of_relay(Multiaddr.parse(text))


def test_servers_as_people_write_them():
    assert str(here(5)) == "127.0.0.1:5"
    assert str(StunServer("ip6", "::1", 5)) == "[::1]:5"


def test_on_the_very_socket_that_quic_uses():
    """Connections of QUIC go on while STUN asks from their port, and sees the mapping they have."""

    async def main() -> None:
        quic = Multiaddr.parse("/ip4/127.0.0.1/udp/0/quic-v1")
        one, two = (
            Node(identity=PrivateKey.generate(bytes([each]) * 32), listen=(quic,), congestion="")
            for each in (1, 2)
        )
        await one.start()
        await two.start()
        try:
            async with serving() as number:
                connection = await one.connect(two.addresses, expected=two.peer_id)
                assert connection.path == "direct/quic"
                udp = one.quic.udp
                explorer = Explorer(udp.send, port=udp.address[1])
                udp.received = explorer.received
                server = ("127.0.0.1", number)
                found, rtt = await asyncio.gather(
                    explorer.discover([server], QUICKLY), connection.ping()
                )
                explorer.close()
                assert found.facts.works
                assert found.binding.mapped == udp.address
                assert rtt > 0
                assert await connection.ping() > 0
        finally:
            await one.close()
            await two.close()

    run(main())
