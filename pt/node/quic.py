"""QUIC for a node: one UDP port for listening and dialing, opened when it is first needed.

What else wants the port (STUN, hole punching, the overlay of a relay) sets `UdpPort.received`, and
gets what is not QUIC.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from pt.aio.udp import Address, UdpPort
from pt.errors import ClosedError, LimitError, LocalPortError, UsageError
from pt.node.connection import Connection
from pt.node.listeners import dialable
from pt.node.qlog import QlogFiles
from pt.node.route import Route, source_of
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.node.node import Node
    from pt.quic.aio import QuicLink, QuicPort
    from pt.quic.engine import EngineFactory
    from pt.quic.events import HandshakeDone

__all__ = ["QUIC", "Quic", "listen_point"]

QUIC: Final = "quic-v1"
"""The transport's name, as `Multiaddr.transport` says it."""
STREAMS: Final = 20_480
"""Streams that a peer may have open at a time, however far it is trusted: a tunnel's, and some.
Of those whom we do not trust, the session takes fewer."""
LOSSY_FOR: Final = 600.0
"""Seconds for which a host is remembered as one that packets get lost on the way to."""
MAX_LOSSY: Final = 256
MAX_PORTS: Final = 16
"""Further UDP ports, beside the shared one."""
UNUSED: Final = 15.0
_ANY: Final = (("0.0.0.0", 0), ("::", 0))


