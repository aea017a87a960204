"""Raw non-blocking TCP sockets: options, listening, dialing, and a `ByteStream` for hand-shakes.

No asyncio transport ever touches a tunnel's bytes: a socket is driven by `add_reader` and
`add_writer`.  `SocketStream` serves the few messages before a connection is upgraded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final

from pt.aio.stream import read_exactly
from pt.errors import ClosedError, ResetError
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "SocketStream",
    "abort",
    "abort_on_exit",
    "address_of",
    "close_in_order",
    "dial",
    "dial_from",
    "ip_family",
    "listen",
    "peek",
    "tune_network_socket",
]

LISTEN_BACKLOG: Final = 512
NOTSENT_LOWAT: Final = 512 * 1024
"""Unsent bytes the kernel may hold, so that a small message never queues behind megabytes."""
USER_TIMEOUT_MS: Final = 20_000
"""The kernel gives a connection up whose data stays unacknowledged for so long."""
FRESH_PORT_ERRORS: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EINVAL})
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_LINGER_OFF: Final = struct.pack("ii", 0, 0)
_TCP_CONGESTION: Final = getattr(socket, "TCP_CONGESTION", None)
_TCP_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)
_TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_SO_REUSEPORT: Final = getattr(socket, "SO_REUSEPORT", None)


def ip_family(host: str) -> socket.AddressFamily:
    """AF_INET6 for an IPv6 literal, else AF_INET."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tune_network_socket(sock: socket.socket, congestion: str | None = None) -> str | None:
    """Set what a peer-to-peer connection wants; return the congestion control in force.

    `congestion` names an algorithm to try; one the kernel does not allow is passed over silently.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
    if _TCP_USER_TIMEOUT is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    if _TCP_CONGESTION is None:
        return None
    if congestion:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, congestion.encode())
    with contextlib.suppress(OSError):
        raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, 16)
        return raw.split(b"\0")[0].decode()
    return None


def listen(host: str, port: int, *, share_port: bool = False) -> socket.socket:
    """A non-blocking listening socket.

    With `share_port`, later dials may leave from the same port (SO_REUSEPORT); a port that
    somebody else already listens on is still refused.

    Raises:
        OSError: the address cannot be listened on.

    """
    family = ip_family(host)
    if share_port and port:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
            probe.listen(1)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port and _SO_REUSEPORT is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(LISTEN_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def address_of(name: Sequence[object]) -> Multiaddr:
    """The multiaddr of what getsockname() or getpeername() said of an IP socket."""
    host = str(name[0]).split("%")[0]
    return Multiaddr.tcp(host.removeprefix("::ffff:"), int(str(name[1])))


async def peek(sock: socket.socket) -> int:
    """Wait for the first byte and leave it there.

    Raises:
        ClosedError: the other side closed without one.
        OSError: the connection broke.

    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(sock.fileno(), _wake, ready)
            try:
                await ready
            finally:
                loop.remove_reader(sock.fileno())
            continue
        if not first:
            raise ClosedError("the peer closed the connection before it said anything")
        return first[0]


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def dial(host: str, port: int, *, local_port: int | None = None) -> socket.socket:
    """Connect, from `local_port` if given and possible, else from a fresh port.

    Raises:
        OSError: the connection failed.

    """
    if local_port:
        try:
            return await dial_from(host, port, (_wildcard(host), local_port))
        except OSError as error:
            if error.errno not in FRESH_PORT_ERRORS:
                raise
    return await dial_from(host, port, None)


def _wildcard(host: str) -> str:
    return "::" if ip_family(host) == socket.AF_INET6 else "0.0.0.0"


async def dial_from(host: str, port: int, local: tuple[str, int] | None) -> socket.socket:
    """Connect from `local`, an address and a port, and no other; None: from a fresh port.

    Raises:
        OSError: the connection failed.

    """
    family = ip_family(host)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if local is not None and _SO_REUSEPORT is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_REUSEPORT, 1)
            sock.bind(local)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except (OSError, asyncio.CancelledError):
        sock.close()
        raise
    return sock


def abort(sock: socket.socket) -> None:
    """Close so that the other side gets an RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()


def abort_on_exit(sock: socket.socket) -> None:
    """Have the kernel send RST, not FIN, if this process dies: cut off must look cut off."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def close_in_order(sock: socket.socket) -> None:
    """Close a socket of `abort_on_exit` with what is under way delivered."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    sock.close()


class SocketStream:
    """A `ByteStream` on a connected non-blocking socket, for the messages of a hand-shake."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = 0
        self.sent = 0
        self._pushed = b""

    def detach(self) -> tuple[socket.socket, bytes]:
        """Give up the socket, with the bytes that were read and not used."""
        pushed, self._pushed = self._pushed, b""
        return self.sock, pushed

    def unread(self, data: bytes) -> None:
        """Push bytes back in front."""
        self._pushed = data + self._pushed

    async def read(self, max_len: int) -> bytes:
        """Read what is there, at most `max_len` bytes."""
        if self._pushed:
            data, self._pushed = self._pushed[:max_len], self._pushed[max_len:]
            return data
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, max_len)
        except OSError as error:
            raise ResetError(f"the connection broke: {error.strerror or error}") from error
        self.received += len(data)
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Read `count` bytes."""
        return await read_exactly(self.read, count)

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except OSError as error:
            raise ResetError(f"the connection broke: {error.strerror or error}") from error
        self.sent += len(data)

    async def close_write(self) -> None:
        """Send FIN."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    async def reset(self, code: int = 0) -> None:  # TCP has no reset codes
        """Send RST."""
        abort(self.sock)
