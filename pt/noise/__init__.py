"""libp2p's Noise channel, without I/O; the asyncio shell is `pt.noise.aio`."""

from __future__ import annotations

from pt.noise.handshake import NoiseXX, Suite, preload, public_key
from pt.noise.payload import NoisePayload
from pt.noise.transport import MAX_PLAINTEXT, Opener, Sealer
from pt.noise.upgrade import SecureHandshake, SecureResult

__all__ = [
    "MAX_PLAINTEXT",
    "NoisePayload",
    "NoiseXX",
    "Opener",
    "Sealer",
    "SecureHandshake",
    "SecureResult",
    "Suite",
    "preload",
    "public_key",
]
