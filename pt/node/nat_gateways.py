"""Whether what the default gateways say of themselves agrees with what servers outside see."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from pt.portmap.mapping import Outer, outer

__all__ = ["Agreement", "compare"]


class Agreement(Enum):
    """What a gateway's external address is, seen from outside."""

    SAME = "same"
    """Servers see it, too: ports that the gateway maps lead here."""
    ELSEWHERE = "elsewhere"
    """Servers see another one: there is one more NAT, or another way out."""
    CARRIER = "carrier"
    """It is a carrier's, of 100.64.0.0/10: behind the carrier's NAT."""
    PRIVATE = "private"
    """It is private: behind one more NAT."""


def compare(external: str, seen: Collection[str]) -> Agreement | None:
    """Judge an external address by the `seen` ones; None: that cannot be told."""
    if not external:
        return None
    if external in seen:
        return Agreement.SAME
    match outer(external):
        case Outer.CARRIER:
            return Agreement.CARRIER
        case Outer.PRIVATE:
            return Agreement.PRIVATE
        case Outer.PUBLIC:
            return Agreement.ELSEWHERE if seen else None
