"""The addresses that are asked for an answer: those that were told, those met on the way."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pt.punch.candidates import Address
from pt.punch.planner import MAX_PINGS
from pt.punch.strategies import GAP, Strategy

__all__ = ["MAX_LEARNED", "Path", "Paths"]

MAX_LEARNED: Final = 32
"""Paths that are learned from packets of the peer."""
LEARNED_GAP: Final = 2 * GAP
"""Seconds between packets to where the peer wrote from; answers to it go there, too."""
ANSWER_GAP: Final = 2 * GAP
_MAX_GAP: Final = 0.25
_STEADY: Final = 20  # packets before the gaps grow


@dataclass(slots=True)
class Path:
    """One of our sockets and one address of the peer."""

    sock: int
    addr: Address
    strategy: Strategy
    limit: int
    """Packets that may be sent in all."""
    until: float
    due: float
    sent: int = 0
    gap: float = GAP
    """Seconds to the next packet."""
    answered: bool = False
    answer_due: float = 0.0

    @property
    def wants(self) -> bool:
        """Whether it is to be asked again."""
        return not self.answered and self.sent < self.limit

    def may_answer(self, now: float) -> bool:
        """Whether a question from there is answered now; the next ones are not for a while."""
        if now < self.answer_due:
            return False
        self.answer_due = now + ANSWER_GAP
        return True

    def asked(self, now: float) -> None:
        """Take note of a packet: quick ones at first, so that a loss costs little."""
        self.sent += 1
        if self.sent > _STEADY:
            self.gap = min(self.gap * 1.25, _MAX_GAP)
        self.due = now + self.gap


class Paths:
    """At most those that were told, `MAX_LEARNED`, and those that have answered a guess."""

    def __init__(self, seed: bytes) -> None:
        self._key = hashlib.sha256(b"path" + seed).digest()
        self._paths: dict[tuple[int, Address], Path] = {}
        self._learned = 0

    def get(self, sock: int, addr: Address) -> Path | None:
        """The path, if it is known."""
        return self._paths.get((sock, addr))

    def mark(self, sock: int, addr: Address) -> int:
        """32 bits by which an answer shows that the question went that way."""
        text = f"{sock} {addr[0]} {addr[1]}".encode()
        return int.from_bytes(hmac.digest(self._key, text, hashlib.sha256)[:4])

    def tell(self, told: Path) -> None:
        """An address that the peer told; a second step adds to the first one's time."""
        known = self._paths.setdefault((told.sock, told.addr), told)
        known.limit = max(known.limit, told.limit)
        known.until = max(known.until, told.until)
        known.gap = min(known.gap, told.gap)

    def learn(
        self, now: float, sock: int, addr: Address, strategy: Strategy, until: float
    ) -> tuple[Path | None, bool]:
        """The peer was heard from `addr`: the path to ask now, if any, and whether it is new."""
        path = self._paths.get((sock, addr))
        if path is None:
            if self._learned >= MAX_LEARNED:
                return None, False
            self._learned += 1
            path = Path(sock, addr, strategy, MAX_PINGS, until, now, gap=LEARNED_GAP)
            path.may_answer(now)  # it has been
            self._paths[sock, addr] = path
            return path, True
        path.until, path.limit = max(path.until, until), MAX_PINGS
        just_asked = now < path.due - path.gap + GAP / 2
        return (path if path.wants and not just_asked else None), False

    def answered(self, now: float, sock: int, addr: Address, strategy: Strategy) -> Path:
        """An answer to a question of ours has come: the path, which works."""
        path = self._paths.get((sock, addr))
        if path is None:
            path = Path(sock, addr, strategy, 0, now, now)
            self._paths[sock, addr] = path
        return path

    def due(self, now: float) -> Iterator[Path]:
        """Those that are to be asked now; one whose time is over is not asked any more."""
        for path in self._paths.values():
            if path.wants and path.due <= now:
                if now > path.until:
                    path.limit = path.sent
                else:
                    yield path

    def deadline(self) -> float | None:
        """When the next one is due."""
        return min((path.due for path in self._paths.values() if path.wants), default=None)

    def clear(self) -> None:
        """Ask nobody any more."""
        self._paths.clear()
