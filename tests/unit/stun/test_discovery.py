"""What addresses and times alone tell; the whole is in tests/sim/test_stun.py."""

from __future__ import annotations

import pytest

from pt.stun.behaviour import Hairpin, Mapping
from pt.stun.discovery import _hairpins, _safe, behind_carrier
from pt.stun.lifetime import Lifetime
from pt.wire.nat_facts import Dependence

EI, APD = Dependence.INDEPENDENT, Dependence.ADDRESS_AND_PORT


@pytest.mark.parametrize(
    ("local", "mapped", "wanted"),
    [
        ("192.168.1.2", "11.0.0.1", None),
        ("100.64.3.4", "11.0.0.1", True),
        ("192.168.1.2", "100.80.0.1", True),
        ("11.0.0.1", "11.0.0.1", False),
        (None, "11.0.0.1", None),
        ("2001:db8::1", "2001:db8::1", None),
    ],
)
def test_carriers(local, mapped, wanted):
    assert behind_carrier(None if local is None else (local, 1), (mapped, 2)) is wanted


@pytest.mark.parametrize(
    ("lifetime", "wanted"),
    [
        (None, None),
        (Lifetime(20.0, 30.0), 20.0),
        (Lifetime(298.0), 298.0),
        (Lifetime(0.0, 10.0), 5.0),
    ],
)
def test_a_safe_silence(lifetime, wanted):
    assert _safe(lifetime) == wanted


@pytest.mark.parametrize(
    ("works", "mapping", "filtering", "wanted"),
    [
        (True, APD, APD, True),
        (False, EI, APD, False),
        (False, APD, EI, False),
        (False, APD, APD, None),
        (None, EI, EI, None),
    ],
)
def test_no_hairpin_is_a_finding_only_where_nothing_else_is_in_the_way(
    works, mapping, filtering, wanted
):
    assert _hairpins(Hairpin(works), Mapping(mapping), filtering) is wanted
