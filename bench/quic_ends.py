"""Ends that only the QUIC benchmark needs.

    python -m bench.quic_ends expose --ip A --target HOST:PORT     aioquic's own endpoint
    python -m bench.quic_ends bind --to MULTIADDR --listen HOST:PORT
    python -m bench.quic_ends plain PT-ARGUMENT…                   pt without UDP_SEGMENT, UDP_GRO

The first two are a plain forwarder, a stream for a connection, as one writes it with aioquic's
asyncio streams; these have no back-pressure, so it looks at how much is waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

import aioquic.asyncio.server
from aioquic.asyncio import QuicConnectionProtocol, connect, serve

from interop.quic.stock import Connection, configuration, say

BLOCK = 128 * 1024
WAITING = 1 << 20
KEEP_ALIVE = 10.0
UNKNOWN_OPTION = 9999
"""No kernel has this UDP option."""


async def to_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: QuicConnectionProtocol
) -> None:
    number = writer.get_extra_info("stream_id")
    while data := await reader.read(BLOCK):
        writer.write(data)
        stream = protocol._quic._streams.get(number)
        while stream is not None and len(stream.sender._buffer) > WAITING:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # there is no event for it
    writer.write_eof()


async def to_socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BLOCK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def both(
    socket: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    protocol: QuicConnectionProtocol,
) -> None:
    try:
        await asyncio.gather(
            to_stream(socket[0], stream[1], protocol), to_socket(stream[0], socket[1])
        )
    except OSError as error:
        print(f"forward: {error}", file=sys.stderr)
    finally:
        socket[1].close()


class Serving(QuicConnectionProtocol):
    target = ("127.0.0.1", 0)

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream_handler = self._begin

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await both(await asyncio.open_connection(*self.target), (reader, writer), self)


async def expose(ip: str, target: str) -> None:
    host, _, port = target.rpartition(":")
    Serving.target = (host, int(port))
    setting = configuration(is_client=False, chacha=False)
    aioquic.asyncio.server.QuicConnection = Connection  # type: ignore[misc]
    server = await serve(ip, 0, configuration=setting, create_protocol=Serving)
    assert server._transport is not None
    number = server._transport.get_extra_info("sockname")[1]
    say(multiaddr=f"/ip4/{ip}/udp/{number}/quic-v1/p2p/{setting.peer_id}")  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def bind(to: str, listen: str) -> None:
    _, _, ip, _, number, *_ = to.split("/")
    host, _, port = listen.rpartition(":")
    setting = configuration(is_client=True, chacha=False)
    async with connect(ip, int(number), configuration=setting) as protocol:

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await both((reader, writer), await protocol.create_stream(), protocol)

        async with await asyncio.start_server(handle, host, int(port)):
            while True:  # it has no keep-alive
                await asyncio.sleep(KEEP_ALIVE)
                await protocol.ping()


def plain(arguments: list[str]) -> int:
    from pt.aio import udp  # noqa: PLC0415  # the other commands measure without it
    from pt.cli.main import entry  # noqa: PLC0415

    udp._UDP_SEGMENT = udp._UDP_GRO = UNKNOWN_OPTION  # type: ignore[misc]
    sys.argv = ["pt", *arguments]
    return entry()


def main() -> int:
    if sys.argv[1:2] == ["plain"]:
        return plain(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="bench.quic_ends")
    commands = parser.add_subparsers(dest="command", required=True)
    exposer = commands.add_parser("expose")
    exposer.add_argument("--ip", required=True)
    exposer.add_argument("--target", required=True)
    binder = commands.add_parser("bind")
    binder.add_argument("--to", required=True)
    binder.add_argument("--listen", required=True)
    args = parser.parse_args()
    asyncio.run(
        expose(args.ip, args.target) if args.command == "expose" else bind(args.to, args.listen)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
