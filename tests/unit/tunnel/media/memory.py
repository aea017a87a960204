"""A DHT of a few servers in memory, as honest or as bad as a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys
from pt.rendezvous.mailbox import Sealed, Signed
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.wire.multiaddr import Multiaddr

KEYS, OTHER = NameKeys.from_master(b"m" * 32), NameKeys.from_master(b"o" * 32)
IDENTITIES = [PrivateKey.generate(bytes([n]) * 32) for n in range(1, 6)]
PEERS = [PeerId.from_public_key(identity.public) for identity in IDENTITIES]
HERE = Multiaddr.parse("/ip4/11.1.0.1/tcp/4001")
NOW = 1_800_000_000.0


def signed(who: int, seq: int, *, now: float = NOW, **changes: object) -> Signed:
    facts: dict[str, object] = {"addresses": (HERE,), "expires": int(now) + 21600} | changes
    record = Record(peer_id=PEERS[who], seq=seq, **facts)  # type: ignore[arg-type]
    return Signed.make(record, KEYS, IDENTITIES[who])


class MemoryStore:
    """`servers` each hold one value a key, the highest sequence; `delay` is of every call."""

    medium = "memory"

    def __init__(self, servers: int = 3, *, delay: float = 0.1) -> None:
        self.servers: list[dict[bytes, bytes]] = [{} for _ in range(servers)]
        self.delay = delay
        self.dead = False
        self.withholding = False
        self.reading_hangs = self.reading_fails = False
        self.enough = 0
        """Servers that are asked unless it is to be thorough; 0: all."""
        self.full: set[int] = set()
        """Days whose mailboxes take nothing."""
        self.on_put: Callable[[Sealed], None] = lambda sealed: None
        self.planted: list[bytes] = []
        self.puts: list[tuple[float, Sealed]] = []
        self.looked: list[float] = []
        self.closed = False

    async def put(self, sealed: Sealed) -> str:
        await asyncio.sleep(self.delay)
        self._alive()
        if sealed.name in {EpochKeys.derive(KEYS, day).name for day in self.full}:
            raise NetworkError("none of 3 servers took the record")
        self.puts.append((asyncio.get_running_loop().time(), sealed))
        for server in self.servers:
            old = server.get(sealed.name)
            if old is None or ipns.validate(old, sealed.name, 0).seq < sealed.seq:
                server[sealed.name] = sealed.value
        self.on_put(sealed)
        return f"at {len(self.servers)} of {len(self.servers)} servers"

    async def values(
        self, epoch: EpochKeys, *, thorough: bool = False
    ) -> AsyncGenerator[bytes, None]:
        self.looked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1e6 if self.reading_hangs else self.delay)
        self._alive()
        if self.reading_fails:
            raise NetworkError("no server answers")
        for value in self.planted:
            yield value
        asked = self.servers if thorough or not self.enough else self.servers[: self.enough]
        for value in {server.get(epoch.name) for server in asked} - {None}:
            if not self.withholding:
                assert value is not None
                yield value

    def cost(self) -> str:
        return "cheap"

    async def close(self) -> None:
        self.closed = True

    def _alive(self) -> None:
        if self.dead:
            raise NetworkError("no server answers")
