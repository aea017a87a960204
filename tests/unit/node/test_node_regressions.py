"""The node's door: what once shut it for good, or span on it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tracemalloc

from pt.aio.muxed import MuxedStream
from pt.identity.keys import PrivateKey
from pt.node.connection import Connection
from pt.node.node import Node, NodeLimits
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run


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

    run(asyncio.wait_for(main(), 10))


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
            server._listeners._sockets.append((listener, [""]))
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.fileno(), server._listeners.on_accept, listener)
            client.connect(listener.getsockname())
            await asyncio.sleep(0.1)
            assert listener.calls == 1
            await asyncio.sleep(0.6)
            assert listener.calls == 2
            await server.close()

    run(asyncio.wait_for(main(), 10))


def test_strangers_make_us_keep_no_more_than_they_send() -> None:
    """Thousands of tiny frames, to a handler that does not read and one that is done."""

    async def main() -> None:
        server, client = node(), node()
        finished = asyncio.Event()

        async def stuck(stream: MuxedStream, connection: Connection) -> None:
            await finished.wait()

        async def done(stream: MuxedStream, connection: Connection) -> None:
            await stream.write(b"bye")

        server.handle("/stuck", stuck)
        server.handle("/done", done)
        await server.start()
        connection = await client.connect(server.addresses)
        finishing = await connection.open_stream(("/done",))
        assert await finishing.read_exactly(3) == b"bye"
        assert await finishing.read(1) == b""
        stuck_one = await connection.open_stream(("/stuck",))
        count = 50_000
        tracemalloc.start()
        for stream in (finishing, stuck_one):
            for _ in range(count // 500):
                for _ in range(500):
                    connection.link.send_small(stream.stream, b"ab")
                connection.link.flush()
                while not connection.link.room:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
        (ours,) = server.connections
        streams = ours.link.session.streams
        while any(streams[s.stream.id].recv_left > 262144 - 2 * count for s in (stuck_one,)):
            await asyncio.sleep(0.001)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 20 * 2 * count
        assert streams[finishing.stream.id].handler is None
        finished.set()
        await client.close()
        await server.close()

    run(asyncio.wait_for(main(), 20))
