"""One end of a punch in the laboratory, and the public host that both ends know.

    python -m tests.e2e.punch_peer serve IP OTHER-IP
    python -m tests.e2e.punch_peer punch SERVER {controlling|controlled} UDP TCP [KEY=VALUE…]
    python -m tests.e2e.punch_peer noise IP RATE

UDP and TCP are classes of NATs; `measure` for UDP finds it out.  The server answers STUN, joins the
two ends' streams, and tells whoever asks over TCP where it sees them.  An end prints a JSON line a
run, each from fresh sockets: how the punch went, and whether bytes went over the path.  Noise
writes from fresh sockets, so that a NAT makes mappings.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import random
import socket
import sys
import time
from typing import Final

from pt.aio.tcp import SocketStream
from pt.aio.udp import Address, UdpPort
from pt.errors import PtError
from pt.punch import Budget, Candidate, Kind, Side
from pt.punch.aio import Conversation, Direct, Local, Probes, PunchError
from pt.stun.aio import Explorer, StunClient
from pt.stun.discovery import Wishes
from pt.stun.limits import Allowance
from pt.stun.server import Place, Server
from pt.trace import Tracer
from pt.wire.nat_facts import NatFacts, Protocol
from tests.unit.punch.classes import facts

STUN: Final = 3478
JOIN: Final = 7000
MIRROR: Final = 7001
SECRET: Final = b"k" * 32


async def serve(ip: str, other: str) -> None:
    places = {
        Place(host, number): (address, STUN + number)
        for host, address in enumerate((ip, other))
        for number in (0, 1)
    }
    ports = {place: UdpPort(address) for place, address in places.items()}
    server = Server(places, allowance=Allowance(rate=1e6, burst=1e6))

    def asked(place: Place, data: bytes, source: Address) -> None:
        answer = server.receive(data, source, place, time.monotonic())
        if answer is not None:
            ports[answer.place].send(answer.data, answer.to)

    for place, port in ports.items():
        port.received = functools.partial(asked, place)
    waiting: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not waiting:
            waiting.append((reader, writer))
            return
        other = waiting.pop()
        for each in (writer, other[1]):
            each.write(b"+")
        await asyncio.gather(copy(reader, other[1]), copy(other[0], writer))

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(writer.get_extra_info("peername")).encode() + b"\n")
        writer.close()

    await asyncio.start_server(join, ip, JOIN)
    await asyncio.start_server(mirror, ip, MIRROR)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ask(server: Address, port: UdpPort) -> Address | None:
    client = StunClient(port.send)
    port.received = lambda data, source: client.received(data, source) and None
    try:
        return (await client.binding(server)).mapped
    finally:
        client.close()


def seen_over_tcp(server: str) -> tuple[int, Address]:
    """A port of ours, and how a server sees it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", 0))
        sock.connect((server, MIRROR))
        host, port = json.loads(sock.makefile().readline())
        return sock.getsockname()[1], (host, port)


