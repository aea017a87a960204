"""The public DHT of libp2p ("Amino") for one node, as a client of it.

`Amino` finds the first servers (a file of known ones, addresses, names in the DNS, all at once),
keeps the routing table alive and says how it fares. Look-ups and stores are calls of `client`;
those begun before any server is known wait for one. It may be given the node that the user's peers
know, or one of its own that listens nowhere, whose id then tells servers nothing.

Nothing is raised in the background: that nobody answers is a state, see `AminoFacts`.

Source: libp2p specs `kad-dht/README.md`; the bootstrap peers are those of kubo.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pt.aio.scope import Scope
from pt.dnsaddr.aio import TxtResolver
from pt.errors import Dial, DnsError, NetworkError, StateError
from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.diversity import public
from pt.kad.keyspace import K
from pt.kad.messages import PeerInfo
from pt.kad.results import Progress
from pt.node.connection import Connection
from pt.node.dht_connections import DhtConnections, Trouble
from pt.node.dht_seeds import DEFAULT_BOOTSTRAP, Seeds
from pt.node.diagnosis import outcome_of
from pt.node.files import damaged, make_directory, read_file, replace_file
from pt.node.interfaces import own_addresses
from pt.node.node import Node
from pt.node.relays import hop_addresses
from pt.wire.multiaddr import Multiaddr

__all__ = ["DEFAULT_BOOTSTRAP", "Amino", "AminoFacts"]

REFRESH: Final = 600.0
"""Seconds from one look-up for ourselves to the next: as Go. Servers near us then know us."""
RETRY_FIRST: Final = 1.0
RETRY_MOST: Final = 60.0
JITTER: Final = 0.1
WATCH: Final = 5.0
"""Seconds between two looks at our own addresses."""
SETTLE: Final = 0.5
"""Seconds that the owner's first look-ups have before ours: they fill the table as well."""
SETTLE_TIMES: Final = 10
MAX_HOPS: Final = 32
"""Relays that are told of from one look-up for ourselves to the next."""

_ELSE: Final = "or use --peer ADDRESS"
_ADVICE: Final = {
    Trouble.NO_NETWORK: f"this machine has no route to them: connect it to a network, {_ELSE}",
    Trouble.REFUSED: f"connections are refused: a firewall may be in between; allow TCP, {_ELSE}",
    Trouble.NO_ANSWER: f"they do not answer: a firewall may drop TCP to them; allow it, {_ELSE}",
    Trouble.CLOSED: f"connections are closed at once: a firewall may cut them; allow TCP, {_ELSE}",
    Trouble.NOT_DHT: f"whoever answers is none: a portal may be in between; sign in there, {_ELSE}",
}


@dataclass(frozen=True, slots=True)
class AminoFacts:
    """How the DHT fares; `cause` is for programs, `detail` for people, with the next step."""

    state: str
    """`starting`, `online` (the last word was an answer) or `offline`."""
    cause: str
    """A value of `Trouble`; `dns`; `no-peers`, `private-peers` or `no-tcp` when none is of use."""
    detail: str
    known: int
    """Servers in the routing table."""
    answered: int
    """Those of them that have answered within the last hour."""
    sockets: int
    most_sockets: int
    sent: int
    """Bytes of all connections, with hand-shakes, without TCP and IP headers."""
    received: int
    requests: int
    replies: int
    dns_cause: str
    """A value of `DnsCause`: why names could not be looked up last; "" if they could."""
    dns_detail: str
    cache_detail: str
    """What is wrong with the file of known servers."""

    def __str__(self) -> str:
        why = f" ({self.cause})" if self.cause else ""
        return (
            f"{self.state}{why}, {self.known} servers known, {self.sockets} sockets "
            f"({self.most_sockets} at most), {self.requests} requests, {self.replies} replies, "
            f"{self.sent / 1000:.0f} kB sent, {self.received / 1000:.0f} kB received"
        )


