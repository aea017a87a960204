from __future__ import annotations

from pt.node.buffers import POOL, RX_LEN, SLOT_LEN, TX_LEN, Pool
from pt.yamux.frames import HEADER_LEN, MAX_PAYLOAD


def test_the_last_given_is_the_next_taken() -> None:
    pool = Pool(16, 4)
    first, second = pool.take(), pool.take()
    assert len(first) == len(second) == 16
    pool.give(first)
    pool.give(second)
    assert pool.take() is second


def test_what_is_lent_is_counted_and_what_is_kept_is_bounded() -> None:
    pool = Pool(16, 2)
    taken = [pool.take() for _ in range(5)]
    assert pool.lent == 5
    for buffer in taken:
        pool.give(buffer)
    assert pool.lent == 0
    assert len(pool._free) == 2


def test_sizes_fit_what_goes_in() -> None:
    assert len(POOL.slots.take()) == SLOT_LEN == HEADER_LEN + MAX_PAYLOAD
    POOL.slots.lent -= 1
    assert TX_LEN >= 2 * (2 + 65535)
    assert RX_LEN > 2 + 65535
