"""DCUtR, libp2p's hole punching, without I/O; the asyncio shell is `pt.dcutr.aio`."""

from __future__ import annotations

from pt.dcutr.machine import MAX_ATTEMPTS, PROTOCOL, Dial, Initiator, Responder, Role, role_of
from pt.dcutr.messages import HolePunch, HolePunchError, Kind

__all__ = [
    "MAX_ATTEMPTS",
    "PROTOCOL",
    "Dial",
    "HolePunch",
    "HolePunchError",
    "Initiator",
    "Kind",
    "Responder",
    "Role",
    "role_of",
]
