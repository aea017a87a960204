"""Gets a value that does not fit a datagram, in parts, from whoever says that it has it.

Up to WINDOW parts are asked for at once. If a node is slow, breaks off or gives something else, the
next one that named the same value is asked: a claim alone does not hold a look-up up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pt.overlay.adapter import Node
from pt.overlay.messages import PART, Reply, digest
from pt.overlay.rpc import Rpc

__all__ = ["Fetch"]

WINDOW: Final = 4
"""Parts under way from one node."""
AT_ONCE: Final = 2
"""Nodes asked at a time."""
MAX_SOURCES: Final = 8
"""Nodes that wait for their turn."""


class Fetch:
    """The value of `key` with this size and digest; `done` gets it, at most once.

    `done` gets None instead when nobody is left to ask; with the next `add` it goes on.
    """

    def __init__(
        self,
        rpc: Rpc,
        key: bytes,
        size: int,
        mark: bytes,
        *,
        clock: Callable[[], float],
        done: Callable[[bytes | None], None],
    ) -> None:
        self.active = 0
        """Nodes being asked."""
        self.over = False
        self._rpc = rpc
        self._key = key
        self._size = size
        self._mark = mark
        self._clock = clock
        self._done = done
        self._sources: deque[Node] = deque()

    def add(self, node: Node) -> None:
        """A node says that it has the value."""
        if not self.over and len(self._sources) < MAX_SOURCES:
            self._sources.append(node)
            if not self.active:
                self._next()

    def close(self) -> None:
        """Ask nobody else, and give nothing."""
        self.over = True
        self._sources.clear()

    def _next(self) -> None:
        self.active += 1
        _Attempt(self, self._sources.popleft()).start()

    def slow(self) -> None:
        """Whoever is asked takes long."""
        if self._sources and self.active < AT_ONCE and not self.over:
            self._next()

    def ended(self, value: bytes | None) -> None:
        """An attempt brought the whole value, or nothing."""
        self.active -= 1
        if self.over:
            return
        if value is not None and digest(value) == self._mark:
            self.close()
            self._done(value)
        elif self._sources:
            self._next()
        elif not self.active:
            self._done(None)

    def ask(self, node: Node, offset: int, done: Callable[[Reply | None], None]) -> None:
        """Ask a node for the part at `offset`."""
        fields = (self._key, self._mark, offset)
        self._rpc.ask(node, "fetch", *fields, done=done, slow=self.slow, now=self._clock())

    @property
    def parts(self) -> range:
        """Where the parts begin."""
        return range(0, self._size, PART)

    def length(self, offset: int) -> int:
        """Bytes of the part at `offset`."""
        return min(PART, self._size - offset)


class _Attempt:
    """With one node."""

    def __init__(self, fetch: Fetch, node: Node) -> None:
        self._fetch = fetch
        self._node = node
        self._offsets = iter(fetch.parts)
        self._got: dict[int, bytes] = {}
        self._over = False

    def start(self) -> None:
        for _ in range(WINDOW):
            self._one_more()

    def _one_more(self) -> None:
        offset = None if self._over else next(self._offsets, None)
        if offset is not None:
            self._fetch.ask(self._node, offset, partial(self._answer, offset))

    def _answer(self, offset: int, reply: Reply | None) -> None:
        if self._over:
            return
        part = b"" if reply is None else reply.get(0, bytes)
        if len(part) != self._fetch.length(offset) or self._fetch.over:
            self._end(None)
            return
        self._got[offset] = part
        if len(self._got) == len(self._fetch.parts):
            self._end(b"".join(self._got[at] for at in self._fetch.parts))
        else:
            self._one_more()

    def _end(self, value: bytes | None) -> None:
        self._over = True
        self._fetch.ended(value)
