"""Servers and clients of an overlay in one process: a clock, delays and losses, no sockets."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

from pt.overlay.adapter import Address
from pt.overlay.messages import MAX_VALUE
from pt.overlay.rpc import Rpc
from pt.overlay.server import Server
from pt.overlay.storage import Storage
from pt.overlay.walk import Found, Put, Stored, Walk, checker
from tests.unit.overlay.records import validate

EPOCH = 1_000_000.0


class Network:
    def __init__(self, seed: int = 1, loss: float = 0.0, validate=validate) -> None:
        self.validate = validate
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 100.0
        self.ends: dict[Address, object] = {}
        self.servers: dict[Address, Server] = {}
        self.bytes: Counter[Address] = Counter()
        self.packets: Counter[Address] = Counter()
        self._queue: list[tuple[float, int, Address, Address, bytes]] = []
        self._ids = itertools.count()
        self._hosts = itertools.count(1)

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return EPOCH + self.now

    def address(self) -> Address:
        host = next(self._hosts)
        return (f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}", 4001)

    def sender(self, source: Address):
        def send(data: bytes, target: Address) -> None:
            self.bytes[source] += len(data)
            self.bytes[target] += len(data)
            self.packets[source] += 1
            self.packets[target] += 1
            if self.random.random() >= self.loss:
                delay = self.random.uniform(0.01, 0.08)
                one = (self.now + delay, next(self._ids), source, target, data)
                heapq.heappush(self._queue, one)

        return send

    def server(
        self, bootstrap=(), storage=None, addr=None, node_id=None, skew=0.0, **options
    ) -> Server:
        """One that believes it is `skew` seconds later."""
        addr = addr or self.address()
        server = Server(
            node_id or self.random.randbytes(32),
            Storage(self.validate, max_value=MAX_VALUE) if storage is None else storage,
            self.sender(addr),
            clock=self.clock,
            wall=lambda: self.wall() + skew,
            random_bytes=self.random.randbytes,
            bootstrap=bootstrap,
            **options,
        )
        server.addr = addr
        self.ends[addr] = self.servers[addr] = server
        return server

    def grow(self, count: int, **options) -> list[Server]:
        """Servers that bootstrap one from another, and time for them to meet."""
        made = []
        for _ in range(count):
            bootstrap = [server.addr for server in list(self.servers.values())[:3]]
            made.append(self.server(bootstrap, **options))
            self.run(0.2)
        self.run(60)
        return made

    def kill(self, server: Server) -> None:
        server.close()
        del self.ends[server.addr], self.servers[server.addr]

    def client(self, bootstrap=None, skew: float = 0.0) -> Client:
        if bootstrap is None:
            bootstrap = self.random.sample(list(self.servers), min(3, len(self.servers)))
        return Client(self, bootstrap, skew)

    def run(self, seconds: float = 30.0, until=lambda: False) -> None:
        end = self.now + seconds
        while not until():
            due = [self._queue[0][0]] if self._queue else []
            timed = [(at, x) for x in self.ends.values() if (at := x.next_timeout()) is not None]
            at, end_of = min(timed, key=lambda one: one[0], default=(float("inf"), None))
            first = min([at, *due])
            if first > end:
                self.now = end
                return
            self.now = max(self.now, first)
            if due and due[0] <= at:
                _, _, source, target, data = heapq.heappop(self._queue)
                if (receiver := self.ends.get(target)) is not None:
                    receiver.receive_datagram(data, source)
            else:
                end_of.handle_timeout()


class Client:
    def __init__(self, network: Network, bootstrap, skew: float) -> None:
        self.skew = skew
        self.network = network
        self.addr = network.address()
        self.bootstrap = list(bootstrap)
        self.rpc = Rpc(
            b"", network.random.randbytes(32), network.sender(self.addr), network.random.randbytes
        )
        network.ends[self.addr] = self

    def receive_datagram(self, data, addr):
        self.rpc.receive_datagram(data, addr, self.network.now)

    def next_timeout(self):
        return self.rpc.next_timeout()

    def handle_timeout(self):
        self.rpc.handle_timeout(self.network.now)

    def put(self, key: bytes, value: bytes) -> Stored:
        result: list[Stored] = []
        Put(
            self.rpc,
            key,
            value,
            clock=self.network.clock,
            bootstrap=self.bootstrap,
            done=result.append,
        ).start()
        self.network.run(until=lambda: bool(result))
        return result[0]

    def get(self, key: bytes, first: bool = False) -> list[Found]:
        found: list[Found] = []
        nodes: list[object] = []
        walk = Walk(
            self.rpc,
            key,
            clock=self.network.clock,
            bootstrap=self.bootstrap,
            done=nodes.append,
            check=checker(self.network.validate, key, lambda: self.network.wall() + self.skew),
            found=found.append,
        )
        walk.start()
        self.network.run(until=lambda: bool(nodes) or (first and bool(found)))
        walk.close()
        return found

    def close(self) -> None:
        self.rpc.close()
        del self.network.ends[self.addr]
