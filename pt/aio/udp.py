"""UDP sockets that several protocols may share: datagrams out, datagrams in, nothing else.

A host with several addresses must answer from the one that was asked, or the answer is nobody's:
where that is in doubt (a wildcard address, several sockets of a family), the port remembers over
which socket and local address each of the last `MAX_PATHS` remote addresses was heard.

For bulk, datagrams of one size go out as a train in one call (UDP_SEGMENT), and come in several at
a time (UDP_GRO), where the kernel has these; else one by one, with the same calls.  See udp(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pt.aio.heap import keep_heap
from pt.aio.tcp import ip_family
from pt.errors import LocalPortError

__all__ = ["MAX_PATHS", "Address", "UdpPort"]

Address: TypeAlias = tuple[str, int]
"""An IP address in its usual spelling, and a UDP port."""
_Part: TypeAlias = tuple[int, int, bytes]
_Control: TypeAlias = list[_Part]
Trains: TypeAlias = Callable[[bytes, int, Address], None]
"""(datagrams, size of each but the last, where from): up to 256 KiB."""

MAX_PATHS: Final = 4096
MAX_DATAGRAM: Final = 2048
"""Longer ones are cut off, which makes them nobody's."""
BUFFER: Final = 1 << 20
"""Bytes that the kernel may keep for us; it gives what it allows."""
BULK_BUFFER: Final = 4 << 20
"""The same, in both directions, where trains are used."""
MAX_TRAIN: Final = 65_535
MAX_WAITING: Final = 256
"""Trains kept for a full socket; more are dropped, as by any network."""
_DRAIN: Final = 64  # datagrams of one turn of the loop
_TURN: Final = 256  # datagrams of one turn that come one by one,
_TRAIN_COST: Final = 16  # of which a train, of up to 64 KiB, counts for so many
_JOINED: Final = 256 * 1024  # bytes put together
_SOL_UDP: Final = 17  # linux/udp.h
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SIZE: Final = struct.Struct("=H")
_GRO_SIZE: Final = struct.Struct("=i")
_BUFFER_FORCE: Final = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}  # beyond the system's maximum
_PMTU_DONT: Final = 0  # fragment what is too long
_PMTU_PROBE: Final = 3  # never fragment, and do not mind what was learnt of the path
_RECVERR: Final = {socket.AF_INET: (0, 11), socket.AF_INET6: (41, 25)}  # ip(7), ipv6(7)
_MTU_DISCOVER: Final = {socket.AF_INET: (0, 10), socket.AF_INET6: (41, 23)}
_ERRQUEUE: Final = 0x2000
_ERRNO: Final = struct.Struct("=I")  # the first field of sock_extended_err
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
        self.on_room: Callable[[], None] | None = None
        """Told when a full socket takes datagrams again."""
        self.on_refused: Callable[[Address, int], None] | None = None
        """Told where the network says that nobody is, and the errno; anybody can make that up."""
        self._trains: Trains | None = None
        self._drained: Callable[[], None] = lambda: None
        self._waiting: deque[tuple[Sequence[bytes], Address]] = deque()
        self._writing: socket.socket | None = None
        self._no_gso: set[socket.socket] = set()
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
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                sock = self._open(family)
                sock.bind(address)
            except OSError as error:
                raise LocalPortError(
                    f"UDP port {address[1]} on {address[0]} cannot be used: "
                    f"{error.strerror or error}"
                ) from error
            undo.pop_all()
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
            _send(sock or self._open(family), (data,), control, addr)

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
        """Send from an address of ours, and from no other, or drop; in fragments if it is long."""
        family = ip_family(host)
        for sock in self._sockets:
            own = sock.getsockname()[0] if sock.family == family else None
            if own != host and own not in _WILDCARDS:
                continue
            control = [] if own == host else [_source(family, host)]
            with contextlib.suppress(OSError):  # not our address, no route, a full buffer: lost
                try:
                    _send(sock, [data], control, addr)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                    sock.setsockopt(*_MTU_DISCOVER[family], _PMTU_DONT)
                    try:
                        _send(sock, [data], control, addr)
                    finally:
                        sock.setsockopt(*_MTU_DISCOVER[family], _PMTU_PROBE)
            return

    # --- trains --------------------------------------------------------------------------------

    def use_trains(self, received: Trains, drained: Callable[[], None]) -> None:
        """Read for bulk: `received` gets all that comes, `drained` is called after each turn."""
        keep_heap()
        self._trains = received
        self._drained = drained
        for sock in self._sockets:
            self._tune(sock)

    @property
    def full(self) -> bool:
        """Whether trains wait for a socket; give no more before `on_room`."""
        return bool(self._waiting)

    def send_train(self, segments: Sequence[bytes], addr: Address) -> None:
        """Send datagrams of one size, the last may be shorter: at most 64 and 65,000 bytes.

        What a full socket does not take waits, and is sent before anything that comes later.
        """
        if self._waiting:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((segments, addr))
            return
        rest = self._send_now(segments, addr)
        if rest:
            self._waiting.append((rest, addr))

    def _send_now(self, segments: Sequence[bytes], addr: Address) -> Sequence[bytes]:
        """Send; returns what a full socket did not take."""
        family = ip_family(addr[0])
        sock, control = self._paths.get(addr) or (self._default.get(family), [])
        if self._closed:
            return ()
        if sock is None and self._fixed:
            self._lost(addr, OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT)))
            return ()
        if sock is None:
            try:
                sock = self._open(family)
            except OSError as error:  # a kernel without the family, no descriptors left
                self._lost(addr, error)
                return ()
        if len(segments) > 1 and sock not in self._no_gso:
            size = (_SOL_UDP, _UDP_SEGMENT, _SIZE.pack(len(segments[0])))
            try:
                _send(sock, segments, [*control, size], addr)
            except (BlockingIOError, InterruptedError):
                self._wait_room(sock)
                return segments
            except OSError as error:
                if error.errno in (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL):
                    self._no_gso.add(sock)  # neither the device nor the kernel can
                elif error.errno != errno.EMSGSIZE:
                    self._lost(addr, error)  # no route there
                    return ()
            else:
                return ()
        for at, segment in enumerate(segments):
            try:
                _send(sock, (segment,), control, addr)
            except (BlockingIOError, InterruptedError):
                self._wait_room(sock)
                return segments[at:]
            except OSError as error:  # too long for the device, no route: lost
                self._lost(addr, error)
        return ()

    def _lost(self, addr: Address, error: OSError) -> None:
        """A datagram could not even leave; whoever wants to know may send again at once."""
        if self.on_refused is not None and error.errno not in (None, errno.EMSGSIZE):
            self._loop.call_soon(self.on_refused, addr, error.errno)

    def _wait_room(self, sock: socket.socket) -> None:
        if self._writing is None:
            self._writing = sock
            self._loop.add_writer(sock, self._on_writable)

    def _on_writable(self) -> None:
        assert self._writing is not None
        self._loop.remove_writer(self._writing)
        self._writing = None
        waiting = self._waiting
        while waiting:
            segments, addr = waiting.popleft()
            rest = self._send_now(segments, addr)
            if rest:
                waiting.appendleft((rest, addr))
                return
        if self.on_room is not None:
            self.on_room()

    # --- sockets -------------------------------------------------------------------------------

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sockets.append(sock)
        self._default.setdefault(family, sock)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._trains is not None:
            self._tune(sock)
        self._loop.add_reader(sock, self._read, sock)
        return sock

    @staticmethod
    def _tune(sock: socket.socket) -> None:
        """Long queues, several datagrams a read, no fragments: as far as the system allows."""
        for option, force in _BUFFER_FORCE.items():
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, BULK_BUFFER)
                sock.setsockopt(socket.SOL_SOCKET, force, BULK_BUFFER)  # who may
        with contextlib.suppress(OSError):
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        with contextlib.suppress(OSError):
            sock.setsockopt(*_MTU_DISCOVER[sock.family], _PMTU_PROBE)
        with contextlib.suppress(OSError):
            sock.setsockopt(*_RECVERR[sock.family], 1)

    def _read(self, sock: socket.socket) -> None:
        try:
            self._read_datagrams(sock)
        finally:
            if self._trains is not None and not self._closed:
                self._drained()

    def _read_datagrams(self, sock: socket.socket) -> None:
        if self._trains is not None:
            self._read_trains(sock, self._trains)
            return
        noted = sock in self._noted
        for _ in range(_DRAIN):
            try:
                data, control, _, name = sock.recvmsg(MAX_DATAGRAM, 128)
            except BlockingIOError:
                break
            except OSError:  # the kernel's word that nobody listens at an address we wrote to
                continue
            addr = (name[0].partition("%")[0], name[1])
            if noted:
                self._note(addr, sock, control)
            if self.received is not None:
                self.received(data, addr)
            if self._closed:
                return

    def _read_trains(self, sock: socket.socket, trains: Trains) -> None:
        """Read until a turn is over; what comes from one address in one size is put together."""
        noted = sock in self._noted
        parts: list[bytes] = []
        size = total = spent = 0
        source: Address = ("", 0)
        while spent < _TURN:
            try:
                data, control, _, name = sock.recvmsg(MAX_TRAIN, 128)
            except BlockingIOError:
                if not spent:
                    self._read_errors(sock)
                break
            except OSError:  # as above
                spent += 1
                continue
            addr = (name[0].partition("%")[0], name[1])
            length = each = len(data)
            for level, kind, value in control:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    (each,) = _GRO_SIZE.unpack(value[: _GRO_SIZE.size])
            spent += 1 if length <= each else _TRAIN_COST
            if parts:
                # Only the last datagram of all may be shorter than the others.
                fits = each == size or (length < size and length <= each)
                if addr == source and fits and not total % size and total + length <= _JOINED:
                    parts.append(data)
                    total += length
                    continue
                trains(b"".join(parts), size, source)
                if self._closed:
                    return
            if noted:
                self._note(addr, sock, control)
            parts, size, total, source = [data], min(each, length) or 1, length, addr
        if parts and not self._closed:
            trains(b"".join(parts), size, source)  # of one: itself

    def _read_errors(self, sock: socket.socket) -> None:
        """Hand on what the network said of datagrams of ours."""
        for _ in range(_DRAIN):
            try:
                _, control, _, name = sock.recvmsg(MAX_DATAGRAM, 256, _ERRQUEUE)
            except OSError:
                return
            for level, kind, value in control:
                if (level, kind) == _RECVERR[sock.family] and self.on_refused is not None:
                    (code,) = _ERRNO.unpack(value[: _ERRNO.size])
                    if code != errno.EMSGSIZE:
                        self.on_refused((name[0].partition("%")[0], name[1]), code)

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
            self._loop.remove_writer(sock)
            sock.close()
        self._waiting.clear()
        self._no_gso.clear()
        self._sockets.clear()
        self._default.clear()
        self._noted.clear()
        self._paths.clear()


def _source(family: socket.AddressFamily, host: str) -> tuple[int, int, bytes]:
    packed = socket.inet_pton(family, host)
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _V6.pack(packed, 0)
    return socket.IPPROTO_IP, _IP_PKTINFO, _V4.pack(0, packed, bytes(4))


def _send(
    sock: socket.socket, data: Sequence[bytes], control: Sequence[_Part], addr: Address
) -> None:
    """Send; an error that the socket still owed us, for another datagram, is no reason not to."""
    try:
        sock.sendmsg(data, control, 0, addr)
    except (ConnectionRefusedError, PermissionError):
        sock.sendmsg(data, control, 0, addr)
    except OSError as error:
        if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO):
            raise
        sock.sendmsg(data, control, 0, addr)
