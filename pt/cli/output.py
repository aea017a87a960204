"""Writing lines to a terminal, pipe or file without ever making the tunnel wait.

An event handler runs on the tunnel's loop. A reader that stops reading (a full pipe, a stopped
terminal) must not stop the traffic: lines that would block are counted and dropped, and the next
line that fits says how many. A reader that went away ends the output, not the tunnel.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Callable, Mapping
from typing import Final, TextIO

__all__ = ["LineWriter", "use_colour"]

ATOMIC: Final = 4096
"""A pipe that polls as writable takes at least PIPE_BUF bytes without blocking."""


class LineWriter:
    """Lines to one file descriptor. `dropped_line` words the notice about dropped ones."""

    def __init__(
        self, fd: int, dropped_line: Callable[[int], str], *, encoding: str = "utf-8"
    ) -> None:
        self._fd = fd
        self._dropped_line = dropped_line
        self._encoding = encoding
        self._dropped = 0
        self._closed = False
        self._poll: select.poll | None = None
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            self._closed = True
            return
        if not is_file:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    @classmethod
    def of(cls, stream: TextIO, dropped_line: Callable[[int], str]) -> LineWriter:
        """Write where `stream` writes, past its buffer."""
        with contextlib.suppress(OSError):
            stream.flush()
        return cls(stream.fileno(), dropped_line, encoding=stream.encoding or "utf-8")

    def line(self, text: str) -> None:
        """Write one line (its newline is added), or drop it."""
        if self._closed:
            return
        data = self._encode(text)
        if self._dropped:
            data = self._encode(self._dropped_line(self._dropped)) + data
        # Longer lines go in parts that are sure to fit; only a first part may be dropped.
        for start in range(0, len(data), ATOMIC):
            if not self._write(data[start : start + ATOMIC], first=start == 0):
                return
        self._dropped = 0

    def _encode(self, text: str) -> bytes:
        return (text + "\n").encode(self._encoding, "replace")

    def _write(self, data: bytes, *, first: bool) -> bool:
        patience = 0 if first else 100  # ms: rather a short wait than half a line
        if self._poll is not None and not self._poll.poll(patience):
            self._dropped += 1
            return False
        try:
            os.write(self._fd, data)
        except BlockingIOError:
            self._dropped += 1
            return False
        except OSError:
            self._closed = True
            return False
        return True


def use_colour(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether to colour: FORCE_COLOR and NO_COLOR decide, else whether it is a terminal."""
    env = os.environ if environ is None else environ
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR"):
        return True
    return stream.isatty() and env.get("TERM", "") != "dumb"
