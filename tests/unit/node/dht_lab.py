"""Servers of a DHT on loopback, each in a /16 of its own, honest or as a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pt.aio.muxed import MuxedStream
from pt.identity.keys import PrivateKey
from pt.kad.messages import PROTOCOL, Message, MessageReader, MessageType, PeerInfo
from pt.node.connection import Connection
from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad import network

Serve = Callable[[MuxedStream, Message], Awaitable[None]]
FIND = Message(MessageType.FIND_NODE, b"key")


def fresh_node(**options: object) -> Node:
    return Node(identity=PrivateKey.generate(os.urandom(32)), congestion="", **options)


class DhtServer:
    """`serve(stream, request)` answers in place of an honest server."""

    def __init__(self, number: int, serve: Serve | None = None, *, port: int = 0) -> None:
        self.node = fresh_node(listen=(Multiaddr.tcp(f"127.{number}.0.1", port),))
        self.node.handle(PROTOCOL, self._serve)
        self.serve = serve
        self.asked = 0
        self.logic: network.Server

    async def start(self) -> None:
        await self.node.start()
        self.logic = network.Server(self.info)

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.node.peer_id, self.node.addresses)

    @property
    def address(self) -> Multiaddr:
        return self.node.addresses[0].with_peer(self.node.peer_id.raw)

    async def _serve(self, stream: MuxedStream, connection: Connection) -> None:
        self.asked += 1
        reader = MessageReader()
        request = None
        while request is None:
            request = reader.receive_data(await stream.read_exactly(1))
        if self.serve is not None:
            await self.serve(stream, request)
            return
        reply = self.logic.reply(request)
        if request.type is not MessageType.ADD_PROVIDER:
            await stream.write(reply.encode())


@contextlib.asynccontextmanager
async def servers(count: int, serve: Serve | None = None) -> AsyncIterator[list[DhtServer]]:
    """Servers that all know one another."""
    made = [DhtServer(number, serve) for number in range(1, count + 1)]
    try:
        for server in made:
            await server.start()
        for server in made:
            for other in made:
                if other is not server:
                    server.logic.learn(other.info)
        yield made
    finally:
        for server in made:
            await server.node.close()


def nowhere(count: int, number: int = 200) -> list[Multiaddr]:
    """Addresses at which connections are refused."""
    found = []
    for each in range(count):
        with socket.socket() as sock:
            sock.bind((f"127.{number + each}.0.1", 0))
            found.append(Multiaddr.tcp(*sock.getsockname()))
    return found


async def stall(stream: MuxedStream, request: Message) -> None:
    await asyncio.sleep(3600)


async def garbage(stream: MuxedStream, request: Message) -> None:
    await stream.write(b"\xff" * 64)


async def end(stream: MuxedStream, request: Message) -> None:
    """Close without a word."""


async def reset(stream: MuxedStream, request: Message) -> None:
    await stream.reset()


def loop_of(addresses: Sequence[Multiaddr]) -> Serve:
    """Names ever new peers, all at the same dead addresses."""

    async def serve(stream: MuxedStream, request: Message) -> None:
        ids = [fresh_node().peer_id for _ in range(20)]
        told = tuple(PeerInfo(each, (addresses[n % len(addresses)],)) for n, each in enumerate(ids))
        await stream.write(Message(request.type, closer=told).encode())

    return serve
