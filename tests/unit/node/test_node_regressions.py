"""The node's door: what once shut it for good, or span on it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from pt.identity.keys import PrivateKey
from pt.node.node import Node, NodeLimits
from pt.wire.multiaddr import Multiaddr


def node(limits: NodeLimits | None = None) -> Node:
    return Node(
        identity=PrivateKey.generate(os.urandom(32)),
        listen=(Multiaddr.tcp("127.0.0.1", 0),),
        limits=limits,
    )


def test_busy_handlers_do_not_use_up_the_places_of_handshakes() -> None:
    """Nor does a handshake that could not begin keep its place."""

    async def main() -> None:
        server = node(NodeLimits(handlers=0, handshakes_per_host=3))
        client = node()
        await server.start()
        for _ in range(5):
            connection = await client.connect(server.addresses)
            connection.close()
        await client.close()
        await server.close()

    asyncio.run(asyncio.wait_for(main(), 10))


class Full(socket.socket):
    calls = 0

    def accept(self):  # type: ignore[no-untyped-def]
        self.calls += 1
        raise OSError(errno.EMFILE, "Too many open files")


def test_accepting_pauses_while_there_are_no_descriptors() -> None:
    async def main() -> None:
        server = node()
        await server.start()
        with Full() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            server._sockets.append(listener)
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.fileno(), server._on_accept, listener)
            client.connect(listener.getsockname())
            await asyncio.sleep(0.1)
            assert listener.calls == 1
            await asyncio.sleep(0.6)
            assert listener.calls == 2
            await server.close()

    asyncio.run(asyncio.wait_for(main(), 10))
