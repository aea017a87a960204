"""PCP and NAT-PMP of one gateway on asyncio; nobody else is asked, and nobody else is heard."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pt.aio.tcp import ip_family
from pt.errors import LimitError, NetworkError, WaitTimeoutError
from pt.portmap import natpmp, pcp, ssdp
from pt.portmap.epoch import Epoch
from pt.portmap.gateway import Gateway
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
]

SENDS: Final = (0.0, 0.25, 0.75, 1.75)
"""Seconds at which a datagram is sent until it is answered."""
GIVE_UP: Final = 3.0
MAX_PENDING: Final = 16


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

    def where(self, port: int, host: str = "") -> tuple[str, int] | tuple[str, int, int, int]:
        """A socket address of the gateway's, or of a group on its link.

        Raises:
            OSError: the interface is gone, which link-local addresses of IPv6 need.

        """
        host = host or self.host
        if self.gateway.family == 4:
            return host, port
        return host, port, 0, socket.if_nametoindex(self.gateway.device)


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
            self._sock.connect(place.where(place.ports[0]))
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
