from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import pytest

from pt.aio.udp import UdpPort
from pt.node import nat_view
from pt.node.nat_view import NatView, sample_from
from pt.node.node import Node
from pt.punch.candidates import Candidate, Kind
from pt.punch.packets import FIRST_BYTE, SIZE
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence, Protocol
from tests.sim.world import node
from tests.unit.node.stun_server import StunOn

HERE = ("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The machine's addresses, as far as these tests go."""
    found = ["192.168.7.7"]
    monkeypatch.setattr(NatView, "_interfaces", lambda self: list(found))
    return found


class Peer(SimpleNamespace):
    __hash__ = object.__hash__


def a_node() -> Node:
    """With its UDP port on loopback."""
    one = node(1)
    one.quic.listen([HERE])
    return one


def view_of(one: Node, *servers: tuple[str, int]) -> NatView:
    return NatView(one, lambda: servers)


def test_without_servers_there_are_only_our_own_addresses() -> None:
    async def main() -> None:
        one = a_node()
        view = view_of(one)
        side = await view.side()
        number = view.udp.addresses[0][1]
        assert side.facts == ()
        assert side.candidates == (Candidate(Kind.HOST, "192.168.7.7", number),)
        await view.close()
        await one.close()

    asyncio.run(main())


def test_a_server_tells_facts_and_where_the_shared_port_is_seen() -> None:
    async def main() -> None:
        one = a_node()
        with StunOn() as server:
            view = view_of(one, server.address)
            side = await view.side()
            (found,) = [each for each in side.candidates if each.kind is Kind.REFLEXIVE]
            assert found.address == ("127.0.0.1", view.udp.addresses[0][1])
            (facts,) = [each for each in side.facts if each.protocol is Protocol.UDP]
            assert facts.works
            assert facts.translated is False
            assert facts.mapping is Dependence.INDEPENDENT
            asked = server.count
            await view.side()
            assert server.count == asked + 1  # facts are known; where we are seen is asked again
        await view.close()
        await one.close()

    asyncio.run(main())


def test_facts_are_measured_again_in_another_network(interfaces: list[str]) -> None:
    async def main() -> None:
        one = a_node()
        with StunOn() as server:
            view = view_of(one, server.address)
            await view.side()
            assert not view._is_stale()
            interfaces.append("192.168.8.8")
            assert view._is_stale()
        await view.close()
        await one.close()

    asyncio.run(main())


def test_a_server_that_is_silent_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_view, "MEASURE", 0.2)
    monkeypatch.setattr(nat_view, "BINDING", 0.1)

    async def main() -> None:
        one = a_node()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(HERE)
            view = view_of(one, silent.getsockname())
            async with asyncio.timeout(10):
                side = await view.side()
        assert side.facts == ()
        assert [each.kind for each in side.candidates] == [Kind.HOST]
        await view.close()
        await one.close()

    asyncio.run(main())


def test_peers_over_quic_tell_where_we_are_seen_if_no_server_does() -> None:
    async def main() -> None:
        one = a_node()
        view = view_of(one)
        observed = Multiaddr.parse("/ip4/11.0.0.9/udp/777/quic-v1")
        peer = Peer(
            relay=None,
            closed=False,
            initiator=True,
            identified=SimpleNamespace(observed=observed),
            local_addr=Multiaddr.quic(*view.udp.addresses[0]),
            remote_addr=Multiaddr.quic("11.1.0.1", 4001),
            on_close=[],
        )
        for told in one.on_identified:
            told(peer)  # type: ignore[arg-type]
        side = await view.side()
        assert Candidate(Kind.REFLEXIVE, "11.0.0.9", 777) in side.candidates
        await view.close()
        await one.close()

    asyncio.run(main())


def test_what_is_neither_stun_nor_a_probe_goes_to_who_had_the_port() -> None:
    async def main() -> None:
        one = a_node()
        before: list[bytes] = []
        udp = one.quic.ready()
        udp.received = lambda data, address: before.append(data)
        view = view_of(one)
        assert view.udp is udp
        assert udp.received is not None
        udp.received(b"\x00overlay", HERE)
        udp.received(bytes((FIRST_BYTE,)) * SIZE, HERE)  # a probe of no attempt
        assert before == [b"\x00overlay"]
        await view.close()
        await one.close()

    asyncio.run(main())


def test_a_fresh_port_is_sampled() -> None:
    async def main() -> None:
        port = UdpPort(HERE)
        with StunOn() as server:
            assert await sample_from(port, server.address) == port.address
        port.close()

    asyncio.run(main())
