from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.quic.trains import MAX_SEGMENTS, MAX_TRAIN, group, split

HERE, THERE = ("11.0.0.1", 1), ("11.0.0.2", 2)


def sizes(*lengths: int) -> list[list[int]]:
    trains = group((bytes(length), HERE) for length in lengths)
    return [[len(segment) for segment in train.segments] for train in trains]


def test_equal_sizes_go_together_and_a_shorter_one_ends_the_train() -> None:
    assert sizes() == []
    assert sizes(1452) == [[1452]]
    assert sizes(1452, 1452, 700, 1452) == [[1452, 1452, 700], [1452]]
    assert sizes(700, 1452, 1452) == [[700], [1452, 1452]]
    assert sizes(40, 40, 40) == [[40, 40, 40]]


def test_addresses_are_kept_apart() -> None:
    trains = group([(b"a", HERE), (b"b", THERE), (b"c", THERE), (b"d", HERE)])
    assert [(train.address, train.segments) for train in trains] == [
        (HERE, [b"a"]),
        (THERE, [b"b", b"c"]),
        (HERE, [b"d"]),
    ]


def test_trains_are_not_too_long() -> None:
    assert [len(train) for train in sizes(*[100] * 130)] == [64, 64, 2]
    assert [len(train) for train in sizes(*[1472] * 100)] == [44, 44, 12]


@given(st.lists(st.tuples(st.integers(1, 1472), st.sampled_from([HERE, THERE])), max_size=200))
def test_nothing_is_lost_and_all_rules_hold(wanted: list[tuple[int, tuple[str, int]]]) -> None:
    datagrams = [(bytes([n % 256]) * size, to) for n, (size, to) in enumerate(wanted)]
    trains = group(datagrams)
    assert [(s, train.address) for train in trains for s in train.segments] == datagrams
    for train in trains:
        lengths = [len(segment) for segment in train.segments]
        assert len(lengths) <= MAX_SEGMENTS
        assert sum(lengths) <= MAX_TRAIN
        assert set(lengths[:-1]) <= {lengths[0]}
        assert lengths[-1] <= lengths[0]


@given(
    st.integers(1, 1472),
    st.integers(0, 200),
    st.lists(st.tuples(st.integers(0, 199), st.integers(1, 1472)), max_size=3),
)
def test_trains_are_those_that_one_finds_datagram_by_datagram(
    size: int, count: int, odd: list[tuple[int, int]]
) -> None:
    datagrams = [bytes(size)] * count
    for at, other in odd:
        if at < count:
            datagrams[at] = bytes(other)
    wanted: list[list[bytes]] = []
    room = 0
    for datagram in datagrams:
        size = len(wanted[-1][0]) if wanted else 0
        if len(datagram) <= min(room, size):
            wanted[-1].append(datagram)
            goes_on = len(datagram) == size and len(wanted[-1]) < MAX_SEGMENTS
            room = room - size if goes_on else 0
        else:
            wanted.append([datagram])
            room = MAX_TRAIN - len(datagram)
    assert [train.segments for train in split(datagrams, HERE)] == wanted
    assert {train.address for train in split(datagrams, HERE)} <= {HERE}
