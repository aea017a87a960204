"""A server of the overlay without I/O: it answers, keeps records, and keeps its table alive.

Nobody enters the table by asking: a stranger that says it is a server, with a valid token, is sent
a ping, and enters by answering it from that address with that id.

Upkeep, in steps of TICK seconds, each bounded: nodes that were silent for REFRESH are pinged; the
neighbourhood and one random place are looked up; and every record is offered, once in REPUBLISH
seconds, to the K nodes of the table that are nearest to it: who lacks it asks for it. So records
outlive the servers that held them, and newcomers get theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from pt.overlay.adapter import Address, Field, Node, OverlayError, group
from pt.overlay.limits import Parts, Rates, Tokens
from pt.overlay.lookup import K
from pt.overlay.messages import (
    AMPLIFICATION,
    ENTRY_LEN,
    MAX_DATAGRAM,
    MAX_VALUE,
    PART,
    Reply,
    Request,
    digest,
    encode_nodes,
    encode_reply,
    entries,
)
from pt.overlay.rpc import Rpc, Send
from pt.overlay.storage import Refusal, Storage
from pt.overlay.walk import Store, Walk

__all__ = ["REPUBLISH", "TICK", "Server"]

TICK: Final = 10.0
REFRESH: Final = 300.0
"""Seconds: a node that did not answer for so long is pinged; look-ups of upkeep come as often."""
REPUBLISH: Final = 3600.0
RATE: Final = 100.0
BURST: Final = 400.0
PINGS: Final = 16
"""Nodes pinged in one step, and strangers pinged at a time."""
MAX_OFFERED: Final = 24
"""Records of one datagram."""
MAX_OFFERS: Final = 256
"""Offers of one step; what is left waits for the next."""
NEAR_VALUE: Final = 8
"""Nodes named along with a value, which are enough to go on."""


class Server:
    """Feed it datagrams and time; `clock` is monotonic, `wall` Unix time, both in seconds."""

    def __init__(
        self,
        node_id: bytes,
        storage: Storage,
        send: Send,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        bootstrap: Sequence[Address] = (),
        rate: float = RATE,
        republish: float = REPUBLISH,
    ) -> None:
        self.rpc = Rpc(node_id, node_id, send, random_bytes)
        self.storage = storage
        self.bootstrap = tuple(bootstrap)
        self._clock = clock
        self._wall = wall
        self._random_bytes = random_bytes
        self._tokens = Tokens(random_bytes)
        self._rates = Rates(rate, rate * BURST / RATE)
        self._parts = Parts()
        self._republish = republish
        self._pinging: set[Address] = set()
        self._next_tick = clock()
        self._next_walk = clock()
        self._walk: Walk | None = None
        self._due: OrderedDict[bytes, None] = OrderedDict()
        self._credit = 0.0
        self._closed = False

    # --- datagrams -----------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Address) -> None:
        """Take a datagram."""
        now = self._clock()
        request = self.rpc.receive_datagram(data, addr, now)
        if request is None or self._closed:
            return
        self.rpc.counts[f"requests: {request.method}"] += 1
        if not self._rates.take(group(addr[0]) or addr[0], now):
            self.rpc.counts["dropped: rate"] += 1
            return
        if addr[1] == 0 or request.sender == self.rpc.sender:
            self.rpc.counts["dropped: forged sender"] += 1
            return
        known = bool(request.token) and self._tokens.valid(request.token, addr, now)
        room = MAX_DATAGRAM if known else min(MAX_DATAGRAM, AMPLIFICATION * len(data))
        head = (request.id, self.rpc.sender, self._tokens.make(addr, now))
        spare = room - len(encode_reply(*head)) - 32  # lengths and tags of the fields
        fields = self._answer(request, addr, spare, known=known)
        reply = encode_reply(*head, *fields)
        if len(reply) <= room:
            self.rpc.transmit(reply, addr)
        if known and request.sender:
            self._consider(Node(request.sender, *addr), now)

    def _answer(
        self, request: Request, addr: Address, room: int, *, known: bool
    ) -> tuple[Field, ...]:
        match request.method:
            case "ping":
                return (b"",)
            case "find_node":
                return (self._nodes(request, K, room),)
            case "find_value":
                return self._find_value(request, room)
            case "fetch":
                return (self._fetch(request) if known else b"",)
            case "store":
                return (self._store(request, addr) if known else "token",)
            case _:
                return (self._wanted(request) if known else b"",)

    def _nodes(self, request: Request, count: int, room: int) -> bytes:
        near = self.rpc.table.closest(request.get(0, bytes), count + 1)
        return encode_nodes([node for node in near if node.id != request.sender][:count], room)

    def _find_value(self, request: Request, room: int) -> tuple[Field, ...]:
        value = self.storage.get(request.get(0, bytes), self._wall())
        if value is None:
            return (self._nodes(request, K, room), 0, b"", b"")
        nodes = self._nodes(request, NEAR_VALUE, room)
        inline = value if len(value) <= room - len(nodes) else b""
        return (nodes, len(value), digest(value), inline)

    def _fetch(self, request: Request) -> bytes:
        value = self.storage.get(request.get(0, bytes), self._wall())
        offset = request.get(2, int)
        if value is None or digest(value) != request.get(1, bytes):
            return b""
        return value[offset : offset + PART]

    def _store(self, request: Request, addr: Address) -> str:
        key, size, offset = request.get(0, bytes), request.get(1, int), request.get(2, int)
        part = request.get(3, bytes)
        if size > MAX_VALUE:
            self.storage.refused[Refusal.OVERSIZE] += 1
            return Refusal.OVERSIZE
        try:
            value = self._parts.take(addr, key, size, offset, part, now=self._clock())
        except ValueError as error:
            held = self.storage.get(key, self._wall())
            if held is not None and len(held) == size and part and held[offset:] == part:
                return "ok"  # the last part, sent again since our answer was lost
            self.rpc.counts["dropped: bad part"] += 1
            return str(error)
        if value is None:
            return "more"
        source = group(addr[0]) or addr[0]
        refusal = self.storage.put(
            key, value, source, self._wall(), server=request.sender in self.rpc.table
        )
        return "ok" if refusal is None else refusal

    def _wanted(self, request: Request) -> bytes:
        wall = self._wall()
        try:
            offered = entries(request.get(0, bytes))
        except OverlayError:
            self.rpc.counts["dropped: malformed"] += 1
            return b""
        mask = bytearray()
        for key, mark in offered[:MAX_OFFERED]:
            held = self.storage.get(key, wall)
            mask.append(held is None or digest(held) != mark)
        return bytes(mask)

    def _consider(self, node: Node, now: float) -> None:
        """Ask a server we do not know yet whether it is there."""
        addr = node.address
        if addr in self._pinging or len(self._pinging) >= PINGS or not self.rpc.table.wants(node):
            return
        self._pinging.add(addr)
        self.rpc.ask(node, "ping", done=lambda _: self._pinging.discard(addr), now=now)

    # --- upkeep --------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called."""
        first = self.rpc.next_timeout()
        return self._next_tick if first is None else min(first, self._next_tick)

    def handle_timeout(self) -> None:
        """Do what is due."""
        now = self._clock()
        self.rpc.handle_timeout(now)
        if now < self._next_tick or self._closed:
            return
        self._next_tick = now + TICK
        self.storage.expire(self._wall())
        for node in self.rpc.table.stale(now - REFRESH, PINGS):
            self.rpc.ask(node, "ping", done=lambda _: None, now=now)
        if now >= self._next_walk and self._walk is None:
            self._next_walk = now + (REFRESH if len(self.rpc.table) else TICK)
            self._look_around(self.rpc.sender, then=self._random_bytes(32))
        self._offer(now)

    def look_around_now(self) -> None:
        """Do not wait with the next look-up of upkeep."""
        self._next_walk = self._next_tick = self._clock()

    def _look_around(self, key: bytes, then: bytes | None) -> None:
        def done(found: list[Node]) -> None:
            self._walk = None
            if then is not None and found and not self._closed:
                self._look_around(then, None)

        bootstrap = self.bootstrap
        self._walk = Walk(self.rpc, key, clock=self._clock, bootstrap=bootstrap, done=done)
        self._walk.start()

    def _offer(self, now: float) -> None:
        """Offer the records whose turn it is to the nodes that should have them."""
        if not self._due:
            self._due = OrderedDict.fromkeys(self.storage)
            self._credit = min(self._credit, 1.0)
        self._credit += len(self.storage) * TICK / self._republish
        batches: dict[bytes, tuple[Node, list[bytes]]] = {}
        sent = 0
        while self._due and self._credit >= 1 and sent + len(batches) < MAX_OFFERS:
            self._credit -= 1
            key, _ = self._due.popitem(last=False)
            if self.storage.get(key, self._wall()) is None:
                continue
            for node in self.rpc.table.closest(key, K):
                _, keys = batches.setdefault(node.id, (node, []))
                keys.append(key)
                if len(keys) == MAX_OFFERED:
                    self._offer_to(node, keys, now)
                    del batches[node.id]
                    sent += 1
        for node, keys in batches.values():
            self._offer_to(node, keys, now)

    def _offer_to(self, node: Node, keys: list[bytes], now: float) -> None:
        wall = self._wall()
        held = {key: value for key in keys if (value := self.storage.get(key, wall)) is not None}
        raw = b"".join(key + digest(value) for key, value in held.items())
        assert len(raw) <= MAX_OFFERED * ENTRY_LEN

        def answer(reply: Reply | None) -> None:
            if reply is None or self._closed:
                return
            mask = reply.get(0, bytes)
            for (key, value), wanted in zip(held.items(), mask, strict=False):
                if wanted:
                    one = Store(self.rpc, key, value, clock=self._clock, done=lambda _: None)
                    one.to(node)

        def welcomed(reply: Reply | None) -> None:
            if reply is not None:
                self.rpc.ask(node, "offer", raw, done=answer, now=self._clock())

        if self.rpc.has_token(node.address, now):
            self.rpc.ask(node, "offer", raw, done=answer, now=now)
        else:  # a ping brings the token
            self.rpc.ask(node, "ping", done=welcomed, now=now)

    def close(self) -> None:
        """End every look-up and request; what comes in later is dropped."""
        self._closed = True
        if self._walk is not None:
            self._walk.close()
            self._walk = None
        self.rpc.close()
