"""A running libp2p peer: identity, listeners, connection table, dialing, standard protocols."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from pt.aio import tcp
from pt.aio.keep_alive import KeepAlive
from pt.aio.muxed import MuxedStream
from pt.aio.scope import Scope
from pt.autonat.reachability import publishable
from pt.errors import ClosedError, LimitError, PtError, message_of
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import accept_reply, lazy_open
from pt.node import dialing, standard
from pt.node.connection import Connection, Negotiation, RawHandler, StreamCallback
from pt.node.diagnosis import DialLog
from pt.node.limits import NodeLimits
from pt.node.link import Link
from pt.node.listeners import SUFFIXES, Listeners
from pt.node.observed import ObservedAddresses
from pt.node.quic import QUIC, Quic, listen_point
from pt.node.resolve import Resolver
from pt.node.route import Route, source_of
from pt.node.upgrade import PT_SECURITY, SECURITY, upgrade
from pt.trace import NO_TRACE, Tracer
from pt.wire.multiaddr import Multiaddr
from pt.yamux.session import Limits, Session

__all__ = ["Dialer", "Node", "NodeLimits", "PrefaceHandler"]

AGENT: Final = "pt/0.1.0"
BBR_RTT: Final = 0.003
"""From this round-trip time (s) on, BBR is asked for; on a LAN the kernel's choice is faster."""
LIBP2P_KEEP_ALIVE: Final = KeepAlive(15.0, 40.0)
HANDLERS_SHARE: Final = 4
PREFACE_TRANSPORTS: Final = {ord("G"): "ws", 0x16: "wss", 0x00: "raw"}
"""First byte of a connection: HTTP's GET, a TLS ClientHello, a relay's raw circuit."""

PrefaceHandler = Callable[[socket.socket, Multiaddr], Awaitable[socket.socket | None]]
"""(socket, remote): the socket to go on with as libp2p, or None when it was taken over.  The first
byte was only looked at; when it raises, the node closes the socket."""
Dialer = Callable[[Multiaddr, "PeerId | None", Sequence[str]], Awaitable[Connection]]


