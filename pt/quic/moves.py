"""Where the peer is, for a server whose packets know nothing of addresses.

A client may come from another address: its NAT forgot it, or it changed networks.  The newest
packet decides; until the client has answered a PATH_CHALLENGE from there, the new address gets at
most three times what came from it, and when no answer comes, the old one counts again.
Source: RFC 9000 sections 8.2 and 9.3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pt.quic.events import Address

__all__ = ["CHALLENGE", "Moves"]

CHALLENGE: Final = 8
KNOWN: Final = 8
"""Addresses that are remembered as proved: a client that hops between two is not asked again."""

SMALLEST: Final = 50
"""Bytes that a datagram with a challenge takes at least."""

_OUTSTANDING: Final = 8


class Moves:
    """One connection's.  `address` is where to send, `proved` the last one that answered."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.proved = address
        self._known: OrderedDict[Address, None] = OrderedDict({address: None})
        self._challenges: list[bytes] = []
        self._received = self._sent = 0
        self._deadline = self._again = 0.0

    @property
    def validated(self) -> bool:
        """Whether the peer has proved to be at `address`."""
        return self.address == self.proved

    def room(self) -> int | None:
        """Bytes that may be sent now; None: no limit."""
        return None if self.validated else max(0, 3 * self._received - self._sent)

    def move(self, address: Address, size: int, now: float, patience: float) -> None:
        """The newest packet, in a datagram of `size` bytes, came from another address."""
        self.address = address
        self._challenges.clear()
        if address in self._known:
            self._prove(address)
            return
        self._received, self._sent = size, 0
        self._again = now
        self._deadline = now + patience

    def received(self, size: int) -> None:
        """More came from `address`."""
        if not self.validated:
            self._received += size

    def sent(self, size: int) -> None:
        """Bytes went to `address`."""
        if not self.validated:
            self._sent += size

    def challenge(
        self, now: float, interval: float, random: Callable[[int], bytes]
    ) -> bytes | None:
        """The data of the PATH_CHALLENGE to send now, if one is due."""
        if self.validated or now < self._again:
            return None
        self._again = now + interval
        if (self.room() or 0) < SMALLEST:
            return None
        data = random(CHALLENGE)
        self._challenges = [*self._challenges[1 - _OUTSTANDING :], data]
        return data

    def look(self, frames: bytes) -> bool:
        """Whether decrypted `frames` answer a challenge: `address` is then proved.

        The eight bytes are searched for, frames are not parsed: nobody else knows them.
        """
        if any(b"\x1b" + data in frames for data in self._challenges):
            self._prove(self.address)
            return True
        return False

    def next_timeout(self) -> float | None:
        """When `challenge` or `expire` has something to do."""
        return None if self.validated else min(self._again, self._deadline)

    def expire(self, now: float) -> None:
        """Give the new address up if it has not answered in time."""
        if not self.validated and now >= self._deadline:
            self.address = self.proved
            self._challenges.clear()

    def _prove(self, address: Address) -> None:
        self.proved = address
        self._challenges.clear()
        self._known[address] = None
        self._known.move_to_end(address)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
