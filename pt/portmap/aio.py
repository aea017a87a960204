"""The three services of one gateway on asyncio; nobody else is asked, and nobody else is heard."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pt.aio.tcp import ip_family
from pt.errors import LimitError, NetworkError, PtError, WaitTimeoutError
from pt.portmap import igd, natpmp, pcp, soap, ssdp
from pt.portmap.description import Control, Url, checked_url, controls
from pt.portmap.epoch import Epoch
from pt.portmap.gateway import Gateway
from pt.portmap.http import Exchange, Reply
from pt.portmap.mapping import (
    LIFETIME,
    SHORTEST,
    Mapping,
    MapRefusedError,
    PortmapError,
    Service,
    Wanted,
    checked_external,
)

__all__ = [
    "Datagrams",
    "NatPmp",
    "Pcp",
    "Place",
    "Upnp",
]

T = TypeVar("T")

SENDS: Final = (0.0, 0.25, 0.75, 1.75)
"""Seconds at which a datagram is sent until it is answered."""
GIVE_UP: Final = 3.0
SEARCH: Final = 2.5
"""Seconds for a UPnP device to be found."""
HTTP: Final = 4.0
"""Seconds for one HTTP request in all."""
MAX_PENDING: Final = 16
MAX_LOCATIONS: Final = 3
_READ: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway, and our address towards it."""

    gateway: Gateway
    local: str
    ports: tuple[int, int] = field(default=(pcp.PORT, ssdp.PORT), repr=False)
    """Where PCP and NAT-PMP, and SSDP, are asked."""

    @property
    def host(self) -> str:
        """The gateway's address."""
        return self.gateway.host


