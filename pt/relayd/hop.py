"""The hop service: reservations, circuits of libp2p's relay protocol, and raw circuits.

Source: libp2p specs `relay/circuit-v2.md`; docs/design.md, "Relays", for raw circuits.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from pt.aio import tcp
from pt.aio.stream import ResetOnError
from pt.errors import ClosedError, PtError
from pt.multistream.negotiation import UnsupportedError
from pt.relay import aio as relay_aio
from pt.relay import raw
from pt.relay.messages import (
    AUTH,
    HOP,
    RAW_HOP,
    RAW_STOP,
    STOP,
    HopMessage,
    HopType,
    RelayMessageError,
    Reservation,
    Status,
)
from pt.relay.registry import Circuit, Refusal, Slot
from pt.relay.voucher import Voucher
from pt.relayd.tokens import LIFE, Pending, Tokens

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.relay.registry import Registry
    from pt.relayd.guests import Guests
    from pt.wire.multiaddr import Multiaddr

__all__ = ["Hop"]

HOP_TIMEOUT: Final = 15.0
"""Seconds a client has to say what it wants."""
STOP_TIMEOUT: Final = 20.0
"""Seconds the target has to answer."""
RAW_STOP_TIMEOUT: Final = 10.0
"""The same for a raw circuit, whose tokens do not live much longer."""
SERVE_TIMEOUT: Final = 60.0
"""Seconds for a request and everything that follows from it, as at go-libp2p's relay."""
PREFACE_TIMEOUT: Final = 5.0
STUN_REQUEST: Final = b"\0\1"
"""How a Binding request begins; a raw circuit's preface differs in its second byte."""
MAX_ADDRESSES: Final = 12
"""Own addresses told to a client: they fit into one message."""


