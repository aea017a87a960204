"""One connection to one peer: who it is, its streams, and how inbound streams find a handler."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from pt.aio.muxed import MuxedStream
from pt.aio.stream import ResetOnError
from pt.errors import ClosedError, LimitedError, RemoteProtocolError, ResetError
from pt.identify.messages import Identify
from pt.identity.peer_id import PeerId
from pt.multistream import aio as multistream
from pt.multistream.negotiation import Responder, lazy_open
from pt.muxer import Stream
from pt.node import standard
from pt.node.data_path import DataPath
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.node import Node
    from pt.node.route import Route
    from pt.noise.handshake import Suite
    from pt.relay.messages import Limit

__all__ = ["Connection", "Negotiation", "RawHandler", "StreamCallback"]

NEGOTIATION_TIMEOUT: Final = 10.0
"""Seconds a stream may take to agree on a protocol (go-libp2p)."""

StreamCallback = Callable[[MuxedStream, "Connection"], Coroutine[object, object, None]]
RawHandler = Callable[["Connection", Stream, bytes, bytes], None]
"""(connection, stream, reply, data): called in the receive path with the first `data` after an
optimistic negotiation; sets the stream's handler and sends `reply` before anything else."""


class Negotiation(Protocol):
    """A stream that has not said what it wants."""

    @property
    def pending(self) -> bool:
        """Whether that is still so."""
        ...

    def expire(self) -> None:
        """Its time is over."""
        ...


class Connection:
    """A secured and multiplexed connection, direct or through a relay.

    `suite` is None over QUIC; `handshake_hash` is 32 bytes that both ends share and nobody else.
    """

    def __init__(
        self,
        node: Node,
        *,
        peer_id: PeerId,
        suite: Suite | None,
        handshake_hash: bytes,
        route: Route,
        local_addr: Multiaddr,
        initiator: bool,
    ) -> None:
        self.node = node
        self.peer_id = peer_id
        self.suite = suite
        self.handshake_hash = handshake_hash
        self.route = route
        self.local_addr = local_addr
        self.initiator = initiator
        self.since = asyncio.get_running_loop().time()
        self.link: DataPath  # set by the node before anything runs
        self.closed = False
        self.close_reason = ""
        self.on_close: list[Callable[[str], None]] = []
        self.identified: Identify | None = None
        """What the peer said about itself, verified, once asked."""
        self.curious = True
        """Whether to ask the peer who it is without a reason."""
        self.uses = 0
        """How many parts of this node need it now; who closes what is idle lets it be meanwhile."""
        self._open_waiters: list[asyncio.Future[None]] = []

    @property
    def remote_addr(self) -> Multiaddr:
        """Where the peer is; through a relay, the relay's address with /p2p-circuit."""
        return self.route.remote

    @property
    def relay(self) -> PeerId | None:
        """The relay it runs through; None when it is direct."""
        return self.route.relay

    @property
    def limit(self) -> Limit | None:
        """What the relay lets through before it ends the circuit; None: no limit was named."""
        return self.route.limit

    @property
    def limited(self) -> bool:
        """Whether the relay named a limit: only what says so may run here."""
        return self.route.limit is not None

    @property
    def path(self) -> str:
        """Kind and transport, such as `direct/tcp` or `relay/raw`."""
        return self.route.path

    @property
    def security(self) -> str:
        """Name of the cipher suite, or of the protocol that has its own."""
        return "TLS 1.3" if self.suite is None else self.suite.name

    @property
    def rtt(self) -> float | None:
        """Round-trip time in seconds, once measured."""
        return self.link.session.rtt

    def new_stream(self) -> Stream:
        """Open a yamux stream now, for a handler of its own; see `Session.open` for errors."""
        return self.link.session.open()

    async def open_stream(
        self,
        protocols: Sequence[str],
        *,
        timeout: float = NEGOTIATION_TIMEOUT,
        limited: bool = False,
    ) -> MuxedStream:
        """Open a stream on which the first of `protocols` that the peer takes was agreed.

        `limited` says that it may run over a relay that limits the connection.

        Raises:
            LimitedError: the connection is limited, and `limited` was not said.
            UnsupportedError: the peer takes none of them.
            ClosedError: the connection ended.
            TimeoutError: no answer in time.

        """
        if self.limited and not limited:
            raise LimitedError(
                f"the relay limits this connection, so that {protocols[0]} is not used on it: "
                "use a relay without limits (pt relay)"
            )
        async with asyncio.timeout(timeout):
            while not self.link.session.can_open:
                if self.closed or self.link.session.go_away is not None:
                    raise ClosedError("the connection to the peer ended")
                future = asyncio.get_running_loop().create_future()
                self._open_waiters.append(future)
                await future
            if self.closed:
                raise ClosedError("the connection to the peer ended")
            stream = MuxedStream(self.link.session.open(), self.link)
            async with ResetOnError(stream):
                stream.protocol = await multistream.select(stream, protocols)
            return stream

    async def open_known(self, protocol: str) -> MuxedStream:
        """Open a stream of a protocol that the peer probably speaks, a round trip earlier.

        What is written goes along with the proposal; that the peer does not take it
        (UnsupportedError) is raised by the first read.
        """
        stream = _KnownStream(self.new_stream(), self.link, protocol)
        await stream.write(lazy_open(protocol))
        return stream

    async def open_likely(self, protocol: str, *, limited: bool = False) -> MuxedStream:
        """Open a stream: as `open_known` if one can be had now, else as `open_stream`.

        That the peer does not take the protocol is told for certain.
        """
        if not self.link.session.can_open or (self.limited and not limited):
            return await self.open_stream((protocol,), limited=limited)
        stream = _LikelyStream(self, protocol)
        await stream.write(lazy_open(protocol))
        return stream

    async def ping(self) -> float:
        """One libp2p ping; seconds."""
        return await standard.ping(self, secrets.token_bytes(32))

    async def identify(self) -> Identify:
        """Ask the peer who it is; see `pt.node.standard.identify`."""
        return await standard.identify(self)

    def check_open(self) -> None:
        """Make sure that `on_close` will still be called, before relying on it.

        Raises:
            ClosedError: the connection has ended already.

        """
        if self.closed:
            raise ClosedError(f"the peer closed the connection: {self.close_reason}")

    def close(self, reason: str = "closed by us") -> None:
        """End the connection and all its streams."""
        self.link.lose(reason)

    def wake_openers(self) -> None:
        """A stream was acknowledged: others may be opened."""
        waiters, self._open_waiters = self._open_waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    def lost(self, reason: str) -> None:
        """Tell everybody that the connection ended; called by the link, once."""
        self.closed = True
        self.close_reason = reason
        self.wake_openers()
        callbacks, self.on_close = self.on_close, []
        for callback in callbacks:
            callback(reason)

    def accept_stream(self, stream: Stream) -> None:
        """Give an inbound stream its first handler: the negotiation."""
        negotiation = _InboundNegotiation(self, stream)
        stream.handler = negotiation
        self.node.watch_negotiation(negotiation)


