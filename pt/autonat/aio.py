"""AutoNAT v2 over streams whose protocol is already negotiated.

Client: `DialBacks` takes the dial-back streams, `ask` makes a request.  Server (`pt relay` alone):
`serve` answers a request, and the `dial_back` it is given connects from a fresh identity and port,
opens a stream for DIAL_BACK and calls `deliver` on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from pt.aio.stream import ByteStream, ResetOnError
from pt.autonat.client import Client, Verdict
from pt.autonat.messages import (
    MAX_DIAL_BACK,
    DialStatus,
    decode_dial_back,
    decode_dial_back_response,
    encode_dial_back,
    encode_dial_back_response,
)
from pt.autonat.server import Rates, Request
from pt.errors import ClosedError, LimitError, PtError
from pt.trace import NO_TRACE, Tracer
from pt.wire.delimited import Deframer
from pt.wire.multiaddr import Multiaddr

__all__ = ["DialBacks", "ask", "deliver", "serve"]

REQUEST_TIMEOUT: Final = 30.0
"""Seconds for a request in all: 100 kB, a random delay of 3 s, a dial of 10 s."""
DIAL_BACK_TIMEOUT: Final = 5.0
DIAL_TIMEOUT: Final = 10.0
MAX_PENDING: Final = 16
"""Requests of ours at a time."""
_READ: Final = 8192


class DialBacks:
    """The nonces that we wait for."""

    def __init__(self) -> None:
        self._pending: dict[int, Callable[[Multiaddr], None]] = {}

    def expect(self, nonce: int, seen: Callable[[Multiaddr], None]) -> None:
        """Tell `seen` our end of the connection on which `nonce` comes.

        Raises:
            LimitError: too many requests at a time.

        """
        if len(self._pending) >= MAX_PENDING:
            raise LimitError(f"no more than {MAX_PENDING} AutoNAT requests at a time")
        self._pending[nonce] = seen

    def forget(self, nonce: int) -> None:
        """The request is over."""
        self._pending.pop(nonce, None)

    async def answer(self, stream: ByteStream, local: Multiaddr) -> None:
        """Serve a dial-back stream; `local` is our end of its connection.

        Raises:
            AutonatError, DelimitedError: malformed.
            ClosedError, TimeoutError: the server left.

        """
        async with asyncio.timeout(DIAL_BACK_TIMEOUT):
            nonce = decode_dial_back(await _one(stream))
            seen = self._pending.get(nonce)
            if seen is None:  # a nonce that we did not give: nobody learns more
                await stream.reset()
                return
            seen(local)
            await stream.write(encode_dial_back_response())
            await stream.close_write()


async def ask(
    stream: ByteStream,
    addresses: Sequence[Multiaddr],
    backs: DialBacks,
    *,
    pay: Callable[[int], bool] = lambda _: True,
    tracer: Tracer = NO_TRACE,
) -> Verdict:
    """Ask the server at the other end which of `addresses` can be dialed.

    `pay(count)` says whether it may have so many bytes for a dial elsewhere.

    Raises:
        AutonatError: the server breaks the protocol, or wants too much.
        LocalProtocolError: none of the addresses is public.
        LimitError: too many requests at a time.
        ClosedError, TimeoutError: the server left, or takes too long.

    """
    nonce = secrets.randbits(64)
    try:
        async with ResetOnError(stream), asyncio.timeout(REQUEST_TIMEOUT):
            client = Client(addresses, nonce, pay=pay)
            backs.expect(nonce, client.dialed_back)
            verdict = None
            while verdict is None:
                for part in client.data_to_send():
                    await stream.write(part)
                verdict = client.receive_data(await _read(stream))
            await _end(stream)
    finally:
        backs.forget(nonce)
    if tracer.enabled:
        tracer.emit(
            "autonat_verdict",
            address=None if verdict.address is None else str(verdict.address),
            reachable=verdict.reachable,
            status=verdict.status.name.lower(),
            reason=verdict.reason,
        )
    return verdict


async def serve(
    stream: ByteStream,
    observed: str,
    peer: bytes,
    rates: Rates,
    *,
    dials: Callable[[Multiaddr], bool],
    dial_back: Callable[[Multiaddr, int], Awaitable[DialStatus]],
    tracer: Tracer = NO_TRACE,
) -> None:
    """Answer a client that is seen at the IP address `observed`.

    Raises:
        AutonatError: the client breaks the protocol.
        LimitError: it has too many requests under way.
        ClosedError, TimeoutError: it left, or is too slow.

    """
    if not rates.begin(peer):
        await stream.reset()
        raise LimitError("a client has too many AutoNAT requests at a time")
    loop = asyncio.get_running_loop()
    request = Request(
        observed,
        random=secrets.randbelow,
        dials=dials,
        admit=lambda with_data: rates.admit(peer, loop.time(), with_data=with_data),
    )
    try:
        async with ResetOnError(stream), asyncio.timeout(REQUEST_TIMEOUT):
            wanted = None
            while wanted is None and not request.done:
                wanted = request.receive_data(await _read(stream))
                if out := request.data_to_send():
                    await stream.write(out)
            if wanted is not None:
                await asyncio.sleep(wanted.delay)
                outcome = await _dial(wanted.address, wanted.nonce, dial_back)
                request.dialed(outcome)
                if tracer.enabled:
                    tracer.emit(
                        "autonat_dial", address=str(wanted.address), outcome=outcome.name.lower()
                    )
                await stream.write(request.data_to_send())
            await stream.close_write()
    finally:
        rates.end(peer)


async def _dial(
    address: Multiaddr, nonce: int, dial_back: Callable[[Multiaddr, int], Awaitable[DialStatus]]
) -> DialStatus:
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            return await dial_back(address, nonce)
    except (PtError, OSError, TimeoutError):
        return DialStatus.DIAL_ERROR


async def deliver(stream: ByteStream, nonce: int) -> DialStatus:
    """Say the nonce on a dial-back stream of a connection that was made for it.

    The answer only shows that the nonce has arrived, and so does the stream's end: go-libp2p resets
    a QUIC stream after its answer, which takes the answer with it.  The client knows what it saw.
    """
    try:
        async with asyncio.timeout(DIAL_BACK_TIMEOUT):
            await stream.write(encode_dial_back(nonce))
            await stream.close_write()
            try:
                taken = decode_dial_back_response(await _one(stream))
            except ClosedError:
                taken = True
    except (PtError, OSError, TimeoutError):
        return DialStatus.DIAL_BACK_ERROR
    return DialStatus.OK if taken else DialStatus.DIAL_BACK_ERROR


async def _end(stream: ByteStream) -> None:
    """End a stream on which all has been said.

    go-libp2p closes by FIN and STOP_SENDING over QUIC, which counts as a reset of what we have not
    ended yet.
    """
    with contextlib.suppress(ClosedError):
        await stream.close_write()


async def _one(stream: ByteStream) -> bytes:
    deframer = Deframer(MAX_DIAL_BACK)
    while True:
        found = deframer.receive_data(await _read(stream))
        if found:
            return found[0]


async def _read(stream: ByteStream) -> bytes:
    data = await stream.read(_READ)
    if not data:
        raise ClosedError("the peer closed the stream in the middle of an AutoNAT request")
    return data
