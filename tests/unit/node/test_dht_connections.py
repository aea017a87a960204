"""Connections to DHT servers: few, kept for a while, and never somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, ConnectError, PtError, ResetError
from pt.kad.messages import KadMessageError, Message, MessageType, PeerInfo, Record
from pt.multistream.negotiation import UnsupportedError
from pt.node import circuits as circuits_module
from pt.node import dht_connections as module
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.dht_connections import DhtConnections, Trouble
from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run as run_virtually
from tests.unit.node import dht_lab
from tests.unit.node.dht_lab import FIND, DhtServer, fresh_node, nowhere, servers
from tests.unit.tunnel.loopback import until


@contextlib.asynccontextmanager
async def asking(node: Node | None = None, **options: object) -> AsyncIterator[DhtConnections]:
    """What is tested, on a node that listens nowhere; nothing is left afterwards."""
    own = node or fresh_node()
    await own.start()
    options.setdefault("public_only", False)
    connections = DhtConnections(own, **options)
    try:
        yield connections
    finally:
        await connections.close()
        assert connections.sockets == 0
        await own.close()
        assert own.connections == set()


def run(coro: object) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await coro  # type: ignore[misc]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(main())


def ours(connections: DhtConnections) -> list[Connection]:
    return [each for each in connections._node.connections if connections.concerns(each)]


# --- requests ------------------------------------------------------------------------------------


def test_a_reply_says_what_its_connection_has_taken_besides() -> None:
    """The hand-shake with the first one; all replies together are all bytes, nearly."""

    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            replies = [await dht.ask(one.info, FIND) for _ in range(3)]
            size = len(FIND.encode())
            said = sum(size + reply.size + reply.overhead for reply in replies)
            assert 700 < replies[0].overhead < 2500
            assert all(100 < reply.overhead < 500 for reply in replies[1:])
            assert dht.sent + dht.received - 200 < said <= dht.sent + dht.received

    run(main())


def test_a_connection_of_somebody_else_is_not_charged() -> None:
    async def main() -> None:
        own = fresh_node()
        async with servers(1) as (one,), asking(own) as dht:
            await own.connect(one.node.addresses, expected=one.node.peer_id)
            assert (await dht.ask(one.info, FIND)).overhead == 0

    run(main())


def test_a_request_and_the_next_one_over_the_same_connection() -> None:
    async def main() -> None:
        async with servers(3) as (one, *_), asking() as dht:
            for _ in range(3):
                reply = await dht.ask(one.info, FIND)
                assert len(reply.closer) == 2
            assert len(one.node.connections) == 1
            assert (dht.sockets, dht.most_sockets) == (1, 1)
            assert (dht.requests, dht.replies) == (3, 3)

    run(main())


def test_every_kind_of_request() -> None:
    value = Message(MessageType.PUT_VALUE, b"key", record=Record(b"key", b"value"))

    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            assert (await dht.ask(one.info, value)).record == value.record
            got = await dht.ask(one.info, Message(MessageType.GET_VALUE, b"key"))
            assert got.record == value.record
            me = PeerInfo(dht._node.peer_id, (Multiaddr.parse("/ip4/11.1.1.1/tcp/1"),))
            provide = Message(MessageType.ADD_PROVIDER, b"mh", providers=(me,))
            assert await dht.ask(one.info, provide) == provide
            found = await dht.ask(one.info, Message(MessageType.GET_PROVIDERS, b"mh"))
            assert found.providers == (me,)

    run(main())


def test_requests_at_the_same_time_share_a_connection() -> None:
    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            replies = await asyncio.gather(*(dht.ask(one.info, FIND) for _ in range(10)))
            assert len(replies) == 10
            assert len(one.node.connections) == 1
            assert dht.most_sockets == 1

    run(main())


@pytest.mark.parametrize(
    ("serve", "error", "trouble"),
    [
        (dht_lab.garbage, KadMessageError, Trouble.NOT_DHT),
        (dht_lab.end, ClosedError, Trouble.CLOSED),
        (dht_lab.reset, ResetError, Trouble.CLOSED),
    ],
)
def test_servers_that_do_not_answer_as_they_should(serve, error, trouble) -> None:
    """The connection is of no use then."""

    async def main() -> None:
        async with servers(1, serve) as (one,), asking() as dht:
            with pytest.raises(error):
                await dht.ask(one.info, FIND)
            assert dht.troubles == {trouble: 1}
            assert dht.sockets == 0
            assert one.asked == 1, "what a server has refused is not asked again"

    run(main())


def test_who_is_no_server_of_the_dht() -> None:
    async def main() -> None:
        plain = fresh_node(listen=(Multiaddr.tcp("127.0.0.1", 0),))
        await plain.start()
        async with asking() as dht:
            for kind in (MessageType.FIND_NODE, MessageType.ADD_PROVIDER):
                with pytest.raises(UnsupportedError):
                    await dht.ask(PeerInfo(plain.peer_id, plain.addresses), Message(kind, b"k"))
                assert dht.sockets == 0
            assert dht.troubles == {Trouble.NOT_DHT: 2}
        await plain.close()

    run(main())


def test_somebody_else_at_the_address() -> None:
    async def main() -> None:
        async with servers(2) as (one, two), asking() as dht:
            with pytest.raises(PtError, match="peer"):
                await dht.ask(PeerInfo(one.node.peer_id, two.node.addresses), FIND)
            assert dht.troubles == {Trouble.NOT_DHT: 1}
            assert two.asked == 0

    run(main())


def test_nobody_at_the_address() -> None:
    async def main() -> None:
        async with asking() as dht:
            info = PeerInfo(fresh_node().peer_id, tuple(nowhere(2)))
            with pytest.raises(ConnectError):
                await dht.ask(info, FIND)
            assert dht.troubles == {Trouble.REFUSED: 2}
            assert dht.sockets == 0

    run(main())


def test_troubles_are_those_since_the_last_reply() -> None:
    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            with pytest.raises(ConnectError):
                await dht.ask(PeerInfo(fresh_node().peer_id, tuple(nowhere(1))), FIND)
            await dht.ask(one.info, FIND)
            assert not dht.troubles

    run(main())


def test_a_server_that_stalls_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW", 0.05)

    async def main() -> None:
        async with servers(1, dht_lab.stall) as (one,), asking() as dht:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await dht.ask(one.info, FIND)
            assert dht.sockets == 0
            assert dht.troubles == {Trouble.NO_ANSWER: 1}

    run(main())


def test_a_request_that_is_given_up_early_says_nothing_about_the_server() -> None:
    """A look-up that has found what it wanted leaves its connections to the next."""

    async def main() -> None:
        async with servers(1, dht_lab.stall) as (one,), asking() as dht:
            task = asyncio.create_task(dht.ask(one.info, FIND))
            await until(lambda: one.asked)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert dht.sockets == 1
            assert not dht.troubles

    run(main())


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/udp/4001/quic",
        "/ip4/127.0.0.1/tcp/4001/ws",
        "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8/p2p-circuit",
        "/dns4/localhost/tcp/4001",
        "/ip4/127.0.0.1/tcp/0",
    ],
)
def test_what_is_not_dialed(address: str) -> None:
    """Other transports, relays, and names: those that strangers tell may be anybody's."""

    async def main() -> None:
        async with asking() as dht:
            with pytest.raises(ConnectError, match="TCP"):
                await dht.ask(PeerInfo(fresh_node().peer_id, (Multiaddr.parse(address),)), FIND)
            assert dht.most_sockets == 0
            assert not dht.troubles

    run(main())


