"""Names in addresses: /dns, /dns4 and /dns6 become what the system's resolver says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from pt.errors import ConnectError
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_ANSWERS", "resolve"]

MAX_ANSWERS: Final = 8
"""Addresses taken of one name."""
_FAMILIES: Final = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def resolve(addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
    """The addresses with every name of plain TCP replaced; others are passed on as they are.

    Raises:
        ConnectError: nothing is left, because a name could not be resolved.

    """
    resolved: list[Multiaddr] = []
    failure: ConnectError | None = None
    for address in addresses:
        host, port = address.host, address.tcp_port
        named = host is not None and host[0].startswith("dns")
        if host is None or port is None or not named or address.transport != "tcp":
            resolved.append(address)
            continue
        family = _FAMILIES.get(host[0], 0)
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                host[1], port, family=family, type=socket.SOCK_STREAM
            )
        except OSError as error:
            failure = ConnectError(
                f"could not resolve host {host[1]!r}: {error.strerror or error}; check the "
                "name and this machine's DNS, or give an address with /ip4/…",
                ((str(address), str(error)),),
            )
            failure.__cause__ = error
            continue
        resolved += [Multiaddr.tcp(str(info[4][0]), port) for info in infos[:MAX_ANSWERS]]
    if failure is not None and not resolved:
        raise failure
    return resolved
