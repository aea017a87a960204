"""The shell on real sockets, with the library's own asyncio client and server as foreign ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from pt.aio import tcp
from pt.errors import ClosedError, LimitError
from pt.websocket import aio
from pt.websocket.adapter import MAX_FRAME, WebSocketError
from pt.websocket.aio import WebSockets
from tests.certificate import self_signed
from tests.unit.websocket.test_adapter import REQUEST, masked

HOST = "127.0.0.1"
TRANSPORTS = ("ws", "wss")
UNREAD = 8 * 1024 * 1024
"""What a slow reader's peer tries to send at the least: far above what all kernel buffers hold."""


@pytest.fixture(scope="session")
def tls(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with a certificate of its own for 127.0.0.1, and of its client."""
    path = self_signed(tmp_path_factory.mktemp("tls") / "both.pem", HOST)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


def run(scenario: Awaitable[None]) -> None:
    """Run on a loop that reports what nobody caught."""

    async def main() -> None:
        crashes: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: crashes.append(found))
        async with asyncio.timeout(30):
            await scenario
        assert crashes == []

    asyncio.run(main())


class Accepted:
    """A listener of ours: every connection is upgraded and its inner socket kept."""

    def __init__(self, tls: ssl.SSLContext | None, limit: int = 16) -> None:
        self.owner = WebSockets(limit=limit)
        self.results: asyncio.Queue[socket.socket | BaseException] = asyncio.Queue()
        self._tls = tls
        self._listener = tcp.listen(HOST, 0)
        self.port = self._listener.getsockname()[1]
        self.tasks: list[asyncio.Task[None]] = []
        self._inner: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://{HOST}:{self.port}/any/path"

    async def _accept(self, sock: socket.socket) -> None:
        try:
            inner = await self.owner.accept(sock, tls=self._tls)
        except BaseException as error:
            sock.close()  # as the node does
            self.results.put_nowait(error)
            raise
        self._inner.append(inner)
        self.results.put_nowait(inner)

    def _ready(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        self.tasks.append(asyncio.ensure_future(self._accept(sock)))

    async def socket(self) -> socket.socket:
        result = await self.results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for inner in self._inner:
            inner.close()
        await self.owner.aclose()
        assert len(self.owner) == 0


@contextlib.asynccontextmanager
async def accepted(
    tls: ssl.SSLContext | None = None, client_tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Accepted, socket.socket, ClientConnection]]:
    """The library's client at our listener: (listener, our inner socket, their connection)."""
    async with (
        Accepted(tls) as ours,
        connect(ours.url, ssl=client_tls if tls else None, proxy=None) as theirs,
    ):
        yield ours, await ours.socket(), theirs


@contextlib.asynccontextmanager
async def dialed(
    handler: Callable[[ServerConnection], Awaitable[None]],
    server_tls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    **options: object,
) -> AsyncIterator[tuple[WebSockets, socket.socket]]:
    """Our dial to the library's server, which runs `handler`: (owner, our inner socket)."""
    owner = WebSockets()
    async with serve(handler, HOST, 0, ssl=server_tls, **options) as server:
        port = server.sockets[0].getsockname()[1]
        inner = await owner.dial(await tcp.dial(HOST, port), host=HOST, tls=tls)
        try:
            yield owner, inner
        finally:
            inner.close()
            await owner.aclose()
            assert len(owner) == 0


async def receive(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    while count:
        data = await loop.sock_recv(sock, min(count, 1 << 16))
        assert data, "ended early"
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


async def to_the_end(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(sock, 1 << 16):
            parts.append(data)
    return b"".join(parts)


async def gone(owner: WebSockets) -> None:
    while len(owner):
        await asyncio.sleep(0)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


# --- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_library_client_at_our_end(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (_, inner, theirs):
            loop = asyncio.get_running_loop()
            await theirs.send(b"hello")
            assert await receive(inner, 5) == b"hello"
            await loop.sock_sendall(inner, b"hi")
            assert await theirs.recv() == b"hi"
            await theirs.send([b"in", b"", b"parts"])  # fragments
            assert await receive(inner, 7) == b"inparts"
            await (await theirs.ping())
            await theirs.close()
            assert theirs.close_code == 1000
            assert await to_the_end(inner) == b""

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_our_dial_at_the_library_server(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with dialed(echo, server, client) as (_, inner):
            loop = asyncio.get_running_loop()
            for data in (b"a", os.urandom(100_000)):
                await loop.sock_sendall(inner, data)
                assert await receive(inner, len(data)) == data

    run(scenario())


def test_small_writes_do_not_wait_for_acknowledgements():
    """Nagle's algorithm holds them back for a round trip, and asyncio leaves it on here."""

    async def main():
        clients, servers = WebSockets(), WebSockets()
        with tcp.listen(HOST, 0) as listener:
            ours = await tcp.dial(*listener.getsockname())
            theirs, _ = listener.accept()
        ends = (ours.dup(), theirs.dup())
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        for end in (ours, theirs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            end.setblocking(False)
        inner = await asyncio.gather(
            clients.dial(ours, host=HOST, tls=None), servers.accept(theirs, tls=None)
        )
        for end in ends:
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        for sock in (*inner, *ends):
            sock.close()
        await clients.aclose()
        await servers.aclose()

    run(main())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_much_both_ways_at_once(transport, tls):
    size = 8 * 1024 * 1024

    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        loop = asyncio.get_running_loop()
        async with Accepted(server) as ours:
            owner = WebSockets()
            dialed, accepted_ = await asyncio.gather(
                owner.dial(await tcp.dial(HOST, ours.port), host=HOST, tls=client), ours.socket()
            )
            blobs = os.urandom(size), os.urandom(size)
            _, _, there, back = await asyncio.gather(
                loop.sock_sendall(dialed, blobs[0]),
                loop.sock_sendall(accepted_, blobs[1]),
                receive(accepted_, size),
                receive(dialed, size),
            )
            digests = [hashlib.sha256(blob).digest() for blob in (there, back)]
            assert digests == [hashlib.sha256(blob).digest() for blob in blobs]
            dialed.close()
            assert await to_the_end(accepted_) == b""
            accepted_.close()
            await gone(owner)
            await gone(ours.owner)

    run(scenario())


def test_host_header_and_path():
    seen: list[tuple[str, str | None]] = []

    async def look(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append((connection.request.path, connection.request.headers.get("Host")))

    async def scenario() -> None:
        async with dialed(look) as (_, inner):
            await to_the_end(inner)

    run(scenario())
    path, host = seen[0]
    assert path == "/"
    assert host is not None and host.startswith(f"{HOST}:")


def test_bytes_that_come_with_the_upgrade():
    """A client that does not wait for the answer, and the payload arrives before a reader."""

    async def scenario() -> None:
        async with Accepted(None) as ours:
            reader, writer = await asyncio.open_connection(HOST, ours.port)
            writer.write(REQUEST + masked(b"early") + masked(b"\x03\xe8", 8))
            inner = await ours.socket()
            assert await to_the_end(inner) == b"early"
            assert (await reader.read()).startswith(b"HTTP/1.1 101 ")
            writer.close()
            await writer.wait_closed()

    run(scenario())


# --- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_half_close_sends_close_and_still_receives(transport, tls):
    """There is no half-close in WebSocket; what the peer sent before it heard of ours arrives."""
    blob = os.urandom(1 << 20)

    async def send_until_closed(connection: ServerConnection) -> None:
        assert await connection.recv() == b"go"
        await connection.send(blob)
        await connection.wait_closed()
        assert connection.close_code == 1000

    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with dialed(send_until_closed, server, client) as (owner, inner):
            await asyncio.get_running_loop().sock_sendall(inner, b"go")
            first = await receive(inner, 1)  # so all of it is on its way
            inner.shutdown(socket.SHUT_WR)
            assert first + await to_the_end(inner) == blob
            inner.close()
            await gone(owner)

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_of_the_caller_reaches_the_peer(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            await asyncio.get_running_loop().sock_sendall(inner, b"x" * 300_000)
            inner.close()
            got = b""
            with contextlib.suppress(ConnectionClosed):
                while True:
                    part = await theirs.recv()
                    assert isinstance(part, bytes)
                    got += part
            assert got == b"x" * 300_000
            assert theirs.close_code == 1000
            await gone(ours.owner)

    run(scenario())


def test_close_of_a_caller_that_did_not_read(monkeypatch):
    """What nobody wants any more is read and dropped: the peer's Close is behind it."""
    monkeypatch.setattr(aio, "CLOSE_TIMEOUT", 60)

    async def scenario() -> None:
        async with accepted() as (ours, inner, theirs):
            parts = [bytes(60_000)] * 200
            sending = asyncio.ensure_future(theirs.send(parts))
            await settled(lambda: 0, lambda: buffered(ours.owner))
            assert not sending.done()
            inner.close()
            await gone(ours.owner)
            await asyncio.wait((sending,))
            sending.exception()

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_abrupt_end_of_the_peer(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            await theirs.send(b"last")
            assert await receive(inner, 4) == b"last"
            theirs.transport.abort()
            assert await to_the_end(inner) == b""
            inner.close()
            await gone(ours.owner)

    run(scenario())


def test_reset_of_the_connection():
    async def scenario() -> None:
        async with Accepted(None) as ours:
            sock = await tcp.dial(HOST, ours.port)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, REQUEST)
            inner = await ours.socket()
            tcp.abort(sock)
            assert await to_the_end(inner) == b""
            inner.close()
            await gone(ours.owner)

    run(scenario())


def test_end_within_a_frame():
    async def scenario() -> None:
        async with Accepted(None) as ours:
            _, writer = await asyncio.open_connection(HOST, ours.port)
            writer.write(REQUEST + masked(b"whole") + masked(b"half")[:-2])
            inner = await ours.socket()
            writer.close()
            await writer.wait_closed()
            assert await to_the_end(inner) == b"whole"

    run(scenario())


def test_peer_that_does_not_end_after_our_close(monkeypatch):
    monkeypatch.setattr(aio, "CLOSE_TIMEOUT", 0.05)

    async def scenario() -> None:
        async with Accepted(None) as ours:
            reader, writer = await asyncio.open_connection(HOST, ours.port)
            writer.write(REQUEST)
            (await ours.socket()).close()
            answer = await reader.read()
            assert answer.endswith(b"\x88\x02\x03\xe8")
            await gone(ours.owner)
            writer.close()

    run(scenario())


class Transport(asyncio.Transport):
    """One that is closing when it was closed, and says how often that was."""

    closed = 0

    def close(self) -> None:
        self.closed += 1

    def is_closing(self) -> bool:
        return self.closed > 0


def test_a_transport_is_closed_once():
    """TLS that was closed twice cannot be aborted: Python 3.11.2 raises, later ones do nothing."""
    side, transport = aio._Side(memoryview(bytearray(1))), Transport()
    side.transport = transport
    side.close()
    side.close()
    assert transport.closed == 1


def test_peer_that_closes_and_reads_nothing(monkeypatch):
    """What it did not take is given up in the end."""
    monkeypatch.setattr(aio, "CLOSE_TIMEOUT", 0.05)

    async def scenario() -> None:
        async with Accepted(None) as ours:
            loop = asyncio.get_running_loop()
            sock = await tcp.dial(HOST, ours.port)
            await loop.sock_sendall(sock, REQUEST)
            inner = await ours.socket()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await loop.sock_sendall(inner, bytes(UNREAD * 4))
            await loop.sock_sendall(sock, masked(b"\x03\xe8", 8))
            inner.close()
            await gone(ours.owner)
            sock.close()

    run(scenario())


# --- broken rules ------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_oversize_frame(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            with contextlib.suppress(ConnectionClosed):
                await theirs.send(bytes(MAX_FRAME + 1))
            with pytest.raises(ConnectionClosedError):
                await theirs.recv()
            assert theirs.close_code == 1009
            assert await to_the_end(inner) == b""
            inner.close()
            await gone(ours.owner)

    run(scenario())


def test_frame_of_the_longest_length():
    async def scenario() -> None:
        async with accepted() as (_, inner, theirs):
            blob = os.urandom(MAX_FRAME)
            _, got = await asyncio.gather(theirs.send(blob), receive(inner, MAX_FRAME))
            assert got == blob

    run(scenario())


def test_text_message():
    async def scenario() -> None:
        async with accepted() as (_, inner, theirs):
            await theirs.send("text")
            with pytest.raises(ConnectionClosedError):
                await theirs.recv()
            assert theirs.close_code == 1003
            assert await to_the_end(inner) == b""

    run(scenario())


def test_text_message_of_a_server():
    async def talk(connection: ServerConnection) -> None:
        await connection.send("text")
        await connection.wait_closed()
        assert connection.close_code == 1003

    async def scenario() -> None:
        async with dialed(talk) as (owner, inner):
            assert await to_the_end(inner) == b""
            inner.close()
            await gone(owner)

    run(scenario())


# --- the upgrade -------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000, b"431"),
    ],
)
def test_plain_http_is_answered(transport, request_, status, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with Accepted(server) as ours:
            reader, writer = await asyncio.open_connection(HOST, ours.port, ssl=client)
            writer.write(request_)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 " + status)
            writer.close()
            with pytest.raises(WebSocketError):
                await ours.socket()
            assert len(ours.owner) == 0
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_refused_client_that_does_not_leave(transport, tls, monkeypatch):
    monkeypatch.setattr(aio, "REFUSE_TIMEOUT", 0.05)

    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with Accepted(server) as ours:
            _, writer = await asyncio.open_connection(HOST, ours.port, ssl=client)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            writer.transport.pause_reading()  # nor does it answer the end of TLS
            with pytest.raises(WebSocketError):
                await ours.socket()
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


def test_dial_to_a_web_server():
    async def refuse(connection: ServerConnection, request: object) -> object:
        return connection.respond(404, "no such page")

    async def scenario() -> None:
        with pytest.raises(WebSocketError, match="HTTP status 404"):
            async with dialed(echo, process_request=refuse):
                pass

    run(scenario())


@pytest.mark.parametrize("said", [b"", b"GET / HT", REQUEST[:-1]])
def test_slow_upgrade_is_ended_by_the_caller(said):
    async def scenario() -> None:
        owner = WebSockets()
        listener = tcp.listen(HOST, 0)
        loop = asyncio.get_running_loop()
        client = await tcp.dial(HOST, listener.getsockname()[1])
        sock, _ = listener.accept()
        sock.setblocking(False)
        await loop.sock_sendall(client, said)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await owner.accept(sock, tls=None)
        assert await to_the_end(client) == b""  # closed
        await gone(owner)
        assert sock.fileno() == -1
        client.close()
        listener.close()

    run(scenario())


def test_slow_tls_handshake_is_ended_by_the_caller(tls):
    async def scenario() -> None:
        owner = WebSockets()
        listener = tcp.listen(HOST, 0)
        loop = asyncio.get_running_loop()
        client = await tcp.dial(HOST, listener.getsockname()[1])
        sock, _ = listener.accept()
        sock.setblocking(False)
        await loop.sock_sendall(client, b"\x16\x03\x01\x02\x00\x01")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await owner.accept(sock, tls=tls[0])
        assert await to_the_end(client) == b""
        assert len(owner) == 0
        while sock.fileno() != -1:
            await asyncio.sleep(0)
        client.close()
        listener.close()

    run(scenario())


def test_rubbish_instead_of_tls(tls):
    async def scenario() -> None:
        async with Accepted(tls[0]) as ours:
            _, writer = await asyncio.open_connection(HOST, ours.port)
            writer.write(b"\x16 this is no ClientHello" * 10)
            with pytest.raises(ssl.SSLError):
                await ours.socket()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


def test_server_with_an_unknown_certificate(tls):
    async def scenario() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with dialed(echo, tls[0], ssl.create_default_context()):
                pass

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_client_leaves_within_the_upgrade(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with Accepted(server) as ours:
            _, writer = await asyncio.open_connection(HOST, ours.port, ssl=client)
            writer.write(REQUEST[:20])
            await writer.drain()
            writer.close()
            with pytest.raises(ClosedError, match="during the upgrade"):
                await ours.socket()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


def test_server_leaves_within_the_upgrade():
    async def scenario() -> None:
        owner = WebSockets()
        server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
        sock = await tcp.dial(HOST, server.sockets[0].getsockname()[1])
        with pytest.raises((ClosedError, OSError, WebSocketError)):
            await owner.dial(sock, host=HOST, tls=None)
        server.close()
        await server.wait_closed()
        assert len(owner) == 0

    run(scenario())


# --- bounds ------------------------------------------------------------------------------------


def buffered(owner: WebSockets) -> int:
    """Bytes that the only bridge holds beside the kernel."""
    (bridge,) = owner._bridges
    transports = (bridge.wire.transport, bridge._inner.transport)
    return sum(each.get_write_buffer_size() for each in transports if each is not None)


def test_dial_on_a_connection_that_is_gone():
    """The socket is ours from the call on, also when there is nobody at its other end."""

    async def main():
        owner = WebSockets()
        with tcp.listen(HOST, 0) as listener:
            sock = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.setblocking(False)
        with pytest.raises(OSError, match="not connected"):
            await owner.dial(sock, host=HOST, tls=None)
        assert sock.fileno() == -1
        assert len(owner) == 0

    run(main())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_slow_reader_of_ours_stops_the_peer(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            sent = 0

            async def send() -> None:
                nonlocal sent
                while True:
                    await theirs.send(bytes(60_000))
                    sent += 60_000

            sending = asyncio.ensure_future(send())
            most = await settled(lambda: sent, lambda: buffered(ours.owner))
            assert sent < UNREAD * 4
            assert most <= aio.HIGH_WATER + aio.CHUNK + 60_000
            sending.cancel()
            await asyncio.wait((sending,))
            await receive(inner, sent)  # nothing was lost

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_slow_peer_stops_our_reading(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            theirs.transport.pause_reading()
            sent = 0
            loop = asyncio.get_running_loop()

            async def send() -> None:
                nonlocal sent
                while True:
                    await loop.sock_sendall(inner, bytes(50_000))
                    sent += 50_000

            sending = asyncio.ensure_future(send())
            most = await settled(lambda: sent, lambda: buffered(ours.owner))
            assert sent < UNREAD * 4
            assert most <= aio.HIGH_WATER + aio.CHUNK + 1024
            sending.cancel()
            await asyncio.wait((sending,))
            theirs.transport.resume_reading()
            got = 0
            while got < sent:
                got += len(await theirs.recv())

    run(scenario())


async def settled(progress: Callable[[], int], watched: Callable[[], int]) -> int:
    """Wait until nothing moves for a while; return the most of `watched` on the way."""
    most, last, quiet = 0, -1, 0
    while quiet < 20:
        await asyncio.sleep(0.01)
        most = max(most, watched())
        quiet = quiet + 1 if progress() == last else 0
        last = progress()
    return most


def test_pings_of_a_peer_that_reads_nothing():
    async def scenario() -> None:
        async with Accepted(None) as ours:
            loop = asyncio.get_running_loop()
            sock = await tcp.dial(HOST, ours.port)
            await loop.sock_sendall(sock, REQUEST)
            inner = await ours.socket()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):  # until nothing fits into the kernel any more
                    await loop.sock_sendall(inner, bytes(UNREAD * 4))
            full = buffered(ours.owner)
            for _ in range(50):
                await loop.sock_sendall(sock, masked(bytes(125), 9) * 500)
            await loop.sock_sendall(sock, masked(b"end"))
            assert await receive(inner, 3) == b"end"  # pings do not keep us from reading
            assert buffered(ours.owner) <= full + 2 * 127
            sock.close()

    run(scenario())


def test_limit():
    async def scenario() -> None:
        async with (
            Accepted(None, limit=1) as ours,
            connect(ours.url, proxy=None) as theirs,
        ):
            inner = await ours.socket()
            with pytest.raises((ConnectionError, EOFError, websockets.InvalidMessage)):
                await connect(ours.url, proxy=None)
            with pytest.raises(LimitError):
                await ours.socket()
            await theirs.close()
            inner.close()
            await gone(ours.owner)
            async with connect(ours.url, proxy=None):
                await ours.socket()

    run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_owner_closes_everything(transport, tls):
    async def scenario() -> None:
        server, client = tls if transport == "wss" else (None, None)
        async with accepted(server, client) as (ours, inner, theirs):
            slow = await tcp.dial(HOST, ours.port)  # in the upgrade, or in the TLS handshake
            while len(ours.owner) < 2:
                await asyncio.sleep(0)
            await ours.owner.aclose()
            assert len(ours.owner) == 0
            assert await to_the_end(inner) == b""
            with pytest.raises(ConnectionClosed):
                await theirs.recv()
            assert theirs.close_code == 1000
            with pytest.raises((ClosedError, OSError)):
                await ours.socket()
            late = await tcp.dial(HOST, ours.port)
            with pytest.raises(LimitError):
                await ours.socket()
            slow.close()
            late.close()

    run(scenario())


def test_owner_does_not_wait_for_a_peer_that_hangs():
    async def scenario() -> None:
        async with Accepted(None) as ours:
            _, writer = await asyncio.open_connection(HOST, ours.port)
            writer.write(REQUEST)
            await ours.socket()
            loop = asyncio.get_running_loop()
            started = loop.time()
            await ours.owner.aclose(grace=0.05)
            assert len(ours.owner) == 0
            assert loop.time() - started < 2
            writer.close()

    run(scenario())


def test_library_client_of_another_version():
    async def scenario() -> None:
        async with Accepted(None) as ours:
            with pytest.raises(InvalidStatus, match="400"):
                await connect(
                    ours.url, proxy=None, additional_headers={"Sec-WebSocket-Version": "8"}
                )
            with pytest.raises(WebSocketError):
                await ours.socket()

    run(scenario())
