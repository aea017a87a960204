"""The path between a client and a server: what it does to their datagrams, and what it saw.

    python -m interop.quic.path --listen A --server A:PORT --outer A,… --conditions JSON

It is a NAT: a client's datagrams come to the server from a port of its own for each client, and
`rebind` changes that port, or the address, too, each time some time after the server has found the
client there.  It says {"port": N} when it is ready, and what it saw when its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Final

from pt.lab.link import Pipe, Shape
from pt.quic.packets import Kind, parse_header

HEADERS: Final = 28
"""Bytes of IP and UDP before a datagram, which count for the rate and the queue."""
MAX_CLIENTS: Final = 256

Address = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Of both directions, unless said; times are seconds."""

    rate: float = 10e6
    delay: float = 0.015
    queue: int = 25 * 1500
    loss: float = 0.0
    damage: float = 0.0
    burst: int = 3
    """Datagrams lost or damaged in a row, at most."""
    drop_to_server: tuple[int, ...] = ()
    """Which of a client's datagrams vanish; the first is 1."""
    hole: tuple[float, float] = (0.0, 0.0)
    """How long the path carries, and how long nothing, again and again."""
    rebind: float = 0.0
    """How long after the server's first answer to it the client's outer port changes."""
    rebind_address: bool = False
    """The outer address, too."""


@dataclass
class Seen:
    """What the path saw."""

    to_server: int = 0
    to_client: int = 0
    lost: int = 0
    damaged: int = 0
    retries: int = 0
    tokens: int = 0
    """Initials of clients with a token."""
    other_versions: int = 0
    rebinds: int = 0
    answered: int = 0
    """Outer ports and addresses that the server has sent to."""
    amplification: float = 0.0
    """The most that came back for a byte of a client that had proved nothing yet."""


class Lane:
    """One direction."""

    def __init__(self, conditions: Conditions, seed: int, seen: Seen) -> None:
        shape = Shape(rate=conditions.rate, delay=conditions.delay, queue=conditions.queue)
        self.rng = random.Random(seed)
        self.pipe = Pipe(shape, self.rng)
        self.waiting: deque[tuple[float, Callable[[bytes], None], bytes]] = deque()
        self._conditions = conditions
        self._seen = seen
        self._row = 0
        self._began: float | None = None

    def carries(self, now: float) -> bool:
        """Whether there is no hole now."""
        on, off = self._conditions.hole
        if not off:
            return True
        if self._began is None:
            self._began = now
        return (now - self._began) % (on + off) < on

    def take(self, data: bytes, now: float, deliver: Callable[[bytes], None]) -> None:
        """Give a datagram to the line, or not."""
        harm = self.rng.random()
        loss, damage = self._conditions.loss, self._conditions.damage
        if not self.carries(now) or (harm < loss and self._row < self._conditions.burst):
            self._row += 1
            self._seen.lost += 1
            return
        if harm < damage and self._row < self._conditions.burst:
            self._row += 1
            self._seen.damaged += 1
            changed = bytearray(data)
            changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            data = bytes(changed)
        else:
            self._row = 0
        due = self.pipe.offer(len(data) + HEADERS, now)
        if due is None:
            self._seen.lost += 1
        else:
            self.waiting.append((due, deliver, data))

    def deliver(self, now: float) -> None:
        """Hand over what is due."""
        while self.waiting and self.waiting[0][0] <= now:
            _, deliver, data = self.waiting.popleft()
            deliver(data)


@dataclass(eq=False)
class Client:
    """One client's mapping."""

    inner: Address
    outer: socket.socket
    count: int = 0
    sent: int = 0
    received: int = 0
    proved: bool = False
    used: set[Address] = field(default_factory=set)


