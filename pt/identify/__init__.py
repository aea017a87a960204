"""libp2p identify and identify/push, without I/O; the asyncio shell is `pt.identify.aio`."""

from __future__ import annotations

from pt.identify.messages import PROTOCOL, PUSH_PROTOCOL, Identify, IdentifyReader

__all__ = ["PROTOCOL", "PUSH_PROTOCOL", "Identify", "IdentifyReader"]
