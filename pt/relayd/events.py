"""What a relay tells its owner, as values; rendered like those of a tunnel (docs/cli.md)."""

from __future__ import annotations

from pt.identity.peer_id import PeerId
from pt.tunnel.events import Event
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "CircuitClosed",
    "CircuitOpened",
    "OverlayAlone",
    "OverlayJoined",
    "OverlayRestored",
    "RelayDraining",
    "RelayReady",
    "RelayRefused",
    "RelayReloaded",
    "ReservationEnded",
    "Reserved",
    "StunPeer",
]


class RelayReady(Event):
    """The relay serves."""

    means_ready = True

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    """Its own, as users give them to --relay."""
    option: str
    """What users add to their command line."""
    secret: bool = False
    """Whether users have to know a secret."""
    private: bool = False
    """Whether strangers get nothing."""
    page: str | None = None
    """Where the status page is."""
    overlay: tuple[Multiaddr, ...] = ()
    """Where it serves the overlay; empty: it does not."""
    stun: tuple[Multiaddr, ...] = ()
    """Where it serves STUN, the same port numbers on TCP; empty: it does not."""


class Reserved(Event):
    """A peer can be reached through this relay."""

    peer_id: PeerId
    grade: str
    """`user` or `stranger`."""
    seconds: float
    """How long, unless it is renewed."""


class ReservationEnded(Event):
    """A peer left, or did not renew."""

    peer_id: PeerId
    reason: str


class CircuitOpened(Event):
    """Two peers are connected."""

    circuit: int
    kind: str
    """`raw` or `libp2p`."""
    source: PeerId
    target: PeerId
    grade: str


class CircuitClosed(Event):
    """And are no more; byte counts are from the source and from the target."""

    circuit: int
    kind: str
    sent: int
    received: int
    seconds: float
    reason: str = ""
    """Empty when both ends closed in order."""


class RelayRefused(Event):
    """A request was refused, or several of a flood: they are told together."""

    what: str
    """`reserve`, `connect` or `auth`."""
    reason: str
    peer_id: PeerId | None = None
    """Of the last one."""
    count: int = 1


class RelayReloaded(Event):
    """The configuration was read again; `ignored` are changes that need a restart."""

    ignored: tuple[str, ...] = ()


class OverlayJoined(Event):
    """Another server of the overlay answered."""

    nodes: int
    """How many are known."""


class OverlayAlone(Event):
    """The last other server of the overlay is gone; looking for them goes on."""


class OverlayRestored(Event):
    """The overlay's records of an earlier run are back."""

    records: int
    dropped: int
    """Expired, or older than what others brought since."""
    seconds: float


class RelayDraining(Event):
    """No new reservations and circuits; so many are still open."""

    circuits: int
    reservations: int


class StunPeer(Event):
    """The other relay for STUN answers now, or no more."""

    address: Multiaddr
    answers: bool
