"""A relay as a STUN server: on its UDP and TCP ports, and on a second port beside each.

RFC 5780 wants two IP addresses and two ports. The second port is ours to open. A second address is
the host's own, if it has two that the family's listeners cover, or that of another relay
(`pt.stun.partner`); without either a client learns its address and port mapping, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final

from pt.aio import tcp
from pt.aio.scope import Scope
from pt.aio.timer import Timer
from pt.aio.udp import Address, UdpPort
from pt.errors import LimitError, LocalPortError, PtError
from pt.node.interfaces import expand
from pt.relayd import events
from pt.relayd.config import STUN_PORT, RelayConfig
from pt.stun.framing import Deframer
from pt.stun.limits import BACK_BURST, BACK_RATE, MAX_HELD, Allowance, Held
from pt.stun.messages import BINDING, MAX_MESSAGE, Kind, decode, encode, is_stun
from pt.stun.partner import Connect, Partner, partner_key
from pt.stun.server import PRIMARY, Answer, Place, Server
from pt.tunnel.events import Event, Warned
from pt.wire.ipranges import is_public
from pt.wire.multiaddr import Multiaddr

__all__ = ["SharedPort", "Stun"]

TRIES: Final = 16
"""Second ports tried when the first one was the system's choice."""
MAX_STREAMS: Final = 64
"""TCP connections to the second port at a time."""
STREAM_LIFE: Final = 10.0
BACK_PATIENCE: Final = 1.5
"""Seconds for a connection to who asked for one: two packets, if nobody answers."""
HELD_PATIENCE: Final = 5.0
"""Seconds that a connection which was held has for what is said at the end."""
MAX_REQUESTS: Final = 16
"""Of one TCP connection."""
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class SharedPort:
    """What is left of a UDP port when STUN has taken its datagrams; the port stays whose it was."""

    def __init__(self, port: UdpPort, stun: Callable[[bytes, Address], None]) -> None:
        self.received: Callable[[bytes, Address], None] | None = None
        self._port = port
        self._stun = stun
        port.received = self._received

    def _received(self, data: bytes, addr: Address) -> None:
        if is_stun(data):
            self._stun(data, addr)
        elif self.received is not None:
            self.received(data, addr)

    def send(self, data: bytes, addr: Address) -> None:
        """Send, or drop what the network does not take; never waits."""
        self._port.send(data, addr)

    def close(self) -> None:
        """Hand over nothing more; STUN goes on until its own end."""
        self.received = None


class _Site:
    """The server of one IP version: its own addresses, and the other relay's while it answers."""

    def __init__(self, hosts: Sequence[str], ports: Sequence[int], announced: str | None) -> None:
        self.hosts = tuple(hosts[:2])
        self.ports = tuple(ports)
        self.own = {
            Place(at, which): (announced or host, port)
            for at, host in enumerate(self.hosts)
            for which, port in enumerate(self.ports)
        }
        self.partner: Partner | None = None
        self.server: Server
        self.timer: Timer | None = None
        """Of the partner."""
        self.answers = False

    def place(self, local: Address) -> Place | None:
        if local[0] in self.hosts and local[1] in self.ports:
            return Place(self.hosts.index(local[0]), self.ports.index(local[1]))
        return None