def _where(place: Place, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """A socket address of the gateway's; link-local ones need the interface."""
    if place.gateway.family == 4:
        return place.host, port
    return place.host, port, 0, socket.if_nametoindex(place.gateway.device)


class Datagrams:
    """Questions to the gateway's port for PCP and NAT-PMP; only answers from there are heard."""

    def __init__(self, place: Place, patience: float | None = None) -> None:
        """Open the socket; answers have `patience` seconds, `GIVE_UP` if nothing is said.

        Raises:
            NetworkError: there is no way to the gateway.

        """
        self.place = place
        self._patience = GIVE_UP if patience is None else patience
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Future[bytes], Callable[[bytes], bool]] = {}
        self._sock = socket.socket(ip_family(place.local), socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            self._sock.bind((place.local, 0))
            self._sock.connect(_where(place, place.ports[0]))
        except OSError as error:
            self._sock.close()
            raise NetworkError(f"no way to the gateway {place.host}: {error.strerror}") from error
        self._loop.add_reader(self._sock, self._read)

    async def ask(self, request: bytes, mine: Callable[[bytes], bool]) -> bytes:
        """Send until something is answered that is `mine`, which must not raise.

        Raises:
            WaitTimeoutError: nobody answers.
            NetworkError: nobody is there.
            LimitError: too many questions at a time.

        """
        if len(self._pending) >= MAX_PENDING:
            raise LimitError("too many questions to the gateway at a time")
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._pending[answer] = mine
        timers = [self._loop.call_later(each, self._send, request) for each in SENDS]
        try:
            async with asyncio.timeout(self._patience):
                return await answer
        except TimeoutError as error:
            raise WaitTimeoutError(f"the gateway {self.place.host} does not answer") from error
        finally:
            del self._pending[answer]
            for timer in timers:
                timer.cancel()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # told by the next read, or by silence
            self._sock.send(data)

    def _read(self) -> None:
        for _ in range(MAX_PENDING):
            try:
                data = self._sock.recv(pcp.MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            except OSError as error:
                for answer in self._pending:
                    if not answer.done():
                        failure = NetworkError(
                            f"the gateway {self.place.host} has no such service: {error.strerror}"
                        )
                        answer.set_exception(failure)
                return
            for answer, mine in self._pending.items():
                if not answer.done() and mine(data):
                    answer.set_result(data)
                    break

    def close(self) -> None:
        """Ask no more; who waits is to be cancelled by its owner."""
        self._loop.remove_reader(self._sock)
        self._sock.close()


class Pcp:
    """PCP (RFC 6887)."""

    service = Service.PCP
    external = ""
    detail = ""

    def __init__(self, datagrams: Datagrams) -> None:
        self.rebooted = False
        self._datagrams = datagrams
        self._epoch = Epoch()
        self._nonces: dict[Wanted, bytes] = {}

    @property
    def _place(self) -> Place:
        return self._datagrams.place

    async def probe(self) -> None:
        """Ask for the epoch, which errors tell, too; see `Mapper`."""
        response = await self._ask(pcp.announce_request(self._place.local), pcp.ANNOUNCE)
        if response.result not in (pcp.Result.SUCCESS, pcp.Result.UNSUPP_OPCODE):
            raise MapRefusedError(f"PCP: the gateway answers {response.why}")

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """See `Mapper`."""
        response = await self._map(wanted, port, LIFETIME)
        if response.external[1] == 0:
            raise PortmapError("PCP: the gateway maps to port 0")
        if response.lifetime < SHORTEST:
            raise MapRefusedError(f"PCP: a mapping for {response.lifetime} s alone")
        return Mapping(
            service=self.service,
            wanted=wanted,
            internal=(self._place.local, wanted.port),
            external=(checked_external(response.external[0]), response.external[1]),
            lifetime=response.lifetime,
        )

    async def unmap(self, mapping: Mapping) -> None:
        """See `Mapper`."""
        await self._map(mapping.wanted, 0, 0)
        self._nonces.pop(mapping.wanted, None)

    async def check(self, mapping: Mapping) -> bool:
        """See `Mapper`."""
        del mapping
        await self.probe()
        return not self.rebooted

    async def _map(self, wanted: Wanted, port: int, lifetime: int) -> pcp.Response:
        nonce = self._nonces.setdefault(wanted, secrets.token_bytes(pcp.NONCE))
        any_host = "0.0.0.0" if self._place.gateway.family == 4 else "::"
        request = pcp.map_request(
            self._place.local, wanted, nonce, lifetime=lifetime, external=(any_host, port)
        )
        response = await self._ask(request, pcp.MAP, wanted, nonce)
        if response.result:
            raise MapRefusedError(f"PCP: the gateway answers {response.why}", response.lifetime)
        return response

    async def _ask(
        self, request: bytes, opcode: int, wanted: Wanted | None = None, nonce: bytes = b""
    ) -> pcp.Response:
        def mine(data: bytes) -> bool:
            if pcp.speaks_older(data):
                return True
            try:
                found = pcp.decode_response(data)
            except PortmapError:
                return False
            return found.opcode == opcode and (
                opcode != pcp.MAP or (found.wanted, found.nonce) == (wanted, nonce)
            )

        data = await self._datagrams.ask(request, mine)
        if pcp.speaks_older(data):
            raise MapRefusedError("PCP: the gateway speaks NAT-PMP alone")
        response = pcp.decode_response(data)
        if not self._epoch.seen(response.epoch, asyncio.get_running_loop().time()):
            self.rebooted = True
        return response


class NatPmp:
    """NAT-PMP (RFC 6886)."""

    service = Service.NAT_PMP

    def __init__(self, datagrams: Datagrams) -> None:
        self.rebooted = False
        self.external = ""
        self._datagrams = datagrams
        self._epoch = Epoch()

    @property
    def detail(self) -> str:
        """See `Mapper`."""
        return f"external address {self.external}" if self.external else ""

    async def probe(self) -> None:
        """Ask for the external address; see `Mapper`."""
        response = await self._ask(natpmp.external_request(), None)
        body = response.body
        assert isinstance(body, natpmp.External)
        self.external = checked_external(body.host)

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """See `Mapper`."""
        granted = await self._map(wanted, port, LIFETIME)
        if granted.port == 0:
            raise PortmapError("NAT-PMP: the gateway maps to port 0")
        if granted.lifetime < SHORTEST:
            raise MapRefusedError(f"NAT-PMP: a mapping for {granted.lifetime} s alone")
        await self.probe()
        return Mapping(
            service=self.service,
            wanted=wanted,
            internal=(self._datagrams.place.local, wanted.port),
            external=(self.external, granted.port),
            lifetime=granted.lifetime,
        )

    async def unmap(self, mapping: Mapping) -> None:
        """See `Mapper`."""
        await self._map(mapping.wanted, 0, 0)

    async def check(self, mapping: Mapping) -> bool:
        """See `Mapper`."""
        await self.probe()
        return not self.rebooted and self.external == mapping.external[0]

    async def _map(self, wanted: Wanted, port: int, lifetime: int) -> natpmp.Granted:
        request = natpmp.map_request(wanted, lifetime=lifetime, port=port)
        response = await self._ask(request, wanted)
        assert isinstance(response.body, natpmp.Granted)
        return response.body

    async def _ask(self, request: bytes, wanted: Wanted | None) -> natpmp.Response:
        def mine(data: bytes) -> bool:
            try:
                found = natpmp.decode_response(data)
            except PortmapError:
                return False
            if found.opcode != request[1]:
                return False
            told = found.body.wanted if isinstance(found.body, natpmp.Granted) else None
            return bool(found.result) or told == wanted

        response = natpmp.decode_response(await self._datagrams.ask(request, mine))
        if not self._epoch.seen(response.epoch, asyncio.get_running_loop().time()):
            self.rebooted = True
        if response.result:
            raise MapRefusedError(f"NAT-PMP: the gateway answers {response.why}")
        return response


class Upnp:
    """UPnP-IGD, version 1 and 2."""

    service = Service.UPNP
    rebooted = False

    def __init__(self, place: Place, patience: float | None = None) -> None:
        """`patience`: for devices to answer, `SEARCH` if nothing is said."""
        self._place = place
        self._patience = SEARCH if patience is None else patience
        self._control: Control | None = None
        self.external = ""
        self._lifetime = LIFETIME

    @property
    def detail(self) -> str:
        """See `Mapper`."""
        if self._control is None:
            return ""
        kind = self._control.service.split(":")[-2]
        told = f"{kind} {self._control.version}"
        return f"{told}, external address {self.external}" if self.external else told

    async def probe(self) -> None:
        """Search, read the description, and ask for the external address; see `Mapper`."""
        problem: Exception = WaitTimeoutError("no UPnP gateway answers")
        for location in await self._search():
            try:
                url = checked_url(location, self._place.host)
                reply = await self._http(Exchange("GET", url.authority, url.path), url)
                if reply.status != 200:
                    raise PortmapError(f"UPnP: no description (HTTP {reply.status})")
                self._control = await self._best(controls(reply.body, url, self._place.host))
            except PtError as error:
                problem = error
            else:
                return
        raise problem

    async def _best(self, found: Iterable[Control]) -> Control:
        """The first that has an external address: a gateway may have lines that are down."""
        problem: Exception | None = None
        for each in found:
            try:
                self.external = await self._run(igd.external(each))
            except PtError as error:
                problem = error
            else:
                return each
        assert problem is not None
        raise problem

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """See `Mapper`."""
        wish = igd.Wish(self._place.local, wanted, port, self._lifetime)
        added = await self._found(lambda control: igd.add(control, wish, _any_port))
        self.external, self._lifetime = added.external[0], added.lifetime
        return Mapping(
            service=self.service,
            wanted=wanted,
            internal=(self._place.local, wanted.port),
            external=added.external,
            lifetime=added.lifetime,
        )

    async def unmap(self, mapping: Mapping) -> None:
        """See `Mapper`."""
        await self._run(igd.delete(self._ready(), mapping))

    async def check(self, mapping: Mapping) -> bool:
        """See `Mapper`."""
        return await self._found(lambda control: igd.check(control, mapping))

    # --- calls ---------------------------------------------------------------------------------

    async def _found(self, script: Callable[[Control], igd.Script[T]]) -> T:
        """Run a script, after another search if nobody is at the address that was found before.

        A daemon may have another port after a restart.
        """
        control = self._ready()
        try:
            return await self._run(script(control))
        except NetworkError:
            await self.probe()
        return await self._run(script(self._ready()))

    def _ready(self) -> Control:
        if self._control is None:
            raise NetworkError("UPnP: no gateway was found")
        return self._control

    async def _run(self, script: igd.Script[T]) -> T:
        """Make the calls of a script, and tell it how they went."""
        told: dict[str, str] | None = None
        fault: soap.UpnpError | None = None
        while True:
            try:
                call = script.send(told) if fault is None else script.throw(fault)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            told = fault = None
            try:
                told = await self._call(call)
            except soap.UpnpError as error:
                fault = error

    async def _call(self, call: igd.Call) -> dict[str, str]:
        service, url, action = call.control.service, call.control.url, call.action
        headers = [
            ("SOAPAction", soap.header(service, action)),
            ("Content-Type", 'text/xml; charset="utf-8"'),
        ]
        document = soap.body(service, action, call.fields)
        reply = await self._http(Exchange("POST", url.authority, url.path, headers, document), url)
        return soap.result(action, reply.status, reply.body)

    # --- bytes ---------------------------------------------------------------------------------

    async def _search(self) -> list[str]:
        """Locations that the gateway, and nobody else, tells in time."""
        place = self._place
        if place.gateway.family != 4:
            return []
        loop = asyncio.get_running_loop()
        found: dict[str, None] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
                local = socket.inet_aton(place.local)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
                sock.bind((place.local, 0))
            except OSError as error:
                raise NetworkError(f"UPnP: no way to the gateway: {error.strerror}") from error

            def send() -> None:
                for target in ssdp.TARGETS:
                    for host in (ssdp.GROUP, place.host):
                        with contextlib.suppress(OSError):  # no multicast here, nobody there
                            sock.sendto(ssdp.search(target, host), (host, place.ports[1]))

            timers = [loop.call_later(each, send) for each in SENDS[:3]]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    while not found:
                        with contextlib.suppress(PortmapError, ConnectionRefusedError):
                            data, source = await loop.sock_recvfrom(sock, ssdp.MAX_ANSWER + 1)
                            if source[0] == place.host:
                                found[ssdp.decode(data).location] = None
            for timer in timers:
                timer.cancel()
        return list(found)[:MAX_LOCATIONS]

    async def _http(self, exchange: Exchange, url: Url) -> Reply:
        loop = asyncio.get_running_loop()
        with socket.socket(ip_family(url.host), socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(HTTP):
                    sock.bind((self._place.local, 0))
                    await loop.sock_connect(sock, (url.host, url.port))
                    await loop.sock_sendall(sock, exchange.data_to_send())
                    reply = None
                    while reply is None:
                        reply = exchange.receive_data(await loop.sock_recv(sock, _READ))
                    return reply
            except TimeoutError as error:
                raise WaitTimeoutError(f"UPnP: no answer from {url} in {HTTP:g} s") from error
            except OSError as error:
                raise NetworkError(f"UPnP: no connection to {url}: {error.strerror}") from error


def _any_port() -> int:
    """One that may be free where ours is taken."""
    return random.randint(20000, 60000)  # noqa: S311  # nobody has to guess it
