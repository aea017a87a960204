"""Circuits between sockets of the test, on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator

from pt.relay.messages import Limit
from pt.relay.shaper import Shaper
from pt.relayd.pipes import PipePool
from pt.relayd.poller import LoopPoller
from pt.relayd.splice import SpliceCircuit, Splicer
from pt.relayd.traffic import Traffic
from tests.sim.world import tcp_pair


def small_pair(size: int = 0) -> tuple[socket.socket, socket.socket]:
    """A TCP connection with little room in it; `size` 0 leaves what the kernel likes."""
    if not size:
        return tcp_pair()
    with socket.socket() as server:
        left = socket.socket()
        for sock in (server, left):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1024)  # else windows stay shut
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        left.connect(server.getsockname())
        right, _ = server.accept()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


_made: list[Ends] = []


class Ends:
    """A raw circuit, and the sockets of its two users."""

    def __init__(
        self,
        splicer: Splicer,
        *,
        owner: object = "owner",
        limit: Limit | None = None,
        size: int = 0,
    ) -> None:
        self.source, left = small_pair(size)
        self.target, right = small_pair(size)
        _made.append(self)
        self.reasons: list[str] = []
        self.ended = asyncio.Event()
        self.circuit = splicer.join(
            left,
            right,
            share=splicer.traffic.shaper.add(owner),
            limit=limit,
            on_done=self._done,
        )

    def _done(self, circuit: SpliceCircuit, reason: str) -> None:
        assert circuit is self.circuit
        self.reasons.append(reason)
        self.ended.set()

    def close(self) -> None:
        for sock in (self.source, self.target):
            sock.close()


@contextlib.asynccontextmanager
async def splicer(
    *, pipes: int | None = None, epoll: bool = True, rate: float = 0, circuit_rate: float = 0
) -> AsyncIterator[Splicer]:
    """A splicer that leaves nothing behind."""
    before = open_descriptors()
    loop = asyncio.get_running_loop()
    traffic = Traffic(loop, Shaper(rate, circuit_rate))
    made = Splicer(
        traffic,
        pool=PipePool(pipes) if pipes is not None else None,
        watch=None if epoll else LoopPoller(loop),
    )
    try:
        yield made
    finally:
        while _made:
            _made.pop().close()
        made.close()
        traffic.close()
        assert not made.circuits
        assert made.pool.lent == 0
        assert len(traffic.shaper) == 0
        assert open_descriptors() <= before


def open_descriptors() -> set[str]:
    """What this process has open now, less what listing it opens."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {each for each in found if "/proc/" not in each}


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def pieces(seed: int, data: bytes) -> Iterator[bytes]:
    """`data` in pieces of all sizes."""
    rng = random.Random(seed)
    view = data
    while view:
        size = rng.choice((1, 7, 1000, 4096, 65536, 300_000))
        yield view[:size]
        view = view[size:]


async def send(sock: socket.socket, seed: int, data: bytes, *, end: bool = True) -> None:
    """Send in pieces, with a pause now and then; FIN behind it."""
    rng = random.Random(seed)
    for piece in pieces(seed, data):
        await asyncio.get_running_loop().sock_sendall(sock, piece)
        if rng.random() < 0.2:
            await asyncio.sleep(0.001)
    if end:
        sock.shutdown(socket.SHUT_WR)


async def receive(sock: socket.socket, seed: int = 0, *, slow: bool = False) -> bytes:
    """Everything until FIN, in reads of all sizes."""
    rng = random.Random(seed)
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(sock, rng.choice((3, 5000, 200_000))):
        parts.append(part)
        if slow and rng.random() < 0.1:
            await asyncio.sleep(0.005)
    return b"".join(parts)


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        assert part
        data += part
    return data


async def until(condition, turns: int = 20_000) -> None:
    """Let the loop turn until something is so; it takes no time."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came about")
