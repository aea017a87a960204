from __future__ import annotations

from dataclasses import replace

import pytest

from pt.punch.upkeep import MAX_INTERVAL, Attempts, upkeep
from pt.wire.nat_facts import NatFacts
from tests.unit.punch.classes import facts


def test_attempts_become_rare_and_the_network_starts_them_anew() -> None:
    attempts = Attempts(5.0)
    assert attempts.due == 5.0
    gaps = []
    for _ in range(8):
        attempts.failed(100.0)
        assert attempts.due is not None
        gaps.append(attempts.due - 100.0)
    assert gaps == [3, 10, 30, 60, 120, 300, 600, 600]
    attempts.changed(300.0)
    assert attempts.due == 300.0
    attempts.failed(301.0)
    assert attempts.due == 304.0
    attempts.succeeded()
    assert attempts.due is None


@pytest.mark.parametrize(
    ("lifetime", "interval"), [(None, 15), (30.0, 15), (120.0, 60), (3600.0, 60), (2.0, 3)]
)
def test_half_the_lifetime_is_kept(lifetime: float | None, interval: float) -> None:
    ours = replace(facts("eim-apdf"), lifetime=lifetime)
    assert upkeep(ours, NatFacts()).interval == interval


def test_a_public_host_has_nothing_to_keep() -> None:
    assert upkeep(facts("public"), facts("eim-apdf")).interval == MAX_INTERVAL
    assert upkeep(facts("fw"), facts("eim-apdf")).interval == 15


def test_a_path_is_replaced_before_either_mapping_is_too_old() -> None:
    aging = replace(facts("eim-apdf"), max_age=60.0)
    older = replace(facts("eim-apdf"), max_age=100.0)
    assert upkeep(aging, older).rotate_after == upkeep(older, aging).rotate_after == 45
    assert upkeep(facts("eim-apdf"), facts("eim-apdf")).rotate_after is None
