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

RETURN_AFTER: Final = 60.0
"""The same after a black hole: it may have been a network that was gone for a moment."""

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
        self._restart(now + RETURN_AFTER)
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

    All sizes are tried at once, in datagrams that carry a challenge each.  Soon after the first
    answer the largest answered one is taken; without any answer there is another round.  In `doubt`
    the base size is asked, too, since perhaps nothing at all arrives, and every size twice.
    """

    def __init__(self, ceiling: int, *, doubt: bool = False) -> None:
        self.result: int | None = None
        """Known when the survey is over; 0 when nothing was answered, in doubt."""
        self._doubt = doubt
        self._open: dict[bytes, int] = {}
        self._sizes = [size for size in SIZES if size <= ceiling]
        self._best = BASE_DATAGRAM
        if doubt:
            self._sizes.append(BASE_DATAGRAM)
            self._best = 0
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
            self.result = self._best
            return []
        self._rounds += 1
        self._until = now + interval
        probes = [(size, random(8)) for size in self._sizes]
        self._open.update((challenge, size) for size, challenge in probes)
        return probes

    def look(self, frames: bytes, now: float, grace: float) -> None:
        """Decrypted `frames` may answer; others may come within `grace`."""
        answered = [data for data in self._open if b"\x1b" + data in frames]
        for challenge in answered:
            self._best = max(self._best, self._open.pop(challenge))
        if answered and self._sizes and self._best >= self._sizes[0]:
            self.result = self._best
        elif answered and not self._doubt and self._rounds < TRIES:
            self._rounds = TRIES
            self._until = now + grace

    def next_timeout(self) -> float | None:
        """When `probes` has something to do."""
        return self._until if self.result is None else None
