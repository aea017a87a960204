"""Group datagrams into trains that one `sendmsg` with UDP_SEGMENT takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pt.quic.engine import Train
from pt.quic.events import Address

__all__ = ["MAX_SEGMENTS", "MAX_TRAIN", "group", "split"]

MAX_SEGMENTS: Final = 64
MAX_TRAIN: Final = 65_000


def split(datagrams: Sequence[bytes], address: Address) -> list[Train]:
    """As `group`, all for one address; quick for bulk, which is of one size but the last."""
    count = len(datagrams)
    if not count:
        return []
    sizes = list(map(len, datagrams))
    size = sizes[0]
    if sizes.count(size) < count - (sizes[-1] < size):
        return group((datagram, address) for datagram in datagrams)
    most = min(MAX_SEGMENTS, max(1, MAX_TRAIN // size))
    if count <= most:
        return [Train(address, list(datagrams))]
    return [Train(address, list(datagrams[at : at + most])) for at in range(0, count, most)]


def group(datagrams: Iterable[tuple[bytes, Address]]) -> list[Train]:
    """Trains of neighbours with the same address and size; order is kept."""
    trains: list[Train] = []
    segments: list[bytes] = []
    size = room = 0
    target: Address | None = None
    for datagram, address in datagrams:
        length = len(datagram)
        if room >= length and length <= size and address == target:
            segments.append(datagram)
            # A shorter one ends the train.
            room = room - length if length == size and len(segments) < MAX_SEGMENTS else -1
            continue
        segments = [datagram]
        size, target, room = length, address, MAX_TRAIN - length
        trains.append(Train(address, segments))
    return trains