def test_private_addresses_are_not_dialed_on_the_public_dht() -> None:
    async def main() -> None:
        async with servers(1) as (one,), asking(public_only=True) as dht:
            with pytest.raises(ConnectError):
                await dht.ask(one.info, FIND)
            assert dht.most_sockets == 0

    run(main())


def test_the_order_of_addresses() -> None:
    async def main() -> None:
        async with asking(public_only=True) as dht:
            told = (
                "/ip6/2a00::1/tcp/1",
                "/ip4/10.0.0.1/tcp/1",
                "/ip4/11.0.0.1/udp/1/quic-v1",
                "/ip4/11.0.0.1/tcp/1",
                "/ip6/2a00::2/tcp/1",
                "/ip4/11.0.0.2/tcp/1",
                "/ip4/11.0.0.3/tcp/1",
            )
            info = PeerInfo(fresh_node().peer_id, tuple(map(Multiaddr.parse, told)))
            assert [str(each.address) for each in dht._attempts(info)] == [
                "/ip4/11.0.0.1/tcp/1",
                "/ip6/2a00::1/tcp/1",
                "/ip4/11.0.0.2/tcp/1",
                "/ip4/11.0.0.1/udp/1/quic-v1",
            ]
            tcp, quic = dht._attempts(info)[-2:]
            assert tcp.delay < module.QUIC_AFTER < quic.delay, "only if TCP does not come through"
            alone = PeerInfo(info.id, (Multiaddr.parse(told[2]),))
            assert [each.delay for each in dht._attempts(alone)] == [0.0]

    run(main())


# --- the budget ----------------------------------------------------------------------------------


