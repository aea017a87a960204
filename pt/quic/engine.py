"""The contract of a QUIC engine: one connection, without socket, loop or clock.

An owner drives it with five calls and does what comes out:

    engine.receive(buffer, segment, address, now)      what the socket got
    engine.handle_timeout(now)                         when `next_timeout()` has come
    while (event := engine.next_event()) is not None   what happened
    for train in engine.trains(now)                    what the socket shall send
    engine.next_timeout()                              when to come back

After any input, also after a call that sends (`write`, `finish`, `reset`, `stop`, `consumed`,
`close`): take events and trains in turn until neither yields anything, then read the timeout.
(Building trains makes events, `Writable` and `StreamEnded`; handling events makes trains; trains of
fewer than `FULL` datagrams are all there are until something else happens.)  Inputs
may be batched: one round for all that a wake-up of the loop brought.  `now` is in seconds of one
monotonic clock, the same for all calls; it may stand still.

`Limits` bounds what an engine holds.  An engine never raises because of what the peer or the
network sent: that ends in `Closed`.  Methods on a stream that is over (reset, or its connection
closed) do nothing; only misuse raises `LocalProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pt.identity.peer_id import PeerId
from pt.quic.certificate import Certificate
from pt.quic.events import Address, Event
from pt.quic.limits import Limits

__all__ = ["FULL", "Admission", "Config", "Engine", "EngineFactory", "Stats", "Trace", "Train"]


FULL: Final = 256
"""Datagrams in one yield of trains after which there may be more."""


class Trace(Protocol):
    """Where one connection's qlog events go."""

    def __call__(self, now: float, name: str, data: dict[str, object]) -> None:
        """Take an event, `transport:packet_sent`; `data` as the qlog event schema has it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What all connections of a process share."""

    certificate: Certificate
    reset_key: bytes
    """32 secret bytes that stateless reset tokens are made of.  Who keeps them over a restart can
    tell peers of the old process that their connections are gone."""
    random: Callable[[int], bytes]
    """Cryptographic randomness: `os.urandom`."""
    unix_time: Callable[[], float]
    """Seconds since 1970: `time.time`; certificates expire."""
    limits: Limits = field(default_factory=Limits)
    congestion: str = "cubic"
    """`cubic`, `reno` or `bbr`, which does not mind loss; qh3 has cubic only, and takes that."""
    trace: Callable[[bool, bytes], Trace | None] | None = None
    """Asked once a connection, (is client, original destination connection id), for its trace."""


class Admission(NamedTuple):
    """A connection attempt that `pt.quic.reception` let in: its first datagram is valid."""

    original_destination: bytes
    """The connection id of the client's first Initial."""
    destination: bytes
    """That of this Initial: after a Retry it is ours."""
    source: bytes
    """The client's."""
    validated: bool
    """Whether the client's address is proved by a token: no amplification limit then."""


class Train(NamedTuple):
    """Datagrams for one address: all of one size but the last, which may be shorter.

    What UDP_SEGMENT wants: at most 64 and 65,000 bytes.  Send them in order; what the socket does
    not take now may be dropped, as on any network, but better waits.
    """

    address: Address
    segments: list[bytes]


class Stats(NamedTuple):
    """A snapshot, for tables and traces; costs little."""

    rtt: float | None
    """Smoothed round trip, seconds; None before the first sample."""
    congestion_window: int
    bytes_in_flight: int
    datagram_size: int
    """UDP payload that path MTU discovery has reached."""
    held: int
    """Bytes delivered and not consumed yet, all streams."""
    backlog: int
    """Bytes accepted from the application and not sent yet, all streams."""
    lost: int
    """Packets declared lost so far."""


