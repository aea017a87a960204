"""Circuit relay v2 and our additions to it, without I/O; the asyncio shell is `pt.relay.aio`."""

from __future__ import annotations

from pt.relay.messages import HOP, STOP, HopMessage, Limit, Status, StopMessage

__all__ = ["HOP", "STOP", "HopMessage", "Limit", "Status", "StopMessage"]
