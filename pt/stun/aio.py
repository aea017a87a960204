"""STUN on asyncio: a client on a socket that somebody else owns, and one over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable

from pt.aio.tcp import ip_family
from pt.errors import NetworkError, RefusedError, WaitTimeoutError
from pt.stun.attributes import Address
from pt.stun.binding import Binding, read_binding
from pt.stun.framing import Deframer
from pt.stun.messages import MAX_MESSAGE, Attribute, StunError, decode
from pt.stun.transactions import ONCE, QUICK, Outcome, Schedule, Transactions

__all__ = ["StunClient", "Timer", "bind_over_tcp"]


class Timer:
    """Calls `fire` when `when` says so; `arm` after what may have changed that."""

    def __init__(self, when: Callable[[], float | None], fire: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def arm(self) -> None:
        """Look again when there is something to do."""
        at = None if self._closed else self._when()
        if self._handle is not None:
            if at is not None and self._handle.when() <= at:
                return  # fires early, which does no harm
            self._handle.cancel()
        self._handle = None if at is None else self._loop.call_at(at, self._fired)

    def _fired(self) -> None:
        self._handle = None
        self._fire(self._loop.time())
        self.arm()

    def close(self) -> None:
        """Never fire again."""
        self._closed = True
        self.arm()


class StunClient:
    """Asks STUN servers from a socket of somebody else's.

    The owner gives what sends, and hands every STUN datagram that came to `received`.
    """

    def __init__(self, send: Callable[[bytes, Address], None]) -> None:
        self._table = Transactions(send, secrets.token_bytes)
        self._loop = asyncio.get_running_loop()
        self._timer = Timer(self._table.next_timeout, self._table.handle_timeout)

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
        return _binding(server, await self.ask(server, schedule=schedule, key=key))

    def close(self) -> None:
        """Ask nothing more; who still waits is to be cancelled by its own caller."""
        self._timer.close()


def _binding(server: Address, outcome: Outcome) -> Binding:
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


async def bind_over_tcp(
    server: Address, *, local: Address | None = None, timeout: float = 10.0
) -> tuple[Binding, Address]:
    """How `server` sees a TCP connection of ours, made from `local`; and our own end of it.

    Raises:
        NetworkError: no connection, or it broke.
        WaitTimeoutError: no answer in `timeout` seconds.
        RefusedError: the server does not serve us.
        StunError: it does not speak STUN.

    """
    loop = asyncio.get_running_loop()
    with socket.socket(ip_family(server[0]), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        outcomes: list[Outcome] = []
        out: list[bytes] = []
        table = Transactions(lambda data, _: out.append(data), secrets.token_bytes)
        deframer = Deframer()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if local is not None:
                sock.bind(local)
            async with asyncio.timeout(timeout):
                await loop.sock_connect(sock, server)
                table.request(server, outcomes.append, now=loop.time(), schedule=ONCE)
                await loop.sock_sendall(sock, out[0])
                while not outcomes:
                    data = await loop.sock_recv(sock, MAX_MESSAGE)
                    if not data:
                        raise NetworkError(
                            f"{server[0]} closed the connection instead of answering"
                        )
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
        return _binding(server, outcomes[0]), (str(name[0]), int(name[1]))
