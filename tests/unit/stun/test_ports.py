"""How ports are chosen, told from samples of NATs whose rule is known."""

from __future__ import annotations

import random

import pytest

from pt.stun.ports import ENOUGH, Ports, PortSample, classify
from pt.wire.nat_facts import Allocation


def sample(external, internal=None) -> list[PortSample]:
    rng = random.Random(5)
    return [
        PortSample(internal[at] if internal else rng.randrange(32768, 61000), port)
        for at, port in enumerate(external)
    ]


@pytest.mark.parametrize("count", range(ENOUGH))
def test_a_few_say_nothing(count):
    assert classify(sample(range(5000, 5000 + count))) == Ports()


def test_preserved_but_for_collisions():
    ports = [40000 + 7 * at for at in range(16)]
    assert classify(sample(ports, ports)) == Ports(Allocation.PRESERVING)
    moved = [*ports[:13], 1024, 2048, 4096]
    assert classify(sample(moved, ports)) == Ports(Allocation.PRESERVING)


@pytest.mark.parametrize("step", [1, 2, 3, 16, -1, -4])
def test_one_after_the_other(step):
    ports = [30000 + step * at for at in range(16)]
    assert classify(sample(ports)) == Ports(Allocation.SEQUENTIAL, step)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", [1, 2, 5])
def test_one_after_the_other_with_others_between(seed, step):
    rng = random.Random(seed)
    port, ports = 30000, []
    for _ in range(16):
        port += step * (1 + (rng.random() < 0.3) + (rng.random() < 0.1))
        ports.append(port)
    assert classify(sample(ports)) == Ports(Allocation.SEQUENTIAL, step)


def test_at_the_end_of_the_range_it_begins_again():
    ports = [(65530 + at - 1024) % 64512 + 1024 for at in range(16)]
    assert classify(sample(ports)) == Ports(Allocation.SEQUENTIAL, 1)


def test_one_that_came_late():
    ports = list(range(30000, 30016))
    ports[3] = 30016
    assert classify(sample(ports)) == Ports(Allocation.SEQUENTIAL, 1)


@pytest.mark.parametrize("seed", range(200))
def test_anywhere(seed):
    rng = random.Random(seed)
    ports = rng.sample(range(1024, 65536), 16)
    assert classify(sample(ports)) == Ports(Allocation.RANDOM)


@pytest.mark.parametrize("size", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("seed", range(30))
def test_in_a_block(size, seed):
    rng = random.Random(seed)
    first = rng.randrange(1, 65536 // size) * size
    found = classify(sample(rng.sample(range(first, first + size), 16)))
    assert found.allocation is Allocation.RANDOM
    low, high = found.block
    covered = len(set(range(low, high + 1)) & set(range(first, first + size)))
    assert covered >= 0.6 * size
    assert high - low < 4 * size


@pytest.mark.parametrize("seed", range(30))
def test_in_a_range_that_is_not_aligned(seed):
    rng = random.Random(seed)
    first = rng.randrange(1024, 60000)
    found = classify(sample(rng.sample(range(first, first + 1000), 16)))
    low, high = found.block
    assert len(set(range(low, high + 1)) & set(range(first, first + 1000))) >= 600
    assert high - low < 4000


def test_few_in_a_narrow_range_may_be_chance():
    assert classify(sample([5000, 5100, 5050, 5300, 5200])).block is None
