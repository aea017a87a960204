"""A client that asks for the rest of a handshake, although all that it has sent was answered.

A server may send three times what it has got from an address that is not proved. If that is lost,
and the client's answer, too, it waits for more, for ever (RFC 9002, section 6.2.2.1); the native
core does not see to that.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

__all__ = ["MAX_BACKOFF", "Handshaking", "Nudge", "say_hello"]

MAX_BACKOFF: Final = 6
"""Doublings of the time after which a client asks again."""


class Handshaking(Protocol):
    """What is needed of a connection."""

    core: Any
    is_client: bool
    done: bool
    first_flight: list[tuple[int, bytes]]
    """The ClientHello, by epoch: a server acknowledges it as often as it comes."""


def say_hello(conn: Handshaking) -> None:
    """Send the ClientHello, whatever of it was sent before."""
    for epoch, data in conn.first_flight:
        conn.core.send_crypto(epoch, 0, data)


class Nudge:
    """One connection's; `since`: when something was heard or sent last, `pto`: seconds to wait."""

    def __init__(self, conn: Handshaking) -> None:
        self._conn = conn
        self._count = 0
        self._last = 0.0

    def at(self, since: float, pto: float) -> float | None:
        """When to ask; None while something that was sent is to be answered, and afterwards."""
        if not self._conn.is_client or self._conn.done:
            return None
        timer = self._conn.core.get_timer()
        if timer is not None and timer[0] != "idle":
            return None
        return max(since, self._last) + pto * (1 << min(self._count, MAX_BACKOFF))

    def expire(self, now: float, since: float, pto: float) -> None:
        """Ask, if it is time."""
        at = self.at(since, pto)
        if at is None or at > now:
            return
        self._count += 1
        self._last = now
        say_hello(self._conn)
