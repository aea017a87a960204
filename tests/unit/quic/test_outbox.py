from __future__ import annotations

import random

from pt.quic.outbox import MERGE, Outbox


def taken(outbox: Outbox, most: int = 1000) -> list[tuple[int, bytes, bool]]:
    found = []
    while (turn := outbox.take(most)) is not None:
        stream, pieces, fin = turn
        found.append((stream, b"".join(pieces), fin))
    return found


def test_streams_take_turns() -> None:
    outbox = Outbox()
    for stream in (0, 4):
        outbox.open(stream, 10_000)
        outbox.put(stream, bytes([65 + stream]) * 2500, fin=True)
    assert [(stream, len(data), fin) for stream, data, fin in taken(outbox)] == [
        (0, 1000, False),
        (4, 1000, False),
        (0, 1000, False),
        (4, 1000, False),
        (0, 500, True),
        (4, 500, True),
    ]
    assert taken(outbox) == []


def test_the_peers_window_is_kept() -> None:
    outbox = Outbox()
    outbox.open(0, 5)
    outbox.open(4, 100)
    outbox.put(0, b"hello world", fin=True)
    assert taken(outbox) == [(0, b"hello", False)]
    assert outbox.size(0) == 6
    assert outbox.room(0) == -6
    assert outbox.room(4) == 100
    assert outbox.room(8) == 0
    outbox.put(4, b"others go on", fin=False)
    assert taken(outbox) == [(4, b"others go on", False)]
    outbox.allow(0, 5)
    outbox.allow(8, 5)
    assert taken(outbox) == []
    outbox.allow(0, 100)
    assert taken(outbox) == [(0, b" world", True)]


def test_an_end_needs_no_window() -> None:
    outbox = Outbox()
    outbox.open(0, 0)
    outbox.put(0, b"", fin=True)
    assert taken(outbox) == [(0, b"", True)]
    outbox.open(4, 2)
    outbox.put(4, b"ab", fin=False)
    assert taken(outbox) == [(4, b"ab", False)]
    outbox.put(4, b"", fin=True)
    assert taken(outbox) == [(4, b"", True)]


def test_nothing_is_nothing() -> None:
    outbox = Outbox()
    outbox.open(0, 100)
    outbox.put(0, b"", fin=False)
    outbox.put(8, b"nobody", fin=True)
    assert taken(outbox) == []
    assert outbox.size(8) == 0


def test_a_stream_that_is_given_up() -> None:
    outbox = Outbox()
    for stream in (0, 4):
        outbox.open(stream, 100)
        outbox.put(stream, b"abc", fin=False)
    outbox.close(0)
    outbox.close(0)
    assert taken(outbox) == [(4, b"abc", False)]


def test_small_writes_are_joined() -> None:
    outbox = Outbox()
    outbox.open(0, 10**9)
    for _ in range(1000):
        outbox.put(0, b"0123456789", fin=False)
    assert len(outbox._queues[0].pieces) == 1
    found = taken(outbox, MERGE)
    assert b"".join(data for _, data, _ in found) == b"0123456789" * 1000


def test_a_turn_takes_several_pieces() -> None:
    outbox = Outbox()
    outbox.open(0, 10**9)
    for letter in b"abc":
        outbox.put(0, bytes([letter]) * MERGE, fin=False)
    turn = outbox.take(2 * MERGE + 5)
    assert turn is not None
    assert [len(piece) for piece in turn[1]] == [MERGE, MERGE, 5]
    assert outbox.end == 2 * MERGE + 5
    assert taken(outbox, 10**6) == [(0, b"c" * (MERGE - 5), False)]


def test_what_comes_out_is_what_went_in() -> None:
    rng = random.Random(4)
    outbox = Outbox()
    wanted = {stream: bytearray() for stream in range(0, 40, 4)}
    got = {stream: bytearray() for stream in wanted}
    ends = set()
    for stream in wanted:
        outbox.open(stream, 0)
    for _ in range(3000):
        stream = rng.choice(list(wanted))
        data = rng.randbytes(rng.choice([0, 1, 10, 3000, 20_000]))
        what = rng.random()
        if what < 0.4:
            outbox.put(stream, memoryview(data), fin=False)
            wanted[stream] += data
        elif what < 0.7:
            outbox.allow(stream, len(got[stream]) + rng.randrange(30_000))
        elif (turn := outbox.take(rng.choice([1, 1000, 100_000]))) is not None:
            got[turn[0]] += b"".join(turn[1])
        assert outbox.size(stream) == len(wanted[stream]) - len(got[stream])
    for stream in wanted:
        outbox.allow(stream, 10**9)
        outbox.put(stream, b"", fin=True)
    for stream, data, fin in taken(outbox, 10**6):
        got[stream] += data
        if fin:
            ends.add(stream)
    assert got == wanted
    assert ends == set(wanted)