def test_no_more_sockets_than_the_budget() -> None:
    """Thirty servers over five sockets: each is asked, and the ones used last stay."""

    async def main() -> None:
        async with servers(30) as many, asking(most=5) as dht:
            open_now = []

            async def ask(server: DhtServer) -> None:
                await dht.ask(server.info, FIND)
                open_now.append(len(dht._node.connections))

            await asyncio.gather(*(ask(server) for server in many))
            assert all(server.asked == 1 for server in many)
            assert dht.most_sockets == 5
            assert max(open_now) <= 5
            for server in many[:7]:
                await dht.ask(server.info, FIND)
            there = {each.peer_id for each in dht._node.connections}
            assert there == {server.node.peer_id for server in many[2:7]}

    run(main())


def test_attempts_that_are_refused_give_their_places_back() -> None:
    async def main() -> None:
        dead = nowhere(8)
        async with servers(1) as (one,), asking(most=2) as dht:
            infos = [PeerInfo(fresh_node().peer_id, tuple(dead[n:])) for n in range(4)]
            tasks = [asyncio.create_task(dht.ask(info, FIND)) for info in infos]
            await dht.ask(one.info, FIND)
            await asyncio.wait(tasks)
            assert all(isinstance(task.exception(), ConnectError) for task in tasks)
            assert dht.most_sockets == 2
            assert dht.sockets <= 1

    run(main())


def test_a_place_given_to_who_gave_up_is_not_lost() -> None:
    async def main() -> None:
        async with servers(3, dht_lab.stall) as (one, two, three), asking(most=1) as dht:
            first = asyncio.create_task(dht.ask(one.info, FIND))
            await until(lambda: one.asked)
            second = asyncio.create_task(dht.ask(two.info, FIND))
            third = asyncio.create_task(dht.ask(three.info, FIND))
            await until(lambda: len(dht._waiting) == 2)
            dht._wake()  # the second one's turn, who gives up in the same moment
            second.cancel()
            first.cancel()
            await until(lambda: three.asked)
            assert two.asked == 0
            third.cancel()
            await asyncio.wait([first, second, third])

    run(main())


def test_idle_connections_are_closed_in_time() -> None:
    async def main() -> None:
        async with servers(2) as (one, two), asking(idle=0.5) as dht:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await dht.ask(one.info, FIND)
            await dht.ask(two.info, FIND)
            await asyncio.sleep(0.1)
            await dht.ask(two.info, FIND)
            later = loop.time()
            await until(lambda: dht.sockets == 1)
            assert loop.time() - began >= 0.5
            assert [each.peer_id for each in dht._node.connections] == [two.node.peer_id]
            await until(lambda: dht.sockets == 0)
            assert loop.time() - later >= 0.5

    run(main())


def test_a_request_that_takes_long_is_not_idle() -> None:
    async def slowly(stream: MuxedStream, request: Message) -> None:
        await asyncio.sleep(0.2)
        await stream.write(Message(request.type).encode())

    async def main() -> None:
        async with servers(1, slowly) as (one,), asking(idle=0.05) as dht:
            assert (await dht.ask(one.info, FIND)).closer == ()

    run(main())


def test_a_changed_network_drops_what_is_idle() -> None:
    async def main() -> None:
        async with servers(2) as (one, two), asking() as dht:
            await dht.ask(one.info, FIND)
            await dht.ask(two.info, FIND)
            dht.drop_idle()
            assert dht.sockets == 0
            await dht.ask(one.info, FIND)

    run(main())


def test_a_server_that_has_closed_meanwhile_is_dialed_again() -> None:
    """Servers trim their connections; what they closed is no failure."""

    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            await dht.ask(one.info, FIND)
            (there,) = one.node.connections
            there.close("trimmed")
            await until(lambda: dht.sockets == 0)
            await dht.ask(one.info, FIND)
            assert not dht.troubles

    run(main())


def test_a_server_that_closes_while_it_is_asked_is_asked_again_once() -> None:
    async def main() -> None:
        async with servers(1) as (one,), asking() as dht:
            await dht.ask(one.info, FIND)

            async def hang_up(stream: MuxedStream, request: Message) -> None:
                for connection in list(one.node.connections):
                    connection.close("trimmed")

            one.serve = hang_up
            with pytest.raises(ClosedError):
                await dht.ask(one.info, FIND)
            assert one.asked == 3, "over the old connection and over a new one"

    run(main())


# --- other people's ------------------------------------------------------------------------------


