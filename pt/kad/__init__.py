"""Client of the Amino DHT (`/ipfs/kad/1.0.0`) without I/O; the asyncio shell is `pt.kad.aio`."""

from __future__ import annotations

from pt.kad.messages import PROTOCOL, Message, MessageType, PeerInfo, Record

__all__ = ["PROTOCOL", "Message", "MessageType", "PeerInfo", "Record"]
