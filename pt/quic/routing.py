"""Which connection a datagram belongs to: by its destination connection id, without keys.

Source: RFC 9000, section 5.2, and RFC 9443 for what shares a UDP port with QUIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from pt.quic.events import Address
from pt.quic.packets import CID_LENGTH, parse_header

__all__ = ["Routes", "is_quic", "runs"]

T = TypeVar("T")

_SHORT: Final = bytes(range(0x40, 0x80))
"""First bytes of packets with a short header."""


def is_quic(first: int) -> bool:
    """Whether a datagram that begins with this byte may be QUIC; STUN and others begin lower."""
    return first >= 0x40


def runs(data: bytes, size: int) -> Iterator[bytes]:
    """Cut datagrams of `size` bytes each (the last may be shorter) where the connection changes.

    Only neighbours with a short header and the same connection id stay together.
    """
    start, end = 0, len(data)
    if _alike(data, size):
        yield data
        return
    while start < end:
        stop = start + size
        if data[start] & 0xC0 == 0x40:
            key = data[start + 1 : start + 1 + CID_LENGTH]
            while stop < end and data[stop] & 0xC0 == 0x40 and data.startswith(key, stop + 1):
                stop += size
        yield data if not start and stop >= end else data[start:stop]
        start = stop


def _alike(data: bytes, size: int) -> bool:
    """Whether all have a short header and the connection id of the first, the last one whole, too.

    Column by column, since that is eight steps and not one a datagram.
    """
    count = -(-len(data) // size)
    if not data or size <= CID_LENGTH or (len(data) - 1) % size < CID_LENGTH:
        return False
    if data[::size].translate(None, _SHORT):
        return False
    return all(data[at::size] == data[at : at + 1] * count for at in range(1, 1 + CID_LENGTH))


class Routes(Generic[T]):
    """The connections of one port; each is known by its ids and by its peer's address."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, T] = {}
        self._ids: dict[T, set[bytes]] = {}
        self._by_address: dict[Address, list[T]] = {}

    def issued(self, owner: T, cid: bytes) -> None:
        """Datagrams to `cid` are `owner`'s."""
        self._by_id[cid] = owner
        self._ids.setdefault(owner, set()).add(cid)

    def retired(self, owner: T, cid: bytes) -> None:
        """They are no more."""
        if self._by_id.get(cid) is owner:
            del self._by_id[cid]
            self._ids[owner].discard(cid)

    def forget(self, owner: T, address: Address) -> None:
        """Nothing is `owner`'s any more."""
        for cid in self._ids.pop(owner, ()):
            if self._by_id.get(cid) is owner:
                del self._by_id[cid]
        self.left(owner, address)

    def at(self, owner: T, address: Address) -> None:
        """Stateless resets from `address` may be for `owner`, too."""
        self._by_address.setdefault(address, []).append(owner)

    def left(self, owner: T, address: Address) -> None:
        """They may not any more."""
        owners = self._by_address.get(address, [])
        if owner in owners:
            owners.remove(owner)
        if not owners:
            self._by_address.pop(address, None)

    def all_at(self, address: Address) -> list[T]:
        """Whose peer is at `address`."""
        return list(self._by_address.get(address, ()))

    def find(self, datagram: bytes) -> T | None:
        """Whose it is, by the connection id it names."""
        if datagram[0] & 0x80:
            header = parse_header(datagram)
            return None if header is None else self._by_id.get(header.destination)
        return self._by_id.get(datagram[1 : 1 + CID_LENGTH])
