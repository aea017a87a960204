"""What the overlay keeps: IPNS records, each under the key of its signer."""

from __future__ import annotations

from pt.overlay.storage import Facts
from pt.rendezvous.ipns import validate_stored

__all__ = ["validate"]


def validate(key: bytes, value: bytes, now: float) -> Facts:
    """Check a sealed mailbox as a DHT server would: key, signature, form, expiry."""
    record = validate_stored(key, value, now)
    return Facts(record.seq, record.validity / 1e9)
