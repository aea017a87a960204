"""UDP sockets that several protocols may share: datagrams out, datagrams in, nothing else.

A host with several addresses must answer from the one that was asked, or the answer is nobody's:
where that is in doubt (a wildcard address, several sockets of a family), the port remembers over
which socket and local address each of the last `MAX_PATHS` remote addresses was heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

from pt.aio.tcp import ip_family
from pt.errors import LocalPortError

__all__ = ["MAX_PATHS", "Address", "UdpPort"]

Address: TypeAlias = tuple[str, int]
"""An IP address in its usual spelling, and a UDP port."""
_Control: TypeAlias = list[tuple[int, int, bytes]]

MAX_PATHS: Final = 4096
MAX_DATAGRAM: Final = 2048
"""Longer ones are cut off, which makes them nobody's."""
BUFFER: Final = 1 << 20
"""Bytes that the kernel may keep for us; it gives what it allows."""
_DRAIN: Final = 64  # datagrams of one turn of the loop
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_INT: Final = struct.Struct("=i")
_V4: Final = struct.Struct("=I4s4s")  # interface, local address, destination
_V6: Final = struct.Struct("=16sI")  # local address, interface
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class UdpPort:
    """Sockets at `listen`; without any, one of each address family that is written to."""

    def __init__(self, *listen: Address) -> None:
        """Open the sockets; needs a running loop.

        Raises:
            LocalPortError: an address cannot be listened on; nothing is left open.

        """
        self.received: Callable[[bytes, Address], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._default: dict[int, socket.socket] = {}
        """By family, for those we have not heard from."""
        self._noted: set[socket.socket] = set()
        """Sockets whose remote addresses are remembered."""
        self._paths: OrderedDict[Address, tuple[socket.socket, _Control]] = OrderedDict()
        self._fixed = bool(listen)
        self._closed = False
        for address in listen:
            self._listen(address)

    def _listen(self, address: Address) -> None:
        family = ip_family(address[0])
        shared = family in self._default
        try:
            sock = self._open(family)
            sock.bind(address)
        except OSError as error:
            self.close()
            raise LocalPortError(
                f"UDP port {address[1]} on {address[0]} cannot be used: {error.strerror or error}"
            ) from error
        wildcard = address[0] in _WILDCARDS
        if wildcard:
            with contextlib.suppress(OSError):  # a kernel that cannot: it chooses the address
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        if shared:
            self._noted |= {each for each in self._sockets if each.family == family}
        elif wildcard:
            self._noted.add(sock)

    @property
    def addresses(self) -> list[Address]:
        """Where we listen, in the order given."""
        found = []
        for sock in self._sockets:
            host, port = sock.getsockname()[:2]
            found.append((str(host), int(port)))
        return found

    @property
    def address(self) -> Address:
        """Where we listen first."""
        return self.addresses[0]

    def send(self, data: bytes, addr: Address) -> None:
        """Send, or drop what the network does not take; never waits."""
        family = ip_family(addr[0])
        sock, control = self._paths.get(addr) or (self._default.get(family), [])
        if self._closed or (sock is None and self._fixed):
            return
        with contextlib.suppress(OSError):  # an address without a route, a full buffer: lost
            if control:
                assert sock is not None
                sock.sendmsg([data], control, 0, addr)
            else:
                (sock or self._open(family)).sendto(data, addr)

    def local_address(self, addr: Address) -> Address | None:
        """Our own end of what was heard from `addr` last; None if there is no such socket."""
        sock, control = self._paths.get(addr) or (self._default.get(ip_family(addr[0])), [])
        if sock is None:
            return None
        host, port = sock.getsockname()[:2]
        for level, _, data in control:
            family = socket.AF_INET if level == socket.IPPROTO_IP else socket.AF_INET6
            host = socket.inet_ntop(family, data[4:8] if len(data) == _V4.size else data[:16])
        return str(host), int(port)

    def send_near(self, data: bytes, addr: Address, hops: int) -> None:
        """Send a datagram that at most `hops` routers pass on, or drop it."""
        family = ip_family(addr[0])
        level, kind = (socket.IPPROTO_IP, socket.IP_TTL)
        if family == socket.AF_INET6:
            level, kind = socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT
        sock, control = self._paths.get(addr) or (self._default.get(family), [])
        if sock is not None:
            ttl = (level, kind, _INT.pack(hops))
            with contextlib.suppress(OSError):
                sock.sendmsg([data], [*control, ttl], 0, addr)

    def send_from(self, host: str, data: bytes, addr: Address) -> None:
        """Send from an address of ours, or drop; with it, nothing is sent from anywhere else."""
        family = ip_family(host)
        with contextlib.suppress(OSError):  # not our address, no route, a full buffer: lost
            for sock in self._sockets:
                own = sock.getsockname()[0] if sock.family == family else None
                if own == host:
                    sock.sendto(data, addr)
                    return
                if own in _WILDCARDS:
                    sock.sendmsg([data], [_source(family, host)], 0, addr)
                    return

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sockets.append(sock)
        self._default.setdefault(family, sock)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._loop.add_reader(sock, self._read, sock)
        return sock

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_DRAIN):
            try:
                data, control, _, name = sock.recvmsg(MAX_DATAGRAM, 64)
            except BlockingIOError:
                return
            except OSError:  # the kernel's word that nobody listens at an address we wrote to
                continue
            addr = (name[0].partition("%")[0], name[1])
            if sock in self._noted:
                self._note(addr, sock, control)
            if self.received is not None:
                self.received(data, addr)
            if self._closed:
                return

    def _note(self, addr: Address, sock: socket.socket, control: _Control) -> None:
        answer: _Control = []
        for level, kind, data in control:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) == _V4.size:
                _, local, _ = _V4.unpack(data)
                answer = [(level, kind, _V4.pack(0, local, bytes(4)))]
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                local, _ = _V6.unpack(data)
                answer = [(level, kind, _V6.pack(local, 0))]
        self._paths[addr] = (sock, answer)
        self._paths.move_to_end(addr)
        if len(self._paths) > MAX_PATHS:
            self._paths.popitem(last=False)

    def close(self) -> None:
        """Close the sockets; nothing is sent or handed over any more."""
        self._closed = True
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._default.clear()
        self._noted.clear()
        self._paths.clear()


def _source(family: socket.AddressFamily, host: str) -> tuple[int, int, bytes]:
    packed = socket.inet_pton(family, host)
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _V6.pack(packed, 0)
    return socket.IPPROTO_IP, _IP_PKTINFO, _V4.pack(0, packed, bytes(4))