class Hop:
    """Serves hop streams of `node`.

    `on_joined(circuit, source, target)` gets the two streams of a libp2p circuit with their
    connections, `on_raw(pending)` the two sockets of a raw one; `on_refused(what, reason, peer)`,
    `on_reserved(slot, fresh)` and `on_left(peer, reason)` report.
    """

    def __init__(
        self,
        node: Node,
        registry: Registry,
        guests: Guests,
        *,
        on_joined: Callable[
            [Circuit, tuple[MuxedStream, Connection], tuple[MuxedStream, Connection]], None
        ],
        on_raw: Callable[[Pending], None],
        on_refused: Callable[[str, str, Connection], None],
        on_reserved: Callable[[Slot, bool], None],
        on_left: Callable[[Slot, str], None],
    ) -> None:
        self.closing = False
        """Whether to refuse everybody: the relay drains."""
        self.tokens = Tokens(on_raw, self._raw_expired)
        self.slots: dict[bytes, Slot] = {}
        """Reservations that are held, by raw peer id."""
        self._node = node
        self._registry = registry
        self._guests = guests
        self._on_joined = on_joined
        self._on_refused = on_refused
        self._on_reserved = on_reserved
        self._on_left = on_left
        guests.on_left = self._holder_left
        node.handle(HOP, self._serve_hop)
        node.handle(RAW_HOP, self._serve_raw)
        node.handle(AUTH, self._serve_auth)
        node.prefaces[raw.PREFACE[0]] = self._preface
        self.stun: Callable[[socket.socket, bytes], Awaitable[None]] | None = None
        """Takes over a TCP connection that begins as `STUN_REQUEST`, of which that was read."""

    # --- requests --------------------------------------------------------------------------------

    async def _serve_hop(self, stream: MuxedStream, connection: Connection) -> None:
        await self._serve(stream, connection, raw_wanted=False)

    async def _serve_raw(self, stream: MuxedStream, connection: Connection) -> None:
        await self._serve(stream, connection, raw_wanted=True)

    async def _serve(
        self, stream: MuxedStream, connection: Connection, *, raw_wanted: bool
    ) -> None:
        if not self._guests.begin(connection):
            self._on_refused("connect", "too many requests at once", connection)
            await stream.reset()
            return
        try:
            async with asyncio.timeout(SERVE_TIMEOUT):
                await self._answer(stream, connection, raw_wanted=raw_wanted)
        finally:
            self._guests.end(connection)

    async def _answer(
        self, stream: MuxedStream, connection: Connection, *, raw_wanted: bool
    ) -> None:
        message = await self._request(stream, connection)
        if message is None:
            return
        what = "reserve" if message.type == HopType.RESERVE else "connect"
        try:
            if message.type == HopType.RESERVE and not raw_wanted:
                await self._reserve(stream, connection)
            elif message.type == HopType.CONNECT and message.peer is not None:
                await self._connect(stream, connection, message, raw_wanted=raw_wanted)
            elif message.type == HopType.CONNECT:
                raise Refusal(Status.MALFORMED_MESSAGE, "a circuit to nobody")
            else:
                raise Refusal(
                    Status.UNEXPECTED_MESSAGE, f"an unexpected message: type {message.type}"
                )
        except Refusal as refusal:
            self._on_refused(what, str(refusal), connection)
            await relay_aio.answer_hop(stream, refusal.status)

    async def _request(self, stream: MuxedStream, connection: Connection) -> HopMessage | None:
        """Read the one message of a hop stream; None when it was refused already."""
        try:
            async with asyncio.timeout(HOP_TIMEOUT):
                message = await relay_aio.read_hop(stream)
        except RelayMessageError as error:
            self._on_refused("connect", f"a malformed message: {error}", connection)
            await relay_aio.answer_hop(stream, Status.MALFORMED_MESSAGE)
            return None
        if connection.relay is not None:
            self._on_refused("connect", "asked over a relay", connection)
            await relay_aio.answer_hop(stream, Status.PERMISSION_DENIED)
            return None
        return message

    async def _serve_auth(self, stream: MuxedStream, connection: Connection) -> None:
        problem = await self._guests.authenticate(stream, connection)
        if problem:
            self._on_refused("auth", problem, connection)

    # --- reservations ----------------------------------------------------------------------------

    async def _reserve(self, stream: MuxedStream, connection: Connection) -> None:
        if self.closing:
            raise Refusal(Status.RESERVATION_REFUSED, "the relay is about to stop")
        self._guests.watch(connection)
        peer = connection.peer_id
        loop = asyncio.get_running_loop()
        slot = self._registry.reserve(
            peer, self._guests.grade(connection), connection.route.source, loop.time()
        )
        fresh = self.slots.get(peer.raw) is None
        self.slots[peer.raw] = slot
        self._guests.holders[peer] = connection
        expiration = int(time.time() + slot.expire - loop.time())
        voucher = Voucher(self._node.peer_id, peer, expiration).sealed(self._node.identity)
        reservation = Reservation(expiration, self.own_addresses, voucher)
        await relay_aio.answer_hop(stream, Status.OK, reservation=reservation, limit=slot.limit)
        self._on_reserved(slot, fresh)

    @property
    def own_addresses(self) -> tuple[Multiaddr, ...]:
        """Where clients are told that the relay is: what is public, if anything is."""
        found = self._node.addresses
        for fits in (lambda a: a.is_public, lambda a: not a.is_loopback, lambda _: True):
            usable = [address for address in found if fits(address)]
            if usable:
                named = [address.with_peer(self._node.peer_id.raw) for address in usable]
                return tuple(named[:MAX_ADDRESSES])
        return ()

    def _holder_left(self, connection: Connection, reason: str) -> None:
        peer = connection.peer_id
        if self._guests.holders.get(peer) is not connection:
            return
        other = self._guests.connection_of(peer)
        if other is not None:
            self._guests.holders[peer] = other  # it is reached there from now on
            return
        del self._guests.holders[peer]
        self._registry.release(peer)
        self._forget(peer.raw, reason)

    def _forget(self, peer: bytes, reason: str) -> None:
        slot = self.slots.pop(peer, None)
        if slot is not None:
            self._on_left(slot, reason)

    def sweep(self, now: float) -> None:
        """Let go what has expired."""
        for peer in self._registry.expired(now):
            self._guests.holders.pop(peer, None)
            self._forget(peer.raw, "not renewed")
        self.tokens.sweep(now)

    # --- circuits --------------------------------------------------------------------------------

    async def _connect(
        self,
        stream: MuxedStream,
        connection: Connection,
        message: HopMessage,
        *,
        raw_wanted: bool,
    ) -> None:
        assert message.peer is not None
        if self.closing:
            raise Refusal(Status.RESOURCE_LIMIT_EXCEEDED, "the relay is about to stop")
        circuit = self._registry.open(
            connection.peer_id,
            self._guests.grade(connection),
            message.peer.id,
            asyncio.get_running_loop().time(),
            host=connection.route.source,
        )
        try:
            target = self._guests.holders.get(circuit.target)
            if target is None or target.closed:
                raise Refusal(Status.NO_RESERVATION, "the target is not connected any more")
            if raw_wanted:
                await self._connect_raw(stream, circuit, target)
            else:
                await self._connect_stream(stream, connection, circuit, target)
        except BaseException:
            self._registry.close(circuit)
            raise

    async def _connect_stream(
        self, stream: MuxedStream, connection: Connection, circuit: Circuit, target: Connection
    ) -> None:
        far = await self._offer(target, STOP, circuit, None)
        try:
            await relay_aio.answer_hop(stream, Status.OK, limit=circuit.limit)
        except BaseException:
            await far.reset()
            raise
        self._on_joined(circuit, (stream, connection), (far, target))

    async def _connect_raw(self, stream: MuxedStream, circuit: Circuit, target: Connection) -> None:
        tokens = secrets.token_bytes(raw.TOKEN_LEN), secrets.token_bytes(raw.TOKEN_LEN)
        now = asyncio.get_running_loop().time()
        pending = self.tokens.issue(circuit, circuit.limit, tokens, now)
        try:
            far = await self._offer(target, RAW_STOP, circuit, tokens[1])
            far.finish()
            await relay_aio.answer_hop(stream, Status.OK, limit=circuit.limit, token=tokens[0])
        except BaseException:
            self.tokens.cancel(pending)
            raise

    async def _offer(
        self, target: Connection, protocol: str, circuit: Circuit, token: bytes | None
    ) -> MuxedStream:
        """Offer the circuit to the target; its stream once the target took it.

        Raises:
            Refusal: it did not.

        """
        try:
            async with asyncio.timeout(STOP_TIMEOUT if token is None else RAW_STOP_TIMEOUT):
                if token is None:
                    stream = await target.open_likely(protocol)
                else:  # whether it takes the protocol at all decides what is offered next
                    stream = await target.open_stream((protocol,))
                async with ResetOnError(stream):
                    await relay_aio.offer_circuit(stream, circuit.source, circuit.limit, token)
                return stream
        except UnsupportedError as error:
            status = Status.RAW_UNSUPPORTED if token is not None else Status.CONNECTION_FAILED
            raise Refusal(status, "the target takes no circuits of this kind") from error
        except relay_aio.RelayRefusedError as error:
            if error.status == Status.RAW_UNSUPPORTED:
                raise Refusal(Status.RAW_UNSUPPORTED, "the target takes no raw circuits") from error
            raise Refusal(Status.CONNECTION_FAILED, "the target refuses") from error
        except (PtError, TimeoutError) as error:
            raise Refusal(Status.CONNECTION_FAILED, "the target does not answer") from error

    # --- raw circuits ----------------------------------------------------------------------------

    async def _preface(self, sock: socket.socket, remote: Multiaddr) -> None:
        """A connection that claims to be a leg of a raw circuit, or STUN's; a `PrefaceHandler`."""
        del remote
        reader = raw.PrefaceReader()
        loop = asyncio.get_running_loop()
        token: bytes | None = None
        begun = b""
        with contextlib.suppress(PtError, OSError, TimeoutError):
            async with asyncio.timeout(PREFACE_TIMEOUT):
                while len(begun) < len(STUN_REQUEST):
                    data = await loop.sock_recv(sock, len(STUN_REQUEST) - len(begun))
                    if not data:
                        raise ClosedError("the connection ended within its preface")
                    begun += data
                if self.stun is not None and begun == STUN_REQUEST:
                    await self.stun(sock, begun)
                    return
                token = reader.receive_data(begun)
                while token is None:
                    data = await loop.sock_recv(sock, reader.missing)
                    if not data:
                        raise ClosedError("the connection ended within its preface")
                    token = reader.receive_data(data)
        if token is None or not self.tokens.redeem(token, sock):
            tcp.abort(sock)

    def _raw_expired(self, pending: Pending) -> None:
        self._registry.close(pending.circuit)
        connection = self._guests.holders.get(pending.circuit.target)
        if connection is not None:
            self._on_refused("connect", f"an end did not come within {LIFE:g} s", connection)
