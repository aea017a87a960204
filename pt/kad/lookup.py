"""One look-up: whom to ask next on the way to the servers nearest to a key, and when it is over.

A state machine without I/O. Its owner asks whom `to_ask` names, reports each outcome with
`answered` or `failed`, and comes back at `next_at` or after the next report, until `done`.

As in go-libp2p-kad-dht: of the peers heard of, the nearest to the key are asked, ALPHA at a time;
each answer brings closer ones. It ends when the BETA nearest that are not unreachable have
answered; then the rest of the K nearest are asked, too, because the value may be at any of them
(`follow_up`: who looks for servers to store at does without it, since storing asks them, too).

What differs from Go is against peers that do not answer. One that has been asked for STAGGER
seconds leaves its place among the ALPHA to another, and after SLOW seconds it does not count among
the BETA and the K any more; it still has time to answer, and a `patient` look-up waits for it as
long as it is among the K nearest. `first` peers, which are bootstrap peers, are asked at once along
with what a cache names, until anybody has answered. And who is heard of in the second part takes
the place of who turned out unreachable, so that K are asked where K are left.

Bytes are dear, for a reply names K servers with all their addresses, some 8 kB, whatever is asked.
So ALPHA is small: ten at a time cost twice as much on the way, and save a fifth of the time. And
`Limits` has a budget: nobody is asked whose reply it does not have room for. Of the K nearest some
may be left out then, those between the nearest and the farthest, so that a crowd next to the key
does not use it up.

What a hostile server can cost is bounded by `Limits`, too; what it can claim, by the rules for
closer peers: at most 40 a reply, public ones, not more than three of one owner's addresses. One
that breaks the protocol once is not asked again and does not count.

Source: libp2p specs `kad-dht/README.md`; the reference implementation for the order of things.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pt.identity.peer_id import PeerId
from pt.kad.diversity import crowded, public
from pt.kad.keyspace import K, point
from pt.kad.messages import KadMessageError, Message, MessageType, PeerInfo

__all__ = ["ALPHA", "BETA", "SLOW", "STAGGER", "Cost", "Limits", "Lookup", "News"]

ALPHA: Final = 4
BETA: Final = 3
STAGGER: Final = 1.0
SLOW: Final = 2.0
FIRST_GUESS: Final = 8000
"""Bytes that an answer is expected to take before there was any."""
MAX_FIRST: Final = 4
"""Of the `first` peers, how many are asked out of turn."""
MAX_MERGED: Final = 32
"""Addresses of one peer, from all replies together."""
MAX_FOUND: Final = 256
"""Providers that are collected; who needs more of one key does not need this one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a look-up may cost at most, in requests and in bytes, those of connections included.

    `budget` is for servers that answer as they should. What others waste does not use it up, nor
    does what an answer takes beyond its `share`, or a few servers could end every look-up. `most`
    is for all of it: an honest network needs a third, a hostile one has no more.
    """

    requests: int = 120
    budget: int = 192_000
    share: int = 16_000
    most: int = 512 * 1024


@dataclass(slots=True)
class Cost:
    """What a look-up has cost so far; `sent` and `received` are bytes of messages alone."""

    requests: int = 0
    replies: int = 0
    failures: int = 0
    sent: int = 0
    received: int = 0
    at_once: int = 0
    """The most requests under way at a time: sockets, if no connection was there before."""
    overhead: int = 0
    """Bytes of hand-shakes and framing, as far as whoever asked has said."""

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.sent + self.received + self.overhead

    def add(self, other: Cost) -> None:
        """Count what something else has cost, too; `at_once` stays."""
        self.requests += other.requests
        self.replies += other.replies
        self.failures += other.failures
        self.sent += other.sent
        self.received += other.received
        self.overhead += other.overhead


class _State(Enum):
    HEARD = auto()
    WAITING = auto()
    QUERIED = auto()
    UNREACHABLE = auto()


_OPEN: Final = (_State.HEARD, _State.WAITING)


class _Peer:
    __slots__ = ("asked_at", "charged", "hops", "info", "point", "state")

    def __init__(self, info: PeerInfo, hops: int) -> None:
        self.info = info
        self.point = point(info.id.raw)
        self.hops = hops
        self.state = _State.HEARD
        self.asked_at = 0.0
        self.charged = 0


@dataclass(frozen=True, slots=True)
class News:
    """What an answer brought: a value, providers, or addresses of the peer that is looked for."""

    value: bytes | None = None
    providers: tuple[PeerInfo, ...] = ()
    target: PeerInfo | None = None


class Lookup:
    """Asks `request` of servers ever nearer to its key.

    `seeds` are known peers, the nearest ones; `first` are asked out of turn. Be `patient` when any
    of the K nearest may have what is looked for; when it is they who are looked for, those that are
    slow are of no use. The times are seconds on one monotonic clock.
    """

    def __init__(
        self,
        request: Message,
        own: PeerId,
        seeds: Iterable[PeerInfo],
        first: Iterable[PeerInfo] = (),
        *,
        limits: Limits | None = None,
        patient: bool = True,
        follow_up: bool = True,
        public_only: bool = True,
    ) -> None:
        self.request: Final = request
        self.cost = Cost()
        self._own = own
        self._limits = limits or Limits()
        self._patient = patient
        self._follow_up = follow_up
        self._public_only = public_only
        self._size = len(request.encode())
        self._key = point(request.key)
        self._peers: dict[PeerId, _Peer] = {}
        self._order: list[_Peer] | None = None
        self._first: list[_Peer] = []
        self._providers: dict[PeerId, PeerInfo] = {}
        self._target: PeerInfo | None = None
        self._following_up = False
        self._stopped = False
        self._charged = 0
        self._largest = 0
        self._now = 0.0
        for info in seeds:
            self._hear(info, 0)
        for info in first:
            peer = self._hear(info, 0)
            if peer is not None and len(self._first) < MAX_FIRST:
                self._first.append(peer)
        self._advance()

    # --- what to do ------------------------------------------------------------------------------

    def to_ask(self, now: float, room: int) -> list[PeerInfo]:
        """The peers to ask now, at most `room`; each is to be reported."""
        self._now = now
        self._advance()
        chosen: list[_Peer] = []
        if not self.done and not self._exhausted():
            room = min(room, self._limits.requests - self.cost.requests, self._affordable())
            chosen = _from_both_ends(self._choose(), max(0, room), ends=1 + self._following_up)
        for peer in chosen:
            peer.state = _State.WAITING
            peer.asked_at = now
        self.cost.requests += len(chosen)
        self.cost.sent += len(chosen) * self._size
        self.cost.at_once = max(self.cost.at_once, self.waiting)
        return [peer.info for peer in chosen]

    def next_at(self, now: float) -> float | None:
        """When there may be somebody to ask though nothing is reported; None: only then."""
        times = [
            peer.asked_at + delay
            for peer in self._peers.values()
            for delay in (STAGGER, SLOW)
            if peer.state is _State.WAITING and now - peer.asked_at < delay
        ]
        return min(times, default=None)

    @property
    def done(self) -> bool:
        """Whether nobody is to be asked or waited for any more."""
        if self._stopped:
            return True
        if not self._following_up:
            return False
        if self._exhausted():
            return not self._awaited()
        if not self._follow_up:
            return True
        return not any(peer.state in _OPEN for peer in self._nearest(K, slow=self._patient))

    @property
    def cut(self) -> bool:
        """Whether it ends for its limits, and servers that it should have asked are left."""
        wanted = self._nearest(K if self._follow_up else BETA, slow=False)
        return self._exhausted() and any(peer.state is _State.HEARD for peer in wanted)

    @property
    def waiting(self) -> int:
        """How many requests are under way."""
        return sum(peer.state is _State.WAITING for peer in self._peers.values())

    @property
    def stalled(self) -> list[PeerId]:
        """Who has been asked for SLOW seconds or more, and has not answered yet."""
        return [peer.info.id for peer in self._peers.values() if self._slow(peer)]

    @property
    def heard(self) -> int:
        """How many peers were heard of."""
        return len(self._peers)

    @property
    def answers(self) -> int:
        """How many of them have answered as they should."""
        return sum(peer.state is _State.QUERIED for peer in self._peers.values())

    @property
    def hops(self) -> int:
        """The longest way to one of the K nearest that answered; 0: it was known before."""
        return max(
            (peer.hops for peer in self._nearest(K) if peer.state is _State.QUERIED), default=0
        )

    def closest(self, count: int = K) -> list[PeerInfo]:
        """The nearest to the key that are not known to be unreachable, nearest first.

        Of a look-up that is not patient, without those that are slow.
        """
        return [peer.info for peer in self._nearest(count, slow=self._patient)]

    # --- reports ---------------------------------------------------------------------------------

    def answered(self, peer_id: PeerId, reply: Message) -> News:
        """Take the reply of a peer that was asked; what is new in it.

        Raises:
            KadMessageError: it is no reply to the request: the peer is out.

        """
        peer = self._peers.get(peer_id)
        if peer is None or peer.state is not _State.WAITING:
            return News()
        self.cost.received += reply.size
        self.cost.overhead += reply.overhead
        value = None
        try:
            if reply.type != self.request.type:
                raise KadMessageError(f"asked {self.request.type!r}, the peer says {reply.type!r}")
            if reply.record is not None and self.request.type is MessageType.GET_VALUE:
                if reply.record.key not in (b"", self.request.key):
                    raise KadMessageError("the peer answered with the value of another key")
                value = reply.record.value
        except KadMessageError:
            self.failed(peer_id)
            raise
        peer.state = _State.QUERIED
        self.cost.replies += 1
        peer.charged = self._charge(self._size + reply.size + reply.overhead)
        self._first.clear()
        target = self._see_target(reply)
        self._hear_all(reply.closer, peer.hops + 1)
        self._advance()
        return News(value, tuple(self._new_providers(reply)), target)

    def failed(self, peer_id: PeerId) -> None:
        """A peer could not be reached, did not answer in time, or was caught lying."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state in (_State.WAITING, _State.QUERIED):
            peer.state = _State.UNREACHABLE
            self.cost.failures += 1
            self._charged -= peer.charged
            self._advance()

    def stop(self) -> None:
        """Nothing more is wanted."""
        self._stopped = True

    def add_seeds(self, seeds: Iterable[PeerInfo]) -> None:
        """Hear of more peers, from elsewhere than a reply, while nobody has answered."""
        if self.answers:
            return
        for info in seeds:
            self._hear(info, 0)
        self._following_up = False
        self._advance()

    # --- inside ----------------------------------------------------------------------------------

    def _choose(self) -> list[_Peer]:
        if self._following_up:
            return [peer for peer in self._nearest(K, slow=False) if peer.state is _State.HEARD]
        busy = sum(
            peer.state is _State.WAITING and self._now - peer.asked_at < STAGGER
            for peer in self._peers.values()
        )
        free = ALPHA - busy
        first = [peer for peer in self._first if peer.state is _State.HEARD]
        rest = [peer for peer in self._sorted() if peer.state is _State.HEARD and peer not in first]
        return (first + rest)[: max(0, free)]

    def _advance(self) -> None:
        """Begin with the second part if the first is over."""
        self._following_up = self._following_up or self._converged()

    def _converged(self) -> bool:
        """Whether nobody nearer is to be expected."""
        if self._exhausted():
            return True
        nearest = self._nearest(BETA, slow=False)
        if len(nearest) == BETA and all(peer.state is _State.QUERIED for peer in nearest):
            return True
        return not any(peer.state in _OPEN for peer in self._peers.values())

    def _exhausted(self) -> bool:
        return (
            self.cost.requests >= self._limits.requests
            or self.cost.bytes >= self._limits.most
            or self._charged + self._expected() > self._limits.budget
        )

    def _charge(self, size: int) -> int:
        size = min(size, self._limits.share)
        self._charged += size
        self._largest = max(self._largest, size)
        return size

    def _expected(self) -> int:
        """Bytes of the next answer."""
        return self._largest or FIRST_GUESS

    def _affordable(self) -> int:
        """How many more may be asked, if all answer; of those that are slow few do."""
        answers = (self._limits.budget - self._charged) // self._expected()
        return answers - sum(
            peer.state is _State.WAITING and not self._slow(peer) for peer in self._peers.values()
        )

    def _awaited(self) -> bool:
        """Whether an answer is still to come that matters, when nobody else is to be asked."""
        near = self._nearest(K, slow=self._patient)
        return any(peer.state is _State.WAITING for peer in near) or any(
            peer.state is _State.WAITING and not self._slow(peer) for peer in self._peers.values()
        )

    def _sorted(self) -> list[_Peer]:
        if self._order is None:
            self._order = sorted(self._peers.values(), key=lambda peer: peer.point ^ self._key)
        return self._order

    def _slow(self, peer: _Peer) -> bool:
        return peer.state is _State.WAITING and self._now - peer.asked_at >= SLOW

    def _nearest(self, count: int, *, slow: bool = True) -> list[_Peer]:
        """The nearest that are not unreachable; with or without those that are slow to answer."""
        found = []
        for peer in self._sorted():
            if peer.state is not _State.UNREACHABLE and (slow or not self._slow(peer)):
                found.append(peer)
                if len(found) == count:
                    break
        return found

    def _hear_all(self, closer: tuple[PeerInfo, ...], hops: int) -> None:
        told = [self._usable(info) for info in closer]
        out = crowded(told)
        for info in told:
            if info.id not in out or self._is_target(info):
                self._hear(info, hops)

    def _hear(self, info: PeerInfo, hops: int) -> _Peer | None:
        """Keep a peer in mind; None if it is us or has no address. Who is known stays as he is."""
        known = self._peers.get(info.id)
        if known is not None:
            return known
        info = self._usable(info)
        if info.id == self._own or not info.addresses:
            return None
        peer = self._peers[info.id] = _Peer(info, hops)
        self._order = None
        return peer

    def _usable(self, info: PeerInfo) -> PeerInfo:
        """The peer with those of its addresses that are to be dialed."""
        if not self._public_only or self._is_target(info):
            return info
        return PeerInfo(info.id, public(info.addresses))

    def _is_target(self, info: PeerInfo) -> bool:
        return self.request.type is MessageType.FIND_NODE and info.id.raw == self.request.key

    def _see_target(self, reply: Message) -> PeerInfo | None:
        """The peer looked for, if the reply knows addresses of it that are new."""
        for info in reply.closer:
            if self._is_target(info):
                merged = _merged(self._target, info)
                if merged is not None:
                    self._target = merged
                return merged
        return None

    def _new_providers(self, reply: Message) -> list[PeerInfo]:
        if self.request.type is not MessageType.GET_PROVIDERS:
            return []
        found = []
        for info in reply.providers:
            known = self._providers.get(info.id)
            if known is None and len(self._providers) >= MAX_FOUND:
                continue
            merged = info if known is None else _merged(known, info)
            if merged is not None:
                self._providers[info.id] = merged
                found.append(merged)
        return found


def _from_both_ends(peers: list[_Peer], count: int, *, ends: int) -> list[_Peer]:
    """So many of them: the first ones, or if `ends` is 2, first ones and last ones in turn."""
    if count >= len(peers) or ends == 1:
        return peers[:count]
    last = count // 2
    return peers[: count - last] + peers[len(peers) - last :]


def _merged(known: PeerInfo | None, said: PeerInfo) -> PeerInfo | None:
    """The peer with the addresses of both; None when nothing is new, or there is no address."""
    before = () if known is None else known.addresses
    addresses = tuple(dict.fromkeys((*before, *said.addresses)))[:MAX_MERGED]
    return PeerInfo(said.id, addresses) if len(addresses) > len(before) else None
