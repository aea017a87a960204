"""A running libp2p peer: identity, listeners, connection table, dialing, standard protocols."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pt.aio import tcp
from pt.aio.scope import Scope
from pt.errors import (
    ClosedError,
    ConnectError,
    LimitError,
    LocalPortError,
    PtError,
    UsageError,
)
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import accept_reply, lazy_open
from pt.node import standard
from pt.node.connection import Connection, RawHandler, StreamCallback
from pt.node.dial_plan import plan
from pt.node.interfaces import expand
from pt.node.link import KeepAlive, Link
from pt.node.race import Race, reason_of
from pt.node.upgrade import PT_SECURITY, SECURITY, upgrade
from pt.trace import NO_TRACE, Tracer
from pt.wire.multiaddr import Multiaddr
from pt.yamux.aio import MuxedStream
from pt.yamux.session import Limits, Session

__all__ = ["Node", "NodeLimits"]

AGENT: Final = "pt/0.1.0"
BBR_RTT: Final = 0.003
"""From this round-trip time (s) on, BBR is asked for; on a LAN the kernel's choice is faster."""
LIBP2P_KEEP_ALIVE: Final = KeepAlive(15.0, 40.0)
RETRY_ACCEPT: Final = 0.5
"""Seconds to leave a listener alone when this process has no descriptors left."""


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What strangers may cost us."""

    connections: int = 512
    connections_per_host: int = 64
    handshakes: int = 128
    """Inbound connections that have not said who they are yet."""
    handshakes_per_host: int = 32
    handshake_timeout: float = 10.0
    connect_timeout: float = 10.0
    inbound_streams: int = 512
    """Inbound streams a connection; a tunnel raises it once the peer has proved itself."""
    handlers: int = 2048
    """Streams being served by coroutines, over all connections."""
    negotiation_timeout: float = 10.0


class Negotiation(Protocol):
    """A stream that has not said what it wants."""

    @property
    def pending(self) -> bool:
        """Whether that is still so."""
        ...

    def expire(self) -> None:
        """Its time is over."""
        ...


class Node:
    """One peer.  `congestion` is "auto", "" (leave the kernel's), or an algorithm's name.

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
    ) -> None:
        self.identity = identity
        self.peer_id = PeerId.from_public_key(identity.public)
        self.limits = limits or NodeLimits()
        self.tracer = tracer
        self.agent = agent
        self.raw_handlers: dict[bytes, tuple[bytes, RawHandler]] = {}
        self.raw_by_protocol: dict[str, RawHandler] = {}
        self.connections: set[Connection] = set()
        self.announce: tuple[Multiaddr, ...] = ()
        self._listen = tuple(listen)
        self._security = tuple(security)
        self._congestion = congestion
        self._handlers: dict[str, StreamCallback] = {}
        self._static = secrets.token_bytes(32)
        self._scope = Scope(limit=self.limits.handlers)
        self._upgrades = Scope(limit=self.limits.handshakes)
        self._sockets: list[socket.socket] = []
        self._handshakes: Counter[str] = Counter()
        self._per_host: Counter[str] = Counter()
        self._young: deque[tuple[float, Negotiation]] = deque()
        self._expirer: asyncio.TimerHandle | None = None
        self._closed = False

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            LocalPortError: an address cannot be listened on; nothing is left open.

        """
        standard.install(self)
        loop = asyncio.get_running_loop()
        first_port = 0
        try:
            for address in self._listen:
                host, port = _listen_point(address)
                try:
                    sock = tcp.listen(host, port or first_port, share_port=True)
                except OSError as error:
                    if host == "::" and len(self._listen) > 1:
                        continue  # a kernel without IPv6; the other address serves
                    raise LocalPortError(
                        f"cannot listen on {address}: {error.strerror or error}; choose another "
                        "--listen address, or stop the program that holds the port"
                    ) from error
                self._sockets.append(sock)
                first_port = first_port or sock.getsockname()[1]
        except LocalPortError:
            self._close_listeners()
            raise
        for sock in self._sockets:
            loop.add_reader(sock.fileno(), self._on_accept, sock)

    async def close(self) -> None:
        """Close listeners, connections and tasks."""
        self._closed = True
        if self._expirer is not None:
            self._expirer.cancel()
        self._close_listeners()
        for connection in list(self.connections):
            connection.close("this node shuts down")
        await self._upgrades.aclose()
        await self._scope.aclose()

    def _close_listeners(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where we listen, wildcards expanded to the interfaces' addresses, without `/p2p`."""
        found: list[Multiaddr] = []
        for sock in self._sockets:
            host, port = sock.getsockname()[:2]
            found += [Multiaddr.tcp(each, port) for each in expand(host)]
        return tuple(dict.fromkeys((*found, *self.announce)))

    # --- protocols -----------------------------------------------------------------------------

    def handle(self, protocol: str, callback: StreamCallback) -> None:
        """Serve `protocol` by a coroutine a stream; the stream is reset when it raises."""
        self._handlers[protocol] = callback

    def handle_raw(self, protocol: str, callback: RawHandler) -> None:
        """Serve `protocol` in the receive path (see `RawHandler`)."""
        self.raw_handlers[lazy_open(protocol)] = (accept_reply(protocol), callback)
        self.raw_by_protocol[protocol] = callback

    def speaks(self, protocol: str) -> bool:
        """Whether inbound streams may ask for `protocol`."""
        return protocol in self._handlers or protocol in self.raw_by_protocol

    @property
    def protocols(self) -> tuple[str, ...]:
        """All protocols served, sorted."""
        return tuple(sorted((*self._handlers, *self.raw_by_protocol)))

    def serve(self, protocol: str, stream: MuxedStream, connection: Connection) -> None:
        """Run the handler of a freshly negotiated inbound stream."""
        try:
            self._scope.start(self._run_handler(protocol, stream, connection))
        except LimitError:
            stream.stream.reset()

    async def _run_handler(
        self, protocol: str, stream: MuxedStream, connection: Connection
    ) -> None:
        try:
            await self._handlers[protocol](stream, connection)
        except (PtError, OSError, TimeoutError) as error:
            self.tracer.emit("stream_failed", protocol=protocol, reason=str(error))
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

    def _on_accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.tracer.emit("accept_failed", reason=str(error))
                self._accept_later(listener)
                return
            host = peer[0]
            limits = self.limits
            if (
                self._handshakes.total() >= limits.handshakes
                or self._handshakes[host] >= limits.handshakes_per_host
                or len(self.connections) >= limits.connections
                or self._per_host[host] >= limits.connections_per_host
            ):
                self.tracer.emit("refused", host=host, reason="too many connections")
                tcp.abort(sock)
                continue
            sock.setblocking(False)
            try:
                self._upgrades.start(self._inbound(sock, host))  # whatever the handlers do
            except LimitError:  # counts in nothing, or it would count for ever
                self.tracer.emit("refused", host=host, reason="too many handshakes")
                tcp.abort(sock)
                continue
            self._handshakes[host] += 1

    def _accept_later(self, listener: socket.socket) -> None:
        """Out of descriptors: come back in a moment instead of spinning on the queue."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def again() -> None:
            if listener in self._sockets:
                loop.add_reader(listener.fileno(), self._on_accept, listener)

        loop.call_later(RETRY_ACCEPT, again)

    async def _inbound(self, sock: socket.socket, host: str) -> None:
        try:
            remote = _address_of(sock.getpeername())
            async with asyncio.timeout(self.limits.handshake_timeout):
                await self._upgrade(sock, remote, initiator=False)
        except (PtError, OSError, TimeoutError) as error:
            sock.close()
            self.tracer.emit("inbound_failed", host=host, reason=str(error) or "timed out")
        except asyncio.CancelledError:
            sock.close()
            raise
        finally:
            self._handshakes[host] -= 1
            if self._handshakes[host] <= 0:
                del self._handshakes[host]

    # --- outbound ------------------------------------------------------------------------------

    async def connect(
        self,
        addresses: Multiaddr | Iterable[Multiaddr],
        *,
        expected: PeerId | None = None,
        security: Sequence[str] = (SECURITY,),
        timeout: float = 15.0,
    ) -> Connection:
        """Dial the addresses of one peer, Happy Eyeballs style; the first finished upgrade wins.

        `expected` defaults to the `/p2p/` part of the addresses.  Offer `PT_SECURITY` first only
        to a peer that is probably a `pt`: a stranger costs one more round trip.

        Raises:
            ConnectError: no address worked; `attempts` says why for each.
            UsageError: there is nothing to dial.

        """
        given = (addresses,) if isinstance(addresses, Multiaddr) else tuple(addresses)
        if expected is None:
            ids = {address.peer_id_bytes for address in given} - {None}
            if len(ids) > 1:
                raise UsageError("the addresses name different peers: dial one peer at a time")
            for raw in ids:
                assert raw is not None
                expected = PeerId(raw)
        attempts = plan(await self._resolve(given))
        if not attempts:
            raise ConnectError(
                f"none of {len(given)} addresses can be dialed: only /ip4, /ip6 and /dns with /tcp "
                "are supported"
            )
        return await Race(self, expected, tuple(security)).run(attempts, timeout)

    async def _resolve(self, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        resolved: list[Multiaddr] = []
        failure: ConnectError | None = None
        for address in addresses:
            host, port = address.host, address.tcp_port
            if host is None or port is None or not host[0].startswith("dns"):
                resolved.append(address)
                continue
            family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(host[0], 0)
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(
                    host[1], port, family=family, type=socket.SOCK_STREAM
                )
            except OSError as error:
                failure = ConnectError(
                    f"could not resolve host {host[1]!r}: {error.strerror or error}; check the "
                    "name and this machine's DNS, or give an address with /ip4/…",
                    ((str(address), str(error)),),
                )
                failure.__cause__ = error
                continue
            resolved += [Multiaddr.tcp(str(info[4][0]), port) for info in infos[:8]]
        if failure is not None and not resolved:
            raise failure
        return resolved

    async def dial_one(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Dial and upgrade one address."""
        host, port = address.host, address.tcp_port
        assert host is not None
        assert port is not None
        started = time.monotonic()
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                sock = await tcp.dial(host[1], port, local_port=self._local_port(host[1]))
            async with asyncio.timeout(self.limits.handshake_timeout):
                connection = await self._upgrade(
                    sock, address, initiator=True, expected=expected, security=security
                )
        except (PtError, OSError, TimeoutError, asyncio.CancelledError) as error:
            if sock is not None:
                sock.close()
            self.tracer.emit("dial_failed", address=str(address), reason=reason_of(error))
            raise
        self.tracer.emit(
            "dial_ok", address=str(address), seconds=round(time.monotonic() - started, 6)
        )
        return connection

    def _local_port(self, host: str) -> int | None:
        """Our listening port of the same family, so that dials and listening share one."""
        family = tcp.ip_family(host)
        for sock in self._sockets:
            bound, port = sock.getsockname()[:2]
            if sock.family == family and bound in ("0.0.0.0", "::"):
                return int(port)
        return None

    async def _upgrade(
        self,
        sock: socket.socket,
        remote: Multiaddr,
        *,
        initiator: bool,
        expected: PeerId | None = None,
        security: Sequence[str] | None = None,
    ) -> Connection:
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
        if self._closed:
            raise ClosedError("this node shuts down")
        connection = Connection(
            self,
            peer_id=upgraded.secure.peer_id,
            suite=upgraded.secure.suite,
            handshake_hash=upgraded.secure.handshake_hash,
            remote_addr=remote,
            local_addr=_address_of(sock.getsockname()),
            initiator=initiator,
        )
        session = Session(
            initiator=initiator,
            clock=asyncio.get_running_loop().time,
            on_stream=connection.accept_stream,
            limits=Limits(streams=self.limits.inbound_streams),
        )
        session.on_acked = connection.wake_openers
        host = remote.host[1] if remote.host is not None else ""

        def lost(reason: str) -> None:
            self.connections.discard(connection)
            self._per_host[host] -= 1
            if self._per_host[host] <= 0:
                del self._per_host[host]
            self.tracer.emit("connection_lost", peer=str(connection.peer_id), reason=reason)
            connection.lost(reason)

        connection.link = Link(
            sock,
            sealer=upgraded.sealer,
            opener=upgraded.opener,
            session=session,
            keep_alive=LIBP2P_KEEP_ALIVE,
            on_lost=lost,
        )
        self.connections.add(connection)
        self._per_host[host] += 1
        if self._congestion == "auto":
            session.on_rtt = lambda rtt: _pick_congestion(sock, rtt)
        self.tracer.emit(
            "connected",
            peer=str(connection.peer_id),
            address=str(remote),
            initiator=initiator,
            suite=upgraded.secure.suite.name,
        )
        connection.link.start(upgraded.ciphertext, upgraded.plaintext)
        standard.greet(self, connection)
        return connection


def _listen_point(address: Multiaddr) -> tuple[str, int]:
    host, port = address.host, address.tcp_port
    if host is None or port is None or host[0] not in ("ip4", "ip6") or len(address.components) > 2:
        raise UsageError(f"cannot listen on {address}: give an address like /ip4/0.0.0.0/tcp/4001")
    return host[1], port


def _address_of(name: Sequence[object]) -> Multiaddr:
    host = str(name[0]).split("%")[0]
    return Multiaddr.tcp(host.removeprefix("::ffff:"), int(str(name[1])))


def _pick_congestion(sock: socket.socket, rtt: float) -> None:
    if rtt >= BBR_RTT and sock.fileno() >= 0:
        tcp.tune_network_socket(sock, "bbr")