class Engine(Protocol):
    """One connection; see the module for how to drive it."""

    is_client: bool
    peer: PeerId | None
    """Who is there; None before HandshakeDone."""
    address: Address
    """Where the peer is, as far as proved."""
    terminated: bool
    """Nothing is left to do: forget the engine and its connection ids."""

    @property
    def minds_loss(self) -> bool:
        """Whether its congestion control takes every lost packet for a full queue."""
        ...

    @property
    def heard(self) -> float:
        """When something authentic came last."""
        ...

    @property
    def name(self) -> str:
        """`qh3` or `aioquic`."""
        ...

    @property
    def connection_ids(self) -> frozenset[bytes]:
        """Where datagrams of this connection are sent to now: route by these.

        Events tell changes.  A server's set includes what the client made up for its first packets.
        """
        ...

    def receive(self, data: bytes, segment: int, address: Address, now: float) -> None:
        """Take datagrams of one address: `data` is `segment` bytes each, the last may be shorter.

        A single datagram has `segment` = len(data).  Datagrams that are not for this connection,
        or junk, are ignored.  Besides what carries one of `connection_ids`, an engine wants short
        header datagrams (first bit 0) with an *unknown* id from its `address`: they may be the
        peer's stateless reset.
        """
        ...

    def trains(self, now: float) -> list[Train]:
        """What is to be sent now; each datagram is returned once."""
        ...

    def next_event(self) -> Event | None:
        """Take the next event."""
        ...

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called, at the latest; None: not before other input.

        Read it anew after any other call.  Pacing makes deadlines of a fraction of a millisecond.
        """
        ...

    def handle_timeout(self, now: float) -> None:
        """The time of `next_timeout` has come (a call that is early or late does no harm)."""
        ...

    def open_stream(self) -> int:
        """The id of a new bidirectional stream; the peer learns of it with its first bytes.

        Raises:
            LimitError: the peer allows no more now; `StreamsAvailable` tells when it does.
            LocalProtocolError: before HandshakeDone.

        """
        ...

    @property
    def streams_left(self) -> int:
        """How many streams `open_stream` would open now."""
        ...

    def write(self, stream: int, data: bytes | memoryview, *, fin: bool = False) -> int:
        """Accept bytes for sending; returns how many (a prefix; the engine copies them).

        Fewer than all: our buffer or the peer's window is full, `Writable` tells when to go on.
        With `fin` the stream is finished if everything was accepted.  0 on a stream that is over.
        """
        ...

    def finish(self, stream: int) -> None:
        """Send FIN after what was written; writing is over, reading goes on."""
        ...

    def reset(self, stream: int, code: int) -> None:
        """Give up sending: RESET_STREAM with `code`; what was not sent is dropped."""
        ...

    def stop(self, stream: int, code: int) -> None:
        """Give up reading: STOP_SENDING with `code`.

        No more StreamData comes, and what was delivered counts as consumed; StreamReset or the
        peer's FIN (a StreamData without bytes) may still follow.
        """
        ...

    def consumed(self, stream: int, count: int, now: float) -> None:
        """The application has done away with `count` delivered bytes: let the peer send more.

        Windows grow for streams that are consumed quickly.
        """
        ...

    @property
    def backlog(self) -> int:
        """As in `stats`."""
        ...

    def ping(self) -> None:
        """Ask for a sign of life: `heard` moves when the answer comes."""
        ...

    def close(self, code: int, reason: str, now: float) -> None:
        """Close the connection with libp2p's `code`; `Closed` comes at once."""
        ...

    def stats(self) -> Stats:
        """How it goes."""
        ...


class EngineFactory(Protocol):
    """An implementation."""

    name: str

    def connect(
        self, config: Config, address: Address, now: float, *, expected: PeerId | None = None
    ) -> Engine:
        """Begin a connection to `address`; `trains` has its first Initial.

        `Closed` with a `PeerMismatchError` comes if another peer than `expected` is there.
        """
        ...

    def accept(self, config: Config, admission: Admission, address: Address, now: float) -> Engine:
        """Begin to answer a client; give the datagram itself to `receive`."""
        ...
