"""Group datagrams into trains that one `sendmsg` with UDP_SEGMENT takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from pt.quic.engine import Train
from pt.quic.events import Address

__all__ = ["MAX_SEGMENTS", "MAX_TRAIN", "group", "split"]

MAX_SEGMENTS: Final = 64
MAX_TRAIN: Final = 65_000


def split(datagrams: Sequence[bytes], address: Address) -> list[Train]:
    """Trains of neighbours of one size, a last one that is shorter included; order is kept."""
    sizes = list(map(len, datagrams))
    trains: list[Train] = []
    at = 0
    while at < len(sizes):
        size = sizes[at]
        window = sizes[at : at + max(1, min(MAX_SEGMENTS, MAX_TRAIN // size))]
        count = len(window)
        if window.count(size) < count:
            count = next(n for n, other in enumerate(window) if other != size)
        rest = sizes[at + count] if at + count < len(sizes) else size
        if rest < size and count < MAX_SEGMENTS and count * size + rest <= MAX_TRAIN:
            count += 1  # and it ends the train
        trains.append(Train(address, list(datagrams[at : at + count])))
        at += count
    return trains


def group(datagrams: Iterable[tuple[bytes, Address]]) -> list[Train]:
    """Trains of neighbours with the same address and size; order is kept."""
    return [
        train
        for address, run in groupby(datagrams, key=itemgetter(1))
        for train in split([datagram for datagram, _ in run], address)
    ]
