"""Peer ids: the multihash of a canonically encoded public key (libp2p peer-ids spec).

A key of at most 42 encoded bytes (Ed25519, secp256k1) is inlined with the identity hash; any longer
one (RSA, ECDSA) is hashed with SHA-256.
"""

from __future__ import annotations

from pt.errors import CryptoFailure, RemoteProtocolError
from pt.identity.keys import PublicKey
from pt.wire import peertext
from pt.wire.multihash import MAX_IDENTITY, HashCode, Multihash

__all__ = ["PeerId", "PeerMismatchError"]


class PeerId:
    """Who a peer is; immutable, hashable, ordered by its bytes."""

    __slots__ = ("_text", "raw")

    raw: bytes
    _text: str

    def __init__(self, raw: bytes) -> None:
        """Take a multihash's bytes from the wire.

        Raises:
            RemoteProtocolError: not an identity or SHA-256 multihash.

        """
        Multihash.decode(raw)
        object.__setattr__(self, "raw", bytes(raw))

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        """The id of the peer that owns `key`."""
        encoded = key.to_protobuf()
        inline = len(encoded) <= MAX_IDENTITY
        digest = Multihash.identity(encoded) if inline else Multihash.sha256(encoded)
        return cls(digest.encode())

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read base58 (`12D3…`, `Qm…`) or a CID (`bafz…`, `k51…`).

        Raises:
            UsageError: not a peer id.

        """
        return cls(peertext.decode(text))

    def short(self) -> str:
        """First and last four characters, `12D3…xW2a`: for people to read, not to compare."""
        text = str(self)
        return f"{text[:4]}…{text[-4:]}"

    def public_key(self) -> PublicKey | None:
        """The key that the id holds, or None if it is a hash of it.

        Raises:
            RemoteProtocolError: what is inlined is not a key in canonical form.

        """
        multihash = Multihash.decode(self.raw)
        if multihash.code is not HashCode.IDENTITY:
            return None
        key = PublicKey.from_protobuf(multihash.digest)
        if key.to_protobuf() != multihash.digest:
            raise RemoteProtocolError("a peer id holds a key that is not in canonical form")
        return key

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a PeerId is immutable: cannot set {name}")

    def __str__(self) -> str:
        try:
            return self._text
        except AttributeError:
            text = peertext.encode(self.raw)
            object.__setattr__(self, "_text", text)
            return text

    def __repr__(self) -> str:
        return f"PeerId({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, PeerId) else NotImplemented

    def __lt__(self, other: PeerId) -> bool:
        return self.raw < other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


class PeerMismatchError(CryptoFailure):
    """The peer proved an identity, but not the one we dialled."""

    exit_code = 9

    def __init__(self, expected: PeerId, actual: PeerId, code: int | None = None) -> None:
        super().__init__(
            f"this address belongs to peer {actual}, not {expected}: "
            "take the current address, or correct its /p2p part",
            code,
        )
        self.expected = expected
        self.actual = actual
