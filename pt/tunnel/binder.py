"""`pt bind`: makes an exposer's services local ports, and keeps them so.

Listening comes first and never stops; the search for the exposer, the session and its renewal run
behind it (`pt.tunnel.reach`).  A connection accepted while there is no session waits for one,
within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from pt.aio import tcp
from pt.aio.hangup import HangupWatch
from pt.errors import ClosedError, LocalPortError, PtError, UsageError
from pt.node.state import StateDir
from pt.trace import NO_TRACE, Tracer
from pt.tunnel import events
from pt.tunnel.config import BindConfig, Forward
from pt.tunnel.local_ports import LocalPorts
from pt.tunnel.media.stores import media_of
from pt.tunnel.reach import Reach
from pt.tunnel.stdio import stdio_socket

__all__ = ["Binder"]

MAX_PENDING: Final = 1024
"""Local connections that may wait for a session."""
PENDING_FOR: Final = 30.0
"""Seconds they may wait."""


class Binder:
    """One binder.  `on_event` is called on the loop and must not raise.

    `start` returns once the ports listen, `ready` once the first session stands; `wait` ends with
    the error that made going on pointless, or normally after `close`, or when the connection of
    stdin and stdout is over.
    """

    def __init__(
        self,
        config: BindConfig,
        state: StateDir,
        on_event: Callable[[events.Event], None],
        *,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        if config.name is None and not (config.open and config.peers):
            raise UsageError("no name: give the exposer's with --id NAME")
        if not config.peers and not media_of(config):
            raise UsageError(
                "nowhere to look: give --peer ADDRESS or --relay ADDRESS, or leave out --no-lan or "
                "--no-public"
            )
        self.config = config
        self.ports: tuple[events.BoundPort, ...] = ()
        self._state = state
        self._emit = on_event
        self._tracer = tracer
        self._local = LocalPorts(self._forward, self._flush, self._warn)
        self._pending: deque[tuple[socket.socket, int, float]] = deque()
        self._first: asyncio.Future[None]
        self._done: asyncio.Future[None]
        self._idle: asyncio.Event
        self._hangups: HangupWatch
        self._reach: Reach
        self._runner: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._draining = False
        self._closed = False

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on the local ports and begin to look for the exposer.

        Raises:
            LocalPortError: a port cannot be listened on.
            UsageError: a peer's address cannot be dialed.

        """
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        self._done = loop.create_future()
        self._idle = asyncio.Event()
        self._hangups = HangupWatch(loop)
        self._reach = Reach(
            self.config,
            self._state,
            self._emit,
            hangups=self._hangups,
            tracer=self._tracer,
            ports=lambda: self.ports,
            on_up=self._up,
            on_idle=self._check_idle,
        )
        try:
            for forward in self.config.forwards:
                self.listen(forward)
        except LocalPortError:
            self._local.close()
            raise
        if self.config.stdio:
            self._forward(stdio_socket(self._stdio_closed), self.config.stdio_port)
        self._runner = loop.create_task(self._reach.run())
        self._runner.add_done_callback(self._ended)

    async def ready(self) -> None:
        """Wait for the first session.

        Raises:
            PtError: there will be none.

        """
        await asyncio.shield(self._first)

    async def wait(self) -> None:
        """Wait for the end.

        Raises:
            PtError: why it cannot go on.

        """
        await asyncio.shield(self._done)

    async def drain(self, seconds: float) -> None:
        """Take no new connections and wait for the open ones, at most `seconds`."""
        self._draining = True
        self._local.close()
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """End everything; open connections are reset."""
        if self._closed:
            return
        self._closed = True
        self._local.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for sock, _, _ in self._pending:
            tcp.abort(sock)
        self._pending.clear()
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError, PtError, OSError, TimeoutError):
                await self._runner
            await self._reach.close()
            self._hangups.close()
        self._emit(events.Stopped(reason="closed"))

    def drop_connection(self) -> bool:
        """Cut the path to the exposer as a broken network would, for tests and the demo."""
        return self._reach.drop()

    def carry(self, sock: socket.socket, port: int = 0) -> None:
        """Carry a connected, non-blocking stream socket to the exposer's `port`, and own it.

        Raises:
            ClosedError: the binder is closed or about to be.

        """
        if self._closed or self._draining:
            raise ClosedError("the tunnel is closed")
        self._forward(sock, port)
        self._flush()

    def listen(self, forward: Forward) -> events.BoundPort:
        """Listen on one more local port.

        Raises:
            LocalPortError: it cannot be listened on.
            ClosedError: the binder is closed or about to be.

        """
        if self._closed or self._draining:
            raise ClosedError("the tunnel is closed")
        bound = self._local.listen(forward)
        self.ports += (bound,)
        return bound

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The background work ended: tell whoever waits."""
        error = None if task.cancelled() else task.exception()
        for future in (self._first, self._done):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # it may be that nobody waits for this one

    def _stdio_closed(self) -> None:
        """Standard output has everything: the one connection is over, and so are we.

        Called on the thread that writes.
        """

        def end() -> None:
            if not self._done.done():
                self._done.set_result(None)

        with contextlib.suppress(RuntimeError):  # the loop may be gone
            self._done.get_loop().call_soon_threadsafe(end)

    def _warn(self, message: str) -> None:
        self._emit(events.Warned(message=message))

    def _check_idle(self) -> None:
        if self._draining and not self._reach.carries and not self._pending:
            self._idle.set()

    # --- local connections ---------------------------------------------------------------------

    def _up(self) -> None:
        """Connections can be opened: those that waited go first."""
        if not self._first.done():
            self._first.set_result(None)
        if not self._pending:
            return
        while self._pending:
            waiting = self._pending.popleft()
            if not self._reach.open(*waiting[:2]):
                self._pending.appendleft(waiting)
                break
        self._flush()

    def _flush(self) -> None:
        self._reach.flush()

    def _forward(self, sock: socket.socket, port: int) -> None:
        if self._reach.open(sock, port):
            return
        if len(self._pending) >= MAX_PENDING:
            tcp.abort(sock)
            return
        self._pending.append((sock, port, asyncio.get_running_loop().time()))
        if self._sweeper is None:
            self._sweep()

    def _sweep(self) -> None:
        """Give up on connections that waited too long for a session."""
        loop = asyncio.get_running_loop()
        while self._pending and loop.time() - self._pending[0][2] > PENDING_FOR:
            sock, port, _ = self._pending.popleft()
            tcp.abort(sock)
            self._emit(
                events.StreamRefused(
                    stream=0, port=port, code="no_path", reason="the exposer was not reached"
                )
            )
        self._sweeper = loop.call_later(1.0, self._sweep) if self._pending else None
        self._check_idle()
