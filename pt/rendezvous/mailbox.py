"""The mailbox of a name: the records of all its exposers under one key of a DHT.

    payload = version (1 byte, 1) · nonce (12 bytes) · ciphertext
    cipher  = ChaCha20-Poly1305(seal_key of the epoch, nonce, aad = "pt/2 mailbox" · version, inner)
    inner   = for each record: length (2 bytes, big-endian) · envelope (see `record`);
              zeros up to a size of PADDED_SIZES

The payload travels in an IPNS record that the epoch's key signs. Its length says how many exposers
there are, roughly (one: always the first size), and nothing of addresses or services.

Several exposers. A key holds one value, the highest sequence wins, and everyone who knows the name
can sign. So a mailbox holds the newest record of each exposer, and who publishes

1. reads all values that the DHT's nodes hold (`open_mailbox`),
2. puts its own record beside those of others (`merge`), with a sequence above all seen (`pack`),
3. reads back. If its record is not there, somebody wrote at the same time: again, from 1, after a
   random pause.

A searcher takes the records of every value that any node returns, not of the highest alone: a value
that lost still says where somebody is, and `Exposers` keeps the newest of each. Separate keys, say
four, chosen by the exposer's peer id, would need no merging, but every look-up would be four, two
exposers would share a key in one case of four anyway, and a look-up is what costs.

What holds against whom. Who does not know the name cannot sign for the mailbox, read it, or tell
that it is one; nodes of the DHT can withhold it or return old values, which their expiry and
sequences expose. Who knows the name can throw others out of a mailbox, fill it, or lock it until
the day ends with the last sequence number; it cannot speak for another exposer, whose own signature
is on each record, and binders hold on to the exposer they have pinned. LAN and `--peer` have no
mailbox to lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pt.errors import CryptoFailure, LimitError, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous import ipns
from pt.rendezvous.epoch import SKEW, EpochKeys
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import MAX_SIGNED, NONCE_BYTES, Record, sign, verify

__all__ = [
    "LIFE",
    "MAX_EXPOSERS",
    "PADDED_SIZES",
    "RENEWAL",
    "TTL",
    "Mailbox",
    "Sealed",
    "Signed",
    "merge",
    "open_mailbox",
    "pack",
    "unseal",
]

VERSION: Final = 1
PADDED_SIZES: Final = (1024, 2048, 4096, 8192)
"""Bytes of a payload."""
MAX_EXPOSERS: Final = 8
"""Records in a mailbox. With more exposers, those that write last are found."""
TTL: Final = 60
"""Seconds that caches may keep a value."""
LIFE: Final = 6 * 3600
"""Seconds that a record in a mailbox should live, a goodbye too."""
RENEWAL: Final = LIFE - SKEW - 1800
"""Seconds until it should be written again: clocks may differ, and a renewal may take its time."""
EXPIRY_STEP: Final = 3600
"""What a value's expiry is rounded up to: it is public, a record's is not."""

_TAG_BYTES: Final = 16
_OVERHEAD: Final = 1 + NONCE_BYTES + _TAG_BYTES
_AAD: Final = b"pt/2 mailbox" + bytes((VERSION,))


@dataclass(frozen=True, slots=True)
class Signed:
    """A record with its envelope, which others may pass on."""

    record: Record
    raw: bytes

    @classmethod
    def make(cls, record: Record, keys: NameKeys, identity: PrivateKey) -> Signed:
        """Sign a record; addresses that do not fit are left out of `raw`.

        Raises:
            LocalProtocolError: the record is not the identity's own, or breaks a bound.

        """
        raw = sign(record, keys, identity)
        return cls(verify(raw, keys, None), raw)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: opaque, and checked by storage with `ipns.validate`."""

    name: bytes
    value: bytes
    """At most `ipns.MAX_RECORD` bytes."""
    seq: int
    expires: int
    """Unix time, seconds."""

    @property
    def routing_key(self) -> bytes:
        """The key on the public DHT."""
        return ipns.routing_key(self.name)

    @property
    def overlay_key(self) -> bytes:
        """The key on our overlay, 32 bytes."""
        return ipns.overlay_key(self.name)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What one value held."""

    seq: int
    signed: tuple[Signed, ...]
    """Verified, not expired, in the writer's order."""

    def holds(self, mine: Signed) -> bool:
        """Whether `mine` or a newer record of the same exposer is there."""
        return any(
            found.record.peer_id == mine.record.peer_id and found.record.seq >= mine.record.seq
            for found in self.signed
        )