class Path:
    """All of it, on one thread."""

    def __init__(
        self, listen: str, server: Address, outer: list[str], conditions: Conditions, seed: int
    ) -> None:
        self.seen = Seen()
        self._server = server
        self._outer = outer
        self._conditions = conditions
        self._selector = selectors.DefaultSelector()
        self._inner = self._socket(listen)
        self.port = int(self._inner.getsockname()[1])
        self._selector.register(self._inner, selectors.EVENT_READ, self._from_clients)
        self._clients: dict[Address, Client] = {}
        self._there = Lane(conditions, seed, self.seen)
        self._back = Lane(conditions, seed + 1, self.seen)
        self._next_rebind: float | None = None

    @staticmethod
    def _socket(ip: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((ip, 0))
        made.setblocking(False)
        return made

    def run(self) -> None:
        """Carry datagrams until standard input ends."""
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            now = time.monotonic()
            due = [lane.waiting[0][0] for lane in (self._there, self._back) if lane.waiting]
            if self._next_rebind is not None:
                due.append(self._next_rebind)
            wait = max(0.0, min(due) - now) if due else None
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    return
                key.data()
            now = time.monotonic()
            self._there.deliver(now)
            self._back.deliver(now)
            if self._next_rebind is not None and now >= self._next_rebind:
                self._next_rebind = None
                self._rebind()

    def _from_clients(self) -> None:
        now = time.monotonic()
        for data, address in self._read(self._inner):
            client = self._clients.get(address)
            if client is None:
                if len(self._clients) == MAX_CLIENTS:
                    continue
                client = self._clients[address] = Client(address, self._socket(self._outer[0]))
                self._listen(client)
            client.count += 1
            if client.count in self._conditions.drop_to_server:
                self.seen.lost += 1
                continue
            self._there.take(data, now, lambda data, client=client: self._arrive(client, data))  # type: ignore[misc]

    def _arrive(self, client: Client, data: bytes) -> None:
        self.seen.to_server += 1
        client.sent += len(data)
        self._look(client, data)
        self._send(client.outer, data, self._server)

    def _look(self, client: Client, data: bytes) -> None:
        at = 0
        while at < len(data) and (header := parse_header(data, at)) is not None:
            if header.kind is Kind.OTHER_VERSION:
                self.seen.other_versions += 1
            if header.kind is Kind.INITIAL and header.token:
                self.seen.tokens += 1
                client.proved = True
            if header.kind in {Kind.HANDSHAKE, Kind.SHORT}:
                client.proved = True
            at = header.end

    def _listen(self, client: Client) -> None:
        outer = client.outer
        self._selector.register(outer, selectors.EVENT_READ, lambda: self._back_to(client, outer))

    def _back_to(self, client: Client, outer: socket.socket) -> None:
        now = time.monotonic()
        for data, _ in self._read(outer):
            if outer is not client.outer:
                self.seen.lost += 1  # sent to where the client was before
                continue
            client.received += len(data)
            self._answered(client, outer.getsockname(), now)
            if not client.proved:
                ratio = client.received / client.sent
                self.seen.amplification = max(self.seen.amplification, round(ratio, 2))
            header = parse_header(data)
            if header is not None and header.kind is Kind.RETRY:
                self.seen.retries += 1
            self._back.take(
                data,
                now,
                lambda data, client=client: self._home(client, data),  # type: ignore[misc]
            )

    def _answered(self, client: Client, outer: Address, now: float) -> None:
        if outer not in client.used:
            client.used.add(outer)
            if self._conditions.rebind:
                self._next_rebind = now + self._conditions.rebind

    def _home(self, client: Client, data: bytes) -> None:
        self.seen.to_client += 1
        self._send(self._inner, data, client.inner)

    def _rebind(self) -> None:
        self.seen.rebinds += 1
        if self._conditions.rebind_address:
            self._outer.append(self._outer.pop(0))
        for client in self._clients.values():
            # The old socket stays, so that nobody hears that nobody is there.
            client.outer = self._socket(self._outer[0])
            self._listen(client)

    @staticmethod
    def _read(source: socket.socket) -> list[tuple[bytes, Address]]:
        taken = []
        for _ in range(64):
            try:
                taken.append(source.recvfrom(65535))
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                continue  # an end has gone
        return taken

    @staticmethod
    def _send(through: socket.socket, data: bytes, to: Address) -> None:
        try:
            through.sendto(data, to)
        except (BlockingIOError, ConnectionRefusedError):
            return  # lost, as on any network

    def report(self) -> dict[str, object]:
        """What was seen."""
        self.seen.answered = sum(len(client.used) for client in self._clients.values())
        return {**asdict(self.seen), "clients": len(self._clients)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="path")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--outer", required=True)
    parser.add_argument("--conditions", default="{}")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    ip, _, port = args.server.rpartition(":")
    conditions = Conditions(**json.loads(args.conditions))
    path = Path(args.listen, (ip, int(port)), args.outer.split(","), conditions, args.seed)
    print(json.dumps({"port": path.port}), flush=True)
    path.run()
    print(json.dumps(path.report()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
