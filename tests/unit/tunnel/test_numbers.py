from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.tunnel.core.numbers import MAX_SKIPPED, Numbers


@given(st.lists(st.integers(1, 60)))
def test_each_number_is_used_once_in_any_order(said: list[int]) -> None:
    numbers, used = Numbers(), set()
    for number in said:
        assert (number in numbers) == (number in used)
        assert numbers.use(number) == (number not in used)
        used.add(number)
    assert [n for n in range(1, 70) if n in numbers] == sorted(used)


def test_zero_is_no_number() -> None:
    assert not Numbers().use(0)


def test_what_the_peer_gave_up_is_over() -> None:
    numbers = Numbers()
    numbers.use(5)
    numbers.settle({2, 5, 9})
    assert [n for n in range(1, 8) if n not in numbers] == [2, 6, 7]
    assert not numbers.use(3)
    assert numbers.use(2)


def test_memory_is_bounded() -> None:
    numbers = Numbers()
    for number in (2**31, 2**32 - 2, 2**32 - 1):
        assert numbers.use(number)
        assert len(numbers._skipped) <= MAX_SKIPPED
    assert 2**32 - 3 not in numbers  # the latest are the ones that may come
    assert 7 in numbers
