"""The overlay on asyncio: a UDP port, a timer, and what callers await.

No task is ever started: datagrams and the one timer drive the machines, and `close` ends both.
`Port` is all that is asked of a socket, so that STUN and QUIC may share it; `UdpPort` is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, Self
from weakref import WeakValueDictionary

from pt.aio.timer import Timer
from pt.aio.udp import UdpPort
from pt.errors import LimitError, LocalProtocolError, NetworkError, PtError
from pt.overlay.adapter import ID_LEN, Address
from pt.overlay.address import overlay_host
from pt.overlay.messages import MAX_VALUE
from pt.overlay.rpc import Rpc, Send
from pt.overlay.server import Server
from pt.overlay.state import State
from pt.overlay.storage import Storage, Validate
from pt.overlay.upkeep import REPUBLISH
from pt.overlay.walk import Found, Put, Stored, Walk, best_first, checker
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_CALLS", "Names", "OverlayClient", "OverlayServer", "Port", "UdpPort", "resolve"]

SETTLE: Final = 0.1
"""Seconds that a get waits after its first value, so as to give the best of the early ones."""
GET_TIMEOUT: Final = 30.0
PUT_TIMEOUT: Final = 60.0
MAX_CALLS: Final = 16
"""Gets and puts of one client at a time."""
MAX_ANSWERS: Final = 16


class Names(Protocol):
    """The system's names of hosts; both raise PtError."""

    async def expand(self, address: Multiaddr) -> list[Multiaddr]:
        """What an address stands for: /dnsaddr is followed."""
        ...

    async def addresses(self, kind: str, host: str) -> list[str]:
        """The IP addresses of a host; `kind` is dns, dns4 or dns6."""
        ...


class Port(Protocol):
    """Sends datagrams, and hands over those that came, to `received` once it is set."""

    received: Callable[[bytes, Address], None] | None

    def send(self, data: bytes, addr: Address) -> None:
        """Send, or drop if the network does not take it; never waits."""

    def close(self) -> None:
        """Send and hand over nothing more."""


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
        self.bootstrap = tuple(bootstrap)
        """Where calls begin from now on, besides the servers that have answered."""
        self._validate = validate
        self._wall = wall
        self._port = port if port is not None else UdpPort()
        self._clock = asyncio.get_running_loop().time
        send: Send = self._port.send
        self._rpc = Rpc(b"", secrets.token_bytes(ID_LEN), send, secrets.token_bytes)
        self._timer = Timer(self._rpc.next_timeout, lambda: self._rpc.handle_timeout(self._clock()))
        self._calls: set[asyncio.Future[None]] = set()
        self._putting: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
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
        if not self.bootstrap and not len(self._rpc.table):
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

        put = Put(self._rpc, key, value, clock=self._clock, bootstrap=self.bootstrap, done=done)
        try:
            # a server takes one value of a key at a time from an address
            lock = self._putting.setdefault(key, asyncio.Lock())
            async with asyncio.timeout(timeout), lock:
                put.start()
                self._timer.arm()
                await over
        finally:
            put.close()
            self._calls.discard(over)
        return results[0] if results else Stored(0, 0, ("closed",))

    async def get(
        self, key: bytes, *, settle: float = SETTLE, timeout: float = GET_TIMEOUT
    ) -> AsyncGenerator[Found, None]:
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
            bootstrap=self.bootstrap,
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
    """A server on `port`; it works from the moment it is made until `close`, which ends the port.

    What it knew before a restart is given back in `state`; the owner keeps it, and the records.
    """

    def __init__(
        self,
        port: Port,
        storage: Storage,
        *,
        bootstrap: Sequence[Address] = (),
        state: State | None = None,
        on_company: Callable[[int], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
        republish: float = REPUBLISH,
    ) -> None:
        """Join; needs a running loop.

        `on_company` is told how many servers are known when the first one answers, and 0 when the
        last one is gone.
        """
        self._clock = asyncio.get_running_loop().time
        self._port = port
        self._remembered = () if state is None else state.nodes
        self._on_company = on_company
        self._in_company = False
        self._server = Server(
            secrets.token_bytes(ID_LEN) if state is None else state.id,
            storage,
            port.send,
            clock=self._clock,
            wall=wall,
            random_bytes=secrets.token_bytes,
            bootstrap=(*bootstrap, *self._remembered),
            republish=republish,
        )
        self.storage = storage
        self._timer = Timer(self._server.next_timeout, self._server.handle_timeout, self._changed)
        port.received = self._received
        self._timer.arm()

    @property
    def state(self) -> State:
        """What to remember: our node id, and the servers that answered lately."""
        rpc = self._server.rpc
        return State(rpc.sender, tuple(node.address for node in rpc.table))

    @property
    def nodes(self) -> int:
        """How many other servers are known."""
        return len(self._server.rpc.table)

    @property
    def counts(self) -> Mapping[str, int]:
        """Requests by method, datagrams and bytes, timeouts, and what was dropped, by reason."""
        return self._server.rpc.counts

    def join(self, bootstrap: Sequence[Address]) -> None:
        """Look for company at these addresses from now on, if there is none."""
        self._server.upkeep.bootstrap = (*bootstrap, *self._remembered)
        if not self.nodes:
            self._server.upkeep.look_around_now()
            self._timer.arm()

    def _received(self, data: bytes, addr: Address) -> None:
        self._server.receive_datagram(data, addr)
        self._changed()
        self._timer.arm()

    def _changed(self) -> None:
        if self._in_company != bool(self.nodes):
            self._in_company = not self._in_company
            self._on_company(self.nodes)

    async def close(self) -> None:
        """End everything."""
        self._server.close()
        self._timer.close()
        self._port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def resolve(
    addresses: Iterable[Multiaddr], names: Names
) -> tuple[list[Address], dict[Multiaddr, PtError]]:
    """Where relays with these addresses serve the overlay, and why some are not known.

    Names are looked up, and /dnsaddr is followed, all at once; MAX_ANSWERS of each are taken.
    """
    given = tuple(addresses)
    results = await asyncio.gather(*(_resolved(each, names) for each in given))
    found = [each for result in results if not isinstance(result, PtError) for each in result]
    failures = {
        address: result
        for address, result in zip(given, results, strict=True)
        if isinstance(result, PtError)
    }
    return list(dict.fromkeys(found)), failures


async def _resolved(address: Multiaddr, names: Names) -> list[Address] | PtError:
    found: dict[Address, None] = {}
    failure: PtError = NetworkError("no relay can be asked over UDP there")
    try:
        for entry in await names.expand(address):
            host = overlay_host(entry)
            if host is not None:
                kind, name, port = host
                named = kind.startswith("dns")
                ips = await names.addresses(kind, name) if named else [name]
                found |= dict.fromkeys((each, port) for each in ips)
    except PtError as error:
        failure = error
    return list(found)[:MAX_ANSWERS] or failure
