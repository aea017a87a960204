"""libp2p ping, without I/O; the asyncio shell is `pt.ping.aio`."""

from __future__ import annotations

from pt.ping.echo import PAYLOAD_LEN, PROTOCOL, Echo

__all__ = ["PAYLOAD_LEN", "PROTOCOL", "Echo"]