def test_a_connection_that_is_there_is_used_and_left_alone() -> None:
    async def main() -> None:
        node = fresh_node()
        async with servers(1) as (one,), asking(node) as dht:
            theirs = await node.connect(one.address)
            await dht.ask(one.info, FIND)
            assert node.connections == {theirs}
            assert dht.most_sockets == 0
            dht.drop_idle()
            await dht.close()
            assert not theirs.closed
            assert theirs.uses == 0

    run(main())


@pytest.mark.parametrize("when", ["idle", "asking"])
def test_a_connection_that_somebody_else_begins_to_use_is_theirs(when: str) -> None:
    """A server of the DHT that becomes our relay, for instance."""

    async def main() -> None:
        node = fresh_node()
        circuits = Circuits(node)
        async with servers(1) as (one,), asking(node) as dht:
            await dht.ask(one.info, FIND)
            (connection,) = ours(dht)
            sent = dht.sent
            assert await circuits.relay_connection(one.address) is connection
            circuits.use(connection)
            if when == "asking":
                await dht.ask(one.info, FIND)
                assert dht.sent > sent
            else:
                dht.drop_idle()
                assert dht.sent >= sent
            assert not connection.closed
            assert dht.sockets == 0, "it is not the DHT's any more"
            await dht.close()
            assert not connection.closed
        await circuits.close()

    run(main())


def test_a_relay_that_the_dht_is_asking_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits_module, "IDLE_RELAY", 0.05)
    go_on = asyncio.Event()

    async def wait(stream: MuxedStream, request: Message) -> None:
        await go_on.wait()
        await stream.write(Message(request.type).encode())

    async def main() -> None:
        node = fresh_node()
        circuits = Circuits(node)
        async with servers(1, wait) as (one,), asking(node) as dht:
            connection = await circuits.relay_connection(one.address)
            task = asyncio.create_task(dht.ask(one.info, FIND))
            await until(lambda: one.asked)
            await asyncio.sleep(0.12)
            assert not connection.closed
            go_on.set()
            await task
            await until(lambda: connection.closed)
        await circuits.close()

    run(main())


# --- counting, and the end -----------------------------------------------------------------------


def test_bytes_are_those_that_the_servers_see() -> None:
    async def main() -> None:
        async with servers(3) as many, asking() as dht:
            there: list[Connection] = []
            for server in many:
                server.node.on_connection.append(there.append)
            for _ in range(2):
                for server in many:
                    await dht.ask(server.info, FIND)
            dht.drop_idle()
            await until(lambda: all(each.closed for each in there))
            assert dht.sent == sum(each.link.bytes_in for each in there)
            assert dht.received == sum(each.link.bytes_out for each in there)
            assert dht.sent > 3 * 400, "hand-shakes are in it"

    run(main())


def test_closing_ends_what_is_under_way() -> None:
    """Who waits is told, and not taken for cancelled."""

    async def main() -> None:
        async with servers(2, dht_lab.stall) as (one, two), asking(most=1) as dht:
            running = asyncio.create_task(dht.ask(one.info, FIND))
            await until(lambda: one.asked)
            dialing = asyncio.create_task(dht.ask(two.info, FIND))
            await until(lambda: dht._waiting)
            await dht.close()
            await asyncio.wait([running, dialing])
            for task in (running, dialing):
                assert isinstance(task.exception(), ClosedError)
            with pytest.raises(ClosedError):
                await dht.ask(two.info, FIND)

    run(main())


def test_a_dial_that_nobody_waits_for_any_more_is_given_up() -> None:
    async def main() -> None:
        async with servers(1, dht_lab.stall) as (one,), asking(most=1) as dht:
            busy = asyncio.create_task(dht.ask(one.info, FIND))
            await until(lambda: one.asked)
            info = PeerInfo(fresh_node().peer_id, tuple(nowhere(1)))
            tasks = [asyncio.create_task(dht.ask(info, FIND)) for _ in range(2)]
            await until(lambda: dht._waiting)
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            assert dht._waiting, "the other one still wants it"
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            await until(lambda: not dht._waiting and not dht._dialing)
            busy.cancel()
            await asyncio.wait([busy])

    run(main())


def test_a_server_that_has_quic_alone() -> None:
    async def main() -> None:
        own = fresh_node()
        own.quic.brief = True
        own.quic.listen([("127.0.0.1", 0)])
        async with servers(2) as (one, _), asking(own) as dht:
            one.node.listen([Multiaddr.quic("127.1.0.1", 0)])
            over_udp = [each for each in one.node.addresses if each.transport == "quic-v1"]
            reply = await dht.ask(PeerInfo(one.node.peer_id, tuple(over_udp)), FIND)
            assert len(reply.closer) == 1
            assert [each.path for each in own.connections] == ["direct/quic"]
            assert reply.overhead < 16_000  # the server looks for larger datagrams

    run(main())
