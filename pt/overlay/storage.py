"""What a server keeps: one checked record a key, bounded by number, bytes and source.

A record is opaque; `validate` says whether it may be kept, its sequence and its expiry. Of two
records of a key the one with the higher (sequence, expiry, bytes) stays. Everything that is not
kept is refused with a reason.

Bounds: `max_records` and `max_bytes` of values in all, `quota` records of one source; a source is
an IP address or an IPv6 /64, and the one that brought the record's latest version. Other servers
bring what their clients stored, so theirs is a quarter of all. When the store is full, expired
records go first; then the source that holds most loses its oldest record, unless the newcomer's
source holds as many: then the newcomer is refused. So a flood from few addresses displaces only
itself.

Expiry is Unix time in seconds, and so is `now`.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from pt.errors import RemoteProtocolError

__all__ = ["Entry", "Facts", "Refusal", "Storage", "Validate"]

MAX_RECORDS: Final = 100_000
MAX_BYTES: Final = 128 * 1024 * 1024
QUOTA: Final = 1000
NEVER: Final = float("-inf")
MAX_LIFE: Final = 8 * 86400
"""Seconds; a record that says it lives longer is kept no longer than this without a new store."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a valid record says of itself."""

    seq: int
    expires: float
    """Unix time."""


Validate: TypeAlias = Callable[[bytes, bytes, float], Facts]
"""(key, value, now): checks a record, raises RemoteProtocolError if it must not be kept."""


class Refusal(StrEnum):
    """Why a record was not kept; the text goes to whoever sent it."""

    OVERSIZE = "oversize"
    INVALID = "invalid"
    EXPIRED = "expired"
    STALE = "stale"
    QUOTA = "quota"
    FULL = "full"
    PLAIN = "plain"
    """Of the unmodified library: signed by nobody."""


class Entry:
    """A record that is held; it is never changed, only replaced."""

    __slots__ = ("expires", "heard", "seq", "source", "value")

    def __init__(self, value: bytes, seq: int, expires: float, source: str) -> None:
        self.value = value
        self.heard = NEVER
        """When others last took care of it, by a monotonic clock."""
        self.seq = seq
        self.expires = expires
        self.source = source


class Storage:
    """Records by key; see the module for what is kept."""

    def __init__(
        self,
        validate: Validate,
        *,
        max_value: int,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
        quota: int = QUOTA,
    ) -> None:
        self._validate = validate
        self._max_value = max_value
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._quota = quota
        self._server_quota = max(quota, max_records // 4)
        self._entries: dict[bytes, Entry] = {}
        self._by_source: dict[str, dict[bytes, None]] = {}
        self._by_count: dict[int, OrderedDict[str, None]] = {}
        self._largest = 0
        self._expiries: list[tuple[float, bytes]] = []
        self.bytes = 0
        """Of the values that are held."""
        self.refused: Counter[Refusal] = Counter()
        self.evicted = 0
        self.changes = 0
        """Grows whenever a record comes or goes."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def get(self, key: bytes, now: float) -> bytes | None:
        """The record of a key, None if there is none that is still valid."""
        entry = self._entries.get(key)
        return None if entry is None or entry.expires <= now else entry.value

    def put(
        self, key: bytes, value: bytes, source: str, now: float, *, server: bool = False
    ) -> Refusal | None:
        """Keep a record; None if it is held now, else why not.

        `server`: whether the source is one of the overlay's servers.
        """
        refusal = self._put(key, value, source, now, server=server)
        if refusal is not None:
            self.refused[refusal] += 1
        return refusal

    def note(self, key: bytes, now: float) -> None:
        """Somebody else takes care that all who should have this record have it."""
        self._entries[key].heard = now

    def heard(self, key: bytes) -> float:
        """When that was; long ago if it never was."""
        entry = self._entries.get(key)
        return NEVER if entry is None else entry.heard

    def restore(self, key: bytes, entry: Entry, now: float) -> bool:
        """Take back a record after a restart, if it is as good as a new one."""
        return (
            self._put(key, entry.value, entry.source, now, server=True, until=entry.expires) is None
        )

    def snapshot(self) -> dict[bytes, Entry]:
        """All that is held at this moment; the copy takes a few milliseconds at most."""
        return self._entries.copy()

    def _put(
        self,
        key: bytes,
        value: bytes,
        source: str,
        now: float,
        *,
        server: bool,
        until: float = float("inf"),
    ) -> Refusal | None:
        if len(value) > self._max_value:
            return Refusal.OVERSIZE
        held = self._entries.get(key)
        if held is not None and held.value == value and held.expires > now:
            return None
        try:
            facts = self._validate(key, value, now)
        except RemoteProtocolError:
            return Refusal.INVALID
        expires = min(facts.expires, now + MAX_LIFE, until)
        if expires <= now:
            return Refusal.EXPIRED
        if held is not None and (facts.seq, expires, value) < (held.seq, held.expires, held.value):
            return Refusal.STALE
        mine = self._by_source.get(source, {})
        if key not in mine and len(mine) >= (self._server_quota if server else self._quota):
            return Refusal.QUOTA
        if held is not None:
            self._remove(key)
        self.expire(now)
        while len(self) >= self._max_records or self.bytes + len(value) > self._max_bytes:
            if not self._evict(source):
                if held is not None:
                    self._insert(key, held)
                return Refusal.FULL
        self._insert(key, Entry(value, facts.seq, expires, source))
        heapq.heappush(self._expiries, (expires, key))
        return None

    def expire(self, now: float) -> None:
        """Forget what has expired."""
        while self._expiries and self._expiries[0][0] <= now:
            expires, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.expires == expires:
                self._remove(key)
        if len(self._expiries) > 2 * len(self) + 64:  # records replaced before they expired
            self._expiries = [(entry.expires, key) for key, entry in self._entries.items()]
            heapq.heapify(self._expiries)

    def _evict(self, source: str) -> bool:
        """Drop the oldest record of the largest source, if that is larger than `source`."""
        while self._largest and not self._by_count.get(self._largest):
            self._largest -= 1
        if self._largest <= len(self._by_source.get(source, ())):
            return False
        victim = next(iter(self._by_count[self._largest]))
        self._remove(next(iter(self._by_source[victim])))
        self.evicted += 1
        return True

    def _insert(self, key: bytes, entry: Entry) -> None:
        self._entries[key] = entry
        self.changes += 1
        self.bytes += len(entry.value)
        keys = self._by_source.setdefault(entry.source, {})
        keys[key] = None
        self._moved(entry.source, len(keys) - 1, len(keys))

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        self.changes += 1
        self.bytes -= len(entry.value)
        keys = self._by_source[entry.source]
        del keys[key]
        self._moved(entry.source, len(keys) + 1, len(keys))
        if not keys:
            del self._by_source[entry.source]

    def _moved(self, source: str, before: int, after: int) -> None:
        if before and (peers := self._by_count[before]):
            del peers[source]
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, OrderedDict())[source] = None
            self._largest = max(self._largest, after)