def merge(mine: Signed, seen: Iterable[Signed], now: float) -> tuple[Signed, ...]:
    """Our record, then the newest of every other exposer that has not expired.

    Of more than MAX_EXPOSERS, those that live longest stay. Goodbyes stay like others, so that an
    older value cannot bring their exposer back.
    """
    newest: dict[PeerId, Signed] = {}
    for signed in seen:
        peer = signed.record.peer_id
        if peer == mine.record.peer_id or signed.record.expires < now:
            continue
        if peer not in newest or newest[peer].record.seq < signed.record.seq:
            newest[peer] = signed
    others = sorted(newest.values(), key=lambda signed: (-signed.record.expires, signed.raw))
    return mine, *others[: MAX_EXPOSERS - 1]


def pack(
    signed: Sequence[Signed], epoch: EpochKeys, *, after: int, now: float, nonce: bytes
) -> Sealed:
    """Seal the records (of `merge`) into a value that replaces all up to sequence `after`.

    `after` is the highest sequence seen, -1 when none was; `nonce` is 12 fresh random bytes.

    Raises:
        LimitError: somebody who knows the name has used up this epoch's sequence numbers.
        LocalProtocolError: no record, too many, or a bad nonce.

    """
    if not 1 <= len(signed) <= MAX_EXPOSERS or len(nonce) != NONCE_BYTES:
        raise LocalProtocolError(f"a mailbox takes 1 to {MAX_EXPOSERS} records and a nonce")
    # The clock is the floor: a writer that sees no value still replaces those it does not see.
    seq = max(after + 1, int(now))
    if seq > ipns.MAX_SEQ:
        raise LimitError(
            "somebody who knows the name has locked its mailbox until the day ends: "
            "use another name, or --peer ADDRESS"
        )
    inner = b"".join(len(each.raw).to_bytes(2, "big") + each.raw for each in signed)
    size = next(size for size in PADDED_SIZES if size >= len(inner) + _OVERHEAD)
    cipher = ChaCha20Poly1305(epoch.seal_key).encrypt(
        nonce, inner.ljust(size - _OVERHEAD, b"\0"), _AAD
    )
    latest = max(each.record.expires for each in signed)
    expires = -(-latest // EXPIRY_STEP) * EXPIRY_STEP
    payload = bytes((VERSION,)) + nonce + cipher
    value = ipns.create(epoch.signer, payload, seq=seq, expires=expires, ttl=TTL)
    return Sealed(epoch.name, value, seq, expires)


def open_mailbox(value: bytes, epoch: EpochKeys, keys: NameKeys, now: float) -> Mailbox:
    """Check a value, open it and verify what is in it; bad and expired records are left out.

    Raises:
        CryptoFailure: not a value of this name and epoch.
        RemoteProtocolError: expired, oversize, cut short or malformed.

    """
    outer = ipns.validate(value, epoch.name, now)
    return Mailbox(outer.seq, unseal(outer.payload, epoch, keys, now))


def unseal(payload: bytes, epoch: EpochKeys, keys: NameKeys, now: float) -> tuple[Signed, ...]:
    """The verified records in a value's payload; bad and expired ones are left out.

    Raises:
        CryptoFailure: not sealed for this name and epoch.
        RemoteProtocolError: malformed.

    """
    if len(payload) not in PADDED_SIZES or payload[0] != VERSION:
        raise RemoteProtocolError("not a mailbox of a version we know")
    try:
        inner = ChaCha20Poly1305(epoch.seal_key).decrypt(
            payload[1 : 1 + NONCE_BYTES], payload[1 + NONCE_BYTES :], _AAD
        )
    except InvalidTag as error:
        raise CryptoFailure("a mailbox that is not sealed for this name") from error
    signed = []
    for raw in _split(inner):
        try:
            signed.append(Signed(verify(raw, keys, now), raw))
        except RemoteProtocolError:
            continue  # one member's nonsense must not hide the others
    return tuple(signed)


def _split(inner: bytes) -> list[bytes]:
    parts: list[bytes] = []
    pos = 0
    while size := int.from_bytes(inner[pos : pos + 2], "big"):
        part = inner[pos + 2 : pos + 2 + size]
        if len(part) != size or size > MAX_SIGNED or len(parts) == MAX_EXPOSERS:
            raise RemoteProtocolError("a mailbox with too many, too long or cut records")
        parts.append(part)
        pos += 2 + size
    if inner.count(0, pos) != len(inner) - pos:
        raise RemoteProtocolError("a mailbox with bad padding")
    return parts
