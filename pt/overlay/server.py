"""A server of the overlay without I/O: it answers, keeps records, and keeps its table alive.

Nobody enters the table by asking: a stranger that says it is a server, with a valid token, is sent
a ping, and enters by answering it from that address with that id.

What a server does unasked is in `pt.overlay.upkeep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pt.overlay import plain
from pt.overlay.adapter import Address, Field, Node, OverlayError, group
from pt.overlay.limits import Parts, Rates, Tokens
from pt.overlay.lookup import K
from pt.overlay.messages import (
    AMPLIFICATION,
    MAX_DATAGRAM,
    MAX_VALUE,
    PART,
    Request,
    digest,
    encode_nodes,
    encode_reply,
    entries,
)
from pt.overlay.plain import PlainRequest
from pt.overlay.rpc import Rpc, Send
from pt.overlay.storage import Refusal, Storage
from pt.overlay.upkeep import MAX_OFFERED, REPUBLISH, Upkeep

__all__ = ["Server"]

RATE: Final = 100.0
BURST: Final = 400.0
"""Requests of one source, a second and at once."""
STRANGERS: Final = 1000.0
"""Requests a second of all who have no token: they may be one who forges addresses."""
PINGS: Final = 16
"""Strangers pinged at a time."""
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
        self._clock = clock
        self._wall = wall
        self._tokens = Tokens(random_bytes)
        self._rates = Rates(rate, rate * BURST / RATE)
        self._strangers = Rates(STRANGERS, 2 * STRANGERS)
        self._parts = Parts()
        self._pinging: set[Address] = set()
        self._closed = False
        self.upkeep = Upkeep(
            self.rpc,
            storage,
            clock=clock,
            wall=wall,
            random_bytes=random_bytes,
            bootstrap=bootstrap,
            republish=republish,
        )

    # --- datagrams -----------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Address) -> None:
        """Take a datagram."""
        now = self._clock()
        request = self.rpc.receive_datagram(data, addr, now)
        if request is None or self._closed:
            return
        method = "plain" if isinstance(request, PlainRequest) else request.method
        self.rpc.counts[f"requests: {method}"] += 1
        if not self._rates.take(group(addr[0]) or addr[0], now):
            self.rpc.counts["dropped: rate"] += 1
            return
        if isinstance(request, PlainRequest):
            if self._welcome(now):
                self._answer_plain(request, addr)
            return
        if addr[1] == 0 or request.sender == self.rpc.sender:
            self.rpc.counts["dropped: forged sender"] += 1
            return
        known = bool(request.token) and self._tokens.valid(request.token, addr, now)
        if not known and not self._welcome(now):
            return
        room = MAX_DATAGRAM if known else min(MAX_DATAGRAM, AMPLIFICATION * len(data))
        head = (request.id, self.rpc.sender, self._tokens.make(addr, now))
        spare = room - len(encode_reply(*head)) - 32  # lengths and tags of the fields
        fields = self._answer(request, addr, spare, known=known)
        reply = encode_reply(*head, *fields)
        if len(reply) <= room:
            self.rpc.transmit(reply, addr)
        if known and request.sender:
            self._consider(Node(request.sender, *addr), now)

    def _welcome(self, now: float) -> bool:
        """Whether there is time for somebody whose address may be forged."""
        if self._strangers.take("", now):
            return True
        self.rpc.counts["dropped: rate of strangers"] += 1
        return False

    def _answer_plain(self, request: PlainRequest, addr: Address) -> None:
        if request.method == "store":
            self.storage.refused[Refusal.PLAIN] += 1
        near = self.rpc.table.closest(request.key, K) if request.key else []
        reply = plain.encode_reply(request, self.rpc.sender, near, addr)
        if reply is not None and addr[1]:
            self.rpc.transmit(reply, addr)

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
                return (self._wanted(request, addr) if known else b"",)

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
        source = group(addr[0]) or addr[0]
        if size > MAX_VALUE:
            self.storage.refused[Refusal.OVERSIZE] += 1
            return Refusal.OVERSIZE
        try:
            value = self._parts.take(
                addr, key, size, offset, part, source=source, now=self._clock()
            )
        except ValueError as error:
            held = self.storage.get(key, self._wall())
            if held is not None and len(held) == size and part and held[offset:] == part:
                return "ok"  # the last part, sent again since our answer was lost
            self.rpc.counts["dropped: bad part"] += 1
            return str(error)
        if value is None:
            return "more"
        server = self.rpc.table.is_at(request.sender, addr)
        refusal = self.storage.put(key, value, source, self._wall(), server=server)
        if refusal is not None:
            return refusal
        self.storage.note(key, self._clock())
        return "ok"

    def _wanted(self, request: Request, addr: Address) -> bytes:
        wall, now = self._wall(), self._clock()
        server = self.rpc.table.is_at(request.sender, addr)
        try:
            offered = entries(request.get(0, bytes))
        except OverlayError:
            self.rpc.counts["dropped: malformed"] += 1
            return b""
        mask = bytearray()
        for key, mark in offered[:MAX_OFFERED]:
            held = self.storage.get(key, wall)
            has = held is not None and digest(held) == mark
            if has and server:
                self.storage.note(key, now)
            mask.append(not has)
        return bytes(mask)

    def _consider(self, node: Node, now: float) -> None:
        """Ask a server we do not know yet whether it is there."""
        addr = node.address
        if addr in self._pinging or len(self._pinging) >= PINGS or not self.rpc.table.wants(node):
            return
        self._pinging.add(addr)
        self.rpc.ask(node, "ping", done=lambda _: self._pinging.discard(addr), now=now)

    # --- time ------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called."""
        first, second = self.rpc.next_timeout(), self.upkeep.next_timeout()
        return second if first is None else min(first, second)

    def handle_timeout(self) -> None:
        """Do what is due."""
        now = self._clock()
        self.rpc.handle_timeout(now)
        self.upkeep.handle_timeout(now)

    def close(self) -> None:
        """End every look-up and request; what comes in later is dropped."""
        self._closed = True
        self.upkeep.close()
        self.rpc.close()