class Node:
    """One peer.  `congestion` is "auto", "" (leave the kernel's), or an algorithm's name.

    `resolver` and `dials` may be shared with other nodes of the process.

    Not thread-safe; everything runs on the loop that called `start`.
    """

    def __init__(
        self,
        *,
        identity: PrivateKey,
        listen: Sequence[Multiaddr] = (),
        limits: NodeLimits | None = None,
        security: Sequence[str] = (PT_SECURITY, SECURITY),
        congestion: str = "auto",
        agent: str = AGENT,
        tracer: Tracer = NO_TRACE,
        resolver: Resolver | None = None,
        dials: DialLog | None = None,
    ) -> None:
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public)
        self.limits = limits or NodeLimits()
        self.tracer = tracer
        self.agent = agent
        self.raw_handlers: dict[bytes, tuple[bytes, RawHandler, bool]] = {}
        self.raw_by_protocol: dict[str, RawHandler] = {}
        self.connections: set[Connection] = set()
        self.on_connection: list[Callable[[Connection], None]] = []
        """Told each new connection, before anything is read from it."""
        self.on_identified: list[Callable[[Connection], None]] = []
        """Told each connection whose peer said who it is, again when that changes."""
        self.resolver: Final = resolver or Resolver(tracer=tracer)
        self._own_resolver = resolver is None
        self.dials: Final = dials or DialLog()
        """How dials have ended, as evidence of what the network lets through."""
        self.announce: tuple[Multiaddr, ...] = ()
        self.mapped: tuple[tuple[str, int], ...] = ()
        """Where gateways map to our shared UDP port, public ones."""
        self.confirmed: tuple[Multiaddr, ...] = ()
        self.unreachable: frozenset[Multiaddr] = frozenset()
        """What AutoNAT servers have found out about our addresses; see `pt.node.autonat`."""
        self.observed: Final = ObservedAddresses(self)
        self.relayed: tuple[Multiaddr, ...] = ()
        """Our addresses through relays, as long as they hold a reservation for us."""
        self.prefaces: dict[int, PrefaceHandler] = {}
        """What inbound connections with another first byte than libp2p's are for."""
        self.dialers: dict[str, Dialer] = {}
        """How transports other than TCP are dialed, by `Multiaddr.transport`."""
        self.meetings: dict[Multiaddr, Callable[[socket.socket], None]] = {}
        """Who takes over what comes from an address that is being dialed at the same time."""
        self._listen = tuple(listen)
        self._security = tuple(security)
        self._congestion = congestion
        self._handlers: dict[str, StreamCallback] = {}
        self._on_limited: set[str] = set()
        self._static = secrets.token_bytes(32)
        self._scope = Scope(limit=self.limits.handlers)
        self._strangers = Scope(limit=self.limits.handlers)
        self._serving: Counter[str] = Counter()
        self._upgrades = Scope(limit=self.limits.handshakes)
        self._listeners = Listeners(self._accepted, tracer)
        self.quic: Final = Quic(self)
        self._handshakes: Counter[str] = Counter()
        self._per_source: Counter[str] = Counter()
        self._young: deque[tuple[float, Negotiation]] = deque()
        self._expirer: asyncio.TimerHandle | None = None
        self.closed = False

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            LocalPortError: an address cannot be listened on; nothing is left open.

        """
        standard.install(self)
        self.listen(self._listen)

    def listen(self, addresses: Sequence[Multiaddr]) -> None:
        """Listen on these addresses, too.

        Raises:
            LocalPortError: one cannot be listened on; then none of them is.
            UsageError: one makes no sense, or is of a transport without a handler in `prefaces`.

        """
        transports = frozenset({"tcp"}) | {
            name for byte, name in PREFACE_TRANSPORTS.items() if byte in self.prefaces
        }
        over_udp = [each for each in addresses if each.transport == QUIC]
        points = [listen_point(each) for each in over_udp]
        self._listeners.open([each for each in addresses if each not in over_udp], transports)
        if points:
            try:
                self.quic.listen(points, next((port for _, port in self._listeners.points), 0))
            except PtError:
                self._listeners.close()
                raise

    def unlisten(self) -> None:
        """Listen no more; connections stay."""
        self._listeners.close()
        self.quic.unlisten()

    async def close(self) -> None:
        """Close listeners, connections and tasks."""
        self.closed = True
        if self._expirer is not None:
            self._expirer.cancel()
        self._listeners.close()
        for connection in list(self.connections):
            connection.close("this node shuts down")
        self.quic.close()
        for scope in (self._upgrades, self._strangers, self._scope):
            await scope.aclose()
        if self._own_resolver:
            await self.resolver.close()

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where we can be dialed, without our own `/p2p`: listeners, announced, through relays."""
        found = (*self.listening, *self.announce, *self.confirmed, *self.relayed)
        return tuple(dict.fromkeys(found))

    @property
    def listening(self) -> tuple[Multiaddr, ...]:
        """Those of our listeners."""
        return (*self._listeners.addresses, *self.quic.addresses)

    @property
    def published(self) -> tuple[Multiaddr, ...]:
        """Those of `addresses` that are told beyond the LAN."""
        return publishable(self.addresses, self.unreachable)

    @property
    def points(self) -> list[tuple[str, int]]:
        """Host and TCP port of each listening socket, wildcards as they are."""
        return self._listeners.points

    def connections_of(self, peer_id: PeerId) -> list[Connection]:
        """All connections to a peer, direct ones first."""
        found = [each for each in self.connections if each.peer_id == peer_id]
        return sorted(found, key=lambda connection: connection.route.relay is not None)

    # --- protocols -----------------------------------------------------------------------------

    def handle(self, protocol: str, callback: StreamCallback, *, limited: bool = False) -> None:
        """Serve `protocol` by a coroutine a stream; the stream is reset when it raises.

        `limited`: also on connections through a relay that limits them.
        """
        self._handlers[protocol] = callback
        if limited:
            self._on_limited.add(protocol)

    def handle_raw(self, protocol: str, callback: RawHandler, *, limited: bool = False) -> None:
        """Serve `protocol` in the receive path (see `RawHandler`)."""
        self.raw_handlers[lazy_open(protocol)] = (accept_reply(protocol), callback, limited)
        self.raw_by_protocol[protocol] = callback
        if limited:
            self._on_limited.add(protocol)

    def speaks(self, protocol: str, *, limited: bool = False) -> bool:
        """Whether inbound streams (of a `limited` connection) may ask for `protocol`."""
        known = protocol in self._handlers or protocol in self.raw_by_protocol
        return known and (not limited or protocol in self._on_limited)

    @property
    def protocols(self) -> tuple[str, ...]:
        """All protocols served, sorted."""
        return tuple(sorted((*self._handlers, *self.raw_by_protocol)))

    def serve(self, protocol: str, stream: MuxedStream, connection: Connection) -> None:
        """Run the handler of a stream; whom we dialed shares no places with who dialed us."""
        source, ours = connection.route.source, connection.initiator
        scope = self._scope if ours else self._strangers
        most = self.limits.handlers // HANDLERS_SHARE
        if scope.full or (not ours and self._serving[source] >= most):
            stream.stream.reset()
            return
        task = scope.start(self._run_handler(protocol, stream, connection))
        self._serving[source] += 1
        task.add_done_callback(lambda _: self._served(source))

    def _served(self, source: str) -> None:
        self._serving[source] -= 1
        if not self._serving[source]:
            del self._serving[source]

    async def _run_handler(
        self, protocol: str, stream: MuxedStream, connection: Connection
    ) -> None:
        try:
            await self._handlers[protocol](stream, connection)
        except (PtError, OSError, TimeoutError) as error:
            self.tracer.emit("stream_failed", protocol=protocol, reason=message_of(error))
            await stream.reset()
        except asyncio.CancelledError:
            await stream.reset()
            raise
        else:
            stream.finish()

    def watch_negotiation(self, negotiation: Negotiation) -> None:
        """Bound the time in which a stream has to say what it wants."""
        loop = asyncio.get_running_loop()
        young = self._young
        while young and not young[0][1].pending:
            young.popleft()
        young.append((loop.time() + self.limits.negotiation_timeout, negotiation))
        if self._expirer is None:
            self._expirer = loop.call_at(young[0][0], self._expire)

    def _expire(self) -> None:
        """End negotiations whose time is over; one timer serves them all."""
        loop = asyncio.get_running_loop()
        young = self._young
        while young and (young[0][0] <= loop.time() or not young[0][1].pending):
            young.popleft()[1].expire()
        self._expirer = loop.call_at(young[0][0], self._expire) if young else None

    def spawn(self, coro: object) -> None:
        """Run a coroutine in the node's scope; dropped when the node is full or closed."""
        assert asyncio.iscoroutine(coro)
        with contextlib.suppress(LimitError):
            self._scope.start(coro)

    # --- inbound -------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, host: str) -> None:
        limits, source = self.limits, source_of(host)
        if (
            self._handshakes.total() >= limits.handshakes
            or self._handshakes[source] >= limits.handshakes_per_host
            or len(self.connections) >= limits.connections
            or self._per_source[source] >= limits.connections_per_host
        ):
            self.tracer.emit("refused", host=host, reason="too many connections")
            tcp.abort(sock)
            return
        try:
            self._upgrades.start(self._inbound(sock, host, source))  # whatever the handlers do
        except LimitError:  # counts in nothing, or it would count for ever
            self.tracer.emit("refused", host=host, reason="too many handshakes")
            tcp.abort(sock)
            return
        self._handshakes[source] += 1

    async def _inbound(self, sock: socket.socket, host: str, source: str) -> None:
        try:
            remote = tcp.address_of(sock.getpeername())
            async with asyncio.timeout(self.limits.handshake_timeout):
                if remote in self.meetings:
                    self.meetings[remote](sock)
                elif self.prefaces:
                    await self._by_preface(sock, remote)
                else:
                    await self.adopt(sock, Route(remote), initiator=False)
        except (PtError, OSError, TimeoutError) as error:
            sock.close()
            self.tracer.emit("inbound_failed", host=host, reason=str(error) or "timed out")
        except asyncio.CancelledError:
            sock.close()
            raise
        finally:
            self._handshakes[source] -= 1
            if self._handshakes[source] <= 0:
                del self._handshakes[source]

    async def _by_preface(self, sock: socket.socket, remote: Multiaddr) -> None:
        """Look at the first byte: what a port shared by several transports is to be used for."""
        first = await tcp.peek(sock)
        handler = self.prefaces.get(first)
        if handler is None:
            await self.adopt(sock, Route(remote), initiator=False)
            return
        local = tcp.address_of(sock.getsockname())
        inner = await handler(sock, remote)
        if inner is None:
            return
        suffix = SUFFIXES[PREFACE_TRANSPORTS[first]]
        far, near = (Multiaddr.parse(f"{address}{suffix}") for address in (remote, local))
        try:
            await self.adopt(inner, Route(far, near, "direct/ws"), initiator=False)
        except BaseException:
            inner.close()
            raise

    # --- outbound ------------------------------------------------------------------------------

    async def connect(
        self,
        addresses: Multiaddr | Iterable[Multiaddr],
        *,
        expected: PeerId | None = None,
        security: Sequence[str] = (SECURITY,),
        timeout: float = 15.0,
        relay_after: float | None = None,
    ) -> Connection:
        """Dial the addresses of one peer, Happy Eyeballs style; the first finished upgrade wins.

        Relays are tried `relay_after` seconds after the first direct address (None: a moment),
        names as soon as they are resolved.

        `expected` defaults to the `/p2p/` part of the addresses.  Offer `PT_SECURITY` first only
        to a peer that is probably a `pt`: a stranger costs one more round trip.

        Raises:
            ConnectError: no address worked; `attempts` says why for each. Of a single address it
                is its own PtError, DnsError among others.
            UsageError: there is nothing to dial.

        """
        return await dialing.connect(
            self,
            addresses,
            expected=expected,
            security=tuple(security),
            timeout=timeout,
            relay_after=relay_after,
        )

    async def dial_one(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Dial and upgrade one address; its host is no name, unless its transport wants that."""
        return await dialing.dial_one(self, address, expected, security)

    async def dial_socket(self, address: Multiaddr) -> socket.socket:
        """A TCP connection to host and port of `address`, from our listening port if there is one.

        Raises:
            OSError, TimeoutError: it failed.

        """
        host, port = address.host, address.tcp_port
        assert host is not None
        assert port is not None
        async with asyncio.timeout(self.limits.connect_timeout):
            return await tcp.dial(host[1], port, local_port=self._listeners.port_for(host[1]))

    def admits(self, source: str, most: int) -> bool:
        """Whether one more connection may come from `source` (see `Route`), `most` from it."""
        return len(self.connections) < self.limits.connections and self._per_source[source] < most

    async def adopt(
        self,
        sock: socket.socket,
        route: Route,
        *,
        initiator: bool,
        expected: PeerId | None = None,
        security: Sequence[str] | None = None,
    ) -> Connection:
        """Secure and multiplex a connected socket; the caller bounds the time, closes on failure.

        Raises:
            PtError: see `pt.node.upgrade.upgrade`.

        """
        over_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if over_tcp:
            congestion = self._congestion if self._congestion != "auto" else None
            tcp.tune_network_socket(sock, congestion)
        upgraded = await upgrade(
            sock,
            initiator=initiator,
            identity=self.identity,
            static=self._static,
            expected=expected,
            security=self._security if security is None else security,
        )
        if self.closed:
            raise ClosedError("this node shuts down")
        connection = Connection(
            self,
            peer_id=upgraded.secure.peer_id,
            suite=upgraded.secure.suite,
            handshake_hash=upgraded.secure.handshake_hash,
            route=route,
            local_addr=route.local or tcp.address_of(sock.getsockname()),
            initiator=initiator,
        )
        session = Session(
            initiator=initiator,
            clock=asyncio.get_running_loop().time,
            on_stream=connection.accept_stream,
            limits=Limits(streams=self.limits.inbound_streams),
        )
        session.on_acked = connection.wake_openers
        lost = self.enter(connection)
        link = Link(
            sock,
            sealer=upgraded.sealer,
            opener=upgraded.opener,
            session=session,
            keep_alive=LIBP2P_KEEP_ALIVE,
            on_lost=lost,
        )
        connection.link = link
        link.bytes_in, link.bytes_out = upgraded.received, upgraded.sent
        if route.limit is not None and route.limit.data:
            link.limit(route.limit.data)
        if self._congestion == "auto" and over_tcp:
            session.on_rtt = lambda rtt: _pick_congestion(sock, rtt)
        link.start(upgraded.ciphertext, upgraded.plaintext)
        self.welcome(connection)
        return connection

    def enter(self, connection: Connection) -> Callable[[str], None]:
        """Count a new connection; returns what to call at its end."""
        source = connection.route.source

        def lost(reason: str) -> None:
            self.connections.discard(connection)
            self._per_source[source] -= 1
            if self._per_source[source] <= 0:
                del self._per_source[source]
            self.tracer.emit("connection_lost", peer=str(connection.peer_id), reason=reason)
            connection.lost(reason)

        self.connections.add(connection)
        self._per_source[source] += 1
        self.tracer.emit(
            "connected",
            peer=str(connection.peer_id),
            address=str(connection.route.remote),
            path=connection.route.path,
            initiator=connection.initiator,
            suite=connection.security,
        )
        return lost

    def welcome(self, connection: Connection) -> None:
        """Ask the peer of a connection that works who it is, and tell everybody."""
        standard.greet(self, connection)
        for told in self.on_connection:
            told(connection)


def _pick_congestion(sock: socket.socket, rtt: float) -> None:
    if rtt >= BBR_RTT and sock.fileno() >= 0:
        tcp.tune_network_socket(sock, "bbr")
