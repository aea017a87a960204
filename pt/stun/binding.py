"""What a Binding response says, once it was read and found to make sense."""

from __future__ import annotations

from dataclasses import dataclass

from pt.stun.attributes import (
    MAPPED_ADDRESS,
    OTHER_ADDRESS,
    RESPONSE_ORIGIN,
    SOFTWARE,
    XOR_MAPPED_ADDRESS,
    Address,
    read_address,
    read_xor_address,
)
from pt.stun.messages import Message, StunError
from pt.stun.transactions import Outcome

__all__ = ["Binding", "read_binding"]

MAX_SOFTWARE = 64


@dataclass(frozen=True, slots=True)
class Binding:
    """How a server saw us, and what it says of itself."""

    mapped: Address
    """Our address, as the server saw it."""
    source: Address
    """Where the answer came from."""
    origin: Address | None = None
    """Where the server says that it sent it from."""
    other: Address | None = None
    """Another IP address and port that it answers from."""
    rewritten: bool = False
    """Something on the way changed the address that was not in disguise."""
    software: str = ""
    rtt: float = 0.0
    sends: int = 1


def read_binding(outcome: Outcome) -> Binding | None:
    """What a successful request brought; None for errors, silence, and answers without sense."""
    message = outcome.response
    if message is None or outcome.source is None:
        return None
    try:
        disguised, plain = message.get(XOR_MAPPED_ADDRESS), message.get(MAPPED_ADDRESS)
        clear = None if plain is None else read_address(plain)
        if disguised is not None:
            mapped = read_xor_address(disguised, message.transaction)
        elif clear is not None:
            mapped = clear
        else:
            return None
        origin, other = _address(message, RESPONSE_ORIGIN), _address(message, OTHER_ADDRESS)
    except StunError:
        return None
    family = ":" in outcome.source[0]
    if not mapped[1] or (":" in mapped[0]) != family:
        return None
    if other is not None and (not other[1] or (":" in other[0]) != family):
        other = None
    return Binding(
        mapped=mapped,
        source=outcome.source,
        origin=origin,
        other=other,
        rewritten=clear is not None and clear != mapped,
        software=(message.get(SOFTWARE) or b"").decode("utf-8", "replace")[:MAX_SOFTWARE],
        rtt=outcome.rtt,
        sends=outcome.sends,
    )


def _address(message: Message, kind: int) -> Address | None:
    value = message.get(kind)
    return None if value is None else read_address(value)
