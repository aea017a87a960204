"""Notices quickly that the path of a busy session is dead.

The connection's own keep-alive gives a path 8 seconds, since nothing else could be done about it
anyway.  When there is another path, waiting is the worse choice: while bytes move, silence is asked
about, and `pt.tunnel.suspicion` says when to go on over the standby, and when to give the path up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.tunnel.suspicion import Alarms, Step, Suspicion

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.tunnel.session import TunnelSession

__all__ = ["PathWatch"]

QUICK_TICK: Final = 0.02
"""While bytes are expected."""
WAITING_TICK: Final = 0.01
"""While an answer is."""
BUSY_TICK: Final = 0.1
IDLE_TICK: Final = 0.25
QUIET_TICK: Final = 1.0
"""When no connection is open at all."""
BUSY_FOR: Final = 10.0
"""Seconds after the last traffic for which the path is watched closely."""
FLOW: Final = 0.2
"""Seconds after bytes of a connection came for which more are expected."""
OWED: Final = 1.0
"""Seconds for which unacknowledged bytes that become neither more nor fewer are expected to."""
TRAFFIC: Final = 130
"""Bytes within a tick that are more than keep-alive; a single key stroke is less, and shows as a
byte that waits for its acknowledgement."""


class PathWatch:
    """Watches the connection in use of one session while `alternative()` says there is another.

    `spare()` is one that is open, and `leave()` called when the session should go on there.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: TunnelSession,
        alternative: Callable[[], bool],
        *,
        spare: Callable[[], Connection | None],
        leave: Callable[[], None],
    ) -> None:
        self.alarms = Alarms()
        self._loop = loop
        self._session = session
        self._alternative = alternative
        self._spare = spare
        self._leave = leave
        self._suspicion = Suspicion(self.alarms)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._seen = 0
        self._held = 0
        self._busy_until = 0.0
        self._owed_until = 0.0

    def start(self) -> None:
        """Watch the connection that the session uses now."""
        self.stop()
        now = self._loop.time()
        self._busy_until = now + BUSY_FOR
        connection = self._session.connection
        self._suspicion.begin(now, None if connection is None else connection.remote_addr.host)
        self._again(BUSY_TICK)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, pause: float) -> None:
        self._due = self._loop.time() + pause
        self._timer = self._loop.call_at(self._due, self._tick)

    def _expecting(self, now: float) -> bool:
        """Whether bytes, or acknowledgements of ours, should come now."""
        held = self._session.ledger.held
        if held != self._held:
            self._held = held
            self._owed_until = now + OWED
        owed = held > 0 and now < self._owed_until
        moved = self._session.moved_at
        more = now - moved < FLOW and moved > self._suspicion.answered
        return owed or more

    def _tick(self) -> None:
        connection = self._session.connection
        if connection is None or connection.closed:
            self._timer = None
            return
        now = self._loop.time()
        link = connection.link
        seen = link.bytes_in + link.bytes_out
        quick = self._expecting(now)
        if not 0 <= seen - self._seen < TRAFFIC or quick or self._held:
            self._busy_until = now + BUSY_FOR
        self._seen = seen
        if now >= self._busy_until or not self._alternative():
            self._suspicion.rest(now)
            self._again(IDLE_TICK if self._session.pumps else QUIET_TICK)
            return
        spare = self._spare()
        step = self._suspicion.look(
            now,
            late=now - self._due,
            heard=link.last_rx,
            spare=None if spare is None else spare.link.last_rx,
            rtt=link.session.rtt,
            quick=quick,
        )
        if step is Step.LOSE:
            self._timer = None
            link.lose("no answer in time, and there is another path", abort=True)
            return
        waits = step is not Step.WAIT or self._suspicion.waiting
        self._again(WAITING_TICK if waits else QUICK_TICK if quick else BUSY_TICK)
        if step is Step.LEAVE:
            self._leave()
        elif step is Step.ASK:
            for each in (connection,) if spare is None else (connection, spare):
                each.link.session.ping()
                each.link.flush()
