"""From a raw TCP connection to a secured, multiplexed one.

Stages: multistream-select of the security protocol, Noise XX with the libp2p payload, then the
muxer, inlined in the Noise payloads or by multistream-select inside the channel.
Source: libp2p specs `connections/README.md`, `noise/README.md`,
`connections/inlined-muxer-negotiation.md`.

Besides `/noise`, two `pt`s may use the same handshake with AES-GCM under a protocol id of their
own: identical authentication, a cheaper cipher on processors with AES instructions.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pt.aio.stream import read_exactly
from pt.aio.tcp import SocketStream
from pt.errors import RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream import aio as multistream
from pt.noise import aio as noise
from pt.noise.handshake import Suite
from pt.noise.transport import MAX_PLAINTEXT, Opener, Sealer
from pt.noise.upgrade import SecureHandshake, SecureResult

__all__ = ["PT_SECURITY", "SECURITY", "YAMUX", "Upgraded", "upgrade"]

YAMUX: Final = "/yamux/1.0.0"
SECURITY: Final = "/noise"
PT_SECURITY: Final = "/peertunnel/noise-aesgcm/1.0.0"
SUITES: Final = {SECURITY: Suite.CHACHAPOLY, PT_SECURITY: Suite.AESGCM}


@dataclass(slots=True)
class Upgraded:
    """A connection ready for its data path."""

    sock: socket.socket
    secure: SecureResult
    sealer: Sealer
    opener: Opener
    ciphertext: bytes
    """Received and not opened yet."""
    plaintext: bytes
    """Opened and not consumed yet: the muxer's first bytes."""
    received: int
    """Bytes that the stages took, without `ciphertext`."""
    sent: int


async def upgrade(
    sock: socket.socket,
    *,
    initiator: bool,
    identity: PrivateKey,
    static: bytes,
    expected: PeerId | None,
    security: Sequence[str],
) -> Upgraded:
    """Run all stages; the caller bounds the time and closes `sock` on failure.

    Raises:
        CryptoFailure: the peer is not `expected`, or its proof does not verify.
        RemoteProtocolError: it broke a protocol, or there is nothing in common.
        ClosedError: it went away.

    """
    stream = SocketStream(sock)
    if initiator:
        chosen = await multistream.select(stream, security)
    else:
        chosen = await multistream.handle(stream, lambda protocol: protocol in security)
    handshake = SecureHandshake(
        SUITES[chosen],
        initiator=initiator,
        identity=identity,
        static=static,
        expected=expected,
        muxers=(YAMUX,),
    )
    result = await noise.secure(stream, handshake)
    sealer = Sealer(result.suite, result.send_key)
    opener = Opener(result.suite, result.recv_key)
    plaintext = b""
    if result.muxer is None:
        inner = _SecuredStream(stream, sealer, opener)
        if initiator:
            await multistream.select(inner, (YAMUX,))
        else:
            await multistream.handle(inner, lambda protocol: protocol == YAMUX)
        plaintext = inner.pushed
    elif result.muxer != YAMUX:
        raise RemoteProtocolError(f"the peer chose the muxer {result.muxer!r}, which we never said")
    sock, ciphertext = stream.detach()
    received = stream.received - len(ciphertext)
    return Upgraded(sock, result, sealer, opener, ciphertext, plaintext, received, stream.sent)


class _SecuredStream:
    """The few messages of muxer negotiation inside the Noise channel."""

    def __init__(self, stream: SocketStream, sealer: Sealer, opener: Opener) -> None:
        self._stream = stream
        self._sealer = sealer
        self._opener = opener
        self.pushed = b""

    def unread(self, data: bytes) -> None:
        self.pushed = data + self.pushed

    async def read(self, max_len: int) -> bytes:
        while not self.pushed:
            length = int.from_bytes(await self._stream.read_exactly(2), "big")
            message = bytearray(await self._stream.read_exactly(length))
            self.pushed = bytes(self._opener.open(memoryview(message)))
        data, self.pushed = self.pushed[:max_len], self.pushed[max_len:]
        return data

    async def read_exactly(self, count: int) -> bytes:
        return await read_exactly(self.read, count)

    async def write(self, data: bytes) -> None:
        assert len(data) <= MAX_PLAINTEXT
        out = memoryview(bytearray(len(data) + 18))
        self._sealer.seal_into(data, out)
        await self._stream.write(bytes(out))

    async def close_write(self) -> None:
        await self._stream.close_write()

    async def reset(self, code: int = 0) -> None:
        await self._stream.reset(code)
