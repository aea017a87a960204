"""Notices a reset on sockets that nobody is reading.

A socket whose reader is paused, or that has delivered its end of stream, is registered with no
loop: level-triggered selectors would spin on it.  One edge-triggered epoll set watches such
sockets for EPOLLERR and EPOLLHUP alone, which are always reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable

__all__ = ["HangupWatch"]


class HangupWatch:
    """One set of watched sockets a loop; without epoll it watches nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` when the connection on `fd` breaks."""
        if self._epoll is None or fd in self._callbacks:
            return
        self._callbacks[fd] = callback
        with contextlib.suppress(OSError):
            self._epoll.register(fd, select.EPOLLET)

    def discard(self, fd: int) -> None:
        """Stop watching; call before closing the socket."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _ready(self) -> None:
        assert self._epoll is not None
        for fd, _ in self._epoll.poll(0, 64):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def close(self) -> None:
        """Give the epoll set back."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._callbacks.clear()
