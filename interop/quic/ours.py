"""Our endpoint, whole: engine, connection, UDP port; see `interop.quic` for the contract."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import struct
import sys
import time
from dataclasses import replace

from interop.quic.stock import BLOCK, FACTS, count_key_updates, parse_arguments, say
from pt.aio.muxed import MuxedStream
from pt.aio.udp import Address, UdpPort
from pt.errors import LimitError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.muxer import Stream
from pt.quic import seal
from pt.quic.aio import Established, QuicLink, QuicPort
from pt.quic.certificate import ENTROPY_SIZE, Certificate
from pt.quic.engine import Config
from pt.quic.events import HandshakeDone
from pt.quic.limits import Limits
from pt.quic.select import default

UPDATE_AFTER = 20
"""Packets, in the case about key updates."""
HANDSHAKE = 30.0
"""Seconds: with 30 % lost, one of fifty needs more than the usual ten."""


def count_ours() -> None:
    """Count updates of the native engine's keys, too; each has two directions."""
    update = seal.PacketKey.update

    def counted(self: seal.PacketKey) -> None:
        FACTS.key_updates += 1
        update(self)

    seal.PacketKey.update = counted  # type: ignore[method-assign]


def open_port(
    args: argparse.Namespace, ip: str, accept: Established | None = None
) -> tuple[QuicPort, PeerId]:
    identity = PrivateKey.generate(os.urandom(32))
    limits = Limits(handshake_timeout=HANDSHAKE)
    if getattr(args, "key_update", False):
        limits = replace(limits, key_update_packets=UPDATE_AFTER)
    config = Config(
        certificate=Certificate.create(identity, now=time.time(), entropy=os.urandom(ENTROPY_SIZE)),
        reset_key=os.urandom(32),
        random=os.urandom,
        unix_time=time.time,
        limits=limits,
    )
    port = QuicPort(UdpPort((ip, 0)), config, lambda _: default(args.engine or None), accept=accept)
    return port, PeerId.from_public_key(identity.public)


async def answer(stream: MuxedStream) -> None:
    try:
        (size,) = struct.unpack(">Q", await stream.read_exactly(8))
        digest = hashlib.sha256()
        while size:
            block = os.urandom(min(size, BLOCK))
            size -= len(block)
            digest.update(block)
            await stream.write(block)
        await stream.write(digest.digest())
        await stream.close_write()
    except PtError as error:
        print(f"answer: {error}", file=sys.stderr)


async def serve_until_told(args: argparse.Namespace) -> None:
    tasks = set()

    def accept(link: QuicLink, event: HandshakeDone) -> None:
        link.session.on_stream = lambda stream: begin(link, stream)
        link.on_moved = moved

    def begin(link: QuicLink, stream: Stream) -> None:
        task = asyncio.ensure_future(answer(MuxedStream(stream, link)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def moved(address: Address) -> None:
        FACTS.moves += 1

    port, peer = open_port(args, args.ip, accept=accept)
    if args.retry:
        port._reception._retry_from = 0
    family = "ip6" if ":" in args.ip else "ip4"
    number = port.udp.address[1]
    say(multiaddr=f"/{family}/{args.ip}/udp/{number}/quic-v1/p2p/{peer}")
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    say(**FACTS.said())
    port.close()


class Fetching:
    """One connection."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._may_open = asyncio.Event()
        self._known = asyncio.Event()

    async def run(self) -> None:
        _, _, ip, _, number, _, _, expected = self._args.to.split("/")
        port, _ = open_port(self._args, "::" if ":" in ip else "0.0.0.0")
        try:
            link = await port.dial((ip, int(number)), PeerId.parse(expected), self._established)
            sizes = [int(size) for size in self._args.sizes.split(",")]
            await asyncio.gather(*(self._one(link, size) for size in sizes))
            link.lose("done")
        finally:
            port.close()
            port.udp.close()

    def _established(self, link: QuicLink, event: HandshakeDone) -> None:
        link.session.on_acked = self._may_open.set

    async def _one(self, link: QuicLink, size: int) -> None:
        while True:
            try:
                stream = MuxedStream(link.session.open(), link)
                break
            except LimitError:
                self._may_open.clear()
                await self._may_open.wait()
        await stream.write(struct.pack(">Q", size))
        await stream.close_write()
        digest, left = hashlib.sha256(), size
        while left:
            block = await stream.read(min(left, BLOCK))
            if not block:
                raise EOFError(f"the stream ended {left} bytes early")
            digest.update(block)
            left -= len(block)
        if await stream.read_exactly(32) != digest.digest() or await stream.read(1):
            raise ValueError("the hash differs")


async def fetch(args: argparse.Namespace) -> bool:
    places = asyncio.Semaphore(args.at_once)

    async def one() -> None:
        async with places:
            await Fetching(args).run()

    try:
        async with asyncio.timeout(args.timeout):
            await asyncio.gather(*(one() for _ in range(args.connections)))
        ok, detail = True, "all as asked"
    except (PtError, OSError, EOFError, ValueError) as error:
        ok, detail = False, f"{type(error).__name__}: {error}"
    say(ok=ok, detail=detail, **FACTS.said())
    return ok


def main() -> int:
    args = parse_arguments()
    count_key_updates()
    count_ours()
    if args.command == "serve":
        asyncio.run(serve_until_told(args))
        return 0
    return 0 if asyncio.run(fetch(args)) else 1


if __name__ == "__main__":
    sys.exit(main())
