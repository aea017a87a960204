from __future__ import annotations

import pytest

from pt.node.nat_gateways import Agreement, compare


@pytest.mark.parametrize(
    ("external", "seen", "wanted"),
    [
        ("11.5.0.2", ["11.5.0.2"], Agreement.SAME),
        ("11.5.0.2", ["11.5.0.9", "11.5.0.2"], Agreement.SAME),  # a pool
        ("192.168.0.2", ["192.168.0.2"], Agreement.SAME),  # the servers are in there, too
        ("11.5.0.2", ["11.5.0.9"], Agreement.ELSEWHERE),
        ("11.5.0.2", [], None),
        ("100.64.0.2", ["11.5.0.9"], Agreement.CARRIER),
        ("100.64.0.2", [], Agreement.CARRIER),
        ("192.168.0.2", ["11.5.0.9"], Agreement.PRIVATE),
        ("", ["11.5.0.9"], None),
    ],
)
def test_agreement(external, seen, wanted):
    assert compare(external, seen) is wanted
