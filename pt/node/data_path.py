"""What a connection wants of its data path, whichever transport it is: `Link` over a socket with
Noise and yamux, or QUIC."""  # noqa: D205, D209

from __future__ import annotations

from typing import Protocol

from pt.aio.keep_alive import KeepAlive
from pt.muxer import Carrier
from pt.node.pace import Pace

__all__ = ["DataPath", "PathStats"]


class PathStats(Protocol):
    """How sending goes, where the process does it itself."""

    @property
    def rtt(self) -> float | None:
        """Seconds."""
        ...

    @property
    def lost(self) -> int:
        """Packets declared lost so far."""
        ...

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        ...


class DataPath(Carrier, Protocol):
    """A carrier with a life."""

    bytes_in: int
    """What the network has brought, the hand-shake too, as far as it could be opened."""
    bytes_out: int

    @property
    def last_rx(self) -> float:
        """When something came last, on the loop's clock."""
        ...

    @property
    def pace(self) -> Pace | None:
        """How what we send is spread, on a limited connection."""
        ...

    @property
    def minds_loss(self) -> bool:
        """Whether its congestion control, which is ours to change, takes loss for congestion."""
        ...

    def stats(self) -> PathStats | None:
        """How it goes; None where the kernel knows and does it."""
        ...

    def set_keep_alive(self, keep_alive: KeepAlive) -> None:
        """Change the rhythm, for instance once the peer is known to be one of ours."""

    def lose(self, reason: str, *, abort: bool = False) -> None:
        """End the connection and tell all streams; `abort`: the peer is not told.  Idempotent."""
