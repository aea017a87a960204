"""The standard streams of this process as one connection, for `ssh -o ProxyCommand`.

They may be files, pipes or terminals, which no selector takes all of.  Two threads move
their bytes through a socket pair, whose other end the tunnel forwards like any local connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["stdio_socket"]

CHUNK: Final = 256 * 1024
STDIN: Final = 0
STDOUT: Final = 1


def stdio_socket(on_end: Callable[[], None]) -> socket.socket:
    """A non-blocking socket that carries stdin and stdout.

    `on_end` is called, on a thread, when everything from the tunnel was written to stdout or stdout
    broke.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(STDIN, CHUNK):
                ours.sendall(data)
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_WR)

    def write() -> None:
        with contextlib.suppress(OSError):
            while data := ours.recv(CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(STDOUT, view) :]
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RD)
        on_end()

    for work in (read, write):
        threading.Thread(target=work, daemon=True, name=f"stdio-{work.__name__}").start()
    return theirs
