"""The first routers on the way, by datagrams that do not live longer: whose addresses they have.

A router answers a datagram whose hops are used up with an ICMP error, which Linux gives to whoever
sent it (IP_RECVERR, ip(7)); no privilege is needed. Elsewhere nothing is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

__all__ = ["HOPS", "carrier_between", "first_routers"]

HOPS: Final = 4
"""A home router, a carrier's, and some between."""
WAIT: Final = 0.5
"""Seconds that their answers have."""
_IP_RECVERR: Final = 11  # linux/in.h
_ERRQUEUE: Final = getattr(socket, "MSG_ERRQUEUE", 0x2000)
_ERROR: Final = struct.Struct("=IBBBxII")  # errno, origin, type, code, info, data
_OFFENDER: Final = struct.Struct("=HH4s")  # a sockaddr_in
_FROM_ICMP: Final = 2
_TIME_EXCEEDED: Final = 11
_SHARED: Final = ip_network("100.64.0.0/10")


async def first_routers(to: tuple[str, int], data: bytes, *, wait: float = WAIT) -> list[str]:
    """Addresses of the first `HOPS` routers towards an IPv4 address, empty for those silent.

    `data` is what is sent, once for each; who gets it after all may answer it.
    """
    if not sys.platform.startswith("linux") or ":" in to[0]:
        return []
    loop = asyncio.get_running_loop()
    found = [""] * HOPS
    heard = asyncio.Event()

    def read(number: int, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # an answer, or an error that is reported here, too
            sock.recv(2048)
        with contextlib.suppress(OSError):
            _, control, _, _ = sock.recvmsg(0, 256, _ERRQUEUE)
            found[number] = _router(control) or found[number]
        if all(found):
            heard.set()

    with contextlib.ExitStack() as stack:
        for number in range(HOPS):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, number + 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            with contextlib.suppress(OSError):  # no route: nothing comes
                sock.sendto(data, to)
            loop.add_reader(sock, read, number, sock)
            stack.callback(loop.remove_reader, sock)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await heard.wait()
    return found


def _router(control: Iterable[tuple[int, int, bytes]]) -> str:
    """Who sent the error, if it says that the hops were used up."""
    for level, kind, value in control:
        if (level, kind) != (socket.IPPROTO_IP, _IP_RECVERR):
            continue
        if len(value) < _ERROR.size + _OFFENDER.size:
            continue
        _, origin, type_, _, _, _ = _ERROR.unpack_from(value)
        family, _, host = _OFFENDER.unpack_from(value, _ERROR.size)
        if (origin, type_, family) == (_FROM_ICMP, _TIME_EXCEEDED, socket.AF_INET):
            return str(ip_address(host))
    return ""


def carrier_between(routers: Iterable[str]) -> bool:
    """Whether one of them has an address that is a carrier's, behind its NAT (RFC 6598)."""
    return any(each and ip_address(each) in _SHARED for each in routers)
