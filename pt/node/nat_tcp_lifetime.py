"""How long a NAT keeps a TCP connection that is silent, and whether keep-alives help.

Who asks over a connection whether it still gets through has refreshed it. So the server is asked at
the beginning to say something at the end (LATER), which a `pt relay` does: what arrives shows that
the mapping is there. Each silence that is tried has a connection of its own, all at the same time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from pt.aio import tcp
from pt.errors import PtError
from pt.stun.aio import ask_over_stream
from pt.stun.attributes import LATER, Address, later, read_later
from pt.stun.lifetime import MAX_CLIFFS
from pt.stun.limits import MAX_SILENCE
from pt.stun.messages import MAX_MESSAGE, Kind, StunError, decode

__all__ = ["Survives", "TcpLifetime", "measure_tcp_lifetime", "try_silences"]

PATIENCE: Final = 1.5
"""Seconds for what the server says, and says again; and as many round trips as `TRIPS`."""
TRIPS: Final = 6
SHORTEST_PROBE: Final = 1.0
"""Seconds between two keep-alives at least: the system counts whole ones."""
PARTS: Final = 8
"""Of the time between two silences, which are tried, too, if they are `FINEST` seconds apart."""
FINEST: Final = 1.0
_IDLE: Final = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_INTERVAL: Final = getattr(socket, "TCP_KEEPINTVL", None)

Survives = Callable[[float, int], Coroutine[object, object, bool | None]]
"""Whether a connection survives so many seconds of silence, with keep-alives every so many seconds
(0: without); None: that could not be tried."""


@dataclass(frozen=True, slots=True)
class TcpLifetime:
    """What silence a connection survives; None: not known."""

    at_least: float = 0.0
    """The longest silence after which it was there."""
    at_most: float | None = None
    """The shortest one after which it was gone; None: it outlived all that were tried."""
    keepalive_refreshes: bool | None = None
    """Whether the system's keep-alives (SO_KEEPALIVE) keep it."""

    @property
    def safe(self) -> float:
        """What the time between two keep-alives has to be shorter than."""
        return self.at_least or (self.at_most or 0.0) / 2


async def measure_tcp_lifetime(
    server: Address, cliffs: Sequence[float], rtt: float, timeout: float
) -> TcpLifetime | None:
    """Try silences, and keep-alives; None: the server does not do what is needed."""
    return await try_silences(cliffs, partial(_survives, server, rtt, timeout))


async def try_silences(cliffs: Sequence[float], survives: Survives) -> TcpLifetime | None:
    """Try all at once, until the first that is too long; then what is between that and the last.

    Meanwhile keep-alives are tried, twice as many as needed. None: nothing could be tried.
    """
    survived, gone = await _sweep(sorted(cliffs)[:MAX_CLIFFS], survives)
    if gone is None:
        return TcpLifetime(survived) if survived else None
    step = max(FINEST, (gone - survived) / PARTS)
    between = [survived + step * part for part in range(1, PARTS)]
    (longest, shortest), kept = await asyncio.gather(
        _sweep([each for each in between if each < gone], survives), _kept(survived, gone, survives)
    )
    return TcpLifetime(longest or survived, shortest or gone, kept)


async def _sweep(silences: Sequence[float], survives: Survives) -> tuple[float, float | None]:
    """The longest silence that was survived, and the next one if that was not."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(survives(each, 0)) for each in silences]
    survived = 0.0
    try:
        for silence, task in zip(silences, tasks, strict=True):
            outcome = await task
            if not outcome:
                return survived, (None if outcome is None else silence)
            survived = silence
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    return survived, None


async def _kept(survived: float, gone: float, survives: Survives) -> bool | None:
    """Whether keep-alives keep what silence ends."""
    if survived < SHORTEST_PROBE:
        return None
    silence = min(gone + survived / 2, max(gone, MAX_SILENCE))  # which no server exceeds
    return await survives(silence, int(max(SHORTEST_PROBE, survived / 2)))


async def _survives(
    server: Address, rtt: float, timeout: float, silence: float, every: int
) -> bool | None:
    """See `Survives`."""
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(tcp.ip_family(server[0]), socket.SOCK_STREAM)
    except OSError:  # the system gives no more
        return None
    with sock:
        if every and not _keep_alive(sock, every):
            return None
        try:
            outcome, _ = await ask_over_stream(
                sock, server, attributes=[later(silence)], timeout=timeout
            )
            promised = None if outcome.response is None else outcome.response.get(LATER)
            if promised is None or read_later(promised) != silence:
                return None
        except PtError:
            return None
        assert outcome.response is not None
        try:
            async with asyncio.timeout(silence + PATIENCE + TRIPS * rtt):
                data = await loop.sock_recv(sock, MAX_MESSAGE)
        except OSError:  # nothing came, or somebody on the way, or the end, knew it no more
            return False
        if not data:
            return None  # the server does not want it any more
        try:
            said = decode(data)
        except StunError:
            return None
        due = (Kind.INDICATION, outcome.response.transaction)
        return True if (said.kind, said.transaction) == due else None


def _keep_alive(sock: socket.socket, every: int) -> bool:
    """Have the system send keep-alives; whether it does."""
    if _IDLE is None or _INTERVAL is None:
        return False
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _IDLE, every)
    sock.setsockopt(socket.IPPROTO_TCP, _INTERVAL, every)
    return True
