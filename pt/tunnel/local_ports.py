"""The binder's listening ports: accepts local connections and hands their sockets on."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from pt.aio import tcp
from pt.errors import LocalPortError
from pt.tunnel.config import Forward
from pt.tunnel.events import BoundPort

__all__ = ["LocalPorts"]

ACCEPT_BURST: Final = 64
"""Connections taken from one listener before others get their turn."""
RETRY_ACCEPT: Final = 0.5
"""Seconds to leave a listener alone when this process has no descriptors left."""


class LocalPorts:
    """`on_connection(sock, port)` gets each connection, non-blocking, with the remote port it is
    for; `on_batch()` follows a batch of them; `on_trouble(reason)` says why accepting failed.
    """  # noqa: D205

    def __init__(
        self,
        on_connection: Callable[[socket.socket, int], None],
        on_batch: Callable[[], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._on_connection = on_connection
        self._on_batch = on_batch
        self._on_trouble = on_trouble
        self._listeners: list[socket.socket] = []

    def listen(self, forward: Forward) -> BoundPort:
        """Listen for `forward`.

        Raises:
            LocalPortError: the port is taken, or not ours to take.

        """
        try:
            sock = tcp.listen(forward.host, forward.local_port)
        except OSError as error:
            raise _port_error(forward.host, forward.local_port, error) from error
        self._listeners.append(sock)
        loop = asyncio.get_running_loop()
        loop.add_reader(sock.fileno(), self._on_accept, sock, forward.remote_port)
        host, port = sock.getsockname()[:2]
        return BoundPort(local=port, remote=forward.remote_port, host=host)

    def close(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    def _on_accept(self, listener: socket.socket, port: int) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                self._retry(listener, port, error)
                break
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_connection(sock, port)
        self._on_batch()

    def _retry(self, listener: socket.socket, port: int, error: OSError) -> None:
        """Out of descriptors: come back in a moment instead of spinning on the queue."""
        self._on_trouble(f"cannot accept local connections ({error.strerror}); raise ulimit -n")
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def again() -> None:
            if listener in self._listeners:
                loop.add_reader(listener.fileno(), self._on_accept, listener, port)

        loop.call_later(RETRY_ACCEPT, again)


def _port_error(host: str, port: int, error: OSError) -> LocalPortError:
    if error.errno == errno.EADDRINUSE:
        return LocalPortError(
            f"port {port} of {host} is in use: choose another --port, or 0 to let the system choose"
        )
    if error.errno == errno.EACCES:
        return LocalPortError(
            f"port {port} needs privileges: choose one from 1024 on, such as --port {8000 + port}"
        )
    return LocalPortError(f"cannot listen on {host} port {port}: {error.strerror or error}")