class Stun:
    """Serves from `start` to `close`."""

    def __init__(
        self,
        port: UdpPort,
        emit: Callable[[Event], None],
        config: RelayConfig,
        *,
        version: str = "",
    ) -> None:
        """Serve on `port`, which stays open until `close`; needs a running loop."""
        self.counts: Counter[str] = Counter()
        self._emit = emit
        self._config = config
        self._key = None if config.stun_secret is None else partner_key(config.stun_secret)
        self._first = port
        self._second: UdpPort | None = None
        self._software = f"pt {version}".strip()
        self._loop = asyncio.get_running_loop()
        self._allowance = Allowance()
        self._connections = Allowance(BACK_RATE, BACK_BURST)
        self._held = Held()
        self._sites: dict[bool, _Site] = {}
        """By whether it is of IPv6."""
        self._plain = Server(
            {}, software=self._software, allowance=self._allowance, held=self._held
        )
        """For those who come to another address of ours than those two, or another port."""
        self._scope = Scope(limit=MAX_STREAMS + 16)
        self._silent = Scope(limit=MAX_HELD)
        """Connections that are held."""
        self._listeners: list[socket.socket] = []
        self.shared = SharedPort(port, self._received_first)
        """For whoever else uses the port."""

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where it serves, as users give them to `pt nat`."""
        found = dict.fromkeys(
            Multiaddr.parse(f"/ip{6 if six else 4}/{address[0]}/udp/{address[1]}")
            for six, site in sorted(self._sites.items())
            for place, address in site.own.items()
            if place.port == 0
        )
        return tuple(found)

    def start(self) -> None:
        """Open the second ports, and serve."""
        self._open_second()
        for six in (False, True):
            points = [each for each in self._first.addresses if (":" in each[0]) == six]
            if not points:
                continue
            number = points[0][1]
            hosts = _hosts([host for host, port in points if port == number])
            if not hosts:
                continue
            ports = [number]
            if self._second is not None:
                ports.append(self._second.address[1])
            site = self._sites[six] = _Site(hosts, ports, self._announced(six, hosts))
            site.server = Server(
                site.own,
                software=self._software,
                allowance=self._allowance,
                connections=self._connections,
                held=self._held,
            )
            if self._second is not None:
                self._ask_partner(site, six)

    async def close(self) -> None:
        """Answer nothing more."""
        for site in self._sites.values():
            if site.timer is not None:
                site.timer.close()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        await self._scope.aclose()
        await self._silent.aclose()
        self._first.close()
        if self._second is not None:
            self._second.close()

    def view(self) -> dict[str, int]:
        """What became of requests, so far."""
        total = self._plain.counts + self.counts
        for site in self._sites.values():
            total += site.server.counts
            if site.partner is not None:
                total += Counter(
                    {f"other relay, {name}": n for name, n in site.partner.counts.items()}
                )
        return dict(total)

    # --- addresses -----------------------------------------------------------------------------

    def _open_second(self) -> None:
        first = self._first.addresses
        number = first[0][1]
        hosts = list(dict.fromkeys(host for host, port in first if port == number))
        wanted = self._config.stun_port
        if wanted == STUN_PORT and not any(each.tcp_port for each in self._config.listen):
            wanted = 0
        problem: LocalPortError | None = None
        for left in reversed(range(1 if wanted else TRIES)):
            try:
                number = wanted or _free_port(hosts[0])
                second = UdpPort(*((host, number) for host in hosts))
            except LocalPortError as error:
                problem = error
                continue
            refused = self._listen(hosts, number)
            if refused and left:
                second.close()
                continue
            if refused:
                self._warn(
                    f"STUN cannot listen on TCP port {number} ({refused}), so that `pt nat` learns "
                    "less of TCP here; choose another port with --stun-port"
                )
            second.received = self._received_second
            self._second = second
            return
        self._warn(
            f"STUN has no second port, so that `pt nat` learns less here: {problem}; choose "
            "another with --stun-port, or give --no-stun"
        )

    def _listen(self, hosts: Iterable[str], port: int) -> str:
        """Listen for TCP, too; why it cannot, if so."""
        opened: list[socket.socket] = []
        try:
            opened.extend(tcp.listen(host, port, share_port=True) for host in hosts)
        except OSError as error:
            for listener in opened:
                listener.close()
            return error.strerror or str(error)
        for listener in opened:
            self._listeners.append(listener)
            self._loop.add_reader(listener, self._accept, listener)
        return ""

    def _announced(self, six: bool, hosts: Sequence[str]) -> str | None:
        """The address that clients know a relay behind a 1:1 NAT by, if --announce tells it."""
        kind = "ip6" if six else "ip4"
        told = {
            each.host[1] for each in self._config.announce if each.host and each.host[0] == kind
        }
        if len(hosts) == 1 and len(told) == 1 and not is_public(ip_address(hosts[0])):
            return told.pop()
        return None

    # --- the other relay -----------------------------------------------------------------------

    def _ask_partner(self, site: _Site, six: bool) -> None:
        kind = "ip6" if six else "ip4"
        peer = next(
            (each for each in self._config.stun_peers if each.host and each.host[0] == kind), None
        )
        if peer is None or self._key is None:
            return
        assert peer.host is not None
        port = peer.udp_port if peer.udp_port is not None else peer.tcp_port
        assert port is not None
        partner = site.partner = Partner(
            (peer.host[1], port),
            self._key,
            (site.ports[0], site.ports[1]),
            secrets.token_bytes,
            allowance=self._allowance,
            connections=self._connections,
        )

        def ask() -> None:
            now = self._loop.time()
            for data in partner.handle_timeout(now):
                self._first.send_from(site.hosts[0], data, partner.address)
            self._look_at_partner(site, partner, now)

        site.timer = Timer(partner.next_timeout, ask)
        ask()
        site.timer.arm()

    def _look_at_partner(self, site: _Site, partner: Partner, now: float) -> None:
        site.server.places = {**partner.places(now), **site.own}
        if partner.alive(now) == site.answers:
            return
        site.answers = partner.alive(now)
        where = Multiaddr.parse(
            f"/ip{6 if ':' in partner.address[0] else 4}/{partner.address[0]}"
            f"/udp/{partner.address[1]}"
        )
        self._emit(events.StunPeer(address=where, answers=site.answers))
        if (theirs := partner.mismatch) is not None:
            self._warn(
                f"the relay at {where} serves STUN on the ports {theirs[0]} and {theirs[1]}, this "
                f"one on {site.ports[0]} and {site.ports[1]}: they have to be the same for the two "
                "to answer for each other; see --listen and --stun-port"
            )

    # --- datagrams -----------------------------------------------------------------------------

    def _received_first(self, data: bytes, addr: Address) -> None:
        self._received(self._first, data, addr)

    def _received_second(self, data: bytes, addr: Address) -> None:
        assert self._second is not None
        self._received(self._second, data, addr)

    def _received(self, port: UdpPort, data: bytes, addr: Address) -> None:
        local = port.local_address(addr)
        site = self._sites.get(":" in addr[0])
        if local is None:
            return
        now = self._loop.time()
        place = None if site is None else site.place(local)
        if site is None or place is None:
            answer = self._plain.receive(data, addr, PRIMARY, now)
            if answer is not None:
                port.send(answer.data, answer.to)
            return
        partner = site.partner
        if partner is not None and addr == partner.address:
            found = partner.receive(data, addr, now)
            if isinstance(found, bytes):
                port.send_from(local[0], found, addr)
            elif isinstance(found, Connect):
                self._connect(site.hosts[0], site.ports[1], found)
            elif found is not None:
                self._send(site, found, now)
            self._look_at_partner(site, partner, now)
            if site.timer is not None:
                site.timer.arm()
            if found is not None:
                return
        answer = site.server.receive(data, addr, place, now)
        if answer is not None:
            self._send(site, answer, now)

    def _send(self, site: _Site, answer: Answer, now: float) -> None:
        if answer.place.ip < len(site.hosts):
            port = self._second if answer.place.port else self._first
            if port is not None:
                port.send_from(site.hosts[answer.place.ip], answer.data, answer.to)
        elif site.partner is not None:
            data = site.partner.forward(answer, now)
            if data is not None:
                self._first.send_from(site.hosts[0], data, site.partner.address)

    # --- TCP -----------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # it was gone again, or there are no more descriptors: others are told
            return
        sock.setblocking(False)
        if len(self._scope) >= MAX_STREAMS:
            self.counts["dropped: too many connections"] += 1
            tcp.abort(sock)
            return
        self._scope.start(self._bounded(sock))

    async def _bounded(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STREAM_LIFE):
                await self.serve(sock)

    async def serve(self, sock: socket.socket, begun: bytes = b"") -> None:
        """Answer the requests of a TCP connection, of which `begun` was read, and close it."""
        with sock, contextlib.suppress(PtError, OSError):
            local, remote = (name[:2] for name in (sock.getsockname(), sock.getpeername()))
            site = self._sites.get(":" in remote[0])
            place = None if site is None else site.place(local)
            server = self._plain if site is None or place is None else site.server
            deframer = Deframer()
            left = MAX_REQUESTS
            data = begun
            while True:
                for each in deframer.receive_data(data)[:left]:
                    left -= 1
                    answer = server.receive(
                        each, remote, place or PRIMARY, self._loop.time(), stream=True
                    )
                    if answer is None:
                        return
                    if answer.later:
                        self._hold(sock, answer)
                        return
                    await self._loop.sock_sendall(sock, answer.data)
                    if site is not None and answer.back:
                        self._connect_back(site, answer)
                data = b"" if left <= 0 else await self._loop.sock_recv(sock, MAX_MESSAGE)
                if not data:
                    return

    def _hold(self, sock: socket.socket, answer: Answer) -> None:
        """Take a connection over from who serves it, with its answer unsent."""
        own = socket.socket(fileno=sock.detach())
        try:
            self._silent.start(self._say_later(own, answer))
        except LimitError:  # it is closing
            self._held.release(answer.to[0])
            own.close()

    async def _say_later(self, sock: socket.socket, answer: Answer) -> None:
        """Answer, be silent, and say something, unless the client says something first."""
        try:
            with sock, contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
                await self._loop.sock_sendall(sock, answer.data)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(answer.later):
                        await self._loop.sock_recv(sock, 1)
                        return
                said = encode(Kind.INDICATION, BINDING, decode(answer.data).transaction)
                await self._loop.sock_sendall(sock, said)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HELD_PATIENCE):
                        await self._loop.sock_recv(sock, 1)
                tcp.abort(sock)
        finally:
            self._held.release(answer.to[0])

    def _connect_back(self, site: _Site, answer: Answer) -> None:
        """Connect to who asked for it, over a connection of its own: so it is there."""
        data = encode(Kind.INDICATION, BINDING, decode(answer.data).transaction)
        for place in answer.back:
            if place.ip < len(site.hosts):
                self._connect(site.hosts[place.ip], site.ports[1], Connect(answer.to, data))
            elif site.partner is not None:
                told = site.partner.connect(answer.to, data, self._loop.time())
                if told is not None:
                    self._first.send_from(site.hosts[0], told, site.partner.address)

    def _connect(self, host: str, port: int, what: Connect) -> None:
        if len(self._scope) < MAX_STREAMS:
            self._scope.start(self._say(host, port, what))

    async def _say(self, host: str, port: int, what: Connect) -> None:
        """Connect from the second port, say it, and close."""
        with socket.socket(tcp.ip_family(host), socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            async with asyncio.timeout(BACK_PATIENCE):
                await self._loop.sock_connect(sock, what.to)
                await self._loop.sock_sendall(sock, what.data)

    def _warn(self, message: str) -> None:
        self._emit(Warned(message=message))


def _hosts(listening: Sequence[str]) -> list[str]:
    """The addresses that one answers from, the best first; listeners of one IP version."""
    concrete = [host for host in listening if host not in _WILDCARDS]
    for wildcard in dict.fromkeys(host for host in listening if host in _WILDCARDS):
        concrete += expand(wildcard)
    unique = list(dict.fromkeys(concrete))
    public = [host for host in unique if is_public(ip_address(host))]
    return public or unique  # a private address beside a public one is not what clients can reach


def _free_port(host: str) -> int:
    """A number that the system would choose, for sockets of several hosts to share."""
    with socket.socket(tcp.ip_family(host), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            raise LocalPortError(f"no UDP port on {host}: {error.strerror or error}") from error
        return int(sock.getsockname()[1])
