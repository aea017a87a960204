"""TCP connections that both ends open at the same time, through NATs that let in only answers.

One port listens and dials (SO_REUSEPORT): a SYN that meets ours on the way makes one connection of
two dials (RFC 9293, 3.5); one that comes earlier is for the listener.  A dial that is not answered
soon is made anew: the kernel would repeat its SYN only after a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from pt.aio import tcp
from pt.errors import LocalPortError, PtError

__all__ = ["open_from_both_sides"]

Address: TypeAlias = tuple[str, int]

MAX_ACCEPTED: Final = 16
"""Connections from outside, an attempt; further ones are not accepted."""
_FIRST_GAP: Final = 0.02
_MAX_GAP: Final = 0.3


async def open_from_both_sides(
    port: int,
    remotes: Sequence[Address],
    prove: Callable[[socket.socket], Awaitable[bool]],
    *,
    seconds: float,
    rtt: float,
    host: str = "0.0.0.0",
) -> socket.socket | None:
    """Listen on `port` and dial all `remotes` from it; the first connection that `prove` accepts.

    None: there was none in `seconds`.  Others are reset.  `port` must not be listened on by anybody
    else.

    Raises:
        LocalPortError: the port cannot be used.

    """
    attempt = _Attempt(port, prove, rtt, host)
    try:
        return await attempt.run(remotes, seconds)
    finally:
        await attempt.close()


class _Attempt:
    def __init__(
        self,
        port: int,
        prove: Callable[[socket.socket], Awaitable[bool]],
        rtt: float,
        host: str,
    ) -> None:
        self._port = port
        self._prove = prove
        self._rtt = rtt
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._proved = asyncio.Event()
        self._winner: socket.socket | None = None
        try:
            self._listener = tcp.listen(host, port, share_port=True)
        except OSError as error:
            raise LocalPortError(
                f"TCP port {port} cannot be used for hole punching: {error.strerror or error}"
            ) from error

    async def run(self, remotes: Sequence[Address], seconds: float) -> socket.socket | None:
        self._start(self._accept())
        for host, port in remotes:
            self._start(self._dial(host, port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._proved.wait()
        winner, self._winner = self._winner, None
        return winner

    def _start(self, coro: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(MAX_ACCEPTED):
            sock, _ = await loop.sock_accept(self._listener)
            self._start(self._try(sock))

    async def _dial(self, host: str, port: int) -> None:
        gap = _FIRST_GAP
        patience = max(0.2, 2 * self._rtt)
        while not self._proved.is_set():
            try:
                async with asyncio.timeout(patience):
                    sock = await self._connect(host, port)
            except (OSError, TimeoutError):
                patience = min(patience * 1.5, 2.0)
            else:
                await self._try(sock)
            await asyncio.sleep(gap)
            gap = min(gap * 1.5, _MAX_GAP)

    async def _connect(self, host: str, port: int) -> socket.socket:
        sock = socket.socket(tcp.ip_family(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((self._host, self._port))
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except (OSError, asyncio.CancelledError):
            sock.close()
            raise
        return sock

    async def _try(self, sock: socket.socket) -> None:
        """The first that proves itself wins; all others are reset."""
        won = False
        try:
            won = await self._prove(sock) and not self._proved.is_set()
        except (PtError, OSError):
            return
        finally:
            if not won:
                tcp.abort(sock)
        if won:
            self._winner = sock
            self._proved.set()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._listener.close()
        if self._winner is not None:
            tcp.abort(self._winner)
