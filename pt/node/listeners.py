"""The sockets a node listens on, and the addresses they stand for.

One TCP port may serve several transports, told apart by the first byte of a connection; addresses
with the same host and port share one socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from pt.aio import tcp
from pt.errors import LocalPortError, UsageError
from pt.node.interfaces import expand
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr

__all__ = ["SUFFIXES", "Listeners", "dialable"]

ACCEPT_BURST: Final = 64
RETRY_ACCEPT: Final = 0.5
"""Seconds to leave a listener alone when this process has no descriptors left."""
SUFFIXES: Final = {"tcp": "", "ws": "/ws", "wss": "/tls/ws"}
"""What follows /tcp/PORT in the address of each transport that shares the port."""


class Listeners:
    """`on_socket(sock, host)` is told each accepted connection, and owns it."""

    def __init__(self, on_socket: Callable[[socket.socket, str], None], tracer: Tracer) -> None:
        self._on_socket = on_socket
        self._tracer = tracer
        self._sockets: list[tuple[socket.socket, list[str]]] = []

    def open(self, addresses: Sequence[Multiaddr], transports: frozenset[str]) -> None:
        """Listen on all of `addresses`, whose transports must be among `transports`.

        Raises:
            LocalPortError: an address cannot be listened on; none of them is open then.
            UsageError: an address makes no sense for a listener.

        """
        points: dict[tuple[str, int], list[str]] = {}
        for address in addresses:
            host, port, transport = _listen_point(address, transports)
            points.setdefault((host, port), []).append(SUFFIXES[transport])
        first_port = 0
        opened: list[tuple[socket.socket, list[str]]] = []
        for (host, port), suffixes in points.items():
            try:
                sock = tcp.listen(host, port or first_port, share_port=True)
            except OSError as error:
                if host == "::" and len(points) > 1:
                    continue  # a kernel without IPv6; the other address serves
                for done, _ in opened:
                    done.close()
                raise LocalPortError(
                    f"cannot listen on {Multiaddr.tcp(host, port)}: {error.strerror or error}; "
                    "choose another --listen address, or stop the program that holds the port"
                ) from error
            opened.append((sock, suffixes))
            first_port = first_port or sock.getsockname()[1]
        self._sockets += opened
        loop = asyncio.get_running_loop()
        for sock, _ in opened:
            loop.add_reader(sock.fileno(), self.on_accept, sock)

    def close(self) -> None:
        """Stop listening."""
        for sock, _ in self._sockets:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where we listen, without `/p2p`; see `dialable`."""
        return dialable(
            (sock.getsockname()[0], partial(_all, sock.getsockname()[1], suffixes))
            for sock, suffixes in self._sockets
        )

    @property
    def points(self) -> list[tuple[str, int]]:
        """Host and port of each socket, wildcards as they are."""
        return [sock.getsockname()[:2] for sock, _ in self._sockets]

    def port_for(self, host: str) -> int | None:
        """Our wildcard listener's port of the same family, so that dials can leave from it."""
        family = tcp.ip_family(host)
        for sock, _ in self._sockets:
            bound, port = sock.getsockname()[:2]
            if sock.family == family and bound in ("0.0.0.0", "::"):
                return int(port)
        return None

    def on_accept(self, listener: socket.socket) -> None:
        """Take what waits at a listener, as much as one turn allows."""
        for _ in range(ACCEPT_BURST):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._tracer.emit("accept_failed", reason=str(error))
                self._accept_later(listener)
                return
            sock.setblocking(False)
            self._on_socket(sock, peer[0])

    def _accept_later(self, listener: socket.socket) -> None:
        """Out of descriptors: come back in a moment instead of spinning on the queue."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def again() -> None:
            if any(listener is sock for sock, _ in self._sockets):
                loop.add_reader(listener.fileno(), self.on_accept, listener)

        loop.call_later(RETRY_ACCEPT, again)


def dialable(
    points: Iterable[tuple[str, Callable[[str], Sequence[Multiaddr]]]],
) -> list[Multiaddr]:
    """Addresses of listeners, wildcards expanded to the interfaces' addresses.

    Each is (the host it listens at, what makes addresses of a concrete one).  A family without a
    network stands behind its wildcard with its loopback address, which is told only if there is
    nothing else.
    """
    found: list[Multiaddr] = []
    spare: list[Multiaddr] = []
    for host, make in points:
        for each in expand(host):
            for address in make(each):
                (spare if each != host and address.is_loopback else found).append(address)
    return found or spare


def _all(port: int, suffixes: Sequence[str], host: str) -> list[Multiaddr]:
    return [_with(Multiaddr.tcp(host, port), suffix) for suffix in suffixes]


def _with(address: Multiaddr, suffix: str) -> Multiaddr:
    return Multiaddr.parse(f"{address}{suffix}") if suffix else address


def _listen_point(address: Multiaddr, transports: frozenset[str]) -> tuple[str, int, str]:
    host, port, transport = address.host, address.tcp_port, address.transport
    if (
        host is None
        or port is None
        or host[0] not in ("ip4", "ip6")
        or transport not in transports
        or address.peer_id_bytes is not None
    ):
        raise UsageError(f"cannot listen on {address}: give an address like /ip4/0.0.0.0/tcp/4001")
    return host[1], port, transport
