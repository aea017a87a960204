"""Group datagrams into trains that one `sendmsg` with UDP_SEGMENT takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Final

from pt.quic.engine import Train
from pt.quic.events import Address

__all__ = ["MAX_SEGMENTS", "MAX_TRAIN", "group", "split"]

MAX_SEGMENTS: Final = 64
MAX_TRAIN: Final = 65_000


def split(datagrams: Sequence[bytes], address: Address) -> list[Train]:
    """Trains of neighbours of one size, a last one that is shorter included; order is kept."""
    trains: list[Train] = []
    at, joined = 0, False
    runs = [(size, len(list(run))) for size, run in groupby(map(len, datagrams))]
    for (size, count), (after, _) in pairwise([*runs, (0, 0)]):
        end = at + count
        at += joined  # the first of them has ended the train before
        joined = False
        most = max(1, min(MAX_SEGMENTS, MAX_TRAIN // size))
        while at < end:
            stop = min(at + most, end)
            if stop == end and 0 < after < size:
                length = stop - at
                joined = length < MAX_SEGMENTS and length * size + after <= MAX_TRAIN
            trains.append(Train(address, list(datagrams[at : stop + joined])))
            at = stop
    return trains


def group(datagrams: Iterable[tuple[bytes, Address]]) -> list[Train]:
    """Trains of neighbours with the same address and size; order is kept."""
    return [
        train
        for address, run in groupby(datagrams, key=itemgetter(1))
        for train in split([datagram for datagram, _ in run], address)
    ]
