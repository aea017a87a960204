"""The interop peer that is us: the same `listen` and `dial` that the other peers answer.

    python -m interop.ptpeer listen --ip A [--quic | --no-listen] [--relay MULTIADDR,…]
    python -m interop.ptpeer dial --to MULTIADDR --test NAME

Our relay is the command `pt relay` itself.

Standard output carries one JSON line for each fact; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pt
from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, PtError, ResetError
from pt.identity.keys import PrivateKey, PublicKey
from pt.identity.peer_id import PeerId
from pt.identity.peer_record import PeerRecord
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.node import Node, NodeLimits
from pt.node.relays import RelayNews, Relays
from pt.wire.multiaddr import Multiaddr

ECHO: Final = "/interop/echo/1.0.0"
RESET: Final = "/interop/reset/1.0.0"
WANTED: Final = ("/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", ECHO, RESET)
TOKEN_SIZE: Final = 16
MANY_STREAMS: Final = 4096
"""More than any test opens: limits are not what is tested."""
BLOCK: Final = 64 * 1024
OPEN_AT_ONCE: Final = 64
"""Streams being opened together: Go and rust refuse more than 256 that are not acknowledged yet."""
HALF_CLOSE_BYTES: Final = 128 * 1024
"""Fits the initial yamux window of 256 KiB in both directions."""
ECHO_SMALL_BYTES: Final = 32 * 1024
"""Fits the limit of a public relay, with everything else that goes over a circuit."""
CUTOFF_BLOCK: Final = 4 * 1024
"""Small beside any limit, so that the count says where the end came."""
RESERVE_TIMEOUT: Final = 25.0


class UnexpectedError(Exception):
    """The peer did not behave; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The sizes of the tests."""

    bytes: int
    streams: int
    idle: float
    unsigned: bool


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


# --- listener ------------------------------------------------------------------------------------


async def echo(stream: MuxedStream, connection: Connection) -> None:
    count = 0
    while data := await stream.read(BLOCK):
        count += len(data)
        if connection.limited and count > ECHO_SMALL_BYTES:
            send_freely(connection)
        await stream.write(data)
    await stream.close_write()


def send_freely(connection: Connection) -> None:
    """Run into the relay's limit; of ourselves, we never send as much as it carries."""
    connection.link.limit(1 << 40)


@dataclass
class Watched:
    """The reset protocol.

    The opener sends one command byte and a token of 16 bytes: `R` asks for a reset, `W` (answered
    `k`) makes us note how the opener ends the stream, and `Q` asks what was noted: `r` a reset, `e`
    an end of file, `p` nothing yet.  rust-libp2p resets a QUIC stream by an end of file together
    with STOP_SENDING; after a mere end of file the other direction still takes data.
    """

    outcomes: dict[bytes, bytes] = field(default_factory=dict)

    async def serve(self, stream: MuxedStream, connection: Connection) -> None:
        del connection
        request = await stream.read_exactly(1 + TOKEN_SIZE)
        command, token = request[:1], request[1:]
        if command == b"W":
            await self._watch(stream, token)
        elif command == b"Q":
            await stream.write(self.outcomes.get(token, b"p"))
            await stream.close_write()
        else:
            await stream.reset()

    async def _watch(self, stream: MuxedStream, token: bytes) -> None:
        self.outcomes[token] = b"p"
        try:
            await stream.write(b"k")
            while await stream.read(BLOCK):
                pass
            await stream.write(b"?")
        except ResetError:
            self.outcomes[token] = b"r"
            return
        self.outcomes[token] = b"e"
        await stream.close_write()


async def listen(ip: str, through: Sequence[Multiaddr], *, quic: bool = False) -> None:
    make = Multiaddr.quic if quic else Multiaddr.tcp
    node = new_node((make(ip, 0),) if ip else ())
    node.handle(ECHO, echo, limited=True)
    node.handle(RESET, Watched().serve, limited=True)
    relays: Relays | None = None
    if through:
        relays = Relays(node, given=through, want=len(through), meet=False, on_news=tell)
    await node.start()
    if relays is None:
        report(multiaddr=str(node.addresses[0].with_peer(node.peer_id.raw)))
    else:
        relays.start()
        await relays.wait_first(RESERVE_TIMEOUT)
        for relay in through:
            address = relay.through_circuit()
            if address in relays.addresses:
                report(multiaddr=str(address.with_peer(node.peer_id.raw)))
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()
    await node.close()
    if relays is not None:
        await relays.close()


def tell(news: RelayNews) -> None:
    print(
        f"relay {news.relay}: held {news.held}, {news.limit}, {news.detail}",
        file=sys.stderr,
        flush=True,
    )


