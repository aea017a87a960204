"""Level-triggered readiness of many sockets, with interests that are cheap to change.

A relay's circuit stops reading one socket whenever the other one is full, thousands of times a
second.  Through an event loop each change costs several times what the system call does, so that
circuits have an epoll set of their own; the loop sees one descriptor.  Where there is no epoll,
the loop's own `add_reader` and `add_writer` serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import Final, Protocol

__all__ = ["BROKEN", "READ", "WRITE", "EpollPoller", "LoopPoller", "Poller", "Watched", "poller"]

READ: Final = 0x01
WRITE: Final = 0x04
BROKEN: Final = 0x08
"""An error on the socket; reported whether or not it is asked for, where there is epoll."""
BATCH: Final = 128
"""Sockets served before the rest of the loop has a turn."""


class Watched(Protocol):
    """Who is told about one descriptor."""

    def ready(self, events: int) -> None:
        """`events` are READ, WRITE and BROKEN together; other bits mean: look."""
        ...


class Poller(Protocol):
    """Watches descriptors for one loop."""

    def add(self, fd: int, watched: Watched, interest: int) -> None:
        """Begin to watch."""
        ...

    def change(self, fd: int, interest: int) -> None:
        """Watch for something else: READ and WRITE together, one of them, or 0 for breaks alone."""
        ...

    def discard(self, fd: int) -> None:
        """Stop watching; call before the descriptor is closed."""
        ...

    def close(self) -> None:
        """Stop watching everything."""
        ...


class EpollPoller:
    """See the module's text."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[int, Watched] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, fd: int, watched: Watched, interest: int) -> None:
        """See `Poller.add`."""
        self._watched[fd] = watched
        self._epoll.register(fd, interest)

    def change(self, fd: int, interest: int) -> None:
        """See `Poller.change`."""
        self._epoll.modify(fd, interest)

    def discard(self, fd: int) -> None:
        """See `Poller.discard`."""
        if self._watched.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _ready(self) -> None:
        watched = self._watched
        for fd, events in self._epoll.poll(0, BATCH):
            one = watched.get(fd)
            if one is not None:  # else: an earlier one of this batch ended it
                one.ready(events)

    def close(self) -> None:
        """See `Poller.close`."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._watched.clear()


class LoopPoller:
    """The same by means of the event loop; breaks are noticed by reading and writing only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._interest: dict[int, int] = {}
        self._watched: dict[int, Watched] = {}

    def add(self, fd: int, watched: Watched, interest: int) -> None:
        """See `Poller.add`."""
        self._interest[fd] = 0
        self._watched[fd] = watched
        self.change(fd, interest)

    def change(self, fd: int, interest: int) -> None:
        """See `Poller.change`."""
        changed = self._interest[fd] ^ interest
        self._interest[fd] = interest
        ready = self._watched[fd].ready
        if changed & READ:
            if interest & READ:
                self._loop.add_reader(fd, ready, READ)
            else:
                self._loop.remove_reader(fd)
        if changed & WRITE:
            if interest & WRITE:
                self._loop.add_writer(fd, ready, WRITE)
            else:
                self._loop.remove_writer(fd)

    def discard(self, fd: int) -> None:
        """See `Poller.discard`."""
        if self._interest.pop(fd, None) is not None:
            del self._watched[fd]
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def close(self) -> None:
        """See `Poller.close`."""
        for fd in list(self._interest):
            self.discard(fd)


def poller(loop: asyncio.AbstractEventLoop) -> Poller:
    """The best poller that this system has."""
    return EpollPoller(loop) if hasattr(select, "epoll") else LoopPoller(loop)
