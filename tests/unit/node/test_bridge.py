"""A stream as a socket: every byte both ways, ends and resets as they come."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pt.aio.hangup import HangupWatch
from pt.aio.muxed import MuxedStream
from pt.node import bridge as module
from pt.node.bridge import socket_on
from pt.node.buffers import POOL
from pt.node.pump import SocketPump
from tests.sim.loop import run
from tests.unit.node.pair import joined

DATA = bytes(range(256)) * 3000


async def bridged(left, right) -> tuple[MuxedStream, socket.socket]:
    """A stream of `left`, and the socket that carries its other end at `right`."""
    got: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    watch = HangupWatch(asyncio.get_running_loop())

    async def serve(stream: MuxedStream, connection: object) -> None:
        got.set_result(socket_on(stream, right.link, watch))

    right.node.handle("/bridge", serve)
    right.on_close.append(lambda _: watch.close())
    ours = await left.open_stream(("/bridge",))
    await ours.write(b"early")
    return ours, await got


async def read_all(sock: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(sock, 50_000):
        got += data
    return bytes(got)


def test_bytes_and_ends_pass_both_ways() -> None:
    async def main() -> None:
        lent = POOL.slots.lent
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            loop = asyncio.get_running_loop()

            async def far() -> bytes:
                await loop.sock_sendall(sock, DATA)
                sock.shutdown(socket.SHUT_WR)
                return await read_all(sock)

            async def near() -> bytes:
                await ours.write(DATA)
                await ours.close_write()
                return await ours.read_exactly(len(DATA)) + await ours.read(10)

            heard, back = await asyncio.gather(far(), near())
            assert heard == b"early" + DATA
            assert back == DATA
            sock.close()
        assert POOL.slots.lent == lent

    run(main())


def test_a_reset_of_the_stream_ends_the_socket() -> None:
    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"early"
            await ours.reset()
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""
            sock.close()

    run(main())


def test_closing_the_socket_ends_the_stream() -> None:
    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            sock.close()
            with pytest.raises(Exception, match=r"reset|ended"):
                while await ours.read(10):
                    pass
                raise EOFError("ended")

    run(main())


def test_the_end_of_the_connection_ends_the_socket() -> None:
    async def main() -> None:
        async with joined() as (left, right):
            _, sock = await bridged(left, right)
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(sock, 10) == b"early"
            right.close("gone")
            assert await loop.sock_recv(sock, 10) == b""
            sock.close()

    run(main())


def test_a_reader_that_stands_still_holds_one_window_at_most() -> None:
    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            writing = asyncio.create_task(ours.write(bytes(8 << 20)))
            await asyncio.sleep(5)
            assert not writing.done()
            (stream,) = right.link.session.streams.values()
            bridge = stream.handler
            held = sum(len(piece) for piece in bridge._backlog)
            assert held <= stream.recv_window <= 1 << 20
            writing.cancel()
            sock.close()

    run(main())


def test_reads_that_almost_fill_a_frame_are_handed_over_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loopback TCP comes in pieces that are a little shorter than a frame."""

    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            (stream,) = right.link.session.streams.values()
            bridge = stream.handler
            counts = iter((50_000, 60_000, -1))
            flushed: list[int] = []
            flush = right.link.flush
            monkeypatch.setattr(SocketPump, "_read", lambda _, into: next(counts))
            monkeypatch.setattr(right.link, "flush", lambda: flushed.append(bridge.bytes_in))
            bridge.pump()
            assert flushed == [110_000]
            monkeypatch.undo()
            flush()
            assert len(await ours.read_exactly(110_000)) == 110_000
            sock.close()

    run(main())


def test_what_was_read_goes_out_before_a_reset_that_follows_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            (stream,) = right.link.session.streams.values()
            bridge = stream.handler
            said: list[str] = []
            flush, reset = right.link.flush, stream.reset
            counts = iter((50_000,))

            def read(pump: SocketPump, into: memoryview) -> int:
                count = next(counts, 0)
                if not count:
                    pump._local_reset()
                return count or -2

            def flushing() -> None:
                said.append(f"sent {bridge.bytes_in}")
                flush()

            def resetting(code: int = 0) -> None:
                said.append("reset")
                reset(code)

            monkeypatch.setattr(SocketPump, "_read", read)
            monkeypatch.setattr(right.link, "flush", flushing)
            monkeypatch.setattr(type(stream), "reset", lambda _, code=0: resetting(code))
            bridge.pump()
            assert said[:2] == ["sent 50000", "reset"]
            sock.close()

    run(main())


def test_a_closed_socket_does_not_wait_for_a_peer_that_never_ends() -> None:
    async def main() -> None:
        async with joined() as (left, right):
            ours, sock = await bridged(left, right)
            (stream,) = right.link.session.streams.values()
            bridge = stream.handler
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"early"
            sock.close()
            while await ours.read(100):  # what was sent, and the end
                pass
            assert not bridge.closed
            await asyncio.sleep(module.FAREWELL + 0.1)
            assert bridge.closed
            assert not right.link.session.streams

    run(main())
