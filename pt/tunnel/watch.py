"""Notices within a second that the path of a busy session is dead.

The connection's own keep-alive gives a path 8 seconds, since nothing else could be done about it
anyway.  When there is another path, waiting is the worse choice: while bytes move, silence is asked
about ten times a second, and a path that does not answer is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pt.tunnel.session import TunnelSession

__all__ = ["PathWatch"]

BUSY_TICK: Final = 0.1
IDLE_TICK: Final = 0.25
QUIET_TICK: Final = 1.0
"""When no connection is open at all."""
BUSY_FOR: Final = 10.0
"""Seconds after the last traffic for which the path is watched closely."""
TRAFFIC: Final = 130
"""Bytes within a tick that are more than keep-alive; a single key stroke is less, and shows as a
byte that waits for its acknowledgement."""
ASK_AFTER: Final = 0.15
"""Seconds of silence after which a ping is sent at each tick."""
GIVE_UP: Final = 0.65
"""Seconds of silence, and three round trips, after which the path is taken for dead."""
MAX_RTT: Final = 1.0
STALLED: Final = 0.2
"""A tick that comes so late (s) says that this process was held up, not the path."""


class PathWatch:
    """Watches the connection in use of one session while `alternative()` says there is another."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: TunnelSession,
        alternative: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._session = session
        self._alternative = alternative
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._seen = 0
        self._busy_until = 0.0
        self._patient_until = 0.0
        self._asked = 0.0
        self._close = False

    def start(self) -> None:
        """Watch the connection that the session uses now."""
        self.stop()
        now = self._loop.time()
        self._busy_until = now + BUSY_FOR
        self._patient_until = now + GIVE_UP
        self._close = False
        self._again(BUSY_TICK)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, pause: float) -> None:
        self._due = self._loop.time() + pause
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        connection = self._session.connection
        if connection is None or connection.closed:
            self._timer = None
            return
        now = self._loop.time()
        link = connection.link
        seen = link.bytes_in + link.bytes_out
        if not 0 <= seen - self._seen < TRAFFIC or self._session.ledger.held:
            self._busy_until = now + BUSY_FOR
        self._seen = seen
        if now - self._due > STALLED:
            self._patient_until = now + GIVE_UP
        if now >= self._busy_until or not self._alternative():
            self._close = False
            self._again(IDLE_TICK if self._session.pumps else QUIET_TICK)
            return
        if not self._close or link.last_rx >= self._asked:
            self._close = True
            self._asked = now  # since when there was no answer, if there is none now
        unanswered = now - self._asked
        rtt = min(link.session.rtt or 0.1, MAX_RTT)
        if unanswered > GIVE_UP + 3 * rtt and now >= self._patient_until:
            self._timer = None
            link.lose(f"no answer for {unanswered:.1f} s, and there is another path", abort=True)
            return
        if now - link.last_rx > ASK_AFTER:
            link.session.ping()
            link.flush()
        self._again(BUSY_TICK)
