"""A real little DNS server on loopback, by UDP and TCP, that answers TXT questions."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


@dataclass
class Server:
    """Answers TXT questions from `zone`; `trouble(question)` may give another answer or none."""

    zone: dict[str, list[bytes]] = field(default_factory=dict)
    trouble: Callable[[dns.message.Message], bytes | None] | None = None
    limit: int = 1232
    port: int = 0
    udp: int = 0
    tcp: int = 0
    largest: int = 0
    served: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, raw: bytes, limit: int) -> bytes | None:
        question = dns.message.from_wire(raw)
        if self.trouble is not None:
            return self.trouble(question)
        reply = dns.message.make_response(question)
        name = question.question[0].name
        texts = self.zone.get(name.to_text(omit_final_dot=True))
        if texts is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif texts:
            quoted = ['"' + text.decode("latin1") + '"' for text in texts]
            reply.answer.append(dns.rrset.from_text_list(name, 60, "IN", "TXT", quoted))
        wire = reply.to_wire(max_size=65535)
        self.largest = max(self.largest, len(wire))
        if len(wire) > limit:
            cut = dns.message.make_response(question)
            cut.flags |= dns.flags.TC
            return cut.to_wire()
        return wire

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        pass

    def error_received(self, error: Exception) -> None:
        pass

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.udp += 1
        reply = self.answer(data, self.limit)
        if reply is not None:
            self.transport.sendto(reply, source)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            reply = self.answer(await reader.readexactly(size), 65535)
            if reply is not None:
                writer.write(struct.pack(">H", len(reply)) + reply)
                await writer.drain()
            await reader.read()
        writer.close()
        await writer.wait_closed()
        self.served.set()


@contextlib.asynccontextmanager
async def running(**options: object) -> AsyncIterator[Server]:
    server = Server(**options)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", server.port)
    )
    try:
        yield server
    finally:
        transport.close()
        listener.close()
        if server.tcp:
            await server.served.wait()


def refusing(rcode: dns.rcode.Rcode) -> Callable[[dns.message.Message], bytes]:
    def answer(question: dns.message.Message) -> bytes:
        reply = dns.message.make_response(question)
        reply.set_rcode(rcode)
        return reply.to_wire()

    return answer