async def prove(direct: Direct, inbox: asyncio.Queue[bytes], own: bytes) -> bytes:
    """Send `own` over the path until the other end's bytes come."""
    if direct.tcp is not None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(direct.tcp, own)
        return await loop.sock_recv(direct.tcp, 100)
    assert direct.port is not None
    came = b""
    for _ in range(100):
        direct.port.send(own, direct.address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                came = came or await inbox.get()
        if came:
            for _ in range(5):  # the other end waits for one of them
                direct.port.send(own, direct.address)
            break
    return came


async def leave(talk: Conversation, sock: socket.socket) -> None:
    """End the stream as soon as the offers are exchanged."""
    while talk._attempt is None:
        await asyncio.sleep(0)
    sock.shutdown(socket.SHUT_RDWR)


async def measured(server: str) -> NatFacts:
    explorer = Explorer()
    try:
        found = await explorer.discover([(server, STUN)], Wishes(mtu=False))
    finally:
        explorer.close()
    return found.facts


async def punch(server: str, role: str, udp: str, tcp: str, *words: str) -> None:
    options = dict(word.split("=") for word in words)
    nat = await measured(server) if udp == "measure" else facts(udp)
    if "block" in options:
        low, high = options["block"].split("-")
        nat = dataclasses.replace(nat, block=(int(low), int(high)))
    for _ in range(int(options.get("runs", "1"))):
        result = await punch_once(server, role, nat, tcp, options)
        result["measured"] = nat.label
        print(json.dumps(result), flush=True)


async def punch_once(
    server: str, role: str, nat: NatFacts, tcp: str, options: dict[str, str]
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    ip = options.get("ip", "")
    port = UdpPort(("0.0.0.0", 0))
    probes = Probes(port)
    inbox: asyncio.Queue[bytes] = asyncio.Queue()
    candidates = [Candidate(Kind.HOST, ip, port.address[1])] if ip else []
    found = []
    external = None
    if nat.works is not False:
        seen = await ask((server, STUN), port)
        assert seen is not None
        external = seen[0]
        candidates.append(Candidate(Kind.REFLEXIVE, *seen))
    tcp_port = None
    if tcp != "-":
        tcp_port, tcp_seen = seen_over_tcp(server)
        external = tcp_seen[0]
        candidates.append(Candidate(Kind.REFLEXIVE, *tcp_seen, Protocol.TCP))
        found.append(facts(tcp, Protocol.TCP, external))
    found.append(dataclasses.replace(nat, external=external))
    port.received = lambda data, addr: (
        None if probes.received(data, addr) else inbox.put_nowait(data)
    )
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (server, JOIN))
    stream = SocketStream(sock)
    await stream.read_exactly(1)
    begun = loop.time()
    trace = open(options["trace"], "w") if "trace" in options else None  # noqa: ASYNC230, SIM115
    local = Local(
        side=Side(facts=tuple(found), candidates=tuple(candidates), budget=Budget(seconds=8)),
        probes=probes,
        secret=SECRET,
        rtt=float(options.get("rtt", "0.02")),
        ask=lambda fresh: ask((server, STUN), fresh),
        tcp_port=tcp_port,
        tracer=Tracer(trace, time.monotonic, time.time()),
    )
    result: dict[str, object] = {}
    try:
        async with Conversation(stream, local, controlling=role == "controlling") as talk:
            leaving = loop.create_task(leave(talk, sock)) if "leave" in options else None
            direct = await talk.punch()
            assert leaving is None or leaving.done()
        result = {
            "strategy": direct.strategy.value,
            "seconds": direct.seconds,
            "rtt": direct.rtt,
            "address": list(direct.address),
            "fresh": direct.fresh,
            "tcp": direct.tcp is not None,
        }
        if direct.fresh:
            assert direct.port is not None
            keep = direct.port.received
            direct.port.received = lambda data, addr: (
                keep(data, addr) if data[:1] == b"\r" else inbox.put_nowait(data)
            )
        result["came"] = (await prove(direct, inbox, role.encode())).decode()
        await asyncio.sleep(0.2)  # what the other end still waits for is under way
        for each in (direct.port if direct.fresh else None, direct.tcp):
            if each is not None:
                each.close()
    except PunchError as error:
        result = {"error": str(error), "best": error.plan.best.value}
    except (PtError, TimeoutError, OSError) as error:
        result = {"failed": f"{type(error).__name__}: {error}"}
    result["total"] = loop.time() - begun
    result["files"] = len(os.listdir("/proc/self/fd"))
    port.close()
    sock.close()
    return result


async def noise(ip: str, rate: str) -> None:
    """Mappings of others, at random moments."""
    rng = random.Random(1)
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"noise", (ip, 9))
        await asyncio.sleep(rng.expovariate(float(rate)))


if __name__ == "__main__":
    command, *argv = sys.argv[1:]
    asyncio.run({"serve": serve, "punch": punch, "noise": noise}[command](*argv))
