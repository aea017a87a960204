"""What the overlay keeps: IPNS records, each under the key of its signer."""

from __future__ import annotations

from pt.overlay.storage import Facts
from pt.rendezvous.ipns import validate_stored

__all__ = ["validate"]


def validate(key: bytes, value: bytes, now: float) -> Facts:
    """Check a sealed mailbox as a DHT server would: key, signature and form.

    That it has expired is for whoever asks to say: it is another fault, of the clock perhaps.
    """
    del now
    record = validate_stored(key, value, 0.0)
    return Facts(record.seq, record.validity / 1e9)
