"""The libp2p payload of Noise messages 2 and 3: who owns the static key, and which muxers it has.

    NoiseHandshakePayload { identity_key = 1: bytes, identity_sig = 2: bytes,
                            extensions = 4: { stream_muxers = 2*: string } }

Source: libp2p specs `noise/README.md` (The libp2p Handshake Payload) and
`connections/inlined-muxer-negotiation.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey, PublicKey
from pt.wire import protobuf

__all__ = ["MAX_MUXERS", "SIGNATURE_PREFIX", "NoisePayload", "choose_muxer"]

SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"
MAX_MUXERS: Final = 100  # as many as Go takes

_IDENTITY_KEY: Final = 1
_IDENTITY_SIG: Final = 2
_EXTENSIONS: Final = 4
_STREAM_MUXERS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePayload:
    """`identity_key` is a PublicKey protobuf as received; `stream_muxers` the most wanted first."""

    identity_key: bytes
    identity_sig: bytes
    stream_muxers: tuple[str, ...] = ()

    @classmethod
    def create(
        cls, identity: PrivateKey, static_public: bytes, stream_muxers: tuple[str, ...] = ()
    ) -> NoisePayload:
        """The payload in which `identity` vouches for the 32-byte X25519 key `static_public`.

        Raises:
            LocalProtocolError: more than MAX_MUXERS muxers.

        """
        if len(stream_muxers) > MAX_MUXERS:
            raise LocalProtocolError(f"{len(stream_muxers)} muxers; at most {MAX_MUXERS} fit")
        return cls(
            identity_key=identity.public.to_protobuf(),
            identity_sig=identity.sign(SIGNATURE_PREFIX + static_public),
            stream_muxers=stream_muxers,
        )

    def encode(self) -> bytes:
        """The protobuf bytes."""
        out = protobuf.put_bytes(_IDENTITY_KEY, self.identity_key)
        out += protobuf.put_bytes(_IDENTITY_SIG, self.identity_sig)
        if self.stream_muxers:
            muxers = (protobuf.put_text(_STREAM_MUXERS, muxer) for muxer in self.stream_muxers)
            out += protobuf.put_bytes(_EXTENSIONS, b"".join(muxers))
        return out

    @classmethod
    def decode(cls, data: bytes) -> NoisePayload:
        """Parse what the peer sent; nothing is verified yet.

        Raises:
            RemoteProtocolError: not a protobuf, a muxer that is not UTF-8, or too many muxers.

        """
        message = protobuf.Fields(data)
        extensions = message.bytes(_EXTENSIONS) or b""
        muxers = tuple(protobuf.Fields(extensions).all_texts(_STREAM_MUXERS))
        if len(muxers) > MAX_MUXERS:
            raise RemoteProtocolError(f"the peer lists {len(muxers)} muxers, over {MAX_MUXERS}")
        return cls(
            identity_key=message.bytes(_IDENTITY_KEY) or b"",
            identity_sig=message.bytes(_IDENTITY_SIG) or b"",
            stream_muxers=muxers,
        )

    def verify(self, static_public: bytes) -> PublicKey:
        """The identity key that vouches for the static key of this handshake.

        Raises:
            CryptoFailure: the signature is not that key's.
            RemoteProtocolError: the key is malformed.

        """
        key = PublicKey.from_protobuf(self.identity_key)
        key.verify(SIGNATURE_PREFIX + static_public, self.identity_sig)
        return key


def choose_muxer(initiator: tuple[str, ...], responder: tuple[str, ...]) -> str | None:
    """The initiator's first muxer that the responder listed too.

    None when there is none: the muxer is then negotiated by multistream-select, which is what Go
    does also where the specification would have us fail (two lists without a common entry).
    """
    return next((muxer for muxer in initiator if muxer in responder), None)
