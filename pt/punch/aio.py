"""Hole punching on sockets: one attempt over a UDP port that others share, and fresh ones.

    probes = Probes(port)             # once a port; its owner hands it what `is_probe` says is one
    ...
    async with Conversation(stream, local, controlling=True) as talk:
        direct = await talk.punch()

The conversation goes over a stream inside the session: offers, then samples.  If the
stream ends during an attempt, the attempt goes on: what it waited for does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from pt.aio.scope import Scope
from pt.aio.simultaneous import open_from_both_sides
from pt.aio.stream import ByteStream
from pt.aio.udp import Address, UdpPort
from pt.errors import ClosedError, ConnectError, LocalPortError, PtError
from pt.punch.candidates import Budget, Side
from pt.punch.commands import (
    MAIN,
    PRESAMPLED,
    AskServer,
    CloseSocket,
    Ended,
    OpenSocket,
    Send,
    StartTcp,
    Tell,
    Won,
)
from pt.punch.machine import Puncher
from pt.punch.messages import (
    MAX_MESSAGE,
    Message,
    Offer,
    PunchMessageError,
    Sample,
    Started,
    decode_message,
)
from pt.punch.packets import NONCE_LEN, SIZE, Packet, PacketType, is_probe, tag_of
from pt.punch.strategies import Plan, Step, Strategy
from pt.trace import NO_TRACE, Tracer
from pt.wire import uvarint
from pt.wire.nat_facts import Allocation, Protocol

__all__ = ["Conversation", "Direct", "Local", "Probes", "PunchError"]

ASK_TIMEOUT: Final = 0.6
OFFER_TIMEOUT: Final = 10.0
MAX_ATTEMPTS: Final = 64
"""Attempts of one port at a time."""

Asker = Callable[[UdpPort], Awaitable[Address | None]]
"""Asks a STUN server from the port; may take over `received` until it returns."""


class PunchError(ConnectError):
    """No direct path; `plan` says what was tried, and why nothing else can be."""

    def __init__(self, message: str, plan: Plan) -> None:
        super().__init__(message)
        self.plan = plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A path that works in both directions.

    UDP: `port` is the shared port, or one that is now the caller's (`fresh`); the peer is at
    `address`.  TCP: `tcp` is the connection, and the caller's; the controlling side is to be its
    initiator in every handshake.
    """

    strategy: Strategy
    address: Address
    rtt: float | None
    seconds: float
    """From the beginning of the attempt until both sides agree on the path."""
    verified: float
    """From there until the peer answered: how soon there was a path in both directions."""
    plan: Plan
    port: UdpPort | None = None
    fresh: bool = False
    tcp: socket.socket | None = None