def new_node(listen: Sequence[Multiaddr] = ()) -> Node:
    return Node(
        identity=PrivateKey.generate(secrets.token_bytes(32)),
        listen=tuple(listen),
        agent="interop-peer-pt",
        limits=NodeLimits(inbound_streams=MANY_STREAMS),
    )


# --- dialer --------------------------------------------------------------------------------------


async def ping(connection: Connection, options: Options) -> str:
    del options
    best = min([await connection.ping() for _ in range(5)])
    return f"5 pings, best {best * 1e6:.0f} us"


async def identify(connection: Connection, options: Options) -> str:
    said = await connection.identify()
    if not said.agent_version:
        raise UnexpectedError("no agent version")
    for wanted in WANTED:
        if wanted not in said.protocols:
            raise UnexpectedError(f"protocol {wanted} is missing in {said.protocols}")
    key = PublicKey.from_protobuf(said.public_key)
    if PeerId.from_public_key(key) != connection.peer_id:
        raise UnexpectedError("the public key does not belong to the peer id")
    alone = Multiaddr.parse(f"/p2p/{connection.node.peer_id}")
    if connection.relay is not None:
        # What a peer sees of us is the relay, and rust-libp2p says nothing but our own id.
        if not (said.observed is None or said.observed.is_circuit or said.observed == alone):
            raise UnexpectedError(f"observed {said.observed}, although we came by a relay")
    # js-libp2p appends our own peer id to the address it observed.
    elif said.observed is None or not ours(said.observed.without_peer(), connection.local_addr):
        raise UnexpectedError(f"observed {said.observed} is not ours, {connection.local_addr}")
    if not said.listen_addresses:
        raise UnexpectedError("no listen address")
    if said.signed_record:
        record = PeerRecord.from_envelope(said.signed_record)
        if record.peer_id != connection.peer_id or not record.addresses:
            raise UnexpectedError("the signed record is of another peer, or has no address")
    elif not options.unsigned:
        raise UnexpectedError("no signed peer record")
    return (
        f"agent {said.agent_version}, {len(said.protocols)} protocols, "
        f"{len(said.listen_addresses)} addresses, signed record: {bool(said.signed_record)}"
    )


def ours(observed: Multiaddr, local: Multiaddr) -> bool:
    """Whether this is our own address, of which QUIC on every interface knows the port alone."""
    if local.host is not None and local.host[1] == "0.0.0.0":
        return observed.udp_port == local.udp_port
    return observed == local


async def echo64(connection: Connection, options: Options) -> str:
    began = time.monotonic()
    stream = await connection.open_stream((ECHO,), limited=True)
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def send() -> None:
        left = options.bytes
        while left:
            block = secrets.token_bytes(min(left, BLOCK))
            sent.update(block)
            await stream.write(block)
            left -= len(block)
        await stream.close_write()

    async def receive() -> int:
        count = 0
        while data := await stream.read(BLOCK):
            received.update(data)
            count += len(data)
        return count

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        receiving = group.create_task(receive())
    count = receiving.result()
    same = sent.digest() == received.digest()
    if count != options.bytes or not same:
        raise UnexpectedError(f"{count} bytes of {options.bytes} came back, hash equal: {same}")
    return f"{count} bytes, sha256 {sent.hexdigest()[:8]}…, {time.monotonic() - began:.2f} s"


async def echosmall(connection: Connection, options: Options) -> str:
    return await echo64(connection, replace(options, bytes=ECHO_SMALL_BYTES))


async def cutoff(connection: Connection, options: Options) -> str:
    """Have block after block echoed until the relay cuts the circuit.

    Says how the end looks and after how many bytes, in each direction, it came.
    """
    send_freely(connection)
    stream = await connection.open_stream((ECHO,), limited=True)
    for count in range(0, options.bytes, CUTOFF_BLOCK):
        try:
            await stream.write(bytes(CUTOFF_BLOCK))
            await stream.read_exactly(CUTOFF_BLOCK)
        except ClosedError:
            return f"{count} bytes, then an end of file"
        except ResetError:
            return f"{count} bytes, then a reset: {connection.close_reason}"
    raise UnexpectedError(f"all {options.bytes} bytes came back: nothing cut the circuit")


async def streams1000(connection: Connection, options: Options) -> str:
    began = time.monotonic()
    few = asyncio.Semaphore(OPEN_AT_ONCE)

    async def open_one(index: int) -> MuxedStream:
        async with few:
            stream = await connection.open_stream((ECHO,), limited=True)
            await round_trip(stream, f"hello {index}".encode())
            return stream

    async with asyncio.TaskGroup() as group:
        opening = [group.create_task(open_one(index)) for index in range(options.streams)]
    held = [task.result() for task in opening]
    # All are open now: each must still be alive, and each must end cleanly.
    for index, stream in enumerate(held):
        await round_trip(stream, f"again {index}".encode())
    for stream in held:
        await stream.close_write()
    for stream in held:
        if rest := await stream.read(BLOCK):
            raise UnexpectedError(f"a stream ended with {rest!r}")
    return f"{len(held)} streams, {time.monotonic() - began:.2f} s"


