"""DCUtR over streams of a relayed connection; who dials is given by the caller.

    dial(addresses, role) dials all of them at once, from the ports that we listen on, and returns
    the first connection whose handshakes are done and whose peer is the expected one.  As SERVER:
    a TCP connection is made by connect() all the same, and we answer in its handshakes; at UDP
    addresses `open_udp` opens our NAT while the caller waits for the peer's connection.

A peer that plays the same role as we do leaves a handshake hanging: bound each by 5 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from pt.aio.stream import ByteStream, ResetOnError
from pt.aio.udp import Address, UdpPort
from pt.dcutr.machine import MAX_ATTEMPTS, Dial, Initiator, Responder, Role
from pt.errors import ClosedError, ConnectError, PtError, RemoteProtocolError, message_of
from pt.trace import NO_TRACE, Tracer
from pt.wire.multiaddr import Multiaddr

__all__ = ["DIAL_TIMEOUT", "Dialer", "initiate", "open_udp", "respond"]

T = TypeVar("T")

Dialer = Callable[[tuple[Multiaddr, ...], Role], Awaitable[T]]

EXCHANGE_TIMEOUT: Final = 15.0
DIAL_TIMEOUT: Final = 10.0
"""Seconds that one attempt may take; what go-libp2p and rust-libp2p wait, too."""
UDP_SECONDS: Final = 5.0
_RANDOM: Final = 64  # bytes, as go-libp2p sends
_READ: Final = 4096


async def initiate(
    open_stream: Callable[[], Awaitable[ByteStream]],
    own: Callable[[], Iterable[Multiaddr]],
    dial: Dialer[T],
    *,
    tracer: Tracer = NO_TRACE,
) -> T:
    """Punch, as the peer that was dialed over the relay: up to three attempts.

    `open_stream` opens one for `PROTOCOL` on the relayed connection; `own` tells where we have been
    observed.  Whoever can be dialed directly should be dialed before (connection reversal).  With a
    peer that tells no address there is one attempt: our NAT lets it in by itself, or never will.

    Raises:
        ConnectError: no attempt succeeded; its message is the last one's.
        LocalProtocolError: none of our addresses is public.

    """
    last: Exception | None = None
    attempt = 0
    told = True
    while told and attempt < MAX_ATTEMPTS:
        attempt += 1
        try:
            planned = await _initiate_once(open_stream, own, attempt)
            told = bool(planned.addresses)
            loop = asyncio.get_running_loop()
            _trace(tracer, "dcutr_dial", planned, attempt, planned.when - loop.time())
            await asyncio.sleep(planned.when - loop.time())
            async with asyncio.timeout(DIAL_TIMEOUT):
                found = await dial(planned.addresses, planned.role)
        except (RemoteProtocolError, ClosedError, ConnectError, OSError, TimeoutError) as error:
            last = error
            tracer.emit("dcutr_failed", attempt=attempt, reason=message_of(error))
        else:
            tracer.emit("dcutr_direct", attempt=attempt, role=planned.role.value)
            return found
    count = f"{attempt} attempt{'s' if attempt > 1 else ''}"
    raise ConnectError(
        f"no direct connection in {count}: {str(last) or 'no answer in time'}"
    ) from last


async def _initiate_once(
    open_stream: Callable[[], Awaitable[ByteStream]],
    own: Callable[[], Iterable[Multiaddr]],
    attempt: int,
) -> Dial:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(EXCHANGE_TIMEOUT):
        stream = await open_stream()
        async with ResetOnError(stream):
            machine = Initiator(own(), attempt=attempt, now=loop.time())
            await stream.write(machine.data_to_send())
            planned = None
            while planned is None:
                planned = machine.receive_data(await _read(stream), loop.time())
            await stream.write(machine.data_to_send())
            await stream.close_write()
    return planned


async def respond(
    stream: ByteStream,
    own: Iterable[Multiaddr],
    dial: Dialer[T],
    *,
    relayed_by_us: bool,
    role: Role = Role.CLIENT,
    tracer: Tracer = NO_TRACE,
) -> T:
    """Answer an attempt of the peer's that we have dialed over the relay.

    `relayed_by_us`: whether the stream's connection is relayed, and we have dialed it; on any other
    the peer has no business to ask us to dial.

    Raises:
        RemoteProtocolError: it has not; or the peer breaks the protocol.
        LocalProtocolError: none of our addresses is public.
        ClosedError, TimeoutError: the peer gave up.
        Whatever `dial` raises.

    """
    if not relayed_by_us:
        await stream.reset()
        raise RemoteProtocolError("the peer wants to punch on a connection that is not ours to")
    loop = asyncio.get_running_loop()
    async with ResetOnError(stream), asyncio.timeout(EXCHANGE_TIMEOUT):
        machine = Responder(own, role=role)
        planned = None
        while planned is None:
            planned = machine.receive_data(await _read(stream), loop.time())
            if out := machine.data_to_send():
                await stream.write(out)
    _trace(tracer, "dcutr_dial", planned, 0, 0.0)
    async with asyncio.timeout(DIAL_TIMEOUT):
        dialing = asyncio.ensure_future(dial(planned.addresses, planned.role))
        try:
            with contextlib.suppress(PtError):  # the relayed connection may be over by now
                await stream.close_write()
            return await dialing
        finally:
            dialing.cancel()


async def open_udp(port: UdpPort, address: Address, *, seconds: float = UDP_SECONDS) -> None:
    """Send random datagrams from the port that QUIC listens on until cancelled, or for `seconds`.

    The peer's connection comes from `address`; ours opens the NAT for it.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    count = 0
    while loop.time() < ends:
        # no protocol's first byte, so that neither side takes it for its own
        port.send(b"\x0c" + os.urandom(_RANDOM - 1), address)
        count += 1
        spread = min(10 * (count + 1) ** 2, 200)
        await asyncio.sleep((10 + int.from_bytes(os.urandom(2)) % spread) / 1000)


async def _read(stream: ByteStream) -> bytes:
    data = await stream.read(_READ)
    if not data:
        raise ClosedError("the peer closed the stream in the middle of hole punching")
    return data


def _trace(tracer: Tracer, event: str, planned: Dial, attempt: int, wait: float) -> None:
    if tracer.enabled:
        tracer.emit(
            event,
            attempt=attempt,
            role=planned.role.value,
            rtt=planned.rtt,
            wait=round(max(wait, 0.0), 6),
            addresses=[str(address) for address in planned.addresses],
        )
