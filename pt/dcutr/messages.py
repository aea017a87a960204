"""Direct Connection Upgrade through Relay: its one message.

    HolePunch{type=1: CONNECT 100 | SYNC 300, ObsAddrs=2*: bytes}

Source: libp2p specs `relay/DCUtR.md`; at most 4 KiB, each with its length as a uvarint before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pt.errors import RemoteProtocolError
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = ["MAX_ADDRESSES", "MAX_MESSAGE", "HolePunch", "HolePunchError", "Kind", "punchable"]

MAX_MESSAGE: Final = 4096
MAX_ADDRESSES: Final = 16
"""That are told, and of a peer's that are dialed; further ones are ignored."""


class HolePunchError(RemoteProtocolError):
    """The peer's message is malformed, comes at the wrong time, or gives nothing to dial."""


class Kind(IntEnum):
    """What a message is."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, slots=True)
class HolePunch:
    """One message; addresses are those at which its sender was observed."""

    kind: Kind
    addresses: tuple[Multiaddr, ...] = ()

    def encode(self) -> bytes:
        """The message with its length before it."""
        parts = [protobuf.put_uint(1, self.kind)]
        parts += [protobuf.put_bytes(2, each.encode()) for each in self.addresses]
        return uvarint.prefix(b"".join(parts))

    @classmethod
    def decode(cls, body: bytes) -> HolePunch:
        """Read a message without its length; addresses that cannot be read are left out.

        Raises:
            HolePunchError: malformed, or of no known kind.

        """
        try:
            fields = protobuf.Fields(body, 256)
        except protobuf.ProtobufError as error:
            raise HolePunchError(f"a malformed hole punching message: {error}") from error
        kind = fields.uint(1)
        if kind not in (Kind.CONNECT, Kind.SYNC):
            raise HolePunchError(f"a hole punching message of type {kind}")
        found = []
        for raw in fields.all_bytes(2):
            try:
                found.append(Multiaddr.decode(raw))
            except MultiaddrError:
                continue
        return cls(Kind(kind), tuple(found))


def punchable(addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Public IP addresses that lead to a host itself, each once, at most `MAX_ADDRESSES`.

    Others are neither told nor dialed: a peer must not make us knock at doors of our own network,
    and names would be looked up for it.
    """
    found: dict[Multiaddr, None] = {}
    for address in addresses:
        host = address.host
        if address.is_circuit or host is None or host[0] not in ("ip4", "ip6"):
            continue
        if address.is_public and (bare := address.without_peer()) is not None:
            found[bare] = None
    return tuple(found)[:MAX_ADDRESSES]
