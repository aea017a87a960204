"""Whether TCP connections get from one socket of ours to another by their external addresses.

Two ports have a connection to the server each, and so a mapping; then they dial each other's
external address, from these very ports: a filter that lets in only who was written to lets both in.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from pt.aio import tcp
from pt.aio.simultaneous import open_from_both_sides
from pt.errors import PtError
from pt.stun.aio import ask_over_stream, binding_of
from pt.stun.attributes import Address
from pt.stun.behaviour import may_write

__all__ = ["hairpins"]

T = TypeVar("T")

PATIENCE: Final = 0.6
"""Seconds for the two to meet, and as many round trips to the server as `TRIPS`."""
TRIPS: Final = 4
_TOKEN: Final = 16


async def hairpins(server: Address, host: str, rtt: float, timeout: float) -> bool | None:
    """Whether two sockets of `host` met; None: they could not be tried."""
    with contextlib.ExitStack() as stack:
        ends = await asyncio.gather(
            *(_mapped(stack, server, host, timeout) for _ in range(2)), return_exceptions=True
        )
        known = _known(ends)
        if known is None:
            return None
        (one, first), (two, second) = known
        if not (may_write(server, first) and may_write(server, second)):
            return None
        tokens = [secrets.token_bytes(_TOKEN) for _ in known]
        pairs = ((one, second, tokens), (two, first, tokens[::-1]))
        met = await asyncio.gather(
            *(_meet(host, port, to, _prover(*said), rtt) for port, to, said in pairs),
            return_exceptions=True,
        )
    came = _known(met)
    return None if came is None else any(came)


def _known(outcomes: Sequence[T | BaseException]) -> list[T] | None:
    """All outcomes, unless one is a failure of the network's."""
    found: list[T] = []
    for each in outcomes:
        if isinstance(each, (PtError, OSError)):
            return None
        if isinstance(each, BaseException):
            raise each
        found.append(each)
    return found


async def _mapped(
    stack: contextlib.ExitStack, server: Address, host: str, timeout: float
) -> tuple[int, Address]:
    """A port of ours that a connection keeps mapped, and where the server sees it."""
    sock = stack.enter_context(socket.socket(tcp.ip_family(server[0]), socket.SOCK_STREAM))
    # Bound before it connects: else the system may give the port to others' connections, too.
    outcome, own = await ask_over_stream(sock, server, local=(host, 0), timeout=timeout)
    return own[1], binding_of(server, outcome).mapped


def _prover(ours: bytes, theirs: bytes) -> Callable[[socket.socket], Awaitable[bool]]:
    """Whether the other end of a connection is our own other socket, and nobody else's."""

    async def prove(sock: socket.socket) -> bool:
        stream = tcp.SocketStream(sock)
        await stream.write(ours)
        return await stream.read_exactly(_TOKEN) == theirs

    return prove


async def _meet(
    host: str,
    port: int,
    to: Address,
    prove: Callable[[socket.socket], Awaitable[bool]],
    rtt: float,
) -> bool:
    seconds = PATIENCE + TRIPS * rtt
    sock = await open_from_both_sides(port, [to], prove, seconds=seconds, rtt=rtt, host=host)
    if sock is None:
        return False
    tcp.abort(sock)
    return True
