"""Group datagrams into trains that one `sendmsg` with UDP_SEGMENT takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Final

from pt.quic.engine import Train
from pt.quic.events import Address

__all__ = ["MAX_SEGMENTS", "MAX_TRAIN", "group", "split"]

MAX_SEGMENTS: Final = 64
MAX_TRAIN: Final = 65_000


def split(datagrams: Sequence[bytes], address: Address) -> list[Train]:
    """As `group`, all for one address; quick, since it looks at runs of one size."""
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
