"""libp2p over WebSocket, without I/O; the asyncio shell is `pt.websocket.aio`."""
