"""What peers say of a node's ports, by connection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence, Protocol
from tests.sim.world import node

ANY = Multiaddr.tcp("0.0.0.0", 0)
SEEN = Multiaddr.tcp("11.5.0.2", 4001)


class Peer(SimpleNamespace):
    __hash__ = object.__hash__


def peer(local: Multiaddr, seen: Multiaddr | None, host: str = "11.1.0.1", **more: object) -> Peer:
    facts = {"relay": None, "closed": False, "on_close": []} | more
    said = SimpleNamespace(observed=seen)
    remote = Multiaddr.tcp(host, 4001)
    return Peer(local_addr=local, remote_addr=remote, identified=said, **facts)


def meet(one: Node, other: Peer) -> None:
    for told in one.on_identified:
        told(other)  # type: ignore[arg-type]


def run(test) -> None:
    async def main() -> None:
        one = node(1)
        one.listen([Multiaddr.tcp("127.0.0.1", 0)])
        try:
            test(one, Multiaddr.tcp(*one.points[0]))
        finally:
            await one.close()

    asyncio.run(main())


def test_a_peer_tells_where_it_sees_a_listening_port_until_it_leaves() -> None:
    def test(one: Node, local: Multiaddr) -> None:
        other = peer(local, SEEN)
        meet(one, other)
        meet(one, other)
        assert one.observed.addresses == [SEEN]
        assert one.observed.seen(Protocol.TCP) == [("11.5.0.2", 4001)]
        assert one.observed.seen(Protocol.UDP) == []
        (left,) = other.on_close
        left("gone")
        assert one.observed.addresses == []

    run(test)


def test_the_shared_udp_port_counts_too() -> None:
    def test(one: Node, _: Multiaddr) -> None:
        one.quic.listen([("127.0.0.1", 0)])
        assert one.quic.udp is not None
        local = Multiaddr.quic(*one.quic.udp.addresses[0])
        meet(one, peer(local, Multiaddr.quic("11.5.0.2", 777)))
        assert one.observed.seen(Protocol.UDP) == [("11.5.0.2", 777)]

    run(test)


def test_what_does_not_count() -> None:
    def test(one: Node, local: Multiaddr) -> None:
        for other in (
            peer(local, None),
            peer(local, SEEN, relay=one.peer_id),
            peer(local, SEEN, closed=True),
            peer(Multiaddr.tcp("127.0.0.1", 1), SEEN),
            peer(local, Multiaddr.tcp("192.168.1.2", 4001)),
        ):
            meet(one, other)
        assert one.observed.addresses == []

    run(test)


def test_how_ports_are_mapped() -> None:
    def test(one: Node, local: Multiaddr) -> None:
        assert one.observed.mapping(SEEN) is Dependence.UNKNOWN
        meet(one, peer(local, SEEN, "11.1.0.1"))
        meet(one, peer(local, Multiaddr.tcp("11.5.0.2", 5000), "11.2.0.1"))
        assert one.observed.mapping(SEEN) is Dependence.ADDRESS
        assert one.observed.mapping(Multiaddr.quic("11.5.0.2", 1)) is Dependence.UNKNOWN
        assert one.observed.mapping(Multiaddr.tcp("2a00:6000::1", 1)) is Dependence.UNKNOWN

    run(test)