class Amino:
    """The DHT for `node`.

    `cache` is the file of servers that answered before, None for none. `public_only` is false where
    the bootstrap peers have private addresses. When `addresses` gives others, we are in another
    network: what connections wait there are of no use, and who was silent may answer. `on_hop` is
    told of servers that relay, a few; `on_change` of every change of what `facts` says but its
    numbers.

    Raises:
        UsageError: a bootstrap address does not say who is there.

    """

    def __init__(
        self,
        node: Node,
        *,
        bootstrap: Sequence[Multiaddr] = DEFAULT_BOOTSTRAP,
        cache: Path | None,
        public_only: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        on_hop: Callable[[PeerId, tuple[Multiaddr, ...]], None] | None = None,
        on_change: Callable[[AminoFacts], None] | None = None,
        resolver: TxtResolver | None = None,
        addresses: Callable[[], frozenset[str]] = own_addresses,
    ) -> None:
        self.on_hop = on_hop
        self._node = node
        self._seeds = Seeds(bootstrap, resolver, node.resolver, self._nameless)
        self._cache = cache
        self._public_only = public_only
        self._on_change = on_change
        self._addresses = addresses
        self._connections = DhtConnections(
            node, public_only=public_only, on_reply=self._replied, curious=self._curious
        )
        self.client: Final = Client(
            self._connections.ask,
            node.peer_id,
            public_only=public_only,
            on_progress=on_progress,
        )
        self._scope = Scope()
        self._wake = asyncio.Event()
        self._offered = False
        self._private = False
        self._state = "starting"
        self._cause = self._detail = ""
        self._cache_detail = ""
        self._told: set[PeerId] = set()
        self._last: tuple[str, ...] = ()

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to find servers, in the background."""
        self.client.seeding = True
        self._node.on_identified.append(self._identified)
        self._scope.start(self._run())
        self._scope.start(self._watch())

    async def close(self) -> None:
        """Write down who answered, and close the connections that nobody else uses."""
        with contextlib.suppress(ValueError):
            self._node.on_identified.remove(self._identified)
        await self._scope.aclose()
        self.client.seeded()
        try:
            await self._save()
        finally:
            await self._connections.close()

    def offer(self, peers: Iterable[PeerInfo]) -> None:
        """Learn of servers from elsewhere; they are asked at once if nobody answers now."""
        self._offer(peers)
        if self._state == "offline":
            self._wake.set()

    def poke(self) -> None:
        """The network has changed: connections that wait are dropped, and it is tried again now."""
        self._connections.drop_idle()
        self._wake.set()

    @property
    def facts(self) -> AminoFacts:
        """How it fares now."""
        connections = self._connections
        dns = self._seeds.dns
        return AminoFacts(
            state=self._state,
            cause=self._cause,
            detail=self._detail,
            known=len(self.client.table),
            answered=self.client.table.fresh(self._now()),
            sockets=connections.sockets,
            most_sockets=connections.most_sockets,
            sent=connections.sent,
            received=connections.received,
            requests=connections.requests,
            replies=connections.replies,
            dns_cause=dns.cause.value if dns is not None else "",
            dns_detail=str(dns) if dns is not None else "",
            cache_detail=self._cache_detail,
        )

    # --- the background --------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._load()
        retry = RETRY_FIRST
        seeding = self._scope.start(self._seed())
        fresh = await self._settle()
        while True:
            self._wake.clear()
            if fresh or await self._refresh():
                await self._save()
                pause, retry = REFRESH, RETRY_FIRST
            else:
                pause, retry = retry, min(2 * retry, RETRY_MOST)
            fresh = False
            pause *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                    retry = RETRY_FIRST
            if self._state != "online" and seeding.done():
                seeding = self._scope.start(self._seed())

    async def _watch(self) -> None:
        before = None
        while True:
            now = self._addresses()
            if before not in (None, now):
                self.poke()
            before = now
            await asyncio.sleep(WATCH)

    async def _settle(self) -> bool:
        """Let the owner's look-ups go first; whether they have made ours needless."""
        for _ in range(SETTLE_TIMES):
            await asyncio.sleep(SETTLE)
            if self.client.idle:
                break
        return self.client.table.fresh(self._now()) >= K

    async def _refresh(self) -> bool:
        """Look for ourselves; whether anybody answered."""
        self._told.clear()
        try:
            await self.client.refresh()
        except NetworkError:
            self._failed()
            return False
        self._replied()
        return True

    def _replied(self) -> None:
        self._set("online")

    def _failed(self) -> None:
        """Nobody answered: say why."""
        known = self._offered or len(self.client.table)
        troubles = self._connections.troubles.most_common(1)
        dns = self._seeds.dns
        if not known and dns is not None:
            self._set("offline", "dns", str(dns))
        elif not known and self._private:
            self._set(
                "offline",
                "private-peers",
                "the addresses of the --bootstrap peers are not public ones, and others are wanted",
            )
        elif not known:
            self._set(
                "offline", "no-peers", "no server of the DHT is known: give one with --bootstrap"
            )
        elif troubles:
            trouble = troubles[0][0]
            self._set("offline", trouble.value, f"no server of the DHT answers: {_ADVICE[trouble]}")
        else:
            self._set(
                "offline",
                "no-tcp",
                "no server of the DHT that is known has a TCP or QUIC address: give one with "
                "--bootstrap",
            )

    def _set(self, state: str, cause: str = "", detail: str = "") -> None:
        self._state, self._cause, self._detail = state, cause, detail
        self._tell()

    def _tell(self) -> None:
        """Tell the owner if anything but numbers has changed."""
        dns = self._seeds.dns
        now = (
            self._state, self._cause, self._detail,
            str(dns or ""), self._cache_detail,
        )  # fmt: skip
        if now != self._last:
            self._last = now
            self._node.tracer.emit("dht", state=self._state, cause=self._cause)
            if self._on_change is not None:
                self._on_change(self.facts)

    # --- whom to ask -----------------------------------------------------------------------------

    async def _seed(self) -> None:
        """Offer what the bootstrap addresses lead to, each as soon as it is known."""
        self.client.seeding = True
        try:
            await self._seeds.find(self._offer)
        finally:
            self.client.seeded()

    def _offer(self, peers: Iterable[PeerInfo]) -> None:
        told = list(peers)
        usable = [peer for peer in told if not self._public_only or public(peer.addresses)]
        self._private = self._private or len(usable) < len(told)
        self._offered = self._offered or bool(usable)
        self.client.offer(usable)
        self._tell()  # of the DNS, perhaps

    # --- relays ----------------------------------------------------------------------------------

    def _nameless(self, address: Multiaddr, error: DnsError) -> None:
        self._node.dials.note(Dial(str(address), str(error), outcome_of(error)), self._now())

    def _identified(self, connection: Connection) -> None:
        """A peer said who it is: a server of the DHT that relays is worth knowing."""
        peer = connection.peer_id
        if self.on_hop is None or peer in self._told or not self._connections.concerns(connection):
            return
        usable = hop_addresses(connection)
        if usable:
            self._told.add(peer)
            self.on_hop(peer, usable)

    def _curious(self) -> bool:
        return self.on_hop is not None and len(self._told) < MAX_HOPS

    # --- who is known from before ----------------------------------------------------------------

    async def _load(self) -> None:
        path = self._cache
        if path is None:
            return
        try:
            data = await asyncio.to_thread(read_file, path)
            if data is not None:
                text = data.decode("utf-8", "replace")
                read = self.client.table.load_json(text, self._now(), time.time())
                if read is None:
                    raise damaged(path, "it is not used, and replaced as soon as servers answer")
        except StateError as error:
            self._cache_detail = str(error)
            self._tell()
        self.client.offer(())  # look-ups under way learn of them

    async def _save(self) -> None:
        path, table = self._cache, self.client.table
        if path is None or not table.fresh(self._now()):
            return  # who is known from before is better than nobody
        data = table.to_json(self._now(), time.time()).encode()
        try:
            await asyncio.to_thread(_write, path, data)
            self._cache_detail = ""
        except StateError as error:
            self._cache_detail = str(error)
        self._tell()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _write(path: Path, data: bytes) -> None:
    make_directory(path.parent)
    replace_file(path, data)