class _KnownStream(MuxedStream):
    """Before its first bytes it reads that the peer takes the protocol."""

    def __init__(self, stream: Stream, link: DataPath, protocol: str) -> None:
        super().__init__(stream, link)
        self.protocol = protocol
        self._confirmed = False

    async def read(self, max_len: int) -> bytes:
        if not self._confirmed:
            self._confirmed = True
            await self._confirm()
        return await super().read(max_len)

    async def _confirm(self) -> None:
        await multistream.confirm(self, self.protocol)


class _LikelyStream(_KnownStream):
    """Of a peer that may break off at what it cannot read, and its answer be lost with the stream.

    Then it is asked again, with nothing that it cannot read.
    """

    def __init__(self, connection: Connection, protocol: str) -> None:
        super().__init__(connection.new_stream(), connection.link, protocol)
        self._connection = connection

    async def _confirm(self) -> None:
        try:
            await super()._confirm()
        except ResetError:
            with contextlib.suppress(ClosedError, TimeoutError):  # the reset says more
                stream = await self._connection.open_stream((self.protocol,), limited=True)
                await stream.reset()
            raise


class _InboundNegotiation:
    """Finds out which protocol an inbound stream wants, without a task until it is known."""

    __slots__ = ("_connection", "_responder", "_stream")

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._responder: Responder | None = None

    @property
    def pending(self) -> bool:
        """Whether the stream still has to say what it wants."""
        return self._stream.handler is self

    def data_received(self, data: memoryview) -> None:
        """Match an optimistic opening at one glance, everything else by the full machine."""
        node, stream = self._connection.node, self._stream
        if self._responder is None:
            limited = self._connection.limited
            for opening, (reply, handler, anywhere) in node.raw_handlers.items():
                if data[: len(opening)] == opening and (anywhere or not limited):
                    stream.credit(len(data))
                    handler(self._connection, stream, reply, bytes(data[len(opening) :]))
                    return
            self._responder = Responder(lambda protocol: node.speaks(protocol, limited=limited))
        responder = self._responder
        stream.credit(len(data))
        try:
            responder.receive_data(bytes(data))
        except RemoteProtocolError:
            stream.reset()
            return
        reply = responder.data_to_send()
        protocol = responder.result
        if protocol is None:
            self._send(reply)
            return
        raw = node.raw_by_protocol.get(protocol)
        if raw is not None:
            raw(self._connection, stream, reply, responder.leftover())
            return
        self._send(reply)
        muxed = MuxedStream(stream, self._connection.link)
        if rest := responder.leftover():
            muxed.unread(rest)
        node.serve(protocol, muxed, self._connection)

    def _send(self, data: bytes) -> None:
        if data and not self._stream.local_closed:
            self._connection.link.send_small(self._stream, data)

    def expire(self) -> None:
        """Time is over: a stream that did not agree on anything is reset."""
        if self.pending:
            self._stream.reset()
            self._connection.link.flush()

    def eof_received(self) -> None:
        """No protocol was agreed: there is nothing to serve."""
        self._stream.reset()

    def window_opened(self) -> None:
        """Nothing waits for credit here."""

    def stream_acked(self) -> None:
        """Inbound streams are not acknowledged to us."""

    def stream_lost(self, code: int | None) -> None:
        """Nothing to clean up."""
