"""What the punching machine asks of its shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from pt.punch.candidates import Address
from pt.punch.messages import Sample
from pt.punch.strategies import Step, Strategy

__all__ = [
    "MAIN",
    "PRESAMPLED",
    "AskServer",
    "CloseSocket",
    "Command",
    "Ended",
    "OpenSocket",
    "Send",
    "StartTcp",
    "Tell",
    "Won",
]

MAIN: Final = 0
"""The socket that QUIC and STUN share; others are numbered from 1, never anew."""
PRESAMPLED: Final = 1
"""The fresh socket that our offer's sample is of, if it has one: open before the attempt."""


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A fresh IPv4 UDP socket on any port."""

    sock: int


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """It has not won."""

    sock: int


@dataclass(frozen=True, slots=True)
class Send:
    """One datagram; `ttl` None: the system's."""

    sock: int
    data: bytes
    addr: Address
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class AskServer:
    """A STUN server, from this socket, at once; the answer goes to `sampled`."""

    sock: int


@dataclass(frozen=True, slots=True)
class Tell:
    """The peer, inside the session."""

    message: Sample


@dataclass(frozen=True, slots=True)
class StartTcp:
    """Connect and listen as the step says; success goes to `tcp_won`."""

    step: Step


@dataclass(frozen=True, slots=True)
class Won:
    """Both directions of this path work; `addr` is the peer's end, `rtt` in seconds or None."""

    sock: int
    addr: Address
    rtt: float | None
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class Ended:
    """The plan is over without a path."""

    reason: str


Command: TypeAlias = OpenSocket | CloseSocket | Send | AskServer | Tell | StartTcp | Won | Ended
