"""The overlay on asyncio: a UDP port, a timer, and what callers await.

No task is ever started: datagrams and the one timer drive the machines, and `close` ends both.
`Port` is all that is asked of a socket, so that STUN and QUIC may share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from pt.errors import LimitError, LocalPortError, LocalProtocolError, NetworkError
from pt.overlay import state
from pt.overlay.adapter import ID_LEN, Address
from pt.overlay.messages import MAX_DATAGRAM, MAX_VALUE
from pt.overlay.rpc import Rpc, Send
from pt.overlay.server import REPUBLISH, Server
from pt.overlay.storage import Storage, Validate
from pt.overlay.walk import Found, Put, Stored, Walk, best_first, checker

__all__ = ["MAX_CALLS", "OverlayClient", "OverlayServer", "Port", "UdpPort"]

SETTLE: Final = 0.1
"""Seconds that a get waits after its first value, so as to give the best of the early ones."""
GET_TIMEOUT: Final = 30.0
PUT_TIMEOUT: Final = 60.0
MAX_CALLS: Final = 16
"""Gets and puts of one client at a time."""
SAVE_EVERY: Final = 600.0
_DRAIN: Final = 64  # datagrams of one turn of the loop


class Port(Protocol):
    """Sends datagrams, and hands over those that came, to `received` once it is set."""

    received: Callable[[bytes, Address], None] | None

    def send(self, data: bytes, addr: Address) -> None:
        """Send, or drop if the network does not take it; never waits."""

    def close(self) -> None:
        """Send and hand over nothing more."""


class UdpPort:
    """Our own UDP sockets: one at `listen`, or one of each address family that is written to."""

    def __init__(self, listen: Address | None = None) -> None:
        """Open the port.

        Raises:
            LocalPortError: the address cannot be listened on.

        """
        self.received: Callable[[bytes, Address], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, socket.socket] = {}
        self._fixed = listen is not None
        self._closed = False
        if listen is not None:
            family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
            try:
                self._open(family).bind(listen)
            except OSError as error:
                self.close()
                raise LocalPortError(
                    f"UDP port {listen[1]} on {listen[0]} cannot be used: {error.strerror}"
                ) from error

    @property
    def address(self) -> Address:
        """Where we listen."""
        host, port = next(iter(self._sockets.values())).getsockname()[:2]
        return (host, port)

    def send(self, data: bytes, addr: Address) -> None:
        """Send, or drop what the network does not take."""
        family = socket.AF_INET6 if ":" in addr[0] else socket.AF_INET
        sock = self._sockets.get(family)
        if self._closed or (sock is None and self._fixed):
            return
        with contextlib.suppress(OSError):  # an address without a route, a full buffer: lost
            (sock or self._open(family)).sendto(data, addr)

    def _open(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._sockets[family] = sock
        self._loop.add_reader(sock, self._read, sock)
        return sock

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_DRAIN):
            try:
                data, addr = sock.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError:  # the kernel's word that nobody listens at an address we wrote to
                continue
            if self.received is not None:
                self.received(data, (addr[0].partition("%")[0], addr[1]))
            if self._closed:
                return

    def close(self) -> None:
        """Close the sockets."""
        self._closed = True
        for sock in self._sockets.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()


class _Timer:
    """Calls `fire` when `when` says so; `arm` after anything that may have changed that."""

    def __init__(self, when: Callable[[], float | None], fire: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def arm(self) -> None:
        at = None if self._closed else self._when()
        if self._handle is not None:
            if at is not None and self._handle.when() <= at:
                return  # fires early, which does no harm
            self._handle.cancel()
        self._handle = None if at is None else self._loop.call_at(at, self._fired)

    def _fired(self) -> None:
        self._handle = None
        self._fire()
        self.arm()

    def close(self) -> None:
        self._closed = True
        self.arm()


class OverlayClient:
    """Puts and gets records; is in nobody's table and answers nothing."""

    def __init__(
        self,
        bootstrap: Sequence[Address],
        validate: Validate,
        *,
        port: Port | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin with the servers at `bootstrap`; needs a running loop, sends nothing yet."""
        self._bootstrap = tuple(bootstrap)
        self._validate = validate
        self._wall = wall
        self._port = port if port is not None else UdpPort()
        self._clock = asyncio.get_running_loop().time
        send: Send = self._port.send
        self._rpc = Rpc(b"", secrets.token_bytes(ID_LEN), send, secrets.token_bytes)
        self._timer = _Timer(
            self._rpc.next_timeout, lambda: self._rpc.handle_timeout(self._clock())
        )
        self._calls: set[asyncio.Future[None]] = set()
        self._closed = False
        self._port.received = self._received

    @property
    def counts(self) -> dict[str, int]:
        """Datagrams, bytes, timeouts, and what was dropped by reason."""
        return dict(self._rpc.counts)

    @property
    def known(self) -> list[Address]:
        """The servers that answered lately: good bootstrap addresses of the next start."""
        return [node.address for node in self._rpc.table]

    def _received(self, data: bytes, addr: Address) -> None:
        if self._rpc.receive_datagram(data, addr, self._clock()) is not None:
            self._rpc.counts["dropped: request to a client"] += 1
        self._timer.arm()

    def _begin(self) -> asyncio.Future[None]:
        if self._closed:
            raise LocalProtocolError("a client that was closed")
        if len(self._calls) >= MAX_CALLS:
            raise LimitError(f"no more than {MAX_CALLS} look-ups at a time")
        if not self._bootstrap and not len(self._rpc.table):
            raise NetworkError("no relay of the overlay is known; name one with --bootstrap")
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.add(over)
        return over

    async def put(self, key: bytes, value: bytes, *, timeout: float = PUT_TIMEOUT) -> Stored:
        """Store a valid record at the servers nearest to `key`.

        Raises:
            LocalProtocolError: the value is too long.
            NetworkError: no server is known.
            TimeoutError: not done in `timeout` seconds.
            LimitError: too many calls at a time.

        """
        if not 0 < len(value) <= MAX_VALUE:
            raise LocalProtocolError(f"a record of {len(value)} bytes, not 1 to {MAX_VALUE}")
        over = self._begin()
        results: list[Stored] = []

        def done(stored: Stored) -> None:
            results.append(stored)
            _end(over)

        put = Put(self._rpc, key, value, clock=self._clock, bootstrap=self._bootstrap, done=done)
        try:
            put.start()
            self._timer.arm()
            async with asyncio.timeout(timeout):
                await over
        finally:
            put.close()
            self._calls.discard(over)
        return results[0] if results else Stored(0, 0, ("closed",))

    async def get(
        self, key: bytes, *, settle: float = SETTLE, timeout: float = GET_TIMEOUT
    ) -> AsyncIterator[Found]:
        """Yield every distinct valid value of `key`.

        The first ones come `settle` seconds after the first answer, the best first; later ones as
        they come. Ends when the nearest servers were asked, or after `timeout` seconds. Close the
        iterator (`contextlib.aclosing`) to end the look-up early.

        Raises:
            NetworkError: no server is known.
            LimitError: too many calls at a time.

        """
        over = self._begin()
        values: list[Found] = []
        came = asyncio.Event()

        def found(value: Found) -> None:
            values.append(value)
            came.set()

        def done(_: object) -> None:
            _end(over)
            came.set()

        over.add_done_callback(lambda _: came.set())
        walk = Walk(
            self._rpc,
            key,
            clock=self._clock,
            bootstrap=self._bootstrap,
            done=done,
            check=checker(self._validate, key, self._wall),
            found=found,
        )
        end = self._clock() + timeout
        try:
            walk.start()
            self._timer.arm()
            first = True
            while not over.done() or values:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(end):
                        await came.wait()
                        if first and not over.done():
                            await asyncio.wait((over,), timeout=settle)
                came.clear()
                first = False
                batch, values[:] = best_first(values), []
                for value in batch:
                    yield value
                if self._clock() >= end:
                    return
        finally:
            walk.close()
            self._calls.discard(over)

    async def close(self) -> None:
        """End every call (a put has then stored nothing, a get ends) and the port."""
        self._closed = True
        for over in list(self._calls):
            _end(over)
        self._rpc.close()
        self._timer.close()
        self._port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class OverlayServer:
    """A server on a UDP port; it works from the moment it is made until `close`."""

    def __init__(
        self,
        listen: Address,
        bootstrap: Sequence[Address],
        storage: Storage,
        *,
        state_file: Path | None = None,
        on_warning: Callable[[str], None] = lambda _: None,
        port: Port | None = None,
        wall: Callable[[], float] = time.time,
        republish: float = REPUBLISH,
    ) -> None:
        """Listen and join; needs a running loop.  `port` replaces the socket at `listen`.

        Raises:
            LocalPortError: the address cannot be listened on.

        """
        loop = asyncio.get_running_loop()
        self._file = state_file
        self._on_warning = on_warning
        remembered = self._load()
        self._port = port if port is not None else UdpPort(listen)
        self.address = self._port.address if isinstance(self._port, UdpPort) else listen
        self._server = Server(
            remembered.id,
            storage,
            self._port.send,
            clock=loop.time,
            wall=wall,
            random_bytes=secrets.token_bytes,
            bootstrap=(*bootstrap, *remembered.nodes),
            republish=republish,
        )
        self.storage = storage
        self._next_save = loop.time() + SAVE_EVERY
        self._clock = loop.time
        self._timer = _Timer(self._server.next_timeout, self._fired)
        self._port.received = self._received
        self._timer.arm()

    @property
    def id(self) -> bytes:
        """Our node id."""
        return self._server.rpc.sender

    @property
    def counters(self) -> dict[str, int]:
        """For metrics: what is held, who is known, what was refused or dropped, by reason."""
        refused = {f"refused: {reason}": n for reason, n in self.storage.refused.items()}
        return {
            "records": len(self.storage),
            "record bytes": self.storage.bytes,
            "evicted": self.storage.evicted,
            "nodes": len(self._server.rpc.table),
            **refused,
            **self._server.rpc.counts,
        }

    def _received(self, data: bytes, addr: Address) -> None:
        self._server.receive_datagram(data, addr)
        self._timer.arm()

    def _fired(self) -> None:
        self._server.handle_timeout()
        if self._clock() >= self._next_save:
            self._next_save = self._clock() + SAVE_EVERY
            self.save()

    def _load(self) -> state.State:
        fresh = state.State(secrets.token_bytes(ID_LEN), ())
        if self._file is None:
            return fresh
        try:
            with self._file.open("rb") as file:
                found = state.load(file.read(state.MAX_TEXT + 1).decode("utf-8", "replace"))
        except FileNotFoundError:
            return fresh
        except OSError as error:
            self._on_warning(f"{self._file} cannot be read: {error.strerror}; starting afresh")
            return fresh
        if found is None:
            self._on_warning(f"{self._file} is damaged; starting afresh")
        return found or fresh

    def save(self) -> None:
        """Write the state file now; a failure is a warning."""
        if self._file is None:
            return
        rpc = self._server.rpc
        part = self._file.with_name(self._file.name + ".part")
        try:
            part.write_text(state.dump(rpc.sender, rpc.table), encoding="utf-8")
            os.replace(part, self._file)
        except OSError as error:
            self._on_warning(f"{self._file} cannot be written: {error.strerror}")

    async def close(self) -> None:
        """Save the state, end everything."""
        self.save()
        self._server.close()
        self._timer.close()
        self._port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
