"""Requests and replies over datagrams, without I/O: who is asked, who may answer, until when.

A reply counts if it carries the id of a request that is under way, and comes from the address that
was asked; others are counted and dropped. A request without an answer is sent again once.
Datagrams go out through `send(data, address)`, so that they can share a socket with STUN and QUIC.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

from pt.overlay import plain
from pt.overlay.adapter import Address, Field, Node, OverlayError, Table
from pt.overlay.lookup import K
from pt.overlay.messages import (
    MAX_DATAGRAM,
    PADDED,
    REQUEST_ID_LEN,
    Reply,
    Request,
    decode,
    encode_request,
)
from pt.overlay.plain import PlainRequest

__all__ = ["MAX_OUTSTANDING", "SLOW", "TIMEOUT", "Done", "Rpc", "Send"]

Send: TypeAlias = Callable[[bytes, Address], None]
Done: TypeAlias = Callable[["Reply | None"], None]
"""Takes the reply, or None when there was none in time."""

SLOW: Final = 0.5
"""Seconds until a request is sent again."""
TIMEOUT: Final = 2.0
"""Seconds until it is given up."""
MAX_OUTSTANDING: Final = 1024
TOKEN_USE: Final = 500.0
"""Seconds that a token of a server is used; it lives longer."""
MAX_TOKENS: Final = 1024
_PADDED: Final = frozenset({"find_node", "find_value"})


class _Call:
    __slots__ = ("addr", "data", "done", "method", "node", "slow")

    def __init__(
        self, addr: Address, method: str, data: bytes, done: Done, node: Node | None
    ) -> None:
        self.addr = addr
        self.method = method
        self.data = data
        self.done = done
        self.node = node
        self.slow: Callable[[], None] | None = None


class Rpc:
    """One end; `sender` is our id as a server, empty for a client."""

    def __init__(
        self, sender: bytes, own: bytes, send: Send, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.sender = sender
        self.table = Table(own, K)
        self.counts: Counter[str] = Counter()
        """Datagrams and bytes, in and out, and what was dropped, by reason."""
        self._closed = False
        self._send = send
        self._random_bytes = random_bytes
        self._calls: dict[bytes, _Call] = {}
        self._deadlines: list[tuple[float, bytes, bool]] = []
        self._tokens: OrderedDict[Address, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def ask(
        self,
        to: Node | Address,
        method: str,
        *fields: Field,
        done: Done,
        now: float,
        slow: Callable[[], None] | None = None,
    ) -> None:
        """Send a request; `done` is called once, `slow` if the first answer takes long.

        With too many requests under way, it fails at once.
        """
        node = to if isinstance(to, Node) else None
        addr = to.address if isinstance(to, Node) else to
        if self._closed:
            done(None)
            return
        if len(self._calls) >= MAX_OUTSTANDING:
            self.counts["dropped: too many requests"] += 1
            done(None)
            return
        token, until = self._tokens.get(addr, (b"", 0.0))
        if until <= now:
            token = b""
        size = PADDED if method in _PADDED and not token else 0
        request_id = self._random_bytes(REQUEST_ID_LEN)
        data = encode_request(request_id, method, self.sender, token, *fields, size=size)
        call = _Call(addr, method, data, done, node)
        call.slow = slow
        self._calls[request_id] = call
        heapq.heappush(self._deadlines, (now + SLOW, request_id, False))
        heapq.heappush(self._deadlines, (now + TIMEOUT, request_id, True))
        self.transmit(data, addr)

    def has_token(self, addr: Address, now: float) -> bool:
        """Whether a request to this address would carry a token."""
        return self._tokens.get(addr, (b"", 0.0))[1] > now

    def transmit(self, data: bytes, addr: Address) -> None:
        """Send a datagram."""
        assert len(data) <= MAX_DATAGRAM
        self.counts["datagrams out"] += 1
        self.counts["bytes out"] += len(data)
        self._send(data, addr)

    def receive_datagram(
        self, data: bytes, addr: Address, now: float
    ) -> Request | PlainRequest | None:
        """Take a datagram; a request is returned, a reply goes to whoever waits for it."""
        self.counts["datagrams in"] += 1
        self.counts["bytes in"] += len(data)
        try:
            message = decode(data)
        except OverlayError:
            request = plain.decode(data)
            if request is None:
                self.counts["dropped: malformed"] += 1
            return request
        if isinstance(message, Request):
            return message
        self._reply(message, addr, now)
        return None

    def _reply(self, reply: Reply, addr: Address, now: float) -> None:
        call = self._calls.get(reply.id)
        if call is None or call.addr != addr:
            self.counts["dropped: unsolicited"] += 1
            return
        del self._calls[reply.id]
        self._trim()
        try:
            reply.check(call.method)
            if reply.sender == self.sender:
                raise OverlayError("a reply of ourselves")
            if call.node is not None and call.node.id != reply.sender:
                raise OverlayError("a node of another id at that address")
        except OverlayError:
            self.counts["dropped: bad reply"] += 1
            self._fail(call)
            return
        if reply.token:
            self._tokens[addr] = (reply.token, now + TOKEN_USE)
            self._tokens.move_to_end(addr)
            if len(self._tokens) > MAX_TOKENS:
                self._tokens.popitem(last=False)
        self.table.answered(Node(reply.sender, *addr), now)
        call.done(reply)

    def _fail(self, call: _Call) -> None:
        if call.node is not None:
            self.table.failed(call.node.id)
        call.done(None)

    def _trim(self) -> None:
        """Drop deadlines of requests that were answered."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        if len(self._deadlines) > 4 * len(self._calls) + 64:
            self._deadlines = [one for one in self._deadlines if one[1] in self._calls]
            heapq.heapify(self._deadlines)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is to be called; None while nothing is under way."""
        self._trim()
        return self._deadlines[0][0] if self._deadlines else None

    def handle_timeout(self, now: float) -> None:
        """Send again, or give up, what has waited long enough."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id, last = heapq.heappop(self._deadlines)
            call = self._calls.get(request_id)
            if call is None:
                continue
            if last:
                del self._calls[request_id]
                self.counts["timeouts"] += 1
                self._fail(call)
                continue
            self.transmit(call.data, call.addr)
            if call.slow is not None:
                call.slow()

    def close(self) -> None:
        """Fail everything that is under way, and whatever is asked from now on."""
        self._closed = True
        calls = list(self._calls.values())
        self._calls.clear()
        self._deadlines.clear()
        for call in calls:
            call.done(None)
