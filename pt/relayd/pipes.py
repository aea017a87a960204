"""Pooled kernel pipes: what `os.splice` moves the bytes of raw circuits through.

A pipe is in use only while bytes lie in it, that is during one call, or as long as a slow reader
does not take them; so a few pipes serve thousands of circuits.  How many there may be at a time
follows from the number of descriptors that this process may have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from typing import Final

__all__ = ["PIPE_LEN", "Pipe", "PipePool", "can_splice", "default_limit"]

PIPE_LEN: Final = 1024 * 1024
"""What Linux lets an ordinary user ask for."""
LEAST_LEN: Final = 64 * 1024
"""A pipe that the kernel makes smaller costs more calls than it saves copies."""
DESCRIPTORS_SHARE: Final = 8
"""One in so many descriptors may belong to a pipe."""
MOST: Final = 1024
KEEP: Final = 64
"""Empty pipes kept for the next use."""
PATIENCE: Final = 256
"""Requests turned away before another pipe is tried, once the kernel gave none."""
_SET_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", 0)
_GET_SIZE: Final = getattr(fcntl, "F_GETPIPE_SZ", 0)


def can_splice() -> bool:
    """Whether this system moves bytes between sockets through pipes."""
    return hasattr(os, "splice") and bool(_SET_SIZE)


def default_limit() -> int:
    """How many pipes this process should have at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    return min(MOST, soft // (2 * DESCRIPTORS_SHARE))


class Pipe:
    """Two descriptors; `length` is how much it holds."""

    __slots__ = ("length", "read_fd", "write_fd")

    def __init__(self) -> None:
        """Raises OSError: no descriptors, or no memory for pipes, left."""
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        length = PIPE_LEN
        while length > LEAST_LEN:
            try:
                fcntl.fcntl(self.write_fd, _SET_SIZE, length)
                break
            except OSError:  # more than this user may have
                length //= 4
        try:
            self.length = fcntl.fcntl(self.write_fd, _GET_SIZE)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors back, and what lies in the pipe with them."""
        for fd in (self.read_fd, self.write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


class PipePool:
    """Empty pipes, at most `limit` together with those lent; last in, first out."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        self.lent = 0
        self.refused = 0
        """How often there was no pipe to be had: the bytes were copied instead."""
        self._free: list[Pipe] = []
        self._patience = 0
        if not can_splice():
            self.limit = 0

    def take(self) -> Pipe | None:
        """An empty pipe; None when there are no more: copy instead."""
        if self._free:
            self.lent += 1
            return self._free.pop()
        if self.lent < self.limit:
            if self._patience:
                self._patience -= 1
            else:
                with contextlib.suppress(OSError):
                    pipe = Pipe()
                    if pipe.length >= LEAST_LEN:
                        self.lent += 1
                        return pipe
                    pipe.close()
                self._patience = PATIENCE
        self.refused += 1
        return None

    def give(self, pipe: Pipe) -> None:
        """Return an empty pipe."""
        self.lent -= 1
        if len(self._free) < KEEP:
            self._free.append(pipe)
        else:
            pipe.close()

    def drop(self, pipe: Pipe) -> None:
        """Return a pipe in which bytes lie that nobody wants."""
        self.lent -= 1
        pipe.close()

    def close(self) -> None:
        """Give back all that are not lent."""
        for pipe in self._free:
            pipe.close()
        self._free.clear()
