"""A DHT in memory: servers with routing tables as Kademlia fills them, some of them hostile."""

from __future__ import annotations

import asyncio
import random

from pt.errors import ConnectError, ResetError
from pt.identity.peer_id import PeerId
from pt.kad.keyspace import K, common_prefix, point
from pt.kad.messages import KadMessageError, Message, MessageType, PeerInfo, Record
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.peers import address, nearest, peer, peer_id

US = peer_id(2**200)
NEVER = 3600.0


class Server:
    """An honest one; what it is told it keeps."""

    def __init__(self, info: PeerInfo) -> None:
        self.info = info
        self.point = point(info.id.raw)
        self.known: list[PeerInfo] = []
        self.points: dict[PeerId, int] = {}
        self.values: dict[bytes, bytes] = {}
        self.providers: dict[bytes, dict[PeerId, PeerInfo]] = {}
        self.asked = 0
        self.delay = 0.05

    def learn(self, info: PeerInfo) -> None:
        self.known.append(info)
        self.points[info.id] = point(info.id.raw)

    def closer(self, key: bytes) -> tuple[PeerInfo, ...]:
        to = point(key)
        return tuple(sorted(self.known, key=lambda each: self.points[each.id] ^ to)[:K])

    def reply(self, request: Message) -> Message:
        key, record, providers = request.key, None, ()
        if request.type is MessageType.PUT_VALUE:
            assert request.record is not None
            self.values[key] = request.record.value
            return self.sized(request)
        if request.type is MessageType.ADD_PROVIDER:
            for info in request.providers:
                self.providers.setdefault(key, {})[info.id] = info
            return request
        if request.type is MessageType.GET_VALUE and key in self.values:
            record = Record(key, self.values[key])
        if request.type is MessageType.GET_PROVIDERS:
            providers = tuple(self.providers.get(key, {}).values())
        return self.sized(Message(request.type, key, record, self.closer(key), providers))

    @staticmethod
    def sized(said: Message) -> Message:
        """As the client reads it from the wire."""
        raw = said.encode()
        return Message.decode(raw[uvarint.decode(raw)[1] :])

    async def answer(self, request: Message) -> Message:
        self.asked += 1
        await asyncio.sleep(self.delay)
        return self.reply(request)


class Refusing(Server):
    async def answer(self, request: Message) -> Message:
        self.asked += 1
        await asyncio.sleep(0.01)
        raise ConnectError("refused")


class Silent(Server):
    async def answer(self, request: Message) -> Message:
        self.asked += 1
        await asyncio.sleep(NEVER)
        raise AssertionError("somebody waited for ever")


class Garbage(Server):
    async def answer(self, request: Message) -> Message:
        self.asked += 1
        await asyncio.sleep(self.delay)
        raise KadMessageError("garbage")


class Dropping(Server):
    """Acknowledges everything and keeps nothing."""

    def reply(self, request: Message) -> Message:
        if request.type in (MessageType.PUT_VALUE, MessageType.ADD_PROVIDER):
            return request
        said = super().reply(request)
        return Message(said.type, said.key, closer=said.closer, size=said.size)


class Resetting(Server):
    """Answers look-ups and refuses to store."""

    def reply(self, request: Message) -> Message:
        if request.type in (MessageType.PUT_VALUE, MessageType.ADD_PROVIDER):
            raise ResetError("reset by the peer")
        return super().reply(request)


class Clique(Server):
    """Acknowledges everything, keeps nothing, and knows only its own kind."""

    def reply(self, request: Message) -> Message:
        if request.type in (MessageType.PUT_VALUE, MessageType.ADD_PROVIDER):
            return request
        return self.sized(Message(request.type, request.key, closer=tuple(self.known[:K])))


class Forging(Server):
    """Knows only its own kind, and has a value that is not true."""

    def reply(self, request: Message) -> Message:
        record = Record(request.key, b"forged") if request.type is MessageType.GET_VALUE else None
        told = tuple(self.known[:K])
        return self.sized(Message(request.type, request.key, record, told))


class Looping(Server):
    """Invents peers without end, each nearer than the last."""

    made = 0

    def reply(self, request: Message) -> Message:
        told = []
        for _ in range(K):
            Looping.made += 1
            told.append(PeerInfo(peer_id(2**220 + Looping.made), (address(Looping.made % 9000),)))
        return self.sized(Message(request.type, request.key, closer=(*told, self.info)))


class WrongType(Server):
    def reply(self, request: Message) -> Message:
        return self.sized(Message(MessageType.PING, request.key, closer=self.closer(request.key)))


def with_addresses(info: PeerInfo, count: int) -> PeerInfo:
    """The same peer with so many, the others as long as those of WebTransport."""
    more = [f"/dns/{number}.{'name' * 7}.example/tcp/4001/ws" for number in range(1, count)]
    return PeerInfo(info.id, (*info.addresses, *map(Multiaddr.parse, more)))


class Network:
    """`size` servers; `ask` is what the node gives the client.

    With 8 `addresses` each, as those of kubo, a reply has some 8 kB.
    """

    def __init__(self, size: int, seed: int = 1, addresses: int = 1) -> None:
        self.rng = random.Random(seed)
        self.addresses = addresses
        self.servers: dict[PeerId, Server] = {}
        for number in range(1, size + 1):
            self.add(Server(with_addresses(peer(number), addresses)))
        everyone = list(self.servers.values())
        for server in everyone:
            self.fill(server, everyone)
        self.at_once = self.most_at_once = 0

    def add(self, server: Server) -> Server:
        self.servers[server.info.id] = server
        server.delay = self.rng.uniform(0.02, 0.2)
        return server

    def fill(self, server: Server, others: list[Server]) -> None:
        """Give a server K peers of each bucket, as far as there are."""
        buckets: dict[int, list[Server]] = {}
        for other in others:
            if other is not server:
                buckets.setdefault(common_prefix(server.point, other.point), []).append(other)
        for bucket in buckets.values():
            for other in self.rng.sample(bucket, min(K, len(bucket))):
                server.learn(other.info)

    def turn(self, ids, kind: type[Server]) -> None:
        """Make servers of another kind of them, with what they know."""
        for each in ids:
            old = self.servers[each]
            new = self.servers[each] = kind(old.info)
            new.known, new.points, new.delay = old.known, old.points, old.delay

    def sybils(
        self, key: bytes, count: int, kind: type[Server], bits: int = 9, first: int = 2**100
    ) -> list[Server]:
        """Put servers around a key; whose bucket it is knows them."""
        made: list[Server] = []
        number = first
        while len(made) < count:
            number += 1
            if common_prefix(point(peer_id(number).raw), point(key)) >= bits:
                info = PeerInfo(peer_id(number), (address(12_000 + len(made)),))
                made.append(self.add(kind(with_addresses(info, self.addresses))))
        for server in made:
            for other in made:
                server.learn(other.info)
        for info in nearest([each.info for each in self.servers.values()], key)[: 5 * K]:
            if self.servers[info.id] not in made:
                for server in made:
                    self.servers[info.id].learn(server.info)
        return made

    def nearest(self, key: bytes, count: int = K) -> list[PeerInfo]:
        return nearest([server.info for server in self.servers.values()], key)[:count]

    def holders(self, key: bytes) -> list[Server]:
        return [server for server in self.servers.values() if key in server.values]

    async def ask(self, info: PeerInfo, request: Message) -> Message:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            server = self.servers.get(info.id)
            if server is None or server.info.addresses[0] not in info.addresses:
                await asyncio.sleep(NEVER)
                raise AssertionError("somebody waited for ever")
            return await server.answer(request)
        finally:
            self.at_once -= 1
