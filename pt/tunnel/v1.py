"""Tunnel protocol 1, the Go PeerTunnel's: one raw stream a connection, nothing else said.

The Go program closes both its sockets at the first end of stream, in either direction, and so
destroys a reply that follows a half-close.  Towards a peer that may be Go we therefore hold our
FIN back: the binder until the other direction has ended (or was silent for a long time), the
exposer until the client has been silent for a moment.  Another `pt` gets every FIN at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.node.bridge import StreamBridge

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch

__all__ = ["RawPump"]

BINDER_HOLD: Final = 900.0
"""Seconds of silence after which a binder's held FIN is sent all the same."""
EXPOSER_HOLD: Final = 0.25
DISCARD_AFTER: Final = 30.0
"""Seconds a Go peer that sent FIN may leave our bytes uncredited before we reset."""


class RawPump(StreamBridge):
    """`hold` is how long (s) our FIN waits for the other direction's; None sends it at once.

    `skip` bytes of the peer's negotiation answer precede the data.
    """

    __slots__ = ("_hold", "_quiet_since", "_skip", "_timer")

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        hangups: HangupWatch,
        *,
        hold: float | None,
        skip: bytes = b"",
        on_done: Callable[[StreamBridge, str], None],
    ) -> None:
        super().__init__(sock, loop, hangups, on_done=on_done)
        self._hold = hold
        self._skip = skip
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_since = loop.time()

    def target_connected(self) -> None:
        """The exposer's connection to its target is there."""
        self.connected = True
        self.give_up_dial = None
        if self._backlog is not None:
            self._wait_writable()
        elif self.remote_eof:
            self._shutdown_write()
        self.pump()

    def _moved(self) -> None:
        self._quiet_since = self._loop.time()

    def _local_ended(self) -> None:
        if self._hold is None or self.remote_eof:
            self._send_fin()
        else:
            self._timer = self._loop.call_later(self._hold, self._hold_over)

    def _hold_over(self) -> None:
        if self.closed or self.stream is None or self._hold is None:
            return
        quiet = self._loop.time() - self._quiet_since
        if quiet < self._hold:
            self._timer = self._loop.call_later(self._hold - quiet, self._hold_over)
        else:
            self._send_fin()

    def data_received(self, data: memoryview) -> None:
        """Deliver; first the peer's negotiation answer has to match."""
        if self._skip:
            part = len(data[: len(self._skip)])
            if data[:part] != self._skip[:part]:
                self._fail("the peer does not offer an open tunnel")
                return
            self._skip = self._skip[part:]
            self._credit(part)
            data = data[part:]
            if not len(data):
                return
        super().data_received(data)

    def eof_received(self) -> None:
        """The peer ended: so may we, and what it does not take any more is given up in time."""
        super().eof_received()
        if self.closed:
            return
        if self.local_eof:
            self._send_fin()
        elif self._hold is not None:
            self._timer = self._loop.call_later(DISCARD_AFTER, self._discarded)

    def _discarded(self) -> None:
        if not self.closed and self.stream is not None and not self.stream.send_window:
            self._fail("the peer takes no more bytes")

    def _finish(self, reason: str, *, reset: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._finish(reason, reset=reset)
