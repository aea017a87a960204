"""What an engine tells its owner, in order of occurrence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pt.errors import ProtocolError
from pt.identity.keys import PublicKey
from pt.identity.peer_id import PeerId

__all__ = [
    "Address",
    "Closed",
    "ConnectionIdIssued",
    "ConnectionIdRetired",
    "Event",
    "HandshakeDone",
    "PathChanged",
    "StopSending",
    "StreamData",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
    "StreamsAvailable",
    "Writable",
]

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""A UDP address as the socket module has it; engines compare it and give it back."""


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """Both sides have authenticated; streams may be opened.

    A server that refuses our certificate says so only after this: its `Closed` follows.
    """

    peer: PeerId
    public_key: PublicKey
    binding: bytes
    """32 bytes that both sides share and nobody else (RFC 9266): binds what runs inside to it."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream.  Comes before anything else about it."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamData:
    """Bytes of a stream, in order; `fin`: they are the last ones.

    They count against the stream's window until `Engine.consumed` is told.  `data` is empty only
    with `fin`.
    """

    stream: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave up sending: no more data, and what was not delivered is lost."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class StopSending:
    """The peer does not read any more.  The engine has reset our direction with the same code."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """Both directions are over, and the peer has acknowledged ours; the last event of a stream.

    Bytes delivered before are still to be `consumed`.
    """

    stream: int


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream whose last `write` was cut short has room again."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamsAvailable:
    """The peer lets us open more streams; comes after `open_stream` has failed, or at any time."""

    count: int
    """How many can be opened now."""


@dataclass(frozen=True, slots=True)
class ConnectionIdIssued:
    """From now on datagrams to `cid` belong to this connection, too."""

    cid: bytes


@dataclass(frozen=True, slots=True)
class ConnectionIdRetired:
    """Datagrams to `cid` do not come any more."""

    cid: bytes


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The peer is now at `address`, and has proved it."""

    address: Address


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over: no event of a stream comes any more, streams are lost.

    What the peer said before it closed has come before this.

    The engine still has to be driven until `terminated`: it repeats our CONNECTION_CLOSE and
    ignores what is under way.
    """

    code: int
    application: bool
    """Whether `code` is libp2p's, else QUIC's."""
    reason: str
    by_peer: bool
    error: ProtocolError | None = None
    """What exactly we found wrong with the peer, where that was the reason."""


Event: TypeAlias = (
    HandshakeDone
    | StreamOpened
    | StreamData
    | StreamReset
    | StopSending
    | StreamEnded
    | Writable
    | StreamsAvailable
    | ConnectionIdIssued
    | ConnectionIdRetired
    | PathChanged
    | Closed
)
