"""Path MTU discovery: which datagram sizes to try (RFC 8899, datagram packetization layer).

The largest is tried first: most paths carry Ethernet's 1500 bytes, and then one round trip is
enough.  A size counts as too large when two probes of it are lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pt.quic.limits import BASE_DATAGRAM

__all__ = ["BLACK_HOLE_PTOS", "PathMtu", "Survey"]

SIZES: Final = (1472, 1452, 1420, 1392, 1350, 1280)
"""Ethernet with IPv4 and IPv6, PPPoE, WireGuard, tunnels, IPv6's minimum less headers."""

TRIES: Final = 2
RAISE_AFTER: Final = 600.0
"""Seconds until sizes that failed are tried again (RFC 8899, PMTU_RAISE_TIMER)."""

BLACK_HOLE_PTOS: Final = 3
"""Probe timeouts in a row from which on large datagrams are suspected not to arrive."""


class PathMtu:
    """One path's search.  `size` is what datagrams may have now."""

    def __init__(self, ceiling: int) -> None:
        self.size = BASE_DATAGRAM
        self._ceiling = ceiling
        self._todo = [size for size in SIZES if size <= ceiling]
        self._tries = 0
        self._in_flight = False
        self._again: float | None = None

    def probe(self, now: float) -> int | None:
        """The size of the probe to send now, if one is due; say how it went."""
        if self._again is not None and now >= self._again:
            self._restart(None)
        if self._in_flight or not self._todo:
            return None
        self._in_flight = True
        return self._todo[0]

    def acked(self, size: int, now: float) -> None:
        """A probe arrived."""
        self._in_flight = False
        self.size = max(self.size, size)
        self._todo.clear()
        self._again = now + RAISE_AFTER if size < self._ceiling else None

    def lost(self, size: int, now: float) -> None:
        """A probe did not arrive."""
        self._in_flight = False
        self._tries += 1
        if self._tries >= TRIES and self._todo and self._todo[0] == size:
            del self._todo[0]
            self._tries = 0
        if not self._todo:
            self._again = now + RAISE_AFTER

    def black_hole(self, now: float) -> bool:
        """Nothing arrives any more: back to what always does; whether that changes anything."""
        if self.size == BASE_DATAGRAM:
            return False
        self.size = BASE_DATAGRAM
        self._restart(now + RAISE_AFTER)
        return True

    def path_changed(self) -> None:
        """Another path: search anew."""
        self.size = BASE_DATAGRAM
        self._restart(None)

    def _restart(self, again: float | None) -> None:
        self._again = again
        self._tries = 0
        self._in_flight = False
        self._todo = [] if again else [size for size in SIZES if self.size < size <= self._ceiling]


class Survey:
    """The same question for a core that begins with large datagrams and can only come down.

    All sizes are tried at once, in datagrams that carry a challenge each; those that are not
    answered are tried once more.  The largest answered one is what the path takes.
    """

    def __init__(self, ceiling: int) -> None:
        self.result: int | None = None
        """Known when the survey is over."""
        self._open: dict[bytes, int] = {}
        self._sizes = [size for size in SIZES if size <= ceiling]
        self._best = BASE_DATAGRAM
        self._rounds = 0
        self._until: float | None = None

    def probes(
        self, now: float, interval: float, random: Callable[[int], bytes]
    ) -> list[tuple[int, bytes]]:
        """(size, challenge) of the datagrams to send now."""
        if self.result is not None or (self._until is not None and now < self._until):
            return []
        self._sizes = [size for size in self._sizes if size > self._best]
        if not self._sizes or self._rounds == TRIES:
            self._finish()
            return []
        self._rounds += 1
        self._until = now + interval
        probes = [(size, random(8)) for size in self._sizes]
        self._open.update((challenge, size) for size, challenge in probes)
        return probes

    def hurry(self) -> bool:
        """Large datagrams seem to be lost: decide by the answers so far, if there are any."""
        if self.result is None and self._best > BASE_DATAGRAM:
            self._finish()
        return self.result is not None

    def look(self, frames: bytes) -> None:
        """Decrypted `frames` may answer."""
        for challenge, size in list(self._open.items()):
            if b"\x1b" + challenge in frames:
                del self._open[challenge]
                self._best = max(self._best, size)
        if self._sizes and self._best >= self._sizes[0]:
            self._finish()

    def next_timeout(self) -> float | None:
        """When the next round is due."""
        return self._until if self.result is None else None

    def _finish(self) -> None:
        self.result = self._best
        self._open.clear()
