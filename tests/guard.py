"""No test may send a packet out of this machine: an audit hook that stops it before it happens.

In the network namespace that the tests were started in, sockets may only name loopback addresses,
multicast is sent from the loopback interface alone, and no name is resolved. Sockets of a namespace
that `pt.lab` made are free: nothing leads out of there. Child processes are outside of this hook;
`tests/arch/test_host_network.py` looks at how they are started. What was stopped is noted: it fails
the test, too, if the program under test caught the exception, or a task ended by it unseen.
"""

from __future__ import annotations

import collections
import fcntl
import functools
import os
import socket
import sys
from ipaddress import ip_address, ip_network

__all__ = ["HostNetworkError", "install", "take_hits"]

NAMESPACE = "/proc/thread-self/ns/net"
SIOCGSKNS = 0x894C  # linux/sockios.h: a descriptor of the namespace a socket belongs to
EVENTS = frozenset(
    {"socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
)
INTERNET = (socket.AF_INET, socket.AF_INET6)
MDNS_PORT = 5353
LABORATORY = ip_network("11.0.0.0/8")
LOOPBACK_INDEX = 1  # Linux: the loopback device is the first of every namespace


MAX_HITS = 16  # kept between two looks

_hits: collections.deque[str] = collections.deque(maxlen=MAX_HITS)


class HostNetworkError(RuntimeError):
    """A test was about to use the host's network."""


@functools.cache
def install() -> None:
    """Watch from now on, for as long as the process lives; further calls do nothing."""
    if not os.path.exists(NAMESPACE):  # not Linux: nothing can be told apart
        return
    home = os.stat(NAMESPACE).st_ino

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event not in EVENTS:
            return
        reason = _reason(event, args)
        if reason and _namespace(args[0]) == home:
            error = HostNetworkError(f"{event}: {reason}, in the host's network namespace")
            _hits.append(str(error))
            raise error

    sys.addaudithook(hook)


def take_hits() -> list[str]:
    """What was stopped since the last call."""
    hits = list(_hits)
    _hits.clear()
    return hits


def _reason(event: str, args: tuple[object, ...]) -> str:
    """Why this call is not allowed; empty if it is."""
    if event == "socket.getaddrinfo":
        name = args[0].decode() if isinstance(args[0], bytes) else args[0]
        known = not name or name == "localhost" or _address(name) is not None
        return "" if known else f"resolving {name!r} asks a server"
    sock, address = args[0], args[1]
    if not isinstance(sock, socket.socket) or sock.family not in INTERNET or address is None:
        return ""
    assert isinstance(address, tuple)
    host, port = address[:2]
    ip = _address(host)
    binds = event == "socket.bind"
    if binds and (port == MDNS_PORT or (ip is not None and ip in LABORATORY)):
        return ""  # only receives multicast; or an address the host has not: the kernel refuses it
    if ip is not None and ip.is_multicast:
        safe = binds or _multicasts_on_loopback(sock)
        return "" if safe else f"multicast to {host} leaves loopback"
    if ip is not None and ip.is_loopback:
        return ""
    return f"{host!r} port {port} is not a loopback address"


def _namespace(subject: object) -> int:
    """The namespace of a socket, whoever holds it; of anything else, that of this thread."""
    if isinstance(subject, socket.socket):
        try:
            found = fcntl.ioctl(subject, SIOCGSKNS)
        except OSError:  # not root: then there are no other namespaces either
            pass
        else:
            inode = os.fstat(found).st_ino
            os.close(found)
            return inode
    return os.stat(NAMESPACE).st_ino


def _address(host):
    try:
        return ip_address(str(host).partition("%")[0])
    except ValueError:
        return None


def _multicasts_on_loopback(sock: socket.socket) -> bool:
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) == LOOPBACK_INDEX
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4)[0] == 127
