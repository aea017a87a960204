"""The system's resolver off the loop: the IP addresses of a name, or why there are none.

`getaddrinfo` asks whatever the system is set up to ask, and cannot be stopped: with resolvers that
stay silent it takes half a minute. So it runs in a thread that nobody waits for, not even the end
of the process. It does not tell a dead resolver from a missing one; we look for ourselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pt.errors import DnsCause, DnsError

__all__ = ["INSTEAD", "MAX_THREADS", "RESOLV_CONF", "explain", "look_up", "nameservers"]

MAX_THREADS: Final = 16
"""Look-ups at a time, also of those that nobody waits for any more."""
RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_CONF: Final = 1 << 16
MAX_SERVERS: Final = 3
"""As the C library."""
QUICK: Final = 0.9
"""Seconds within which a resolver that is silent is not given up."""
INSTEAD: Final = "or give an address with /ip4/ or /ip6/ instead of the name"
CONNECT: Final = "connect this machine to a network"

_slots: Final = threading.BoundedSemaphore(MAX_THREADS)
_NO_RECORD: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
_FAMILIES: Final = {int(socket.AF_INET): " IPv4", int(socket.AF_INET6): " IPv6"}


async def look_up(host: str, family: int) -> list[str]:
    """The IP addresses of `host`, of one family or (0) of both, in the order to try them in.

    Raises:
        DnsError: why there is none. It may take long: bound the time.

    """
    loop = asyncio.get_running_loop()
    if not _slots.acquire(blocking=False):
        raise DnsError(
            f"could not look up {host}: {MAX_THREADS} names are being looked up already, and the "
            f"DNS does not answer; check it, {INSTEAD}",
            DnsCause.TIMEOUT,
        )
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str], failure: DnsError | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(found)

    def work() -> None:
        found: list[str] = []
        failure: DnsError | None = DnsError(f"could not look up {host}", DnsCause.FAILED)
        try:
            found, failure = _ask(host, family), None
        except DnsError as error:
            failure = error
        finally:  # whatever happens, who waits is told
            _slots.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, found, failure)

    try:
        threading.Thread(target=work, name="pt-dns", daemon=True).start()
    except RuntimeError as error:
        _slots.release()
        raise DnsError(f"could not look up {host}: {error}", DnsCause.FAILED) from error
    return await answer


def _ask(host: str, family: int) -> list[str]:
    started = time.monotonic()
    try:
        found = socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # no name at all: an empty label, or one that is too long
        raise explain(host, family, socket.EAI_NONAME, 0.0, (), routed=True) from error
    except OSError as error:
        servers = nameservers()
        seconds = time.monotonic() - started
        routed = _routed(servers)
        raise explain(host, family, error.errno, seconds, servers, routed=routed) from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def explain(
    host: str,
    family: int,
    code: int | None,
    seconds: float,
    servers: Sequence[str],
    *,
    routed: bool,
) -> DnsError:
    """What a failed look-up means: its `code`, how long it took, which resolvers there are.

    `routed`: this machine has a route to at least one of them.
    """
    if code == socket.EAI_NONAME:
        return DnsError(
            f"the host {host} does not exist in the DNS: check its spelling, {INSTEAD}",
            DnsCause.NO_NAME,
        )
    if code in _NO_RECORD:
        return DnsError(
            f"the host {host} has no{_FAMILIES.get(family, '')} address: check its spelling, "
            f"{INSTEAD}",
            DnsCause.NO_RECORD,
        )
    named = "the resolver" if len(servers) == 1 else "the resolvers"
    named = f"{named} {' and '.join(servers)}"
    if not servers:
        why, step = "this machine names no DNS resolver (/etc/resolv.conf)", CONNECT
        cause = DnsCause.NO_RESOLVER
    elif not routed:
        why, step = f"there is no route to {named}", CONNECT
        cause = DnsCause.UNREACHABLE
    elif code == socket.EAI_AGAIN and seconds >= QUICK:
        why, step = f"no answer from {named}", "check the network's DNS"
        cause = DnsCause.TIMEOUT
    else:
        why, step = f"{named} cannot be reached, or fails", "check the network's DNS"
        cause = DnsCause.FAILED
    return DnsError(f"could not look up {host}: {why}; {step}, {INSTEAD}", cause)


def nameservers(path: Path = RESOLV_CONF) -> tuple[str, ...]:
    """The resolvers that the system names, as the C library reads them."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONF).decode("utf-8", "replace")
    except OSError:
        return ()
    words = [line.split() for line in text.splitlines()]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(named[:MAX_SERVERS])


def _routed(servers: Sequence[str]) -> bool:
    """Whether there is a route to one of them; nothing is sent."""
    for server in servers:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((server, 53))
            return True
    return False
