"""What calls of the client return, and how finds are taken from answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pt.errors import NetworkError
from pt.identity.peer_id import PeerId
from pt.kad.lookup import Cost, News
from pt.kad.messages import MAX_VALUE, KadMessageError, PeerInfo

__all__ = ["Found", "Progress", "Stored", "addresses", "nothing", "unanswered", "valid_value"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a look-up or a store has come: for people to read.

    A value is put in two calls: a look-up, and the store.
    """

    call: int
    """Tells calls apart that run at the same time."""
    key: bytes
    asked: int
    answered: int
    failed: int
    heard: int
    carried: int
    """Bytes."""
    stored: int = 0
    """Servers that have acknowledged, of a store."""
    done: bool = False
    """It is over; nothing more is said of it."""
    cut: bool = False
    """It ended for its limits, before all were asked that should have been."""

    @classmethod
    def of(
        cls,
        call: int,
        key: bytes,
        cost: Cost,
        heard: int,
        *,
        stored: int = 0,
        done: bool = False,
        cut: bool = False,
    ) -> Progress:
        """Make one of what the call has cost so far."""
        counts = cost.requests, cost.replies, cost.failures, heard, cost.bytes
        return cls(call, key, *counts, stored, done, cut)


@dataclass(frozen=True, slots=True)
class Found:
    """A value and who had it."""

    value: bytes
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Stored:
    """Who acknowledged a record, nearest first, and how many were asked to store it."""

    acknowledged: tuple[PeerId, ...]
    asked: int
    cost: Cost = field(compare=False)


def nothing(peer: PeerId, news: News) -> Iterable[PeerInfo]:
    """Take nothing: the look-up itself is what is wanted."""
    del peer, news
    return ()


def addresses(peer: PeerId, news: News) -> Iterable[PeerInfo]:
    """Take what is new of the peer that is looked for."""
    del peer
    return () if news.target is None else (news.target,)


def unanswered(heard: int) -> NetworkError:
    """The error of a look-up that no server answered, of so many that it heard of."""
    if not heard:
        return NetworkError("no server of the DHT is known: give one with --bootstrap")
    return NetworkError(f"none of {heard} servers of the DHT answered: is there a network?")


def valid_value(peer: PeerId, news: News, validate: Callable[[bytes], object]) -> Iterable[Found]:
    """Take the value.

    Raises:
        PtError: it is too long, or `validate` says that it is bad: whoever has it lies.

    """
    if news.value is None:
        return ()
    if len(news.value) > MAX_VALUE:
        raise KadMessageError(f"a value of {len(news.value)} bytes, over {MAX_VALUE}")
    validate(news.value)
    return (Found(news.value, peer),)
