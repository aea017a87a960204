"""The default gateways of this machine, and what they announce on the local network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pt.aio.tcp import ip_family
from pt.portmap import pcp
from pt.portmap.aio import Place
from pt.portmap.gateway import Gateway, parse_addresses6, parse_route4, parse_route6

__all__ = ["ANNOUNCEMENTS", "ANNOUNCEMENTS6", "Announcements", "find_places"]

ANNOUNCEMENTS: Final = ("224.0.0.1", 5350)
ANNOUNCEMENTS6: Final = ("ff02::1", 5350)
MAX_ADDRESSES: Final = 4
"""Of IPv6, for which a gateway is asked: one that stays, and a few temporary ones (RFC 8981)."""
_ROUTES: Final = (
    (Path("/proc/net/route"), parse_route4),
    (Path("/proc/net/ipv6_route"), parse_route6),
)
_ADDRESSES6: Final = Path("/proc/net/if_inet6")
_ANYWHERE6: Final = "2000::1"
"""An address of the Internet, by which the kernel tells our own; nothing is sent there."""
_DRAIN: Final = 16


def find_places() -> list[Place]:
    """The default gateway of each address family, and our own addresses there.

    Over IPv6 there may be several, as a firewall is opened for one address alone.
    """
    found = []
    for path, parse in _ROUTES:
        try:
            with path.open() as lines:
                gateways = parse(lines)
        except OSError:  # a system without it, or without the family
            continue
        for gateway in gateways[:1]:
            local = _local(gateway)
            if local is not None:
                more = _addresses6(gateway.device) if gateway.family == 6 else []
                locals_ = list(dict.fromkeys((local, *more)))[:MAX_ADDRESSES]
                found += [Place(gateway, each) for each in locals_]
    return found


def _addresses6(device: str) -> list[str]:
    try:
        with _ADDRESSES6.open() as lines:
            return parse_addresses6(lines, device)
    except OSError:
        return []


def _local(gateway: Gateway) -> str | None:
    to = gateway.host if gateway.family == 4 else _ANYWHERE6
    with socket.socket(ip_family(to), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((to, pcp.PORT))
        except OSError:
            return None
        return str(sock.getsockname()[0])


class Announcements:
    """What the gateway says unasked, after a start: `heard` is called, nothing is believed."""

    def __init__(self, place: Place, heard: Callable[[], None]) -> None:
        self._place = place
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        sock = socket.socket(ip_family(place.host), socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if place.gateway.family == 4:
                sock.bind(ANNOUNCEMENTS)
            else:  # of the link of that device alone
                sock.bind((*ANNOUNCEMENTS6, 0, socket.if_nametoindex(place.gateway.device)))
        except OSError:  # the port is somebody else's: reboots are noticed later, by asking
            sock.close()
            return
        self._sock = sock
        self._loop.add_reader(sock, self._read, sock)

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(_DRAIN):
                data, source = sock.recvfrom(pcp.MAX_MESSAGE)
                host = source[0].partition("%")[0]
                if host == self._place.host and len(data) >= 4:
                    self._heard()

    def close(self) -> None:
        """Hear no more."""
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
