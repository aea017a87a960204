"""A gateway on 127.0.0.1 that says whatever a test wants, hostile things above all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Self

from pt.portmap import aio, natpmp, pcp, ssdp, upnp
from pt.portmap.aio import Datagrams, NatPmp, Pcp, Place
from pt.portmap.gateway import Gateway
from pt.portmap.mapping import PortmapError, Service
from pt.portmap.upnp import Upnp

HOST = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
EXTERNAL = "11.5.0.2"
KIND = "urn:schemas-upnp-org:service:WANIPConnection:1"
FIREWALL = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], list[bytes]], via: list) -> None:
        self._answer = answer
        self._via = via
        self.seen: list[bytes] = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.seen.append(data)
        for each in self._answer(data):
            (self._via[0] if self._via else self.transport).sendto(each, address)


class FakeGateway:
    """Use it in an `async with`; attributes may be changed at any time."""

    def __init__(self) -> None:
        self.epoch = 1000
        self.lifetime = 7200
        self.external = EXTERNAL
        self.result = 0
        self.speaks = {"pcp", "nat-pmp", "upnp"}
        self.mangle: Callable[[bytes], list[bytes]] = lambda data: [data]
        """What becomes of each answer over UDP."""
        self.location: str | None = None
        self.status = 200
        self.description: bytes | None = None
        self.entry: tuple[str, str] | None = None
        self.reply: Callable[[bytes], bytes] | None = None
        """A whole HTTP answer instead of the usual one."""
        self.mapped: dict[tuple[str, int], int] = {}
        self.pinholes: dict[str, tuple[str, str, str]] = {}
        """By number: the protocol's, the client and its port."""
        self.firewall = ("1", "1")
        """Whether it is on, and opens pinholes."""
        self.faults: dict[str, int] = {}
        """By action."""
        self.peers: set[str] = set()
        self.calls: list[str] = []
        self.elsewhere = False
        self._ports = itertools.count(40000)
        self._via: list = []
        self._serving: set[asyncio.Task[None]] = set()
        self.drips = False
        """Answer over HTTP for ever, slowly."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._control = await self._udp(loop, self._map_answer)
        self._search = await self._udp(loop, self._search_answer)
        self._http = await asyncio.start_server(self._serve, HOST, 0)
        self._other, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(ELSEWHERE, 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in (self._control, self._search):
            each.transport.close()
        self._other.close()
        self._http.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._http.wait_closed()

    async def _udp(self, loop, answer):
        _, made = await loop.create_datagram_endpoint(
            lambda: _Udp(answer, self._via), local_addr=(HOST, 0)
        )
        return made

    def answer_from_elsewhere(self) -> None:
        """Have another host answer what the gateway is asked."""
        self._via[:] = [self._other]

    @property
    def place(self) -> Place:
        ports = [each.transport.get_extra_info("sockname")[1] for each in self._udps]
        return Place(Gateway(0, HOST, "lo"), HOST, (ports[0], ports[1]))

    @property
    def _udps(self):
        return self._control, self._search

    @property
    def http_port(self) -> int:
        return self._http.sockets[0].getsockname()[1]

    @property
    def asked(self) -> int:
        """Datagrams that came to the port of PCP and NAT-PMP."""
        return len(self._control.seen)

    # --- PCP and NAT-PMP -----------------------------------------------------------------------

    def _map_answer(self, data: bytes) -> list[bytes]:
        answer = self._pcp(data) if data[:1] == b"\2" else self._natpmp(data)
        return [] if answer is None else self.mangle(answer)

    def _pcp(self, data: bytes) -> bytes | None:
        if "pcp" not in self.speaks:
            return bytes.fromhex("00800001") if "nat-pmp" in self.speaks else None
        try:
            request = pcp.decode_request(data)
        except PortmapError:
            return None
        return pcp.encode_response(
            pcp.Response(
                opcode=request.opcode,
                result=self.result,
                lifetime=min(request.lifetime, self.lifetime),
                epoch=self.epoch,
                nonce=request.nonce,
                wanted=request.wanted,
                external=(self.external, self._port(request.wanted, request.lifetime)),
            )
        )

    def _natpmp(self, data: bytes) -> bytes | None:
        if "nat-pmp" not in self.speaks:
            return None
        request = natpmp.decode_request(data)
        if self.result:
            return natpmp.encode_response(natpmp.Response(data[1], self.result, self.epoch))
        if request.wanted is None:
            body = natpmp.External(self.external)
        else:
            port = self._port(request.wanted, request.lifetime)
            body = natpmp.Granted(request.wanted, port, min(request.lifetime, self.lifetime))
        return natpmp.encode_response(natpmp.Response(data[1], 0, self.epoch, body))

    def _port(self, wanted, lifetime: int) -> int:
        if wanted is None:
            return 0
        key = (wanted.protocol.name, wanted.port)
        if not lifetime:
            self.mapped.pop(key, None)
            return 0
        return self.mapped.setdefault(key, next(self._ports))

    # --- UPnP ----------------------------------------------------------------------------------

    def _search_answer(self, data: bytes) -> list[bytes]:
        if "upnp" not in self.speaks:
            return []
        location = self.location or f"http://{HOST}:{self.http_port}/root.xml"
        text = f"HTTP/1.1 200 OK\r\nST: {ssdp.TARGETS[1]}\r\nLOCATION: {location}\r\n\r\n"
        return self.mangle(text.encode())

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer_http(reader, writer)
                await writer.drain()
        finally:
            self._serving.discard(task)
            if self.drips:
                writer.transport.abort()
            writer.close()

    async def _answer_http(self, reader, writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = 0
        for line in head.decode().lower().split("\r\n"):
            if line.startswith("content-length:"):
                size = int(line.split(":")[1])
        body = await reader.readexactly(size)
        self.peers.add(writer.get_extra_info("peername")[0])
        if self.reply is not None:
            writer.write(self.reply(head))
            return
        status, data = self._page(head, body)
        told = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(told.encode())
        while self.drips:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)  # as slow as it likes
        writer.write(data)

    def _page(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        if head.startswith(b"GET"):
            return self.status, self.description or (
                "<root><device><serviceList>"
                f"<service><serviceType>{KIND}</serviceType><controlURL>/ctl</controlURL></service>"
                f"<service><serviceType>{FIREWALL}</serviceType><controlURL>/six</controlURL>"
                "</service></serviceList></device></root>"
            ).encode()
        text = body.decode()
        action = head.decode().partition("#")[2].partition('"')[0]
        self.calls.append(action)

        def field(name: str) -> str:
            return text.partition(f"<{name}>")[2].partition("</")[0]

        if action in self.faults:
            return _fault(self.faults[action])
        key = (field("NewProtocol"), int(field("NewExternalPort") or 0))
        number = field("UniqueID")
        if number and number not in self.pinholes:
            return _fault(704)
        inner = ""
        match action:
            case "AddPortMapping":
                self.mapped[key] = int(field("NewInternalPort"))
            case "DeletePortMapping":
                self.mapped.pop(key, None)
            case "GetExternalIPAddress":
                inner = f"<NewExternalIPAddress>{self.external}</NewExternalIPAddress>"
            case "GetSpecificPortMappingEntry":
                if key not in self.mapped:
                    return _fault(714)
                host, port = self.entry or (HOST, str(self.mapped[key]))
                inner = f"<NewInternalClient>{host}</NewInternalClient>"
                inner += f"<NewInternalPort>{port}</NewInternalPort>"
            case "GetFirewallStatus":
                inner = f"<FirewallEnabled>{self.firewall[0]}</FirewallEnabled>"
                inner += f"<InboundPinholeAllowed>{self.firewall[1]}</InboundPinholeAllowed>"
            case "AddPinhole":
                number = str(next(self._ports))
                told = field("Protocol"), field("InternalClient"), field("InternalPort")
                self.pinholes[number] = told
                inner = f"<UniqueID>{number}</UniqueID>"
            case "DeletePinhole":
                del self.pinholes[number]
        return 200, _envelope(f"<{action}Response>{inner}</{action}Response>")


@contextlib.asynccontextmanager
async def gateway():
    """A fake, and what asks it."""
    async with FakeGateway() as made:
        datagrams = Datagrams(made.place)
        try:
            yield (
                made,
                {
                    Service.PCP: Pcp(datagrams),
                    Service.NAT_PMP: NatPmp(datagrams),
                    Service.UPNP: Upnp(made.place),
                },
            )
        finally:
            datagrams.close()


def impatient(monkeypatch) -> None:
    """Have silence told by shorter waits; the order of things is the same."""
    for module in (aio, upnp):
        monkeypatch.setattr(module, "SENDS", (0.0, 0.02, 0.05))
    monkeypatch.setattr(aio, "GIVE_UP", 0.2)
    monkeypatch.setattr(upnp, "SEARCH", 0.2)
    monkeypatch.setattr(upnp, "HTTP", 0.4)


def _fault(code: int) -> tuple[int, bytes]:
    return 500, _envelope(
        f"<Fault><detail><UPnPError><errorCode>{code}</errorCode></UPnPError></detail></Fault>"
    )


def _envelope(inner: str) -> bytes:
    return f"<Envelope><Body>{inner}</Body></Envelope>".encode()
