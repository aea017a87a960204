"""Circuits: what once was kept for ever, or let one dead address take the others down."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import ConnectError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node import circuits as module
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.link import Link
from pt.node.route import Route
from pt.relay.messages import HOP, RAW_HOP, RAW_STOP, HopMessage, HopType, Status
from pt.wire.multiaddr import Multiaddr
from tests.sim.world import quiet_pair
from tests.unit.node.relays_lab import full, node, read_hop
from tests.unit.node.test_circuits import TARGET, Reserved, circuit_of, connect, status
from tests.unit.tunnel.loopback import until


@pytest.mark.parametrize("code", [Status.OK, Status.RAW_UNSUPPORTED])
def test_a_request_for_a_raw_circuit_leaves_no_stream(code: Status) -> None:
    """After 512 of them the relay took no more streams on a connection that lasts for days."""

    async def main() -> None:
        relay, dialer = node(), node()

        async def raw(stream: MuxedStream, connection: Connection) -> None:
            await read_hop(stream)
            token = b"t" * 32 if code is Status.OK else None
            await stream.write(HopMessage(HopType.STATUS, status=code, token=token).encode())

        async def hop(stream: MuxedStream, connection: Connection) -> None:
            await read_hop(stream)
            await stream.write(status(Status.NO_RESERVATION))

        relay.handle(RAW_HOP, raw)
        relay.handle(HOP, hop)
        await relay.start()
        circuits = Circuits(dialer)
        for _ in range(3):  # whose second half fails: the relay knows nothing of raw circuits
            with pytest.raises(PtError):
                await dialer.connect(circuit_of(relay))
        (connection,) = relay.connections_of(dialer.peer_id)
        await until(lambda: not connection.link.session.streams)
        await dialer.close()
        await circuits.close()
        await relay.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_dead_address_of_a_relay_does_not_hold_up_the_others() -> None:
    """Behind a broken IPv6, or a firewall that drops port 4001, the relay was never reached."""

    async def main() -> None:
        relay, dialer = node(), node()

        async def hop(stream: MuxedStream, connection: Connection) -> None:
            await read_hop(stream)
            await stream.write(status(Status.NO_RESERVATION))

        relay.handle(HOP, hop)
        await relay.start()
        circuits = Circuits(dialer)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
            dead = Multiaddr.tcp(*silent.getsockname()[:2]).with_peer(relay.peer_id.raw)
            addresses = [
                Multiaddr.parse(f"{way}/p2p-circuit/p2p/{TARGET}") for way in (dead, full(relay))
            ]
            with pytest.raises(PtError, match="not reachable through this relay"):
                await dialer.connect(addresses, timeout=2)
        await dialer.close()
        await circuits.close()
        await relay.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_circuit_to_somebody_else_than_expected_is_not_asked_for() -> None:
    async def main() -> None:
        relay, dialer = node(), node()
        asked = []

        async def hop(stream: MuxedStream, connection: Connection) -> None:
            asked.append(await read_hop(stream))

        relay.handle(HOP, hop)
        await relay.start()
        circuits = Circuits(dialer)
        other = PeerId.from_public_key(PrivateKey.generate(b"o" * 32).public)
        with pytest.raises(ConnectError, match="leads to"):
            await dialer.connect(circuit_of(relay), expected=other)
        assert not asked
        await dialer.close()
        await circuits.close()
        await relay.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_circuit_that_ends_while_it_is_made_does_not_keep_its_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = Link.start

    async def main() -> None:
        relay, dialer = node(), node()
        await relay.start()
        await dialer.start()
        circuits = Circuits(dialer)
        ours, theirs = quiet_pair()

        async def ask(*_: object) -> object:
            return ours, circuits._route(way, full(relay), "relay/circuit", None)

        async def far() -> None:
            await relay.adopt(theirs, Route(full(relay), local=full(relay)), initiator=False)

        def start_and_end(link: Link, *args: bytes) -> None:
            start(link, *args)
            if link._sock is ours:
                link.lose("it was quick to go")

        way = await circuits.relay_connection(full(relay))
        monkeypatch.setattr(module, "IDLE_RELAY", 0.0)
        monkeypatch.setattr(circuits, "_ask", ask)
        monkeypatch.setattr(Link, "start", start_and_end)
        answering = asyncio.create_task(far())
        to_relay = Multiaddr.parse(f"{full(relay)}/p2p-circuit")
        connection = await dialer.connect(to_relay, expected=relay.peer_id)
        assert connection.closed
        await answering
        await until(lambda: way.closed)
        await dialer.close()
        await circuits.close()
        await relay.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_raw_circuits_that_are_being_dialed_count_as_handshakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were counted once connected: a relay could have us dial without end."""

    async def main() -> None:
        async with Reserved() as made:
            circuits = made.relays.circuits
            dialing, refused = 0, asyncio.Event()

            async def dial(relay: Connection, token: bytes) -> socket.socket:
                nonlocal dialing
                dialing += 1
                await refused.wait()
                raise ConnectError("nobody takes it")

            monkeypatch.setattr(circuits, "_raw_socket", dial)
            offer = connect(token=b"t" * 32)
            for _ in range(module.HANDSHAKES_PER_RELAY):
                _, said = await made.offer(offer, RAW_STOP)
                assert said.status == Status.OK
            _, said = await made.offer(offer, RAW_STOP)
            assert said.status == Status.RESOURCE_LIMIT_EXCEEDED
            assert dialing == module.HANDSHAKES_PER_RELAY
            refused.set()
            await until(lambda: not circuits._handshakes)
            _, said = await made.offer(offer, RAW_STOP)
            assert said.status == Status.OK

    asyncio.run(asyncio.wait_for(main(), 10))
