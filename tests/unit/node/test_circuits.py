"""Circuits through relays that cheat, and circuits that nobody may offer us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pt.aio.hangup import HangupWatch
from pt.aio.muxed import MuxedStream
from pt.errors import ConnectError, LimitedError, PtError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import UnsupportedError
from pt.node import circuits as module
from pt.node.bridge import socket_on
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.relays import Relays
from pt.node.route import Route
from pt.relay import aio as relay_aio
from pt.relay.messages import (
    HOP,
    MAX_MESSAGE,
    RAW_STOP,
    STOP,
    HopMessage,
    HopType,
    Limit,
    Peer,
    Status,
    StopMessage,
    StopType,
)
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.node.relays_lab import Behaviour, full, granted, node, read_hop, scripted

TARGET = PeerId.from_public_key(PrivateKey.generate(b"t" * 32).public)


def circuit_of(relay: Node, target: PeerId = TARGET) -> Multiaddr:
    return Multiaddr.parse(f"{full(relay)}/p2p-circuit/p2p/{target}")


def status(code: Status, **facts: object) -> bytes:
    return HopMessage(HopType.STATUS, status=code, **facts).encode()  # type: ignore[arg-type]


def saying(answer: bytes, *, then: str = "end") -> object:
    """A relay that answers CONNECT so, and then ends, resets or holds the stream."""

    def behave(_: Node) -> Behaviour:
        async def hop(stream: MuxedStream, connection: Connection) -> None:
            message = await read_hop(stream)
            assert message.peer is not None
            assert message.peer.id == TARGET
            await stream.write(answer)
            if then == "reset":
                await stream.reset()
            elif then == "hold":
                await asyncio.Event().wait()

        return hop

    return behave


async def dialed(relay: Node, **options: object) -> Connection:
    dialer = node()
    circuits = Circuits(dialer)
    await dialer.start()
    dialer.quic.listen([("127.0.0.1", 0)])
    try:
        return await dialer.connect(circuit_of(relay), **options)  # type: ignore[arg-type]
    finally:
        await dialer.close()
        await circuits.close()


CHEATS = {
    "refused": (status(Status.PERMISSION_DENIED), "end", "does not serve us"),
    "no reservation": (status(Status.NO_RESERVATION), "end", "not reachable through this relay"),
    "failed": (status(Status.CONNECTION_FAILED), "end", "could not reach the peer"),
    "full": (status(Status.RESOURCE_LIMIT_EXCEEDED), "end", "limits"),
    "cut off": (status(Status.OK)[:2], "end", "closed the stream"),
    "reset": (b"", "reset", "reset"),
    "garbage": (b"\x04\xff\xff\xff\xff", "end", ""),
    "too long": (uvarint.encode(MAX_MESSAGE + 1) + b"x", "end", ""),
    "another type": (HopMessage(HopType.RESERVE).encode(), "end", "without a status"),
    "a circuit to nobody": (status(Status.OK), "end", "closed the stream"),
    "a circuit that is reset": (status(Status.OK), "reset", ""),
    "a circuit of garbage": (status(Status.OK) + b"\x05hello" * 9, "hold", ""),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_relay_that_cheats_fails_the_dial_and_leaves_nothing(cheat: str) -> None:
    answer, then, why = CHEATS[cheat]

    async def main() -> None:
        async with scripted(saying(answer, then=then)) as relay:
            with pytest.raises(PtError) as caught:
                await dialed(relay)
            assert why in str(caught.value)

    run(main())


@pytest.mark.parametrize("listen", [Multiaddr.tcp, Multiaddr.quic], ids=["tcp", "quic"])
def test_a_relay_that_is_none_is_told_so(listen: Callable[[str, int], Multiaddr]) -> None:
    async def main() -> None:
        other = Node(identity=PrivateKey.generate(b"o" * 32), listen=(listen("127.0.0.1", 0),))
        await other.start()
        with pytest.raises(UnsupportedError, match="circuit"):
            await dialed(other)
        await other.close()

    run(main())


def test_a_relay_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_TIMEOUT", 0.3)

    async def main() -> None:
        async with scripted(saying(b"", then="hold")) as relay:
            with pytest.raises(ConnectError, match="no answer in time"):
                await dialed(relay)

    run(main())


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("/ip4/127.0.0.1/tcp/1/p2p-circuit/p2p/{target}", UsageError, "who the relay is"),
        ("/ip4/127.0.0.1/tcp/1/p2p/{target}/p2p-circuit", UsageError, "who to reach"),
        (
            "/ip4/127.0.0.1/tcp/1/p2p/{target}/p2p-circuit/p2p/{target}/p2p-circuit/p2p/{target}",
            ConnectError,
            "two relays",
        ),
    ],
)
def test_addresses_that_cannot_work_are_said_to(text: str, error: type, why: str) -> None:
    async def main() -> None:
        dialer = node()
        circuits = Circuits(dialer)
        await dialer.start()
        with pytest.raises(error, match=why):
            await dialer.connect(Multiaddr.parse(text.format(target=TARGET)))
        await dialer.close()
        await circuits.close()

    run(main())


# --- being dialed ------------------------------------------------------------------------------


class Reserved:
    """A node with a reservation at a relay of ours, and the relay's connection to it."""

    def __init__(self) -> None:
        self.relay = node()
        self.client = node()
        self.relays: Relays
        self.held: asyncio.Event = asyncio.Event()

    async def __aenter__(self) -> Reserved:  # noqa: PYI034
        async def hop(stream: MuxedStream, connection: Connection) -> None:
            await read_hop(stream)
            await stream.write(granted(self.relay, connection))

        self.relay.handle(HOP, hop)
        await self.relay.start()
        self.relays = Relays(
            self.client, given=(full(self.relay),), on_news=lambda _: self.held.set()
        )
        await self.client.start()
        self.relays.start()
        async with asyncio.timeout(5):
            await self.held.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.client.close()
        await self.relays.close()
        await self.relay.close()

    async def offer(self, message: bytes, protocol: str = STOP) -> tuple[MuxedStream, StopMessage]:
        """What the client answers to a stop stream."""
        (connection,) = self.relay.connections_of(self.client.peer_id)
        stream = await connection.open_stream((protocol,))
        await stream.write(message)
        async with asyncio.timeout(5):
            return stream, await relay_aio.read_stop(stream)


