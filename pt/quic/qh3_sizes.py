"""How large the datagrams of qh3's core may be: it begins with large ones, and can only come down.

A frame that the core has cut for a large datagram stays as it is until it is sent.  So frames are
kept small until the path is known, a round trip after the handshake.  When it changes later, so
that only small datagrams arrive, writes are held back until nothing is cut and waiting; if nothing
moves any more the size changes at once, which may end the connection: better than to sit in a black
hole for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pt.quic.limits import BASE_DATAGRAM
from pt.quic.pmtu import BLACK_HOLE_PTOS, Survey
from pt.quic.qh3_connection import Connection

__all__ = ["Sizes"]

OPEN_LIMIT: Final = 4096
"""Packets that a survey looks into, at most: some 40 ms of work."""

_HANDSHAKE_PTOS: Final = 2


class Sizes:
    """One connection's."""

    def __init__(self, connection: Connection, ceiling: int) -> None:
        self._conn = connection
        self._ceiling = ceiling
        self._survey: Survey | None = None
        self._first = True
        self._opened = 0
        self._wanted: int | None = None

    @property
    def size(self) -> int:
        """What datagrams may have now."""
        size: int = self._conn.core.active_path[5]
        return size

    @property
    def careful(self) -> bool:
        """Whether the path is not known yet: no frame should be too large for any."""
        return self._first

    @property
    def gated(self) -> bool:
        """Whether writes are to wait for a change of size."""
        return self._wanted is not None

    @property
    def looking(self) -> bool:
        """Whether the peer's packets are to be looked into."""
        return self.next_timeout() is not None

    @property
    def surveyed(self) -> bool:
        """Whether `probes` has nothing to do for now."""
        return self._survey is not None and self._survey.result is not None

    def next_timeout(self) -> float | None:
        """When `probes` has something to do."""
        return None if self._survey is None else self._survey.next_timeout()

    def probes(
        self, now: float, interval: float, random: Callable[[int], bytes]
    ) -> list[tuple[int, bytes]]:
        """(size, data) of the path challenges to send now; from the handshake's end on."""
        peer = self._conn.peer
        if peer is None:
            return []
        if self._survey is None:
            self._survey = Survey(min(self._ceiling, peer.max_udp_payload))
        probes = self._survey.probes(now, interval, random)
        self._conclude()
        return probes

    def look(self, frames: bytes, now: float, grace: float) -> None:
        """Decrypted `frames` may answer a challenge."""
        if self._survey is None:
            return
        self._survey.look(frames, now, grace)
        self._opened += 1
        if self._opened >= OPEN_LIMIT and self._survey.result is None:
            self._survey.result = self.size
        self._conclude()

    def timeout(self) -> None:
        """The core's loss timer ran: perhaps large datagrams do not arrive."""
        conn = self._conn
        timeouts = conn.core.pto_count
        if conn.peer is None or not timeouts or self.size == BASE_DATAGRAM:
            return
        if not conn.done:  # no frame of a stream yet
            if timeouts >= _HANDSHAKE_PTOS:
                conn.apply_parameters(BASE_DATAGRAM)
        elif timeouts >= BLACK_HOLE_PTOS and not self._first and not self.looking:
            self._opened = 0
            self._survey = Survey(self.size, doubt=True)

    def settle(self) -> bool:
        """Make a change that is wanted, if it is safe now that `poll` has nothing more."""
        if self._wanted is None or not self._conn.is_dry(self.size):
            return False
        self._change(self._wanted)
        return True

    def _conclude(self) -> None:
        survey = self._survey
        if survey is None or survey.result is None:
            return
        if not survey.result:  # nothing at all arrives: size is not the matter
            survey.result = self.size
        if survey.result < self.size:
            if self._first or self._conn.core.pto_count:
                self._change(survey.result)
            else:
                self._wanted = survey.result
        self._first = False

    def _change(self, size: int) -> None:
        self._wanted = None
        self._conn.apply_parameters(size)
