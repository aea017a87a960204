"""STUN on asyncio: a client on a socket that somebody else owns, one over TCP, and discovery."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pt.aio.tcp import ip_family
from pt.aio.timer import Timer
from pt.errors import LimitError, NetworkError, PtError, RefusedError, WaitTimeoutError
from pt.stun.attributes import Address
from pt.stun.binding import Binding, read_binding
from pt.stun.discovery import Discovery, Wishes, discover
from pt.stun.framing import Deframer
from pt.stun.messages import MAX_MESSAGE, Attribute, StunError, decode
from pt.stun.probing import Prober
from pt.stun.transactions import ONCE, QUICK, Outcome, Schedule, Transactions

__all__ = [
    "Explorer",
    "StunClient",
    "ask_over_stream",
    "bind_over_tcp",
    "binding_of",
    "source_address",
]

TCP_TIMEOUT: Final = 10.0
_DRAIN: Final = 32  # datagrams of one turn of the loop
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3


class StunClient:
    """Asks STUN servers from a socket of somebody else's.

    The owner gives what sends, and hands every STUN datagram that came to `received`.
    """

    def __init__(self, send: Callable[[bytes, Address], None]) -> None:
        self._table = Transactions(send, secrets.token_bytes)
        self._loop = asyncio.get_running_loop()
        self._timer = Timer(
            self._table.next_timeout, lambda: self._table.handle_timeout(self._loop.time())
        )

    def received(self, data: bytes, source: Address) -> bool:
        """Take a datagram; whether it was an answer to us."""
        try:
            message = decode(data)
        except StunError:
            return False
        mine = self._table.receive(message, source, self._loop.time())
        self._timer.arm()
        return mine

    async def ask(
        self,
        server: Address,
        *,
        attributes: Iterable[Attribute] = (),
        schedule: Schedule = QUICK,
        elsewhere: bool = False,
        key: bytes | None = None,
    ) -> Outcome:
        """Ask, and wait until the schedule's end at most.

        Raises:
            LimitError: too many requests at a time.

        """
        answer: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        transaction = self._table.request(
            server,
            done,
            now=self._loop.time(),
            attributes=attributes,
            schedule=schedule,
            elsewhere=elsewhere,
            key=key,
        )
        self._timer.arm()
        try:
            return await answer
        finally:
            self._table.cancel(transaction)

    async def binding(
        self, server: Address, *, schedule: Schedule = QUICK, key: bytes | None = None
    ) -> Binding:
        """How `server` sees this socket.

        Raises:
            WaitTimeoutError: no answer.
            RefusedError: the server does not serve us.
            StunError: its answer makes no sense.
            LimitError: too many requests at a time.

        """
        return binding_of(server, await self.ask(server, schedule=schedule, key=key))

    def close(self) -> None:
        """Ask nothing more; who still waits is to be cancelled by its own caller."""
        self._timer.close()


def binding_of(server: Address, outcome: Outcome) -> Binding:
    """What an outcome says.

    Raises:
        WaitTimeoutError: no answer.
        RefusedError: the server does not serve us.
        StunError: its answer makes no sense.

    """
    where = f"[{server[0]}]:{server[1]}" if ":" in server[0] else f"{server[0]}:{server[1]}"
    if outcome.error is not None:
        code, reason = outcome.error
        raise RefusedError(f"the STUN server {where} refuses: {code} {reason}")
    if outcome.response is None:
        raise WaitTimeoutError(
            f"the STUN server {where} does not answer: check its address, or UDP is blocked here"
        )
    found = read_binding(outcome)
    if found is None:
        raise StunError(f"the STUN server {where} answers without an address that makes sense")
    return found


# --- TCP ----------------------------------------------------------------------------------------


async def bind_over_tcp(
    server: Address, *, local: Address | None = None, timeout: float = TCP_TIMEOUT
) -> tuple[Binding, Address]:
    """How `server` sees a TCP connection of ours, made from `local`; and our own end of it.

    Raises:
        NetworkError: no connection, or it broke.
        WaitTimeoutError: no answer in `timeout` seconds.
        RefusedError: the server does not serve us.
        StunError: it does not speak STUN.

    """
    with socket.socket(ip_family(server[0]), socket.SOCK_STREAM) as sock:
        outcome, own = await ask_over_stream(sock, server, local=local, timeout=timeout)
        return binding_of(server, outcome), own


async def ask_over_stream(
    sock: socket.socket,
    server: Address,
    *,
    local: Address | None = None,
    attributes: Iterable[Attribute] = (),
    timeout: float = TCP_TIMEOUT,
) -> tuple[Outcome, Address]:
    """Connect a fresh socket, and ask; it stays open, as does its mapping.

    Others may connect from the same `local` address, also if it was chosen here.

    Raises:
        NetworkError: no connection, or it broke.
        WaitTimeoutError: no answer in `timeout` seconds.
        StunError: the server does not speak STUN.

    """
    loop = asyncio.get_running_loop()
    outcomes: list[Outcome] = []
    out: list[bytes] = []
    table = Transactions(lambda data, _: out.append(data), secrets.token_bytes)
    deframer = Deframer()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        # A port that the system chooses at connect may be others' as well, whom nobody can join.
        if local is None and (host := source_address(server)) is not None:
            local = host, 0
        if local is not None:
            sock.bind(local)
        async with asyncio.timeout(timeout):
            await loop.sock_connect(sock, server)
            table.request(
                server, outcomes.append, now=loop.time(), attributes=attributes, schedule=ONCE
            )
            await loop.sock_sendall(sock, out[0])
            while not outcomes:
                data = await loop.sock_recv(sock, MAX_MESSAGE)
                if not data:
                    raise NetworkError(f"{server[0]} closed the connection instead of answering")
                for each in deframer.receive_data(data):
                    with contextlib.suppress(StunError):
                        table.receive(decode(each), server, loop.time())
    except TimeoutError as error:
        raise WaitTimeoutError(
            f"no STUN answer over TCP from {server[0]} port {server[1]} in {timeout:g} s"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise NetworkError(
            f"no TCP connection to {server[0]} port {server[1]}: {reason.lower()}"
        ) from error
    name = sock.getsockname()
    return outcomes[0], (str(name[0]), int(name[1]))


# --- discovery over UDP -------------------------------------------------------------------------


def source_address(to: Address) -> str | None:
    """The address of ours that datagrams to `to` leave from; None if there is no route."""
    with socket.socket(ip_family(to[0]), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(to)  # sends nothing
        except OSError:
            return None
        return str(sock.getsockname()[0])


class _UdpSockets:
    """Sockets of our own, and perhaps one of somebody else's as number 0; see `Sockets`."""

    def __init__(
        self,
        received: Callable[[int, bytes, Address], None],
        send: Callable[[bytes, Address], None] | None,
        port: int | None,
    ) -> None:
        self.host = ""
        """The address of ours that all are bound to."""
        self._loop = asyncio.get_running_loop()
        self._received = received
        self._send = send
        self._port = port
        self._open: dict[int, socket.socket] = {}
        self._numbers = itertools.count(0 if send is None else 1)

    def open(self, *, whole: bool = False) -> int:
        number = next(self._numbers)
        try:
            sock = socket.socket(ip_family(self.host), socket.SOCK_DGRAM)
        except OSError as error:
            raise LimitError(f"the system gives no socket: {error.strerror or error}") from error
        try:
            sock.setblocking(False)
            if whole:
                _never_fragment(sock)
            sock.bind((self.host, 0))
        except OSError as error:
            sock.close()
            raise LimitError(f"the system gives no port: {error.strerror or error}") from error
        self._open[number] = sock
        self._loop.add_reader(sock, self._read, number, sock)
        return number

    def close(self, sock: int) -> None:
        found = self._open.pop(sock, None)
        if found is not None:
            self._loop.remove_reader(found)
            found.close()

    def close_all(self) -> None:
        for sock in list(self._open):
            self.close(sock)

    def send(self, sock: int, data: bytes, to: Address) -> None:
        if sock in self._open:
            with contextlib.suppress(OSError):  # too long, no route, a full buffer: lost
                self._open[sock].sendto(data, to)
        elif self._send is not None and sock == 0:
            self._send(data, to)

    def local(self, sock: int, to: Address) -> Address | None:
        if sock in self._open:
            host, port = self._open[sock].getsockname()[:2]
            return str(host), int(port)
        found = source_address(to)
        return None if found is None or self._port is None else (found, self._port)

    def _read(self, number: int, sock: socket.socket) -> None:
        for _ in range(_DRAIN):
            try:
                data, name = sock.recvfrom(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:  # the kernel's word that nobody listens at an address we wrote to
                continue
            self._received(number, data, (str(name[0]).partition("%")[0], int(name[1])))
            if number not in self._open:  # its script closed it
                return


class Explorer:
    """Finds out what is between us and servers: `discover` once, then `close`.

    Without `send` it opens a socket of its own; with it, `port` is the number of that socket's
    port, and its owner hands what comes to `received`.
    """

    def __init__(
        self, send: Callable[[bytes, Address], None] | None = None, *, port: int | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._own = send is None
        self._sockets = _UdpSockets(self._came, send, port)
        self._prober = Prober(self._sockets, secrets.token_bytes)
        self._timer = Timer(
            self._prober.next_timeout, lambda: self._prober.handle_timeout(self._loop.time())
        )

    async def discover(self, servers: Sequence[Address], wishes: Wishes) -> Discovery:
        """Ask servers of one IP version, the first that answers for all the rest.

        Raises:
            NetworkError: there is no way to any of them.
            LimitError: there are no sockets.

        """
        host = next((host for each in servers if (host := source_address(each))), None)
        if host is None:
            version = 6 if ":" in servers[0][0] else 4
            raise NetworkError(f"this machine has no route for IPv{version} to {servers[0][0]}")
        self._sockets.host = host
        if self._own:
            self._sockets.open()
        answer: asyncio.Future[Discovery] = self._loop.create_future()

        def done(found: Discovery) -> None:
            if not answer.done():
                answer.set_result(found)

        def failed(error: PtError) -> None:
            if not answer.done():
                answer.set_exception(error)

        script = discover(self._prober, servers, wishes)
        self._prober.run(script, done, self._loop.time(), failed=failed)
        self._timer.arm()
        return await answer

    def received(self, data: bytes, source: Address) -> bool:
        """Take a datagram that came to the port that was given; whether it was for us."""
        mine = self._prober.receive(0, data, source, self._loop.time())
        self._timer.arm()
        return mine

    def _came(self, sock: int, data: bytes, source: Address) -> None:
        self._prober.receive(sock, data, source, self._loop.time())
        self._timer.arm()

    def close(self) -> None:
        """Ask no more, and close what was opened; the given port stays as it is."""
        self._timer.close()
        self._prober.close()
        self._sockets.close_all()


def _never_fragment(sock: socket.socket) -> None:
    """Have the kernel send datagrams whole, whatever it believes of the path (ip(7), ipv6(7))."""
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
