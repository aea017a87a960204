"""A raw connection becomes a secure one: the libp2p Noise handshake as a machine without I/O.

Source: libp2p specs `noise/README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey, PublicKey
from pt.identity.peer_id import PeerId, PeerMismatchError
from pt.noise.handshake import NoiseXX, Suite
from pt.noise.payload import NoisePayload, choose_muxer

__all__ = ["SecureHandshake", "SecureResult"]

_LENGTH_LEN: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureResult:
    """What the handshake established; keys are 32 bytes and belong to `Sealer` and `Opener`."""

    peer_id: PeerId
    public_key: PublicKey
    muxer: str | None  # None: negotiate it by multistream-select
    handshake_hash: bytes
    send_key: bytes
    recv_key: bytes
    suite: Suite


class SecureHandshake:
    """One side of the handshake.

    `static` is a 32-byte X25519 private key, good for any number of connections.  `muxers` are
    ours, most wanted first; empty means that we take no part in choosing one here.  `expected` is
    the only peer to accept, or None.  When `result` is set, `data_to_send` may still hold our last
    message, and `leftover` the peer's first encrypted frames.
    """

    __slots__ = (
        "_broken",
        "_expected",
        "_identity",
        "_in",
        "_initiator",
        "_muxers",
        "_noise",
        "_out",
        "_peer",
        "_suite",
        "result",
    )

    def __init__(
        self,
        suite: Suite,
        *,
        initiator: bool,
        identity: PrivateKey,
        static: bytes,
        expected: PeerId | None = None,
        muxers: tuple[str, ...] = (),
    ) -> None:
        self.result: SecureResult | None = None
        self._suite = suite
        self._initiator = initiator
        self._identity = identity
        self._expected = expected
        self._muxers = muxers
        self._noise = NoiseXX(suite, initiator=initiator, static=static)
        self._peer: tuple[PeerId, PublicKey, tuple[str, ...]] | None = None
        self._in = bytearray()
        self._out = bytearray()
        self._broken = False
        if initiator:
            self._send(b"")

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer, split in any way.

        Raises:
            CryptoFailure: the peer did not authenticate; `PeerMismatchError` if it is another one.
            RemoteProtocolError: its payload is malformed.  Close the connection in both cases.

        """
        if self._broken:
            raise LocalProtocolError("the handshake has failed; close the connection")
        self._in += data
        try:
            while self.result is None and (message := self._next_message()) is not None:
                self._handle(message)
        except RemoteProtocolError:
            self._broken = True
            self._in.clear()
            raise

    def data_to_send(self) -> bytes:
        """The bytes to write now; each is returned once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def leftover(self) -> bytes:
        """Bytes received after the handshake's end; each is returned once."""
        if self.result is None:
            return b""
        rest = bytes(self._in)
        self._in.clear()
        return rest

    def _next_message(self) -> bytes | None:
        if len(self._in) < _LENGTH_LEN:
            return None
        end = _LENGTH_LEN + int.from_bytes(self._in[:_LENGTH_LEN], "big")
        if len(self._in) < end:
            return None
        message = bytes(self._in[_LENGTH_LEN:end])
        del self._in[:end]
        return message

    def _handle(self, message: bytes) -> None:
        payload = self._noise.read_message(message)
        if self._initiator:  # that was message 2
            self._authenticate(payload)
            self._send(self._own_payload())
            self._finish()
        elif self._noise.finished:  # message 3
            self._authenticate(payload)
            self._finish()
        else:  # message 1: its payload is unprotected, and empty by the specification
            self._send(self._own_payload())

    def _authenticate(self, data: bytes) -> None:
        payload = NoisePayload.decode(data)
        key = payload.verify(self._noise.remote_static)
        peer_id = PeerId.from_public_key(key)
        if self._expected is not None and peer_id != self._expected:
            raise PeerMismatchError(self._expected, peer_id)
        self._peer = peer_id, key, payload.stream_muxers

    def _finish(self) -> None:
        assert self._peer is not None
        peer_id, key, theirs = self._peer
        ours = self._muxers
        send_key, recv_key = self._noise.keys()
        self.result = SecureResult(
            peer_id=peer_id,
            public_key=key,
            muxer=choose_muxer(ours, theirs) if self._initiator else choose_muxer(theirs, ours),
            handshake_hash=self._noise.handshake_hash,
            send_key=send_key,
            recv_key=recv_key,
            suite=self._suite,
        )

    def _own_payload(self) -> bytes:
        return _encoded_payload(self._identity, self._noise.local_static, self._muxers)

    def _send(self, payload: bytes) -> None:
        message = self._noise.write_message(payload)
        self._out += len(message).to_bytes(_LENGTH_LEN, "big") + message


@lru_cache(maxsize=4)  # identity, static key and muxers are a process's own: sign them once
def _encoded_payload(identity: PrivateKey, static_public: bytes, muxers: tuple[str, ...]) -> bytes:
    return NoisePayload.create(identity, static_public, muxers).encode()
