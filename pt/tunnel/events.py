"""What an exposer or a binder tells its owner, as values.

The one channel from the tunnel to whoever renders it (text, JSON lines, a test, an application).
Events hold facts, never sentences to print; only `reason` and `detail` are human text, and they
name the cause and, where there is one, the next step. Handlers are called on the event loop's
thread, must not block and must not raise. docs/cli.md shows each one's JSON form.
"""

from __future__ import annotations

from pt.identity.peer_id import PeerId
from pt.tunnel.facts import Facts
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "AddressReachability",
    "BoundPort",
    "Connected",
    "Disconnected",
    "Event",
    "Found",
    "LookingUp",
    "Mapped",
    "Pinned",
    "Progress",
    "Published",
    "Punched",
    "Reachable",
    "Ready",
    "Rejected",
    "Resumed",
    "Retrying",
    "Searched",
    "Started",
    "Stopped",
    "StreamClosed",
    "StreamOpened",
    "StreamRefused",
    "Warned",
]


class Event(Facts):
    """Base of all events."""

    means_ready = False  # whether a service manager may count us as started


class BoundPort(Facts):
    """A listening local port and the exposer's port it leads to (0: the exposer's first)."""

    local: int
    remote: int
    host: str = "127.0.0.1"


class Started(Event):
    """The node runs; nothing is reachable yet."""

    peer_id: PeerId
    name: str | None = None
    strength: str = ""
    """How hard the name is to guess, or "open"."""
    addresses: tuple[Multiaddr, ...] = ()
    """Listening addresses; empty for a binder."""


class Published(Event):
    """One medium took our record, or did not."""

    medium: str
    ok: bool
    detail: str = ""
    seconds: float = 0.0


class Ready(Event):
    """Exposer: others can reach us. Binder: the ports listen and a connection will get through."""

    means_ready = True

    peer_id: PeerId | None = None
    """Exposer: our own id. Binder: the exposer's, once known."""
    addresses: tuple[Multiaddr, ...] = ()
    """Exposer only; each ends in /p2p/ID."""
    bind_command: str | None = None
    """Exposer only; the command for the other machine."""
    ports: tuple[BoundPort, ...] = ()
    """Binder only."""
    outside: bool | None = None
    """Exposer only: whether machines of other networks can reach us, too. False: not yet, and
    `Reachable` says when; None: nothing leads them here, such as on the LAN alone."""


class Reachable(Event):
    """Exposer: after a READY for the local network, machines of others can reach us, too."""

    addresses: tuple[Multiaddr, ...]
    bind_command: str
    """The command for the other machine, wherever it is."""


class LookingUp(Event):
    """The search for the exposer begins (again)."""

    media: tuple[str, ...]


class Searched(Event):
    """How one medium does in the search, when that changes."""

    medium: str
    ok: bool
    """Whether it knows an exposer."""
    detail: str = ""
    seconds: float = 0.0
    """Since the look-up on this medium began."""


class Progress(Event):
    """How far look-ups and stores on one medium have come, or what they took when they are over.

    Those that run at the same time are told together. A store has its look-up before it.
    """

    medium: str
    calls: int
    """Look-ups and stores that are told of."""
    asked: int
    """Servers, one that was asked by two calls twice."""
    answered: int
    failed: int
    stored: int
    """Servers that have acknowledged a record."""
    bytes: int
    """Sent and received, hand-shakes included."""
    sockets: int
    """Held at most at a time since the start, for this medium."""
    seconds: float
    done: bool
    cut: bool
    """A look-up has ended for its budget of bytes or requests, before it had asked everybody."""


class Found(Event):
    """A verified record of the exposer, or an address the user gave.

    Of an open tunnel: anybody who says to be it.
    """

    peer_id: PeerId
    medium: str
    addresses: tuple[Multiaddr, ...]
    seconds: float


class Pinned(Event):
    """First use of this name: the exposer's identity is now remembered."""

    peer_id: PeerId


class Connected(Event):
    """An authenticated session runs over a path."""

    peer_id: PeerId
    path: str
    """Kind and transport, such as direct/tcp."""
    address: Multiaddr | None = None
    rtt: float | None = None
    """Seconds; None before the first measurement."""
    suite: str = ""
    """The cipher of the connection."""


class Punched(Event):
    """An attempt to get through both NATs has ended; see docs/traces.md for its steps."""

    ok: bool
    strategy: str
    """What opened the path; empty if nothing did."""
    seconds: float
    """From the beginning of the attempt to the path."""
    detail: str
    """Where the peer was met, or why it was not, and what would help."""


class Mapped(Event):
    """The router maps a port of ours, or does no more; told again when more is known of it."""

    ok: bool
    service: str
    """PCP, NAT-PMP or UPnP."""
    protocol: str
    internal: str
    external: str
    outside: str
    """verified: published. unverified: for hole punching alone. closed, elsewhere, carrier,
    private: of no use, see `detail`. gone: not mapped any more."""
    detail: str


class AddressReachability(Event):
    """Exposer: AutoNAT servers have found out whether others can dial an address of ours."""

    address: Multiaddr
    reachable: bool | None
    """None: it is not known any more, or no address of ours."""
    published: bool
    """Whether it is told beyond the LAN."""
    detail: str


class Disconnected(Event):
    """The path to a peer is gone; its open streams wait to be resumed."""

    peer_id: PeerId
    reason: str


class Retrying(Event):
    """The next attempt starts in `delay` seconds."""

    delay: float
    reason: str


class Resumed(Event):
    """The session and its open streams go on over a new path."""

    peer_id: PeerId
    streams: int
    seconds: float
    """How long there was no path."""


class StreamOpened(Event):
    """One TCP connection now runs through the tunnel."""

    stream: int
    peer_id: PeerId
    port: int


class StreamClosed(Event):
    """One TCP connection ended; byte counts are of the payload, as seen from this end."""

    stream: int
    sent: int
    received: int
    seconds: float
    reason: str = ""
    """Empty when both sides closed in order."""


class StreamRefused(Event):
    """A connection was not made; the client was closed at once."""

    stream: int
    port: int
    code: str
    """Short and stable: refused, unreachable, timeout, not_allowed, limit, ..."""
    reason: str


class Rejected(Event):
    """A peer was turned away before it reached any service."""

    reason: str
    peer_id: PeerId | None = None
    address: Multiaddr | None = None


class Warned(Event):
    """Something the user should know or change."""

    message: str


class Stopped(Event):
    """The end; nothing follows."""

    reason: str