def connect(**facts: object) -> bytes:
    return StopMessage(StopType.CONNECT, peer=Peer(TARGET), **facts).encode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (connect(), Status.OK),
        (StopMessage(StopType.CONNECT).encode(), Status.MALFORMED_MESSAGE),
        (StopMessage(StopType.STATUS, status=Status.OK).encode(), Status.UNEXPECTED_MESSAGE),
    ],
)
def test_what_a_relay_of_ours_may_offer(message: bytes, answer: Status) -> None:
    async def main() -> None:
        async with Reserved() as made:
            _, said = await made.offer(message)
            assert said.status == answer

    run(main())


def test_a_raw_circuit_without_a_token_is_refused() -> None:
    async def main() -> None:
        async with Reserved() as made:
            _, said = await made.offer(connect(), RAW_STOP)
            assert said.status == Status.RAW_UNSUPPORTED

    run(main())


def test_whoever_holds_no_reservation_of_ours_offers_nothing() -> None:
    async def main() -> None:
        async with Reserved() as made:
            stranger = node()
            await stranger.start()
            connection = await stranger.connect(full(made.client))
            stream = await connection.open_stream((STOP,))
            await stream.write(connect())
            said = await relay_aio.read_stop(stream)
            assert said.status == Status.PERMISSION_DENIED
            await stranger.close()

    run(main())


def test_a_relay_that_names_another_peer_than_comes_is_found_out() -> None:
    """The relay says who comes; the handshake proves somebody else."""

    async def main() -> None:
        async with Reserved() as made:
            stream, said = await made.offer(connect())
            assert said.status == Status.OK
            liar = node()

            (connection,) = made.relay.connections_of(made.client.peer_id)
            watch = HangupWatch(asyncio.get_running_loop())
            sock = socket_on(stream, connection.link, watch)
            with pytest.raises(PtError):
                made_up = await liar.adopt(
                    sock,
                    Route(full(made.relay), local=full(made.relay)),
                    initiator=True,
                    expected=made.client.peer_id,
                    security=("/noise",),
                )
                async with asyncio.timeout(3):
                    await made_up.ping()
            assert not made.client.connections_of(liar.peer_id)
            await liar.close()
            sock.close()
            watch.close()

    run(main())


def test_a_limited_circuit_is_marked_and_says_so_to_what_may_not_run_there() -> None:
    """Relay and target are real; the limit is in both answers."""
    limit = Limit(60, 1 << 20)

    async def main() -> None:
        async with Reserved() as made:

            async def hop(stream: MuxedStream, connection: Connection) -> None:
                message = await read_hop(stream)
                assert message.peer is not None
                (target,) = made.relay.connections_of(message.peer.id)
                far = await target.open_stream((STOP,))
                await relay_aio.offer_circuit(far, connection.peer_id, limit)
                await stream.write(status(Status.OK, limit=limit))
                await asyncio.gather(copy(stream, far), copy(far, stream))

            made.relay.handle(HOP, hop)

            async def never(stream: MuxedStream, connection: Connection) -> None:
                raise AssertionError("served on a limited connection")

            made.client.handle("/needs/room", never)
            dialer = node()
            circuits = Circuits(dialer)
            await dialer.start()
            connection = await dialer.connect(circuit_of(made.relay, made.client.peer_id))
            assert connection.limited
            assert connection.limit == limit
            assert connection.path == "relay/circuit"
            assert connection.relay == made.relay.peer_id
            assert await connection.ping() > 0
            with pytest.raises(LimitedError, match="pt relay"):
                await connection.open_stream(("/needs/room",))
            with pytest.raises(PtError, match="does not speak"):  # the other end refuses, too
                await connection.open_stream(("/needs/room",), limited=True)
            (theirs,) = made.client.connections_of(dialer.peer_id)
            assert theirs.limit == limit
            assert theirs.relay == made.relay.peer_id
            await dialer.close()
            await circuits.close()

    run(main())


async def copy(source: MuxedStream, target: MuxedStream) -> None:
    try:
        while data := await source.read(65536):
            await target.write(data)
        await target.close_write()
    except PtError:
        await target.reset()
