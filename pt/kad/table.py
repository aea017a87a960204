"""Routing table: servers that have answered, by how near they are to us.

A bucket holds K peers whose points share as many leading bits with ours. Who is in stays as long
as he answers: a newcomer takes the place of a peer that has not answered for STALE seconds, never
of another, so that nobody floods us out of what we know. Of one owner's addresses
(`pt.kad.diversity`) at most two peers are in a bucket and three in the table.

The table can be written to a file and read back, so that the next start needs neither bootstrap
peers nor DNS. Who was read back counts as stale until he answers.

All times are seconds on one monotonic clock, but `wall`, which is Unix time.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeGuard

from pt.errors import PtError
from pt.identity.peer_id import PeerId
from pt.kad.diversity import MAX_IN_BUCKET, MAX_IN_TABLE, groups, public
from pt.kad.keyspace import K, common_prefix, point
from pt.kad.messages import MAX_ADDRESSES, PeerInfo
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_AGE", "MAX_PEERS", "STALE", "RoutingTable"]

MAX_PEERS: Final = 640
"""Of the whole table: the buckets of a network of millions."""
STALE: Final = 3600.0
"""Seconds without an answer after which a peer may be replaced."""
MAX_AGE: Final = 14 * 86400.0
"""Seconds without an answer after which a peer is neither written nor read back."""
MAX_TEXT: Final = 1 << 20
"""Characters of a file that are read; longer ones are somebody else's."""
_LATEST: Final = 1e12  # Unix time, far beyond any clock


class _Entry:
    __slots__ = ("bucket", "groups", "peer", "point", "proven", "seen")

    def __init__(
        self, peer: PeerInfo, where: int, bucket: int, seen: float, *, proven: bool
    ) -> None:
        self.peer = peer
        self.point = where
        self.bucket = bucket
        self.seen = seen  # when it answered last
        self.proven = proven  # whether it has answered in this run
        self.groups = groups(peer.addresses)

    def fresh(self, now: float) -> bool:
        return self.proven and now - self.seen <= STALE


class RoutingTable:
    """The servers known to us; `public_only`: none without a public address."""

    def __init__(self, own: PeerId, *, k: int = K, public_only: bool = True) -> None:
        self._own = own
        self._point = point(own.raw)
        self._k = k
        self._public_only = public_only
        self._entries: dict[PeerId, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def __iter__(self) -> Iterator[PeerInfo]:
        return (entry.peer for entry in self._entries.values())

    def fresh(self, now: float) -> int:
        """How many have answered within STALE seconds."""
        return sum(entry.fresh(now) for entry in self._entries.values())

    def closest(self, to: int, count: int) -> list[PeerInfo]:
        """At most `count` peers, the nearest to a point first."""
        found = sorted(self._entries.values(), key=lambda entry: entry.point ^ to)
        return [entry.peer for entry in found[:count]]

    def answered(self, peer: PeerInfo, now: float) -> bool:
        """Take in a server that answered, or learn its newer addresses; whether it is in now."""
        return self._put(peer, now, now, proven=True)

    def failed(self, peer: PeerId) -> None:
        """Forget a peer that could not be reached, or that did not answer as it should."""
        self._entries.pop(peer, None)

    def to_json(self, now: float, wall: float) -> str:
        """All peers, the ones that answered last first."""
        peers = [
            {
                "id": str(entry.peer.id),
                "addresses": [str(address) for address in entry.peer.addresses],
                "age": round(now - entry.seen),
            }
            for entry in sorted(self._entries.values(), key=lambda entry: -entry.seen)
            if now - entry.seen <= MAX_AGE
        ]
        return json.dumps({"version": 1, "saved": round(wall), "peers": peers}, indent=1)

    def load_json(self, text: str, now: float, wall: float) -> int | None:
        """Take in what `to_json` wrote; how many peers that were, None if it is something else.

        A peer that cannot be read costs itself alone.
        """
        if len(text) > MAX_TEXT:
            return None
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(read, dict) or read.get("version") != 1:
            return None
        saved, peers = read.get("saved"), read.get("peers")
        if not _number(saved, _LATEST) or not isinstance(peers, list):
            return None
        before = len(self)
        for one in peers[:MAX_PEERS]:
            peer = _read(one)
            if peer is not None:
                age = one["age"] + max(0.0, wall - saved)
                if age < MAX_AGE:
                    self._put(peer, now - age, now, proven=False)
        return len(self) - before

    def _put(self, peer: PeerInfo, seen: float, now: float, *, proven: bool) -> bool:
        addresses = public(peer.addresses) if self._public_only else peer.addresses
        known = self._entries.get(peer.id)
        if peer.id == self._own or not addresses or (known is not None and not proven):
            return known is not None
        where = point(peer.id.raw)
        bucket = common_prefix(where, self._point)
        entry = _Entry(PeerInfo(peer.id, addresses), where, bucket, seen, proven=proven)
        self._entries.pop(peer.id, None)
        if not self._admit(entry, now):
            if known is None:
                return False
            known.seen, known.proven = seen, proven  # its new addresses are crowded: the old stay
            entry = known
        self._entries[peer.id] = entry
        return True

    def _admit(self, entry: _Entry, now: float) -> bool:
        """Whether there is room, made by forgetting a stale peer if need be."""
        all_in: Counter[tuple[int, int]] = Counter()
        near: Counter[tuple[int, int]] = Counter()
        bucket: list[_Entry] = []
        for other in self._entries.values():
            all_in.update(other.groups)
            if other.bucket == entry.bucket:
                near.update(other.groups)
                bucket.append(other)
        for group in entry.groups:
            if all_in[group] >= MAX_IN_TABLE or near[group] >= MAX_IN_BUCKET:
                return False
        rivals = bucket if len(bucket) >= self._k else None
        if rivals is None and len(self._entries) >= MAX_PEERS:
            rivals = list(self._entries.values())
        if rivals is None:
            return True
        oldest = min(rivals, key=lambda other: (other.fresh(now), other.proven, other.seen))
        if oldest.fresh(now) or (not entry.proven and (oldest.proven or entry.seen <= oldest.seen)):
            return False
        del self._entries[oldest.peer.id]
        return True


def _read(one: object) -> PeerInfo | None:
    """A peer of a file, None if it is none."""
    if not isinstance(one, dict):
        return None
    name, texts = one.get("id"), one.get("addresses")
    if not (isinstance(name, str) and isinstance(texts, list) and _number(one.get("age"), MAX_AGE)):
        return None
    try:
        peer_id = PeerId.parse(name)
    except PtError:
        return None
    addresses = []
    for text in texts[:MAX_ADDRESSES]:
        if isinstance(text, str):
            with contextlib.suppress(PtError):
                addresses.append(Multiaddr.parse(text))
    return PeerInfo(peer_id, tuple(addresses))


def _number(value: object, most: float) -> TypeGuard[float]:
    """Whether this is a number from 0 to `most`; NaN is not."""
    return isinstance(value, int | float) and 0 <= value <= most