class Probes:
    """Hands probes that come to a port to the attempt that they are of."""

    def __init__(self, port: UdpPort) -> None:
        self.port = port
        self._attempts: dict[bytes, Callable[[bytes, Address], None]] = {}

    def received(self, data: bytes, address: Address) -> bool:
        """Take a datagram; False: it is no probe, and for somebody else."""
        if not is_probe(data):
            return False
        attempt = self._attempts.get(tag_of(data))
        if attempt is not None:
            attempt(data, address)
        return True

    def read(self) -> None:
        """Take all that comes to the port, which is nobody else's."""

        def received(data: bytes, address: Address) -> None:
            self.received(data, address)

        self.port.received = received

    def add(self, tag: bytes, take: Callable[[bytes, Address], None]) -> None:
        """An attempt begins; beyond `MAX_ATTEMPTS` the oldest hears nothing any more."""
        self._attempts[tag] = take
        if len(self._attempts) > MAX_ATTEMPTS:
            del self._attempts[next(iter(self._attempts))]

    def remove(self, tag: bytes) -> None:
        """An attempt has ended."""
        self._attempts.pop(tag, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What an attempt needs to know of this side.

    `secret` is the session's, known to both ends only; `rtt` its round trip, as long as the peer's
    is not known.  `ask` None: ports are not sampled.
    `tcp_port` is a port of which the TCP candidates are, and that nobody listens on.
    """

    side: Side
    probes: Probes
    secret: bytes
    rtt: float
    ask: Asker | None = None
    tcp_port: int | None = None
    bind: str = "0.0.0.0"
    """Address of fresh sockets."""
    budget: Budget | None = None
    tracer: Tracer = field(default=NO_TRACE)


class Conversation:
    """One attempt, with the peer at the other end of `stream`; used in an `async with` block.

    The controlling side has opened the stream.
    """

    def __init__(self, stream: ByteStream, local: Local, *, controlling: bool) -> None:
        self._stream = stream
        self._local = local
        self._controlling = controlling
        self._presampled: UdpPort | None = None
        self._attempt: _Attempt | None = None
        self._scope = Scope(limit=4)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._scope.aclose()
        if self._attempt is not None:
            await self._attempt.leave()
        elif self._presampled is not None:
            self._presampled.close()
        with contextlib.suppress(PtError):
            await self._stream.close_write()

    async def punch(self, attempt: int = 1) -> Direct:
        """Exchange offers and find a path.

        Raises:
            PunchError: there is none.
            PunchMessageError: the peer breaks the protocol.
            ClosedError: the stream ended before the offers were exchanged.
            TimeoutError: the peer's offer does not come.

        """
        async with asyncio.timeout(OFFER_TIMEOUT):
            theirs = None
            if not self._controlling:
                theirs = await self._read_offer()
                attempt = theirs.attempt
            ours = await self._make_offer(attempt)
            await self._write(ours)
            if theirs is None:
                theirs = await self._read_offer()
        if theirs.attempt != attempt:
            raise PunchMessageError(f"an offer for attempt {theirs.attempt}, not {attempt}")
        local = self._local
        puncher = Puncher(
            ours,
            theirs,
            local.secret,
            controlling=self._controlling,
            seed=os.urandom(32),
            rtt=local.rtt,
            budget=local.budget,
            tracer=local.tracer,
        )
        run = _Attempt(puncher, local, self._presampled, self._tell)
        self._attempt = run
        self._scope.start(self._listen(run))
        if self._controlling:
            self._tell(Started(attempt=attempt))
        # the packets of both sides are to cross on the way
        return await run.run(0.0 if self._controlling else local.rtt / 2)

    async def _make_offer(self, attempt: int) -> Offer:
        local, sample = self._local, None
        if local.side.samples:
            self._presampled = _fresh_port(local.bind)
            if self._presampled is not None:
                sample = await _outer(local, self._presampled)
            if sample is None and self._presampled is not None:
                self._presampled.close()
                self._presampled = None
        nonce = os.urandom(NONCE_LEN)
        return Offer(attempt=attempt, nonce=nonce, side=local.side, sample=sample)

    async def _read_offer(self) -> Offer:
        message = await self._read()
        if not isinstance(message, Offer):
            raise PunchMessageError("the peer's first message is no offer")
        return message

    async def _listen(self, run: _Attempt) -> None:
        while True:
            message = await self._read()
            match message:
                case Sample():
                    run.told(message)
                case Started():
                    run.peer_began()
                case Offer():
                    raise PunchMessageError("a second offer")

    def _tell(self, message: Sample | Started) -> None:
        if not self._scope.full:
            self._scope.start(self._write(message))

    async def _read(self) -> Message:
        size, shift = 0, 0
        while True:
            (byte,) = await self._stream.read_exactly(1)
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 14:
                raise PunchMessageError("a message with a bad length")
        if size > MAX_MESSAGE:
            raise PunchMessageError(f"a message of {size} bytes, over {MAX_MESSAGE}")
        return decode_message(await self._stream.read_exactly(size))

    async def _write(self, message: Message) -> None:
        await self._stream.write(uvarint.prefix(message.encode()))


class _Attempt:
    """Carries out what the machine asks for."""

    def __init__(
        self,
        puncher: Puncher,
        local: Local,
        presampled: UdpPort | None,
        tell: Callable[[Sample], None],
    ) -> None:
        self._puncher = puncher
        self._local = local
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ports: dict[int, UdpPort] = {MAIN: local.probes.port}
        self._adopt(PRESAMPLED, presampled)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Scope(limit=64)
        self._result: asyncio.Future[Direct] = self._loop.create_future()
        self._begun = self._loop.time()
        self._tcp: socket.socket | None = None

    async def run(self, wait: float) -> Direct:
        tag = self._puncher.sealer.tag
        self._local.probes.add(tag, functools.partial(self._received, MAIN))
        self._begun = self._loop.time() + wait
        self._puncher.begin(self._loop.time(), wait)
        self._carry_out()
        return await self._result

    def told(self, message: Sample) -> None:
        self._puncher.told(self._loop.time(), message)
        self._carry_out()

    def peer_began(self) -> None:
        self._puncher.peer_began(self._loop.time())
        self._carry_out()

    async def leave(self) -> None:
        """A path that was found is the caller's, and told the peer for a second; else all ends."""
        if self._result.done() and not self._result.cancelled() and not self._result.exception():
            return
        self._puncher.stop(self._loop.time(), "the attempt was given up")
        self._local.probes.remove(self._puncher.sealer.tag)
        if self._timer is not None:
            self._timer.cancel()
        for sock in [sock for sock in self._ports if sock != MAIN]:
            self._close_port(sock)
        await self._tasks.aclose()

    # --- the machine ---------------------------------------------------------------------------

    def _received(self, sock: int, data: bytes, address: Address) -> None:
        if self._puncher.receive(self._loop.time(), sock, data, address):
            self._carry_out()

    def _tick(self) -> None:
        self._timer = None
        self._puncher.tick(self._loop.time())
        self._carry_out()

    def _carry_out(self) -> None:
        for command in self._puncher.commands():
            match command:
                case Send():
                    self._send(command)
                case OpenSocket(sock):
                    self._adopt(sock, _fresh_port(self._local.bind))
                case CloseSocket(sock):
                    self._close_port(sock)
                case AskServer(sock):
                    self._tasks.start(self._sample(sock))
                case Tell(message):
                    self._tell(message)
                case StartTcp(step):
                    self._tasks.start(self._tcp_open(step))
                case Won():
                    self._won(command)
                case Ended(reason):
                    self._ended(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._puncher.deadline()
        if due is not None:
            self._timer = self._loop.call_at(due, self._tick)
        elif self._result.done():
            self._local.probes.remove(self._puncher.sealer.tag)

    def _send(self, command: Send) -> None:
        port = self._ports.get(command.sock)
        if port is None:  # the system had none to give
            return
        if command.ttl is None:
            port.send(command.data, command.addr)
        else:
            port.send_near(command.data, command.addr, command.ttl)

    def _adopt(self, sock: int, port: UdpPort | None) -> None:
        if port is not None:
            self._ports[sock] = port
            port.received = functools.partial(self._received, sock)

    def _close_port(self, sock: int) -> None:
        port = self._ports.pop(sock, None)
        if port is not None:
            port.close()

    async def _sample(self, sock: int) -> None:
        port, seen = self._ports.get(sock), None
        if port is not None:
            seen = await _outer(self._local, port)
            port.received = functools.partial(self._received, sock)
        self._puncher.sampled(self._loop.time(), sock, seen)
        self._carry_out()

    def _won(self, won: Won) -> None:
        if self._result.done():
            return
        by_tcp = won.strategy is Strategy.TCP_SIMULTANEOUS_OPEN
        port = None if by_tcp else self._ports.get(won.sock)
        fresh = port is not None and won.sock != MAIN
        seconds, verified = self._loop.time() - self._begun, self._puncher.verified
        self._result.set_result(
            Direct(
                strategy=won.strategy,
                address=won.addr,
                rtt=won.rtt,
                seconds=seconds,
                verified=seconds if verified is None else verified,
                plan=self._puncher.plan,
                port=port,
                fresh=fresh,
                tcp=self._tcp if by_tcp else None,
            )
        )

    def _ended(self, reason: str) -> None:
        if not self._result.done():
            plan = self._puncher.plan
            text = f"no direct path: {plan.why if plan.hopeless else reason} {plan.cure}"
            self._result.set_exception(PunchError(text.strip(), plan))

    # --- TCP -----------------------------------------------------------------------------------

    async def _tcp_open(self, step: Step) -> None:
        port = self._local.tcp_port
        if port is None:
            return
        remotes = [each.address for each in self._puncher.theirs.wan(4, Protocol.TCP)]
        opening = asyncio.ensure_future(
            open_from_both_sides(
                port,
                remotes[: step.sockets],
                self._prove,
                seconds=step.seconds,
                rtt=self._puncher.rtt,
                host=self._local.bind,
            )
        )
        self._result.add_done_callback(lambda _: self._tcp is None and opening.cancel())
        try:
            sock = await opening
        except LocalPortError:  # a datagram may still find a path
            return
        finally:
            opening.cancel()
        if sock is not None and self._tcp is sock:
            self._carry_out()

    async def _prove(self, sock: socket.socket) -> bool:
        """Both sides show that they know the secret; then the controlling side chooses."""
        sealer, loop = self._puncher.sealer, self._loop
        number = 1 << 31 | int.from_bytes(os.urandom(3))
        await loop.sock_sendall(sock, sealer.seal(Packet(type=PacketType.PING, counter=number)))
        async with asyncio.timeout(2 + 2 * self._puncher.rtt):
            hello = sealer.open(await _read(sock, SIZE))
            if hello is None or hello.type is not PacketType.PING:
                return False
            if not self._puncher.controlling:
                choice = sealer.open(await _read(sock, SIZE))
                if choice is None or choice.type is not PacketType.NOMINATE:
                    return False
        if self._tcp is not None or self._puncher.winner is not None or self._puncher.over:
            return False
        if self._puncher.controlling:
            chosen = Packet(type=PacketType.NOMINATE, counter=number + 1, echo=hello.counter)
            await loop.sock_sendall(sock, sealer.seal(chosen))
        self._tcp = sock
        host, remote = sock.getpeername()[:2]
        self._puncher.tcp_won(self._loop.time(), (str(host), int(remote)), None)
        return True


async def _read(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise ClosedError("the peer closed the connection before it had proved who it is")
        data += more
    return data


async def _outer(local: Local, port: UdpPort) -> Address | None:
    """Where a fresh port is seen; where the NAT keeps ports, a question would use up its own."""
    nat = local.side.nat(4, Protocol.UDP)
    if nat.ports is Allocation.PRESERVING and local.side.external is not None:
        return local.side.external, port.address[1]
    if local.ask is None:
        return None
    with contextlib.suppress(TimeoutError, PtError, OSError):
        async with asyncio.timeout(ASK_TIMEOUT):
            return await local.ask(port)
    return None


def _fresh_port(host: str) -> UdpPort | None:
    """A port of its own; None if the system has no more."""
    try:
        return UdpPort((host, 0))
    except LocalPortError:
        return None
