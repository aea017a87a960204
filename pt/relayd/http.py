"""The relay's own little web server: status page, metrics, health; for its operator's eyes.

    /             the status page (with /page.css, /page.js, /icon.svg)
    /status.json  what it shows, once a second
    /metrics      the same for Prometheus
    /healthz      200 "ok", or 503 "draining" while the relay takes nobody new

GET and HEAD, no bodies, HTTP/1.1 by h11.  Everything is bounded: `MAX_CONNECTIONS`, `MAX_HEADER`,
`HEADER_TIMEOUT` for a request's head (the wait for it included), `WRITE_TIMEOUT` for an answer, and
a snapshot is taken at most every `SNAPSHOT_AGE` however many ask.  On a loopback address the Host
header must name loopback, or any web page could read all this by DNS rebinding.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import Final

import h11

from pt.aio import tcp
from pt.aio.scope import Scope
from pt.errors import LimitError, LocalPortError
from pt.relayd.metrics import exposition, registry_of
from pt.relayd.status import Snapshot, to_json

__all__ = ["AdminServer"]

MAX_CONNECTIONS: Final = 64
MAX_HEADER: Final = 16 * 1024
HEADER_TIMEOUT: Final = 5.0
WRITE_TIMEOUT: Final = 10.0
LINGER: Final = 1.0
"""Seconds in which a client that broke a rule can read what it was told."""
SNAPSHOT_AGE: Final = 0.25
_READ: Final = 4096
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, status: HTTPStatus, text: str = "") -> _Answer:
        return cls(status, f"{text or status.phrase}\n".encode())


class AdminServer:
    """Listens at `listen`; port 0 means any.

    `snapshot` is called on the loop, so it has to be quick.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], *, listen: tuple[str, int]) -> None:
        self._take = snapshot
        self._host, self._port = listen
        self._registry = registry_of(self._snapshot)
        self._files = {path: _load(name, kind) for path, (name, kind) in _FILES.items()}
        self._scope = Scope(limit=MAX_CONNECTIONS)
        self._server: asyncio.Server | None = None
        self._last: Snapshot | None = None
        self._last_at = float("-inf")

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            LocalPortError: the address cannot be listened on.

        """
        if not 0 <= self._port <= 0xFFFF:
            raise LocalPortError(f"the status page cannot have port {self._port}: 0 to 65535")
        try:
            sock = tcp.listen(self._host, self._port)
        except OSError as error:
            raise LocalPortError(
                f"cannot listen on {self._host} port {self._port} for the status page: "
                f"{error.strerror or error}; choose another address, or stop the program that "
                "holds the port"
            ) from error
        self._server = await asyncio.start_server(self._connected, sock=sock, limit=MAX_HEADER)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port listened on, after `start`."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """Where the status page is, after `start`."""
        host, port = self.address
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    async def aclose(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        await self._scope.aclose()

    # --- connections ---------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # drained means sent
        try:
            self._scope.start(_Connection(self, reader, writer).run())
        except LimitError:
            writer.transport.abort()

    # --- answers -------------------------------------------------------------------------------

    def answer(self, request: h11.Request) -> _Answer:
        """What a request without a body gets."""
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        host = headers.get(b"host", "")
        if host and _is_loopback(self._host) and not _names_loopback(host):
            return _Answer.of(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this server is for this machine: open it at localhost or 127.0.0.1",
            )
        if request.method not in (b"GET", b"HEAD"):
            refusal = _Answer.of(HTTPStatus.METHOD_NOT_ALLOWED)
            return _Answer(refusal.status, refusal.body, headers=(("Allow", "GET, HEAD"),))
        path = request.target.partition(b"?")[0].decode("latin-1")
        if path in self._files:
            return self._files[path]
        if path == "/status.json":
            return _Answer(HTTPStatus.OK, to_json(self._snapshot()), "application/json")
        if path == "/metrics":
            body, content_type = exposition(self._registry, headers.get(b"accept", ""))
            return _Answer(HTTPStatus.OK, body, content_type)
        if path == "/healthz":
            draining = self._snapshot().draining
            status = HTTPStatus.SERVICE_UNAVAILABLE if draining else HTTPStatus.OK
            return _Answer.of(status, "draining" if draining else "ok")
        return _Answer.of(HTTPStatus.NOT_FOUND)

    def _snapshot(self) -> Snapshot:
        now = asyncio.get_running_loop().time()
        if self._last is None or now - self._last_at >= SNAPSHOT_AGE:
            self._last, self._last_at = self._take(), now
        return self._last


class _Connection:
    """One client, request after request."""

    def __init__(
        self, server: AdminServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)

    async def run(self) -> None:
        """Serve until either side has enough."""
        try:
            while await self._one():
                self._http.start_next_cycle()
        finally:
            self._writer.transport.abort()  # what was to be sent is

    async def _one(self) -> bool:
        """Answer a request; tell whether another may follow."""
        try:
            async with asyncio.timeout(HEADER_TIMEOUT):
                request = await self._request()
        except TimeoutError:
            if self._http.their_state is h11.IDLE and self._http.trailing_data[0]:
                await self._refuse(HTTPStatus.REQUEST_TIMEOUT)
            return False
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))
            return False
        if request is None:
            return False
        if self._http.their_state is h11.SEND_BODY:
            await self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return False
        await self._send(self._server.answer(request), whole=request.method != b"HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _request(self) -> h11.Request | None:
        """The next request, with its end if it has no body; None at the end of the connection."""
        request: h11.Request | None = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if request is not None:
                    return request  # a body is on its way: not for us
                data = await self._reader.read(_READ)
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.ConnectionClosed):
                return None
            else:  # the end of the message, or the first of its body
                return request

    async def _refuse(self, status: HTTPStatus) -> None:
        """Answer what cannot be served; the connection is of no use any more."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = _Answer.of(status)
        await self._send(
            _Answer(answer.status, answer.body, headers=(("Connection", "close"),)), whole=True
        )
        # Closing with bytes unread would reset the connection, and take the answer back.
        with contextlib.suppress(OSError):
            self._writer.write_eof()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER):
                while await self._reader.read(_READ):
                    pass

    async def _send(self, answer: _Answer, *, whole: bool) -> None:
        headers = [
            *_HEADERS,
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ]
        head = h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers)
        events: list[h11.Event] = [head]
        if whole:
            events.append(h11.Data(data=answer.body))
        events.append(h11.EndOfMessage())
        parts = [self._http.send(event) or b"" for event in events]
        async with asyncio.timeout(WRITE_TIMEOUT):
            self._writer.write(b"".join(parts))
            await self._writer.drain()


def _load(name: str, content_type: str) -> _Answer:
    body = resources.files("pt.relayd").joinpath("page", name).read_bytes()
    return _Answer(HTTPStatus.OK, body, content_type)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _names_loopback(host: str) -> bool:
    """Whether a Host header, with or without a port, is a name of loopback."""
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return _is_loopback(name)
