"""What strangers may ask for: rates by source, address tokens, and values that come in parts."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pt.overlay.adapter import Address
from pt.overlay.messages import MAX_VALUE, PART, TOKEN_LEN

__all__ = ["MAX_SOURCES", "Parts", "Rates", "Tokens"]

MAX_SOURCES: Final = 4096
TOKEN_LIFE: Final = 600.0
"""Seconds between new secrets; the one before is still taken."""
PARTS_LIFE: Final = 10.0
MAX_PARTS: Final = 1024
"""Values under way together: 10 MiB at most."""
PARTS_EACH: Final = 32
"""Of one source."""


class Rates:
    """Allows each source `rate` requests a second, and `burst` at once.

    The table is bounded; the source that asked longest ago is forgotten first.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, source: str, now: float) -> bool:
        """Count a request; whether it is allowed."""
        left, at = self._left.get(source, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._rate)
        allowed = left >= 1
        self._left[source] = (left - 1 if allowed else left, now)
        self._left.move_to_end(source)
        if len(self._left) > MAX_SOURCES:
            self._left.popitem(last=False)
        return allowed


class Tokens:
    """Tokens that prove that their bearer gets what is sent to its address; nothing is kept."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._secrets = [random_bytes(32), random_bytes(32)]
        self._since: float | None = None

    def make(self, addr: Address, now: float) -> bytes:
        """A token for an address, good for 10 to 20 minutes."""
        if self._since is None:
            self._since = now
        if now - self._since >= TOKEN_LIFE:
            old = self._secrets[0] if now - self._since < 2 * TOKEN_LIFE else self._random_bytes(32)
            self._secrets = [self._random_bytes(32), old]
            self._since = now
        return _token(self._secrets[0], addr)

    def valid(self, token: bytes, addr: Address, now: float) -> bool:
        """Whether this is a token for that address."""
        self.make(addr, now)
        return any(hmac.compare_digest(_token(one, addr), token) for one in self._secrets)


def _token(secret: bytes, addr: Address) -> bytes:
    text = f"{addr[0]} {addr[1]}".encode()
    return hmac.digest(secret, text, hashlib.sha256)[:TOKEN_LEN]


class _Partial:
    __slots__ = ("began", "size", "source", "value")

    def __init__(self, source: str, size: int, part: bytes, now: float) -> None:
        self.source = source
        self.size = size
        self.value = bytearray(part)
        self.began = now


class Parts:
    """Values of several parts on their way in: the parts in order, and within 10 seconds.

    Who has too many, and then whoever began first, loses one.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[Address, bytes], _Partial] = OrderedDict()
        self._sources: dict[str, OrderedDict[tuple[Address, bytes], None]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def take(
        self,
        addr: Address,
        key: bytes,
        size: int,
        offset: int,
        part: bytes,
        *,
        source: str,
        now: float,
    ) -> bytes | None:
        """Take a part; the value once it is whole.

        Raises:
            ValueError: the part does not fit what came before, or is none.

        """
        if not 0 < len(part) <= PART or not 0 < size <= MAX_VALUE or offset + len(part) > size:
            raise ValueError("size")
        if len(part) == size:
            return part
        if offset == 0:
            self._begin((addr, key), _Partial(source, size, part, now), now)
            return None
        known = self._values.get((addr, key))
        if known is None or known.size != size or now - known.began > PARTS_LIFE:
            raise ValueError("order")
        value = known.value
        if offset + len(part) == len(value) and value[offset:] == part:
            return None  # sent again, since our answer was lost
        if offset != len(value):
            raise ValueError("order")
        value += part
        if len(value) < size:
            return None
        self._drop((addr, key))
        return bytes(value)

    def _begin(self, name: tuple[Address, bytes], one: _Partial, now: float) -> None:
        if name in self._values:
            self._drop(name)
        if len(mine := self._sources.get(one.source, ())) >= PARTS_EACH:
            self._drop(next(iter(mine)))
        while self._values and (
            len(self._values) >= MAX_PARTS
            or now - next(iter(self._values.values())).began > PARTS_LIFE
        ):
            self._drop(next(iter(self._values)))
        self._values[name] = one
        self._sources.setdefault(one.source, OrderedDict())[name] = None

    def _drop(self, name: tuple[Address, bytes]) -> None:
        source = self._values.pop(name).source
        mine = self._sources[source]
        del mine[name]
        if not mine:
            del self._sources[source]