class Quic:
    """Gives a node its dialer of /quic-v1, and its listeners."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._port: QuicPort | None = None
        self._own_udp = False
        self._engine = os.environ.get("PT_QUIC_ENGINE") or None
        self._lossy: OrderedDict[str, float] = OrderedDict()
        self._qlog = QlogFiles(node.tracer)
        self._make: Callable[[UdpPort], QuicPort]
        self._more: dict[QuicPort, None] = {}
        self.brief = False
        """Connections carry little: larger datagrams than every path takes are not tried."""
        self._listening = False
        node.dialers[QUIC] = self.dial

    # --- the port ------------------------------------------------------------------------------

    @property
    def udp(self) -> UdpPort | None:
        """The UDP port, once there is one."""
        return None if self._port is None else self._port.udp

    def listen(self, points: Sequence[Address], number: int = 0) -> None:
        """Take connections, too; a port that dials already keeps the address it has.

        `number` is the port to have if the system may choose and it is free: TCP's.

        Raises:
            LocalPortError: an address cannot be listened on.
            UsageError: PT_QUIC_ENGINE names no engine that there is.

        """
        if number and not any(port for _, port in points):
            with contextlib.suppress(LocalPortError):
                self.listen([(host, number) for host, _ in points])
                return
        if self._port is None or not self._port.links:
            self._close_port()
            self._open(lambda: _bind(points))
        elif any(port for _, port in points):
            raise LocalPortError(
                "this process uses another UDP port already: give --listen when it starts"
            )
        self._accept()

    def share(self, udp: UdpPort) -> None:
        """Take connections at a UDP port that somebody else has opened, and closes."""
        self._close_port()
        self._open(lambda: udp)
        self._own_udp = False
        self._accept()

    def ready(self) -> UdpPort:
        """The UDP port, opened to dial from if there is none yet."""
        if self._port is None:
            self._open(lambda: _bind(_ANY))
        assert self._port is not None
        return self._port.udp

    def accept_at(self, udp: UdpPort) -> None:
        """Take connections at a port that a hole was punched from, whether we listen or not.

        Another one than the shared port is ours now, and closed when it has no connection any more.

        Raises:
            LimitError: there are too many of these; it is closed already.

        """
        if udp is self.ready():
            assert self._port is not None
            self._port.accept = self._inbound
        else:
            self._side_port(udp).accept = self._inbound

    def _side_port(self, udp: UdpPort) -> QuicPort:
        self.ready()
        while len(self._more) >= MAX_PORTS:
            unused = next((each for each in self._more if not each.links), None)
            if unused is None:
                udp.close()
                raise LimitError(f"{MAX_PORTS} paths with a UDP port of their own are in use")
            self._drop(unused)
        port = self._make(udp)
        self._more[port] = None
        self._watch_unused(port)
        return port

    def _watch_unused(self, port: QuicPort) -> None:
        """Look now and then whether a side port is still of use."""

        def look() -> None:
            if port in self._more:
                if port.links:
                    self._watch_unused(port)
                else:
                    self._drop(port)

        asyncio.get_running_loop().call_later(UNUSED, look)

    def _drop(self, port: QuicPort) -> None:
        self._more.pop(port, None)
        port.close()
        port.udp.close()

    def unlisten(self) -> None:
        """Take no more connections; those that are there stay, and dialing goes on."""
        self._listening = False
        if self._port is not None:
            self._port.accept = None

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where we take connections, as `Listeners.addresses`."""
        if self._port is None or not self._listening:
            return []
        points = self._port.udp.addresses
        return dialable((host, partial(_at, port)) for host, port in points)

    def _open(self, udp: Callable[[], UdpPort]) -> QuicPort:
        from pt.quic import select  # noqa: PLC0415  # costs what only QUIC's users should pay
        from pt.quic.aio import QuicPort  # noqa: PLC0415
        from pt.quic.certificate import ENTROPY_SIZE, Certificate  # noqa: PLC0415
        from pt.quic.engine import Config  # noqa: PLC0415
        from pt.quic.limits import (  # noqa: PLC0415
            BASE_DATAGRAM,
            MAX_DATAGRAM_IPV4,
            Limits,
        )

        identity = self._node.identity
        try:
            usual = select.default(self._engine)
            robust = usual if self._engine else select.default("aioquic")
        except UsageError as error:
            raise UsageError(f"PT_QUIC_ENGINE: {error}") from error

        def choose(address: Address) -> EngineFactory:
            return robust if self._lossy.get(address[0], 0.0) > _now() else usual

        largest = BASE_DATAGRAM if self.brief else MAX_DATAGRAM_IPV4
        config = Config(
            certificate=Certificate.create(
                identity, now=time.time(), entropy=os.urandom(ENTROPY_SIZE)
            ),
            # The same after a restart: peers of the old process learn that it is gone.
            reset_key=hashlib.sha256(b"pt quic reset " + identity.to_protobuf()).digest(),
            random=os.urandom,
            unix_time=time.time,
            limits=Limits(streams=STREAMS, max_datagram=largest),
            congestion=_congestion(),
            trace=self._qlog.trace if self._node.tracer.path else None,
        )
        self._make = lambda each: QuicPort(each, config, choose, admit=self._admit)
        self._port = self._make(udp())
        self._own_udp = True
        return self._port

    def _accept(self) -> None:
        assert self._port is not None
        self._listening = True
        self._port.accept = self._inbound

    def _close_port(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()
            if self._own_udp:
                port.udp.close()

    def close(self) -> None:
        """Say goodbye, and close the port."""
        self._listening = False
        for port in list(self._more):
            self._drop(port)
        self._close_port()
        self._qlog.close()

    @property
    def chooses(self) -> bool:
        """Whether connections to lossy hosts get an engine that bears with it."""
        return self._engine is None

    def expect_loss(self, connection: Connection) -> None:
        """Packets get lost on the way to this peer: other connections are to bear with it."""
        host = connection.remote_addr.host
        if host is None or not self.chooses:
            return
        self._lossy[host[1]] = _now() + LOSSY_FOR
        self._lossy.move_to_end(host[1])
        if len(self._lossy) > MAX_LOSSY:
            self._lossy.popitem(last=False)
        self._node.tracer.emit("path_loss", peer=str(connection.peer_id), host=host[1])

    # --- connections ---------------------------------------------------------------------------

    async def dial(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """A `Node.dialers` entry; TLS 1.3 is all the security there is.

        Raises:
            PtError, OSError, TimeoutError: it failed.

        """
        del security
        return await self.dial_from(None, address, expected)

    async def dial_from(
        self, udp: UdpPort | None, address: Multiaddr, expected: PeerId | None
    ) -> Connection:
        """Dial from the shared port, or from one that is ours from now on.

        Raises:
            PtError, OSError, TimeoutError: it failed.

        """
        host, port = address.host, address.udp_port
        assert host is not None
        assert port is not None
        self.ready()
        assert self._port is not None
        quic = self._port if udp is None else self._side_port(udp)
        made: list[Connection] = []

        def established(link: QuicLink, event: HandshakeDone) -> None:
            made.append(self._connection(link, event, address, initiator=True))

        async with asyncio.timeout(self._node.limits.connect_timeout):
            await quic.dial((host[1], port), expected, established)
        return made[0]

    def _admit(self, address: Address, half_open: Iterable[Address]) -> bool:
        """Whether a stranger's first datagram may cost us a handshake."""
        limits, source = self._node.limits, source_of(address[0])
        waiting = sum(source_of(host) == source for host, _ in half_open)
        return waiting < limits.handshakes_per_host and self._node.admits(
            source, limits.connections_per_host
        )

    def _inbound(self, link: QuicLink, event: HandshakeDone) -> None:
        limits = self._node.limits
        host, port = link.address
        if not self._node.admits(source_of(host), limits.connections_per_host):
            raise LimitError("too many connections")
        self._connection(link, event, Multiaddr.quic(host, port), initiator=False)

    def _connection(
        self, link: QuicLink, event: HandshakeDone, remote: Multiaddr, *, initiator: bool
    ) -> Connection:
        node = self._node
        if node.closed:
            raise ClosedError("this node shuts down")
        connection = Connection(
            node,
            peer_id=event.peer,
            suite=None,
            handshake_hash=event.binding,
            route=Route(remote, path="direct/quic"),
            local_addr=_local(link.port.udp, remote),
            initiator=initiator,
        )
        link.session.limits.streams = node.limits.inbound_streams
        link.session.on_stream = connection.accept_stream
        link.session.on_acked = connection.wake_openers
        connection.link = link

        def moved(address: Address) -> None:
            connection.route = replace(connection.route, remote=Multiaddr.quic(*address))
            node.tracer.emit(
                "peer_moved", peer=str(event.peer), address=str(connection.route.remote)
            )

        link.on_moved = moved
        link.on_lost = node.enter(connection)
        node.welcome(connection)
        return connection


def _now() -> float:
    return asyncio.get_running_loop().time()


def _at(port: int, host: str) -> list[Multiaddr]:
    return [Multiaddr.quic(host, port)]


def listen_point(address: Multiaddr) -> Address:
    """Host and port of an address to listen on.

    Raises:
        UsageError: it makes no sense for that.

    """
    host = address.host
    if host is None or host[0] not in ("ip4", "ip6") or address.peer_id_bytes is not None:
        raise UsageError(
            f"cannot listen on {address}: give an address like /ip4/0.0.0.0/udp/4001/quic-v1"
        )
    return host[1], address.udp_port or 0


def _bind(points: Sequence[Address]) -> UdpPort:
    """A port at all of `points`; a kernel without IPv6 serves with the others."""
    try:
        return UdpPort(*points)
    except LocalPortError:
        rest = [point for point in points if point[0] != "::"]
        if not rest or len(rest) == len(points) or _has_six():
            raise
        return UdpPort(*rest)


def _has_six() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _local(udp: UdpPort, remote: Multiaddr) -> Multiaddr:
    """Our end, as far as a socket that serves everybody knows it."""
    host, port = remote.host, remote.udp_port
    assert host is not None
    at = udp.local_address((host[1], port or 0))
    return Multiaddr.quic(*(at or ("::" if host[0] == "ip6" else "0.0.0.0", 0)))


def _congestion() -> str:
    """What PT_CONGESTION asks for, if QUIC has it; else what holds up with loss."""
    asked = os.environ.get("PT_CONGESTION", "")
    return asked if asked in {"cubic", "reno", "bbr"} else "bbr"
