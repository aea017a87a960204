"""Ports are given as the word says, and never one that is taken."""

from __future__ import annotations

import itertools
import random

import pytest

from pt.lab.model.ports import Allocator
from pt.lab.model.spec import parse_nat

A, B = b"\xc0\xa8\x01\x0a", b"\xc0\xa8\x01\x0b"


def allocator(text: str) -> Allocator:
    return Allocator(parse_nat(text)[0], random.Random(1))


def take(chooser: Allocator, count: int, inside: bytes = A, wanted: int = 40000) -> list[int]:
    taken: set[int] = set()
    for _ in range(count):
        port = chooser.choose(inside, wanted, taken.__contains__)
        assert port is not None
        assert port not in taken
        taken.add(port)
    return list(taken)


def test_preserve_gives_the_same_and_another_when_it_is_taken() -> None:
    chooser = allocator("eim")
    assert chooser.choose(A, 40000, lambda _: False) == 40000
    other = chooser.choose(A, 40000, {40000}.__contains__)
    assert other not in (None, 40000)
    assert chooser.choose(A, 80, lambda _: False) != 80  # not of the range


@pytest.mark.parametrize("step", [1, 3])
def test_sequential_steps_and_wraps(step) -> None:
    chooser = allocator(f"apdm-seq,step={step},ports=2000-2099")
    ports = [chooser.choose(A, 1, lambda _: False) for _ in range(300)]
    steps = {(b - a) % 100 for a, b in itertools.pairwise(ports)}
    assert step in steps
    assert all(port is not None and 2000 <= port <= 2099 for port in ports)
    assert chooser.choose(A, 1, lambda port: port != 2050) in (None, 2050)


def test_random_is_not_predictable_and_uses_the_range() -> None:
    ports = take(allocator("apdm,ports=5000-5999"), 500)
    assert min(ports) < 5100
    assert max(ports) > 5900


def test_every_port_can_be_had_and_then_none() -> None:
    chooser = allocator("apdm,ports=5000-5009")
    assert sorted(take(chooser, 10)) == list(range(5000, 5010))
    assert chooser.choose(A, 1, lambda _: True) is None
    assert allocator("apdm-seq,ports=5000-5009").choose(A, 1, lambda _: True) is None


def test_blocks_are_of_one_host() -> None:
    chooser = allocator("apdm-block,block=64,ports=1024-1151")
    first, second = take(chooser, 64, A), take(chooser, 64, B)
    assert max(first) - min(first) == max(second) - min(second) == 63
    assert not set(first) & set(second)
    assert chooser.choose(b"\xc0\xa8\x01\x0c", 1, lambda _: False) is None


def test_other_hosts_move_a_sequence_on() -> None:
    chooser = allocator("apdm-seq,noise=20,ports=1024-65535")
    ports = []
    for second in range(50):
        chooser.others(float(second))
        port = chooser.choose(A, 1, lambda _: False)
        assert port is not None
        ports.append(port)
    gone = [(b - a) % 64512 for a, b in itertools.pairwise(ports)]
    assert 17 < sum(gone) / len(gone) - 1 < 23
    assert max(gone) > min(gone)
    quiet = allocator("apdm-seq")
    quiet.others(1e6)
    assert take(quiet, 3) == sorted(take(allocator("apdm-seq"), 3))
