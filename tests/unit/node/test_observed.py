"""What peers say of a node's ports, by connection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Protocol
from tests.sim.world import node

ANY = Multiaddr.tcp("0.0.0.0", 0)
SEEN = Multiaddr.tcp("11.5.0.2", 4001)


class Peer(SimpleNamespace):
    __hash__ = object.__hash__


def peer(local: Multiaddr, seen: Multiaddr | None, host: str = "11.1.0.1", **more: object) -> Peer:
    facts = {"relay": None, "closed": False, "initiator": True, "on_close": []} | more
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
        assert one.observed.addresses == one.observed.by_dialed == [SEEN]
        assert one.observed.seen(Protocol.TCP) == [("11.5.0.2", 4001)]
        assert one.observed.seen(Protocol.UDP) == []
        (left,) = other.on_close
        left("gone")
        assert one.observed.addresses == one.observed.by_dialed == []

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


def test_strangers_do_not_count_among_those_whom_we_have_dialed() -> None:
    def test(one: Node, local: Multiaddr) -> None:
        meet(one, peer(local, SEEN, "11.1.0.1"))
        for number in range(2, 9):
            elsewhere = Multiaddr.tcp(f"11.{number}.9.9", 1)
            meet(one, peer(local, elsewhere, f"11.{number}.0.1", initiator=False))
        assert one.observed.by_dialed == [SEEN]

    run(test)


def test_where_each_sees_us_elsewhere_leads_nowhere() -> None:
    def test(one: Node, local: Multiaddr) -> None:
        other = Multiaddr.tcp("11.5.0.2", 5000)
        meet(one, peer(local, SEEN, "11.1.0.1"))
        meet(one, peer(local, other, "11.2.0.1"))
        assert set(one.observed.addresses) == {SEEN, other}
        assert one.observed.by_dialed == []

    run(test)
