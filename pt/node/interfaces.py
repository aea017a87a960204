"""The addresses of this machine, for expanding a wildcard listener into what others can dial."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import Final

__all__ = ["expand", "own_addresses"]

_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_IFF_RUNNING: Final = 0x40
_NAME_LEN: Final = 16


def expand(host: str) -> list[str]:
    """The concrete addresses behind a listening `host`: itself, or all interfaces for a wildcard.

    Loopback addresses are left out as long as the family has another; IPv6 link-local ones always,
    since they mean nothing without the interface. Interfaces that are down have none.
    """
    if host not in ("0.0.0.0", "::"):
        return [host]
    import ifaddr  # noqa: PLC0415  # not needed by who never listens on a wildcard

    wanted_six = host == "::"
    usual: list[str] = []
    loopback: list[str] = []
    for adapter in ifaddr.get_adapters():
        if not _is_running(adapter.name):
            continue
        for address in adapter.ips:
            six = isinstance(address.ip, tuple)
            if six != wanted_six:
                continue
            text = str(address.ip[0] if six else address.ip)
            if text.startswith("fe80:"):
                continue
            (loopback if text.startswith("127.") or text == "::1" else usual).append(text)
    return usual or loopback


def own_addresses() -> frozenset[str]:
    """All that this machine has now: when they are others, it is in another network."""
    return frozenset((*expand("0.0.0.0"), *expand("::")))


def _is_running(name: str) -> bool:
    """Whether an interface is up and has a carrier; also if the system does not say (netdevice(7)).

    An interface whose cable is pulled keeps its addresses for a while.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16s24x", name.encode()[: _NAME_LEN - 1])
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), _NAME_LEN)
        return bool(flags & _IFF_RUNNING)
    return True
