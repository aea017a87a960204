from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import Message
from email.parser import BytesParser
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.aio import tcp
from pt.errors import LocalPortError
from pt.relayd import http
from pt.relayd.http import AdminServer
from pt.relayd.status import Snapshot
from tests.sim.loop import run as run_virtually
from tests.unit.relayd.samples import circuit, snapshot
from tests.unit.relayd.test_metrics import samples

HOST = "127.0.0.1"


class Client:
    """A connection to the server, on which requests are written byte by byte if need be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: str, *, whole: bool = True) -> tuple[int, Message, bytes]:
        """Send a request (header lines separated by newlines) and read its answer."""
        self.writer.write(request.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n")
        return await self.answer(whole=whole)

    async def answer(self, *, whole: bool = True) -> tuple[int, Message, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        headers = BytesParser().parsebytes(rest)
        length = int(headers["Content-Length"]) if whole else 0
        return int(line.split()[1]), headers, await self.reader.readexactly(length)

    async def at_end(self) -> bytes:
        """What still comes until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


class Served:
    """A server and its clients."""

    def __init__(self, host: str) -> None:
        self.server = AdminServer(self.take, listen=(host, 0))
        self.snapshot = snapshot()
        self.taken = 0
        self._clients: list[Client] = []

    def take(self) -> Snapshot:
        self.taken += 1
        return self.snapshot

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.server.address))
        self._clients.append(client)
        return client

    async def get(self, path: str, *headers: str) -> tuple[int, Message, bytes]:
        client = await self.client()
        lines = "\n".join((f"GET {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", *headers))
        answer = await client.ask(lines)
        assert await client.at_end() == b""
        return answer

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


@contextlib.asynccontextmanager
async def served(host: str = HOST) -> AsyncIterator[Served]:
    one = Served(host)
    await one.server.start()
    try:
        yield one
    finally:
        await one.close()
        await one.server.aclose()


def run(scenario: Callable[[Served], Awaitable[None]], host: str = HOST) -> None:
    async def main() -> None:
        crashes: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, found: crashes.append(found))
        async with asyncio.timeout(20), served(host) as one:
            await scenario(one)
        assert crashes == []

    run_virtually(main())


def get(path: str, *headers: str) -> tuple[int, Message, bytes]:
    found = []

    async def scenario(one: Served) -> None:
        found.append(await one.get(path, *headers))

    run(scenario)
    return found[0]


# --- routes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type", "start"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/?x=y", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/page.css", "text/css; charset=utf-8", b":root"),
        ("/page.js", "text/javascript; charset=utf-8", b"//"),
        ("/icon.svg", "image/svg+xml", b"<svg "),
    ],
)
def test_page(path, content_type, start):
    status, headers, body = get(path)
    assert status == 200
    assert headers["Content-Type"] == content_type
    assert body.startswith(start)


def test_status():
    status, headers, body = get("/status.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["connections"] == 5


def test_metrics():
    status, headers, body = get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert samples(body.decode())["pt_relay_connections", ()] == 5
    _, headers, _ = get("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")


def test_health():
    async def scenario(one: Served) -> None:
        status, _, body = await one.get("/healthz")
        assert (status, body) == (200, b"ok\n")

    run(scenario)


def test_health_while_draining():
    async def scenario(one: Served) -> None:
        one.snapshot = snapshot(draining=True)
        status, _, body = await one.get("/healthz")
        assert (status, body) == (503, b"draining\n")

    run(scenario)


@pytest.mark.parametrize("path", ["/x", "//", "/page.css/", "/../etc/passwd", "/page/index.html"])
def test_there_is_nothing_else(path):
    assert get(path)[0] == 404


def test_head_is_get_without_the_body():
    async def scenario(one: Served) -> None:
        client = await one.client()
        status, headers, _ = await client.ask(f"HEAD / HTTP/1.1\nHost: {HOST}", whole=False)
        page = resources.files("pt.relayd").joinpath("page", "index.html").read_bytes()
        assert (status, int(headers["Content-Length"])) == (200, len(page))
        status, _, body = await client.ask(f"GET /healthz HTTP/1.1\nHost: {HOST}")
        assert (status, body) == (200, b"ok\n")

    run(scenario)


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/healthz", "/nothing"])
def test_security_headers(path):
    _, headers, _ = get(path)
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Access-Control-Allow-Origin"] is None
    assert headers["Server"] is None


def test_page_loads_nothing_from_elsewhere():
    for name in ("index.html", "page.css", "page.js", "icon.svg"):
        text = resources.files("pt.relayd").joinpath("page", name).read_text()
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), name
    page = resources.files("pt.relayd").joinpath("page", "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", page)


