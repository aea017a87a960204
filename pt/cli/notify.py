"""Telling a service manager: systemd's notification datagrams (sd_notify(3)) and `--ready-fd`.

Sent only when it is true: READY=1 after the Ready event, STOPPING=1 when the end begins.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from pt.errors import UsageError
from pt.tunnel.events import Event

__all__ = ["Notifier"]


class Notifier:
    """Call it with each event; readiness is told once. Never raises after construction."""

    def __init__(
        self, ready_fd: int | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        env = os.environ if environ is None else environ
        self._address = env.get("NOTIFY_SOCKET", "")
        self._ready_fd = ready_fd
        self._told = False
        if ready_fd is not None:
            try:
                os.fstat(ready_fd)
            except OSError as error:
                raise UsageError(f"--ready-fd {ready_fd} is not an open descriptor") from error

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if event.means_ready and not self._told:
            self._told = True
            self.send("READY=1")
            if self._ready_fd is not None:
                with contextlib.suppress(OSError):
                    os.write(self._ready_fd, b"READY=1\n")
                with contextlib.suppress(OSError):
                    os.close(self._ready_fd)

    def stopping(self) -> None:
        """Tell that the end begins."""
        self.send("STOPPING=1")

    def send(self, state: str) -> None:
        """Send one assignment, if there is anyone to tell; a deaf manager is no reason to stop."""
        if not self._address.startswith(("/", "@")):
            return
        # A leading @ stands for the NUL of an abstract address.
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
            sock.sendto(state.encode(), address)
