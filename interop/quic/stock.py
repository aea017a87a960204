"""aioquic's own asyncio endpoint, with libp2p's certificate; `interop.quic` has the contract."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import ssl
import struct
import sys
import time
from collections.abc import Callable

import aioquic.asyncio.server
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import HandshakeCompleted, QuicEvent
from aioquic.tls import CipherSuite
from cryptography.hazmat.primitives.serialization import Encoding

from pt.errors import ProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.quic.certificate import ENTROPY_SIZE, Certificate, identity_key

BLOCK = 64 * 1024
KEEP_ALIVE = 1.0
"""Seconds between a client's PINGs.  libp2p's clients send them, too, if more seldom: one that says
nothing after its NAT has changed its port is where no server can find it."""


class Facts:
    """What a process tells in the end."""

    def __init__(self) -> None:
        self.cipher = ""
        self.key_updates = 0
        self.moves = 0

    def said(self) -> dict[str, object]:
        return {"cipher": self.cipher, "key_updates": self.key_updates, "moves": self.moves}


FACTS = Facts()


def count_key_updates() -> None:
    """Let every update of a connection's keys, ours or the peer's, be counted."""
    update = CryptoPair._update_key

    def counted(self: CryptoPair, trigger: str) -> None:
        FACTS.key_updates += 1
        update(self, trigger)

    CryptoPair._update_key = counted  # type: ignore[method-assign]


class Connection(QuicConnection):
    """A server's asks for a certificate, which aioquic does only in its own tests."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self.configuration.is_client


class Protocol(QuicConnectionProtocol):
    """Checks who is there, and serves what is asked."""

    expected: PeerId | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            tls = self._quic.tls
            assert tls.key_schedule is not None
            FACTS.cipher = tls.key_schedule.cipher_suite.name
            peer = tls._peer_certificate
            try:
                if peer is None:
                    raise ProtocolError("no certificate")
                der = peer.public_bytes(Encoding.DER)
                actual = PeerId.from_public_key(identity_key([der], now=time.time()))
                if self.expected not in {None, actual}:
                    raise ProtocolError(f"this is {actual}")
            except ProtocolError as error:
                self.close(error_code=0x12A, reason_phrase=str(error))
        super().quic_event_received(event)

    def datagram_received(self, data: bytes | str, addr: NetworkAddress) -> None:
        before = self._quic._network_paths[:1]
        super().datagram_received(data, addr)
        after = self._quic._network_paths[:1]
        FACTS.moves += bool(before and after and before[0] is not after[0])


def configuration(*, is_client: bool, chacha: bool) -> QuicConfiguration:
    identity = PrivateKey.generate(os.urandom(32))
    certificate = Certificate.create(identity, now=time.time(), entropy=os.urandom(ENTROPY_SIZE))
    made = QuicConfiguration(
        alpn_protocols=["libp2p"],
        is_client=is_client,
        certificate=certificate.x509,
        private_key=certificate.private_key,
        verify_mode=ssl.CERT_NONE,
        max_datagram_size=1350,
    )
    if chacha:
        made.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
    made.peer_id = PeerId.from_public_key(identity.public)  # type: ignore[attr-defined]
    return made


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (size,) = struct.unpack(">Q", await reader.readexactly(8))
    digest = hashlib.sha256()
    while size:
        block = os.urandom(min(size, BLOCK))
        size -= len(block)
        digest.update(block)
        writer.write(block)
    writer.write(digest.digest())
    writer.write_eof()


async def serve_until_told(args: argparse.Namespace) -> None:
    tasks = set()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    setting = configuration(is_client=False, chacha=args.chacha)
    aioquic.asyncio.server.QuicConnection = Connection  # type: ignore[misc]
    server = await serve(
        args.ip,
        0,
        configuration=setting,
        create_protocol=Protocol,
        retry=args.retry,
        stream_handler=handle,
    )
    assert server._transport is not None
    port = server._transport.get_extra_info("sockname")[1]
    family = "ip6" if ":" in args.ip else "ip4"
    peer = setting.peer_id  # type: ignore[attr-defined]
    say(multiaddr=f"/{family}/{args.ip}/udp/{port}/quic-v1/p2p/{peer}")
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    say(**FACTS.said())


async def fetch_one(protocol: QuicConnectionProtocol, size: int, places: asyncio.Semaphore) -> None:
    async with places:
        reader, writer = await protocol.create_stream()
        writer.write(struct.pack(">Q", size))
        writer.write_eof()
        digest, left = hashlib.sha256(), size
        while left:
            block = await reader.read(min(left, BLOCK))
            if not block:
                raise EOFError(f"the stream ended {left} bytes early")
            digest.update(block)
            left -= len(block)
        if await reader.read() != digest.digest():
            raise ValueError("the hash differs")


async def keep_alive(protocol: QuicConnectionProtocol) -> None:
    with contextlib.suppress(ConnectionError):  # the fetches tell
        while True:
            await asyncio.sleep(KEEP_ALIVE)
            await protocol.ping()


async def fetch_connection(args: argparse.Namespace, places: asyncio.Semaphore) -> None:
    async with places:
        _, _, ip, _, port, _, _, expected = args.to.split("/")
        setting = configuration(is_client=True, chacha=args.chacha)
        protocol: Callable[..., Protocol] = type(
            "Expecting", (Protocol,), {"expected": PeerId.parse(expected)}
        )
        async with connect(ip, int(port), configuration=setting, create_protocol=protocol) as made:
            if args.key_update:
                made.request_key_update()
            # aioquic does not wait for the peer's leave to open streams before it writes to them.
            streams = asyncio.Semaphore(100)
            sizes = [int(size) for size in args.sizes.split(",")]
            alive = asyncio.create_task(keep_alive(made))
            try:
                await asyncio.gather(*(fetch_one(made, size, streams) for size in sizes))
            finally:
                alive.cancel()


async def fetch(args: argparse.Namespace) -> bool:
    places = asyncio.Semaphore(args.at_once)
    try:
        async with asyncio.timeout(args.timeout):
            await asyncio.gather(*(fetch_connection(args, places) for _ in range(args.connections)))
        ok, detail = True, "all as asked"
    except (OSError, EOFError, ValueError) as error:
        ok, detail = False, f"{type(error).__name__}: {error}"
    say(ok=ok, detail=detail, **FACTS.said())
    return ok


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The contract's command line; `interop.quic.ours` has the same."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("--ip", required=True)
    server.add_argument("--retry", action="store_true")
    client = commands.add_parser("fetch")
    client.add_argument("--to", required=True)
    client.add_argument("--sizes", default="1024")
    client.add_argument("--connections", type=int, default=1)
    client.add_argument("--at-once", type=int, default=10)
    client.add_argument("--key-update", action="store_true")
    client.add_argument("--timeout", type=float, default=60.0)
    for command in (server, client):
        command.add_argument("--chacha", action="store_true")
        command.add_argument("--engine", default="", help="ours alone: qh3 or aioquic")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    count_key_updates()
    if args.command == "serve":
        asyncio.run(serve_until_told(args))
        return 0
    return 0 if asyncio.run(fetch(args)) else 1


if __name__ == "__main__":
    sys.exit(main())
