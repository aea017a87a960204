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
    """How far a call has come: for people to read."""

    key: bytes
    asked: int
    answered: int
    failed: int
    heard: int
    stored: int = 0
    """Servers that have acknowledged, of a store."""


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
