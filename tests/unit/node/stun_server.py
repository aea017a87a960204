"""STUN servers on loopback: Binding over UDP, from one place; over TCP whatever a test does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from pt.aio.udp import Address, UdpPort
from pt.stun.server import PRIMARY, Server


class StunOn:
    """Serves in a `with` block of a running loop; `count` requests were answered."""

    def __init__(self) -> None:
        self.count = 0
        self._port = UdpPort(("127.0.0.1", 0))
        self.address = self._port.address
        self._server = Server({PRIMARY: self.address})

    def __enter__(self) -> Self:
        self._port.received = self._received
        return self

    def _received(self, data: bytes, source: Address) -> None:
        now = asyncio.get_running_loop().time()
        answer = self._server.receive(data, source, PRIMARY, now)
        if answer is not None:
            self.count += 1
            self._port.send(answer.data, answer.to)

    def __exit__(self, *exc: object) -> None:
        self._port.close()


@contextlib.asynccontextmanager
async def over_tcp(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Address]:
    """Where each connection is served by `serve`; in the end all have ended."""
    running: set[asyncio.Task[object]] = set()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    listener = await asyncio.start_server(stream, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()
    finally:
        listener.close()
        await asyncio.gather(*running)
        await listener.wait_closed()