async def round_trip(stream: MuxedStream, text: bytes) -> None:
    await stream.write(text)
    back = await stream.read_exactly(len(text))
    if back != text:
        raise UnexpectedError(f"sent {text!r}, got {back!r}")


async def halfclose(connection: Connection, options: Options) -> str:
    del options
    stream = await connection.open_stream((ECHO,), limited=True)
    data = secrets.token_bytes(HALF_CLOSE_BYTES)
    await stream.write(data)
    await stream.close_write()
    back = bytearray()
    while part := await stream.read(BLOCK):
        back += part
    if back != data:
        raise UnexpectedError(f"{len(back)} bytes of {len(data)} came back after the close")
    return f"{len(back)} bytes read after the write side was closed"


async def reset(connection: Connection, options: Options) -> str:
    del options
    token = secrets.token_bytes(TOKEN_SIZE)
    try:
        asked = await ask(connection, b"R", token)
        rest = await asked.read(1)
        await asked.write(b"?")
    except ResetError:
        pass
    else:
        raise UnexpectedError(f"expected a reset from the peer, got {rest!r}")
    watched = await ask(connection, b"W", token)
    await watched.read_exactly(1)
    await watched.reset()
    for _ in range(100):
        query = await ask(connection, b"Q", token)
        answer = await query.read_exactly(1)
        await query.close_write()
        match answer:
            case b"r":
                return "peer's reset seen, ours seen by the peer"
            case b"p":
                await asyncio.sleep(0.05)
            case b"e":
                raise UnexpectedError("the peer took our reset for an end of file")
            case _:
                raise UnexpectedError(f"query answered {answer!r}")
    raise UnexpectedError("the peer never noticed our reset")


async def ask(connection: Connection, command: bytes, token: bytes) -> MuxedStream:
    stream = await connection.open_stream((RESET,), limited=True)
    await stream.write(command + token)
    return stream


async def idle(connection: Connection, options: Options) -> str:
    stream = await connection.open_stream((ECHO,), limited=True)
    await round_trip(stream, b"before")
    await asyncio.sleep(options.idle)
    await round_trip(stream, b"after")
    return f"alive after {options.idle:g} idle seconds"


TESTS: Final[dict[str, Callable[[Connection, Options], Awaitable[str]]]] = {
    test.__name__: test
    for test in (ping, identify, echo64, echosmall, cutoff, streams1000, halfclose, reset, idle)
}


async def dial(to: str, name: str, options: Options, timeout: float) -> bool:
    node = new_node()
    circuits = Circuits(node)
    await node.start()
    try:
        async with asyncio.timeout(timeout):
            connection = await node.connect(Multiaddr.parse(to))
            detail = await TESTS[name](connection, options)
        ok = True
    except (UnexpectedError, PtError, ExceptionGroup, TimeoutError, ClosedError) as error:
        ok, detail = False, f"{type(error).__name__}: {error}"
        for inner in getattr(error, "exceptions", ()):
            detail += f"; {type(inner).__name__}: {inner}"
    finally:
        await node.close()
        await circuits.close()
    report(test=name, ok=ok, detail=detail)
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(prog="ptpeer")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("listen")
    server.add_argument("--ip", default="127.0.0.1")
    server.add_argument("--quic", action="store_true")
    server.add_argument("--no-listen", action="store_true")
    server.add_argument("--relay", default="")
    client = commands.add_parser("dial")
    client.add_argument("--to", required=True)
    client.add_argument("--test", choices=TESTS, required=True)
    client.add_argument("--bytes", type=int, default=64 * 1024 * 1024)
    client.add_argument("--streams", type=int, default=1000)
    client.add_argument("--idle", type=float, default=12.0)
    client.add_argument("--timeout", type=float, default=60.0)
    client.add_argument("--unsigned", action="store_true")
    commands.add_parser("version")
    args = parser.parse_args()
    if args.command == "version":
        report(implementation="pt", version=pt.__version__)
        return 0
    if args.command == "listen":
        through = [Multiaddr.parse(text) for text in args.relay.split(",") if text]
        asyncio.run(listen("" if args.no_listen else args.ip, through, quic=args.quic))
        return 0
    options = Options(
        bytes=args.bytes, streams=args.streams, idle=args.idle, unsigned=args.unsigned
    )
    return 0 if asyncio.run(dial(args.to, args.test, options, args.timeout)) else 1


if __name__ == "__main__":
    sys.exit(main())
