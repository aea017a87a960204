from __future__ import annotations

from dataclasses import replace
from itertools import islice, product

import pytest

from pt.punch.candidates import FIRST_PORT, LAST_PORT
from pt.punch.ports import WINDOW, Dice, aims, spray_ports
from tests.unit.punch.classes import BLOCK, facts

MOVING = facts("apdm-seq-apdf")


@pytest.mark.parametrize("block", [None, BLOCK, (1024, 1030), (65530, 65535)])
def test_every_port_once(block: tuple[int, int] | None) -> None:
    ports = list(spray_ports(Dice(b"seed"), block))
    assert sorted(ports) == list(range(FIRST_PORT, LAST_PORT + 1))


def test_of_four_guesses_three_are_in_the_block() -> None:
    first = list(islice(spray_ports(Dice(b"seed"), BLOCK), 400))
    inside = [port for port in first if BLOCK[0] - 128 <= port <= BLOCK[1] + 128]
    assert len(inside) == 300


def test_orders_differ_by_seed() -> None:
    orders = {tuple(islice(spray_ports(Dice(bytes([n])), None), 50)) for n in range(50)}
    assert len(orders) == 50


def test_guesses_are_spread_evenly() -> None:
    """Each quarter of the ports gets its share over many seeds."""
    quarters = [0] * 4
    for seed in range(200):
        for port in islice(spray_ports(Dice(seed.to_bytes(2)), None), 100):
            quarters[(port - FIRST_PORT) * 4 // (LAST_PORT - FIRST_PORT + 1)] += 1
    assert all(4300 < count < 5700 for count in quarters)


@pytest.mark.parametrize("step", [1, 2, -3])
def test_two_moving_sides_meet_whatever_passed_in_between(step: int) -> None:
    """Packet i of one goes to the port of packet j of the other, and back, for any noise."""
    one, other = MOVING, replace(MOVING, step=step)
    sample_one, sample_other = 30000, 40000
    ours = aims(one, other, sample_other, controlling=True)
    theirs = aims(other, one, sample_one, controlling=False)
    assert len(ours) <= 32
    assert len(theirs) <= 32
    for e, f in product(range(8), range(8)):
        met = False
        for i, target in enumerate(ours, 1):
            for j, answer in enumerate(theirs, 1):
                met |= target == sample_other + step * (j + f) and answer == sample_one + i + e
        assert met, (e, f)


def test_a_side_that_does_not_move_tries_a_window() -> None:
    ports = aims(facts("eim-apdf"), facts("adm-seq-apdf"), 30000, controlling=True)
    assert ports == list(range(30001, 30001 + WINDOW))
    assert aims(facts("eim-apdf"), facts("apdm-preserve-apdf"), 4000, controlling=True) == [4000]


def test_ports_wrap_within_what_nats_use() -> None:
    ports = aims(facts("eim-apdf"), MOVING, 65530, controlling=True)
    assert ports[:8] == [65531, 65532, 65533, 65534, 65535, 1024, 1025, 1026]
