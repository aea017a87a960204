"""What became of one connection through the tunnel, as events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pt.tunnel import events
from pt.tunnel.core.messages import Code

if TYPE_CHECKING:
    from pt.identity.peer_id import PeerId
    from pt.tunnel.v2 import BinderPump, TunnelPump

__all__ = ["answered", "closed"]


def answered(pump: BinderPump, peer: PeerId, code: int, reason: str) -> events.Event:
    """The exposer has made the connection, or says why not."""
    if code == Code.OK:
        return events.StreamOpened(stream=pump.id, peer_id=peer, port=pump.port)
    try:
        word = Code(code).name.lower()
    except ValueError:
        word = "failed"
    return events.StreamRefused(stream=pump.id, port=pump.port, code=word, reason=reason)


def closed(pump: TunnelPump, reason: str) -> events.StreamClosed:
    """It has ended."""
    return events.StreamClosed(
        stream=pump.id,
        sent=pump.bytes_in,
        received=pump.bytes_out,
        seconds=round(asyncio.get_running_loop().time() - pump.started, 3),
        reason=reason,
    )
