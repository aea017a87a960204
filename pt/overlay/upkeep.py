"""What a server does unasked, without I/O: it keeps its table alive, and its records in place.

Every TICK seconds, nodes that were silent for REFRESH are pinged; the neighbourhood and one random
place are looked up every REFRESH. Once in `republish` seconds each record is offered to the K nodes
of the table that are nearest to it; who lacks it says so and is given it. So records outlive the
servers that held them, and newcomers get theirs.

Of many who hold a record one is enough to offer it: a server leaves out what another server
offered, or somebody stored, since its last turn. Now and then it offers such a record all the same,
so that nobody can keep the holders quiet.

Nothing comes in bursts. Records are offered in the order of their keys, a datagram's worth of
neighbours at a time, evenly over the whole period; and they are given away at RATE datagrams a
second in all, to one node after the other.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

from pt.overlay.adapter import Address, Node
from pt.overlay.lookup import K
from pt.overlay.messages import ENTRY_LEN, PART, Reply, digest
from pt.overlay.rpc import Rpc
from pt.overlay.storage import Storage
from pt.overlay.walk import Store, Walk

__all__ = ["MAX_OFFERED", "REPUBLISH", "TICK", "Handover", "Upkeep"]

TICK: Final = 10.0
REFRESH: Final = 300.0
REPUBLISH: Final = 3600.0
PINGS: Final = 16
"""Nodes pinged in one step."""
MAX_OFFERED: Final = 24
"""Records of one datagram."""
INSIST: Final = 32
"""Of 256 records that others take care of, so many are offered all the same."""
RATE: Final = 64.0
"""Datagrams a second: fewer than a server takes from one source."""
FIRST_ROUND: Final = 30
"""Part of a period after which the first round begins: records of an earlier run are back then."""
WINDOW: Final = 4
"""Records under way to one node."""
MAX_WAITING: Final = 256
"""Records that wait to be given to one node; others get their turn in the next round."""


class Handover:
    """Gives records to the nodes that asked for them, see the module's text."""

    def __init__(
        self, rpc: Rpc, storage: Storage, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._rpc = rpc
        self._storage = storage
        self._clock = clock
        self._wall = wall
        self._waiting: OrderedDict[bytes, tuple[Node, deque[bytes]]] = OrderedDict()
        self._busy: Counter[bytes] = Counter()
        self._next = 0.0

    def __len__(self) -> int:
        return sum(len(keys) for _, keys in self._waiting.values())

    def full(self, node: Node) -> bool:
        """Whether this node has enough to come."""
        _, keys = self._waiting.get(node.id, (node, ()))
        return len(keys) >= MAX_WAITING

    def give(self, node: Node, keys: Sequence[bytes]) -> None:
        """Have these records given to a node, as far as there is room."""
        if not keys:
            return
        _, waiting = self._waiting.setdefault(node.id, (node, deque()))
        waiting.extend(keys[: MAX_WAITING - len(waiting)])

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is to be called."""
        return None if self._whom() is None else self._next

    def handle_timeout(self, now: float) -> None:
        """Give away one record, if it is time."""
        if now < self._next:
            return
        node_id = self._whom()
        if node_id is None:
            return
        node, keys = self._waiting[node_id]
        key, value = b"", None
        while value is None and keys:
            key = keys.popleft()
            value = self._storage.get(key, self._wall())
        self._waiting.move_to_end(node_id)
        if value is None:
            self._over(node_id)
            return
        self._busy[node_id] += 1
        self._next = now + -(-len(value) // PART) / RATE

        def done(status: str) -> None:
            self._busy[node_id] -= 1
            if status == "no answer":
                keys.clear()
            self._over(node_id)

        Store(self._rpc, key, value, clock=self._clock, done=done).to(node)

    def _whom(self) -> bytes | None:
        """The node whose turn it is."""
        for node_id, (_, keys) in self._waiting.items():
            if keys and self._busy[node_id] < WINDOW:
                return node_id
        return None

    def _over(self, node_id: bytes) -> None:
        """Forget a node that nothing waits for."""
        if not self._busy[node_id]:
            del self._busy[node_id]
            if not self._waiting[node_id][1]:
                del self._waiting[node_id]


class Upkeep:
    """Feed it time."""

    def __init__(
        self,
        rpc: Rpc,
        storage: Storage,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        bootstrap: Sequence[Address],
        republish: float,
    ) -> None:
        self.bootstrap = tuple(bootstrap)
        self.handover = Handover(rpc, storage, clock, wall)
        self._rpc = rpc
        self._storage = storage
        self._clock = clock
        self._wall = wall
        self._random_bytes = random_bytes
        self._republish = republish
        self._walk: Walk | None = None
        self._closed = False
        now = clock()
        self._next_tick = self._next_walk = now
        self._due: list[bytes] = []
        self._next_offer = now + republish / FIRST_ROUND
        self._round_end = now

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called."""
        at = min(self._next_tick, self._next_offer)
        giving = self.handover.next_timeout()
        return at if giving is None else min(at, giving)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if self._closed:
            return
        self.handover.handle_timeout(now)
        if now >= self._next_offer:
            self._offer(now)
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        self._storage.expire(self._wall())
        for node in self._rpc.table.stale(now - REFRESH, PINGS):
            self._rpc.ask(node, "ping", done=lambda _: None, now=now)
        if now >= self._next_walk and self._walk is None:
            self._next_walk = now + (REFRESH if len(self._rpc.table) else TICK)
            self._look_around(self._rpc.sender, then=self._random_bytes(32))

    def look_around_now(self) -> None:
        """Do not wait with the next look-up."""
        self._next_walk = self._next_tick = self._clock()

    def close(self) -> None:
        """Do nothing any more."""
        self._closed = True
        if self._walk is not None:
            self._walk.close()
            self._walk = None

    def _look_around(self, key: bytes, then: bytes | None) -> None:
        def done(found: list[Node]) -> None:
            self._walk = None
            if then is not None and found and not self._closed:
                self._look_around(then, None)

        bootstrap = self.bootstrap
        self._walk = Walk(self._rpc, key, clock=self._clock, bootstrap=bootstrap, done=done)
        self._walk.start()

    # --- records ---------------------------------------------------------------------------------

    def _offer(self, now: float) -> None:
        """Offer the next few records to the nodes that should have them."""
        if not self._due:
            self._due = sorted(self._storage, reverse=True)
            self._round_end = now + self._republish
        offers: dict[bytes, tuple[Node, dict[bytes, bytes]]] = {}
        for _ in range(min(MAX_OFFERED, len(self._due))):
            key = self._due.pop()
            value = self._storage.get(key, self._wall())
            if value is None or self._others_care(key, now):
                continue
            mark = digest(value)
            for node in self._rpc.table.closest(key, K):
                if not self.handover.full(node):
                    offers.setdefault(node.id, (node, {}))[1][key] = mark
        for node, marks in offers.values():
            self._offer_to(node, marks, now)
        steps = -(-len(self._due) // MAX_OFFERED)
        self._next_offer = now + (self._round_end - now) / (steps + 1)

    def _others_care(self, key: bytes, now: float) -> bool:
        cared = now - self._storage.heard(key) < self._republish
        return cared and self._random_bytes(1)[0] >= INSIST

    def _offer_to(self, node: Node, marks: dict[bytes, bytes], now: float) -> None:
        raw = b"".join(key + mark for key, mark in marks.items())
        assert len(raw) <= MAX_OFFERED * ENTRY_LEN

        def answer(reply: Reply | None) -> None:
            if reply is not None and not self._closed:
                mask = reply.get(0, bytes)
                wanted = [key for key, want in zip(marks, mask, strict=False) if want]
                self.handover.give(node, wanted)

        def welcomed(reply: Reply | None) -> None:
            if reply is not None:
                self._rpc.ask(node, "offer", raw, done=answer, now=self._clock())

        if self._rpc.has_token(node.address, now):
            self._rpc.ask(node, "offer", raw, done=answer, now=now)
        else:  # a ping brings the token
            self._rpc.ask(node, "ping", done=welcomed, now=now)
