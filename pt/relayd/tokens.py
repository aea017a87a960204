"""Raw circuits between their grant and their two connections: who may join what, and until when."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pt.aio.tcp import abort
from pt.relay.messages import Limit
from pt.relay.registry import Circuit

__all__ = ["LIFE", "Pending", "Tokens"]

LIFE: Final = 15.0
"""Seconds both ends have to connect."""


@dataclass(slots=True, eq=False)
class Pending:
    """A circuit that was granted; `legs` are the source's and the target's socket, once there."""

    circuit: Circuit
    limit: Limit | None
    tokens: tuple[bytes, bytes]
    expires: float
    legs: list[socket.socket | None]


class Tokens:
    """Pending circuits by token.  They are bounded by the registry, in which each counts.

    `on_ready(pending)` is told when both legs are there, `on_expired(pending)` when one never came.
    """

    def __init__(
        self, on_ready: Callable[[Pending], None], on_expired: Callable[[Pending], None]
    ) -> None:
        self._on_ready = on_ready
        self._on_expired = on_expired
        self._by_token: dict[bytes, tuple[Pending, int]] = {}
        self._in_order: dict[Pending, None] = {}

    def __len__(self) -> int:
        return len(self._in_order)

    def issue(
        self, circuit: Circuit, limit: Limit | None, tokens: tuple[bytes, bytes], now: float
    ) -> Pending:
        """Expect the two ends of `circuit` with these tokens, the source's first."""
        pending = Pending(circuit, limit, tokens, now + LIFE, [None, None])
        self._in_order[pending] = None
        for side, token in enumerate(tokens):
            self._by_token[token] = pending, side
        return pending

    def redeem(self, token: bytes, sock: socket.socket) -> bool:
        """Take a leg over; False when the token is not (or no more) known."""
        found = self._by_token.pop(token, None)
        if found is None:
            return False
        pending, side = found
        pending.legs[side] = sock
        if None not in pending.legs:
            del self._in_order[pending]
            self._on_ready(pending)
        return True

    def cancel(self, pending: Pending) -> None:
        """Expect it no more; a leg that is there is reset."""
        self._in_order.pop(pending, None)
        for token in pending.tokens:
            self._by_token.pop(token, None)
        for leg in pending.legs:
            if leg is not None:
                abort(leg)

    def sweep(self, now: float) -> None:
        """Give up what has expired."""
        for pending in list(self._in_order):
            if pending.expires > now:
                return  # issued in order
            self.cancel(pending)
            self._on_expired(pending)

    def close(self) -> None:
        """Give up everything."""
        for pending in list(self._in_order):
            self.cancel(pending)
