"""Rendezvous keys of a name, which change every day (docs/rendezvous.md).

    epoch       = Unix time // 86,400 (a day of UTC)
    seed · key  = HKDF-SHA256(ikm = master, salt = "pt/2", info = "epoch" · epoch, 32 + 32 bytes),
                  epoch as 8 bytes, big-endian
    signer      = Ed25519 key of `seed`: owns the epoch's mailbox on the DHTs
    seal_key    = ChaCha20-Poly1305 key of what lies in it

To who does not know the name, the mailboxes of two epochs have nothing in common, so that a node
that places itself beside one watches or hides it for a day at most.

Clocks. An exposer publishes for the current epoch and the next one; a searcher looks where an
exposer's clock may be that is up to SKEW behind or ahead of its own. They meet when the searcher's
clock is at most SKEW behind the exposer's and at most a day ahead of it. Only near midnight are two
epochs searched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from pt.identity.keys import PrivateKey
from pt.rendezvous import ipns
from pt.rendezvous.name import SALT, NameKeys, hkdf

__all__ = ["EPOCH", "SKEW", "EpochKeys", "epoch_at", "epochs_to_publish", "epochs_to_search"]

EPOCH: Final = 86_400
"""Seconds."""
SKEW: Final = 2 * 3600
"""Seconds two machines' clocks may differ: an hour each."""

_INFO: Final = b"epoch"


@dataclass(frozen=True)
class EpochKeys:
    """What one name has in one epoch; the secrets do not appear in a `repr`."""

    epoch: int
    signer: PrivateKey = field(repr=False)
    seal_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, keys: NameKeys, epoch: int) -> EpochKeys:
        """The keys of a name in an epoch; `epoch` is not negative."""
        info = _INFO + epoch.to_bytes(8, "big")
        both = hkdf(keys.master, salt=SALT, info=info, length=64)
        return cls(epoch, PrivateKey.generate(both[:32]), both[32:])

    @cached_property
    def name(self) -> bytes:
        """Identity multihash of the signer, 38 bytes: whose mailbox it is."""
        return ipns.name_of(self.signer.public)

    @property
    def routing_key(self) -> bytes:
        """The mailbox on the public DHT."""
        return ipns.routing_key(self.name)

    @property
    def overlay_key(self) -> bytes:
        """The mailbox on our overlay, 32 bytes."""
        return ipns.overlay_key(self.name)


def epoch_at(now: float) -> int:
    """The epoch of a Unix time; times before 1970 belong to the first."""
    return max(int(now // EPOCH), 0)


def epochs_to_publish(now: float) -> tuple[int, ...]:
    """The current epoch, and the next."""
    current = epoch_at(now)
    return current, current + 1


def epochs_to_search(now: float, skew: float = SKEW) -> tuple[int, ...]:
    """Where an exposer may be whose clock is up to `skew` seconds off ours: likeliest first."""
    current = epoch_at(now)
    around = range(epoch_at(now - skew), epoch_at(now + skew) + 1)
    return tuple(sorted(around, key=lambda epoch: (abs(epoch - current), epoch)))
