"""What strangers may cost a node."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NodeLimits"]


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What strangers may cost us."""

    connections: int = 512
    connections_per_host: int = 64
    handshakes: int = 128
    """Inbound connections that have not said who they are yet."""
    handshakes_per_host: int = 32
    handshake_timeout: float = 10.0
    connect_timeout: float = 10.0
    inbound_streams: int = 512
    """Inbound streams a connection; a tunnel raises it once the peer has proved itself."""
    handlers: int = 4096
    """Streams being served over connections made to us, a quarter from one source; as many again
    over those that we made."""
    negotiation_timeout: float = 10.0
