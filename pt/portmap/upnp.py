"""UPnP of one gateway on asyncio: its ports over IPv4, its firewall over IPv6.

Nobody else is asked, and nobody else is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from pt.aio.tcp import ip_family
from pt.errors import NetworkError, PtError, WaitTimeoutError
from pt.portmap import igd, pinhole, soap, ssdp
from pt.portmap.aio import SENDS, Place
from pt.portmap.description import FIREWALLS, SERVICES, Control, Url, checked_url, controls
from pt.portmap.http import Exchange, Reply
from pt.portmap.mapping import LIFETIME, Mapping, PortmapError, Service, Wanted

__all__ = ["Upnp", "UpnpFirewall"]

T = TypeVar("T")
F = TypeVar("F")

SEARCH: Final = 2.5
"""Seconds for a device to be found."""
HTTP: Final = 4.0
"""Seconds for one HTTP request in all."""
MAX_LOCATIONS: Final = 3
_READ: Final = 16 * 1024


class Upnp:
    """UPnP-IGD, version 1 and 2: ports of a NAT."""

    service = Service.UPNP
    rebooted = False

    def __init__(self, place: Place, patience: float | None = None) -> None:
        """`patience`: for devices to answer, `SEARCH` if nothing is said."""
        self._place = place
        self._device = _Device(place, patience, SERVICES, igd.external)
        self._lifetime = LIFETIME
        self.external = ""

    @property
    def detail(self) -> str:
        """See `Mapper`."""
        told = self._device.detail
        return f"{told}, external address {self.external}" if self.external else told

    async def probe(self) -> None:
        """Search, read the description, and ask for the external address; see `Mapper`."""
        self.external = await self._device.find()

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """See `Mapper`."""
        wish = igd.Wish(self._place.local, wanted, port, self._lifetime)
        added = await self._device.run(lambda control: igd.add(control, wish, _any_port))
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
        await self._device.run(lambda control: igd.delete(control, mapping), again=False)

    async def check(self, mapping: Mapping) -> bool:
        """See `Mapper`."""
        return await self._device.run(lambda control: igd.check(control, mapping))


class UpnpFirewall:
    """WANIPv6FirewallControl: pinholes of a firewall, which opens them for who asks alone."""

    service = Service.UPNP
    rebooted = False
    external = ""

    def __init__(self, place: Place, patience: float | None = None) -> None:
        """`patience`: as for `Upnp`."""
        self._place = place
        self._device = _Device(place, patience, FIREWALLS, pinhole.status)
        self._status: pinhole.Status | None = None
        self._numbers: dict[Wanted, str] = {}

    @property
    def detail(self) -> str:
        """See `Mapper`."""
        told = self._device.detail
        return told if self._status is None else f"{told}, {self._status.value}"

    async def probe(self) -> None:
        """Search, read the description, and ask how the firewall is set; see `Mapper`."""
        self._status = await self._device.find()

    async def map(self, wanted: Wanted, port: int) -> Mapping:
        """Let packets to our own `wanted` port in, whatever `port` is; see `Mapper`."""
        del port
        ours = (self._place.local, wanted.port)
        known = self._numbers.get(wanted)
        self._numbers[wanted] = await self._device.run(
            lambda control: pinhole.keep(control, ours, wanted.protocol, LIFETIME, known)
        )
        return Mapping(
            service=self.service, wanted=wanted, internal=ours, external=ours, lifetime=LIFETIME
        )

    async def unmap(self, mapping: Mapping) -> None:
        """See `Mapper`."""
        number = self._numbers.pop(mapping.wanted, None)
        if number is not None:
            await self._device.run(lambda control: pinhole.delete(control, number), again=False)

    async def check(self, mapping: Mapping) -> bool:
        """See `Mapper`."""
        number = self._numbers.get(mapping.wanted)
        if number is None:
            return False
        known = await self._device.run(lambda control: pinhole.check(control, number))
        if not known:
            del self._numbers[mapping.wanted]  # it may be another's by now
        return known


class _Device(Generic[F]):
    """A gateway's service of certain `kinds`: found by SSDP, called by SOAP.

    The first one counts that gives `first` an answer: a gateway may have lines that are down.
    """

    def __init__(
        self,
        place: Place,
        patience: float | None,
        kinds: Sequence[str],
        first: Callable[[Control], igd.Script[F]],
    ) -> None:
        self._place = place
        self._patience = SEARCH if patience is None else patience
        self._kinds = kinds
        self._first = first
        self._control: Control | None = None

    @property
    def detail(self) -> str:
        """Which service it is; empty before it is found."""
        if self._control is None:
            return ""
        return f"{self._control.service.split(':')[-2]} {self._control.version}"

    async def find(self) -> F:
        """Search, read descriptions, and return what the service told first.

        Raises:
            PtError: there is none, and why.

        """
        problem: PtError = WaitTimeoutError("no UPnP gateway answers")
        for location in await self._search():
            try:
                return await self._try(location)
            except PtError as error:
                problem = error
        raise problem

    async def _try(self, location: str) -> F:
        host = self._place.host
        url = checked_url(location, host)
        reply = await self._http(Exchange("GET", url.authority, url.path), url)
        if reply.status != 200:
            raise PortmapError(f"UPnP: no description (HTTP {reply.status})")
        problem: PtError | None = None
        for each in controls(reply.body, url, host, self._kinds):
            try:
                told = await self._script(self._first(each))
            except PtError as error:
                problem = error
            else:
                self._control = each
                return told
        assert problem is not None
        raise problem

    async def run(self, script: Callable[[Control], igd.Script[T]], *, again: bool = True) -> T:
        """Run a script; `again`, after another search, if nobody is where it was found before.

        A daemon may have another port after a restart.

        Raises:
            PtError: as the script does; NetworkError: nothing has been found yet, or is there.

        """
        control = self._ready()
        try:
            return await self._script(script(control))
        except NetworkError:
            if not again:
                raise
        await self.find()
        return await self._script(script(self._ready()))

    def _ready(self) -> Control:
        if self._control is None:
            raise NetworkError("UPnP: no gateway was found")
        return self._control

    # --- calls ---------------------------------------------------------------------------------

    async def _script(self, script: igd.Script[T]) -> T:
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
        """Locations that the gateway, and nobody else, tells in time.

        Raises: NetworkError.
        """
        place, loop = self._place, asyncio.get_running_loop()
        found: dict[str, None] = {}
        group = ssdp.GROUP if place.gateway.family == 4 else ssdp.GROUP6
        with socket.socket(ip_family(place.host), socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                _prepare(sock, place)
                to = [(each, place.where(place.ports[1], each)) for each in (group, place.host)]
            except OSError as error:
                raise NetworkError(f"UPnP: no way to the gateway: {error.strerror}") from error

            def send() -> None:
                for target in ssdp.TARGETS:
                    for host, where in to:
                        with contextlib.suppress(OSError):  # no multicast here, nobody there
                            sock.sendto(ssdp.search(target, host), where)

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
                    await loop.sock_connect(sock, self._place.where(url.port))
                    await loop.sock_sendall(sock, exchange.data_to_send())
                    reply = None
                    while reply is None:
                        reply = exchange.receive_data(await loop.sock_recv(sock, _READ))
                    return reply
            except TimeoutError as error:
                raise WaitTimeoutError(f"UPnP: no answer from {url} in {HTTP:g} s") from error
            except OSError as error:
                raise NetworkError(f"UPnP: no connection to {url}: {error.strerror}") from error


def _prepare(sock: socket.socket, place: Place) -> None:
    """Have a search leave by the gateway's interface, and not its link.  Raises OSError.

    Over IPv6 it comes from our link-local address, so that the answer comes from the gateway's, by
    which it is known as the default route.
    """
    if place.gateway.family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        local = socket.inet_aton(place.local)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        sock.bind((place.local, 0))
        return
    device = socket.if_nametoindex(place.gateway.device)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device)
    sock.bind(("::", 0))


def _any_port() -> int:
    """One that may be free where ours is taken."""
    return random.randint(20000, 60000)  # noqa: S311  # nobody has to guess it