# --- connections -------------------------------------------------------------------------------


def test_one_connection_serves_many_requests():
    async def scenario(one: Served) -> None:
        client = await one.client()
        for _ in range(20):
            status, _, _ = await client.ask(f"GET /status.json HTTP/1.1\nHost: {HOST}")
            assert status == 200

    run(scenario)


def test_requests_in_one_piece():
    async def scenario(one: Served) -> None:
        client = await one.client()
        request = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        client.writer.write((request * 3).encode())
        for _ in range(3):
            assert (await client.answer())[0] == 200

    run(scenario)


def test_request_byte_by_byte():
    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        for byte in f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode():
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 200

    run(scenario)


def test_http_1_0():
    async def scenario(one: Served) -> None:
        client = await one.client()
        status, _, body = await client.ask("GET /healthz HTTP/1.0")
        assert (status, body) == (200, b"ok\n")
        assert await client.at_end() == b""

    run(scenario)


def test_upgrade_is_not_taken():
    async def scenario(one: Served) -> None:
        client = await one.client()
        lines = f"GET /healthz HTTP/1.1\nHost: {HOST}\nConnection: Upgrade\nUpgrade: websocket"
        assert (await client.ask(lines))[0] == 200

    run(scenario)


def test_snapshots_are_shared(monkeypatch):
    monkeypatch.setattr(http, "SNAPSHOT_AGE", 60)

    async def scenario(one: Served) -> None:
        for path in ("/status.json", "/metrics", "/healthz"):
            await asyncio.gather(*(one.get(path) for _ in range(5)))
        assert one.taken == 1

    run(scenario)


def test_snapshots_do_not_get_old(monkeypatch):
    monkeypatch.setattr(http, "SNAPSHOT_AGE", 0.0)

    async def scenario(one: Served) -> None:
        for n in range(3):
            one.snapshot = snapshot(connections=n)
            assert json.loads((await one.get("/status.json"))[2])["connections"] == n

    run(scenario)


# --- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9470", 200),
        ("localhost:9470", 200),
        ("LocalHost", 200),
        ("[::1]:9470", 200),
        ("127.1.2.3", 200),
        ("evil.example", 421),
        ("evil.example:9470", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("[::2]:9470", 421),
        ("192.0.2.1", 421),
    ],
)
def test_host_header_on_loopback(host, status):
    async def scenario(one: Served) -> None:
        client = await one.client()
        assert (await client.ask(f"GET /status.json HTTP/1.1\nHost: {host}"))[0] == status

    run(scenario)


