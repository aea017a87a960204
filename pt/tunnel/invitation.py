"""The `pt bind` command that an exposer shows, for the other machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from pt.tunnel.config import ExposeConfig
from pt.wire.multiaddr import Multiaddr

__all__ = ["invitation"]

RELAYS_TOLD: Final = 2
"""Relayed addresses in it."""


def invitation(
    config: ExposeConfig, name: str, addresses: Sequence[Multiaddr], media: Sequence[str]
) -> str:
    """What to run there: with no more than is needed where the record is on `media`."""
    forwards = []
    for service in config.services:
        port = service.port
        local = port if port >= 1024 else 2000 + port if port < 100 else 8000 + port
        if len(config.services) == 1:
            forwards.append(f"--port {local}")
        else:
            forwards.append(f"-p {local}:{port}")
    parts = ["pt bind", *forwards, f"--id {shlex.quote(name)}"]
    if config.open:
        parts.append("--open")
    if "overlay" in media and "amino" not in media:
        parts += [f"--relay {each}" for each in config.overlay_seeds[:RELAYS_TOLD]]
    elif "amino" not in media:
        direct = [each for each in addresses if not each.is_circuit]
        relayed = [each for each in addresses if each.is_circuit]
        if "lan" not in media and direct:
            parts.append(f"--peer {direct[0]}")
        parts += [f"--peer {each}" for each in relayed[:RELAYS_TOLD]]
    return " ".join(parts)