def test_host_header_elsewhere_is_free(monkeypatch):
    """The names of a public address are the operator's matter."""
    monkeypatch.setattr(http, "_is_loopback", lambda host: False)

    async def scenario(one: Served) -> None:
        client = await one.client()
        assert (await client.ask("GET /healthz HTTP/1.1\nHost: relay.example"))[0] == 200

    run(scenario)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_urls(host):
    async def scenario(one: Served) -> None:
        port = one.server.address[1]
        shown = f"[{host}]" if ":" in host else host
        assert one.server.url == f"http://{shown}:{port}/"
        assert (await one.get("/healthz"))[0] == 200

    run(scenario, host)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods(method):
    async def scenario(one: Served) -> None:
        client = await one.client()
        status, headers, _ = await client.ask(f"{method} / HTTP/1.1\nHost: {HOST}")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")

    run(scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Length: 99999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_bodies(method, body):
    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(method + b" / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + body)
        status, headers, _ = await client.answer()
        assert (status, headers["Connection"]) == (413, "close")
        client.writer.write_eof()
        assert await client.at_end() == b""

    run(scenario)


@pytest.mark.parametrize(
    "request_",
    [
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET \0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x13/multistream/1.0.0\n\r\n\r\n",
    ],
)
def test_malformed(request_):
    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(request_)
        status, headers, _ = await client.answer()
        assert (status, headers["Connection"]) == (400, "close")
        client.writer.write_eof()
        assert await client.at_end() == b""

    run(scenario)


def test_head_without_end():
    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(b"GET / HTTP/1.1\r\nX: " + b"y" * 2 * http.MAX_HEADER)
        assert (await client.answer())[0] == 431

    run(scenario)


def test_what_follows_a_mistake_is_read_for_a_moment_only(monkeypatch):
    monkeypatch.setattr(http, "LINGER", 0.0001)  # a thousand turns of the loop

    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(b"rubbish\r\n\r\n")
        assert (await client.answer())[0] == 400
        with pytest.raises(OSError):
            while True:
                client.writer.write(bytes(1 << 16))
                await client.writer.drain()

    run(scenario)


@pytest.mark.parametrize(
    ("said", "told"), [(b"", None), (b"GET / HTTP/1.1\r\nHost:", 408), (b"G", 408)]
)
def test_slow_head(said, told, monkeypatch):
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.05)

    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(said)
        if told is not None:
            assert (await client.answer())[0] == told
            client.writer.write_eof()
        assert await client.at_end() == b""

    run(scenario)


def test_drip_does_not_extend_the_time(monkeypatch):
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.2)

    async def scenario(one: Served) -> None:
        client = await one.client()
        client.writer.write(b"GET / HTTP/1.1\r\n")
        answer = asyncio.ensure_future(client.answer())
        while not answer.done():
            client.writer.write(b"X: y\r\n")
            await asyncio.wait((answer,), timeout=0.01)
        assert answer.result()[0] == 408

    run(scenario)


def test_client_that_leaves_early():
    async def scenario(one: Served) -> None:
        for said in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            client = await one.client()
            client.writer.write(said)
            tcp.abort(client.writer.transport.get_extra_info("socket")._sock)
            client.writer.transport.abort()
        assert (await one.get("/healthz"))[0] == 200

    run(scenario)


def test_client_that_reads_nothing(monkeypatch):
    monkeypatch.setattr(http, "WRITE_TIMEOUT", 0.05)
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 10)

    async def scenario(one: Served) -> None:
        one.snapshot = snapshot(circuits=tuple(circuit(i) for i in range(20_000)))
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, one.server.address)
        await loop.sock_sendall(sock, b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        while not len(one.server._scope):
            await asyncio.sleep(0)
        while len(one.server._scope):  # given up
            await asyncio.sleep(0)
        sock.close()

    run(scenario)


def test_too_many_connections():
    async def scenario(one: Served) -> None:
        clients = [await one.client() for _ in range(http.MAX_CONNECTIONS)]
        for client in clients:  # each is served, so all are accepted
            assert (await client.ask(f"GET /healthz HTTP/1.1\nHost: {HOST}"))[0] == 200
        assert await (await one.client()).at_end() == b""
        clients[0].writer.close()
        await clients[0].writer.wait_closed()
        while len(one.server._scope) == http.MAX_CONNECTIONS:
            await asyncio.sleep(0)
        assert (await one.get("/healthz"))[0] == 200

    run(scenario)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_noise(pieces):
    async def scenario(one: Served) -> None:
        client = await one.client()
        for piece in pieces:
            client.writer.write(piece)
        client.writer.write_eof()
        answer = await client.at_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert (await one.get("/healthz"))[0] == 200

    run(scenario)


# --- life --------------------------------------------------------------------------------------


def test_port_that_is_taken():
    async def scenario(one: Served) -> None:
        other = AdminServer(snapshot, listen=one.server.address)
        with pytest.raises(LocalPortError, match="status page"):
            await other.start()
        await other.aclose()

    run(scenario)


@pytest.mark.parametrize("listen", [("127.0.0.1", 70000), ("11.0.0.1", 0)])
def test_address_that_is_not_ours(listen):
    with pytest.raises(LocalPortError, match="status page"):
        run_virtually(AdminServer(snapshot, listen=listen).start())


def test_close_ends_connections():
    async def scenario(one: Served) -> None:
        client = await one.client()
        assert (await client.ask(f"GET /healthz HTTP/1.1\nHost: {HOST}"))[0] == 200
        address = one.server.address
        await one.server.aclose()
        assert await client.at_end() == b""
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)

    run(scenario)
