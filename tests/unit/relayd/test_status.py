from __future__ import annotations

import json
import mmap
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.relayd.status import (
    METER_INTERVAL,
    SHOWN,
    GradeView,
    Meter,
    Totals,
    busiest_circuits,
    busiest_reservations,
    resident_memory,
    to_json,
)
from tests.unit.relayd.samples import NOW, PEER_ID, circuit, reservation, snapshot


def test_json_says_everything():
    found = json.loads(to_json(snapshot()))
    assert found["format"] == 1
    assert found["peer_id"] == PEER_ID
    assert found["uptime"] == 3600
    assert found["grades"][1] == {
        "grade": "stranger",
        "served": True,
        "reservations": 1,
        "reservations_limit": 128,
        "circuits": 1,
        "circuits_limit": 1024,
        "duration": 120,
        "data": 131072,
        "rate": None,
    }
    assert found["totals"]["bytes"] == {"raw": 10**9, "libp2p": 3072}
    assert found["open_circuits"] == {"raw": 2, "libp2p": 1}
    assert found["circuits"][0] == {
        "number": 1,
        "kind": "raw",
        "source": "12D3…xW2a",
        "target": "12D3…9fQe",
        "grade": "user",
        "age": 12.346,
        "sent": 1000,
        "received": 2000,
        "rate": 512.5,
    }
    assert found["reservations"][1]["peer"] == "12D3…abcd"
    assert found["more_circuits"] == 0
    assert found["more_reservations"] == 2


def test_json_keeps_counters_as_they_are():
    totals = Totals(refusals=Counter({"no_reservation": 3}))
    found = json.loads(to_json(snapshot(totals=totals)))
    assert found["totals"]["refusals"] == {"no_reservation": 3}


def test_nothing_is_not_negative():
    found = json.loads(to_json(snapshot(started=NOW + 1, grades=(), open_circuits={})))
    assert found["uptime"] == 0
    assert found["more_circuits"] == found["more_reservations"] == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=SHOWN + 50))
def test_busiest_circuits(made):
    circuits = [circuit(i, rate=float(r), age=float(a)) for i, (r, a) in enumerate(made)]
    shown = busiest_circuits(circuits)
    assert len(shown) == min(SHOWN, len(circuits))
    assert list(shown) == sorted(shown, key=lambda one: (-one.rate, one.age))
    left_out = set(circuits) - set(shown)
    assert max((one.rate for one in left_out), default=0) <= min(
        (one.rate for one in shown), default=0
    )


def test_busiest_reservations():
    made = [reservation(str(i), circuits=i % 3, expires_in=float(i)) for i in range(SHOWN * 4)]
    shown = busiest_reservations(made)
    assert len(shown) == SHOWN
    assert {one.circuits for one in shown} == {2}
    assert shown[0].expires_in == max(one.expires_in for one in made if one.circuits == 2)


def test_more_than_shown():
    circuits = busiest_circuits(circuit(i) for i in range(1000))
    found = snapshot(
        circuits=circuits,
        open_circuits={"raw": 600, "libp2p": 400},
        grades=(GradeView(grade="user", reservations=2),),
    )
    assert found.more_circuits == 800
    assert found.more_reservations == 0


def test_meter():
    meter = Meter()
    meter.update(100.0, {1: 0, 2: 50})
    assert meter.rate(1) == meter.rate(2) == 0
    meter.update(102.0, {1: 1000, 2: 50, 3: 7})
    assert (meter.rate(1), meter.rate(2), meter.rate(3)) == (500, 0, 0)
    meter.update(102.0 + METER_INTERVAL / 2, {1: 9999})
    assert meter.rate(1) == 500  # too early to tell
    meter.update(103.0, {1: 1000, 3: 17})
    assert (meter.rate(1), meter.rate(2), meter.rate(3)) == (0, 0, 10)


def test_memory_is_this_process():
    before = resident_memory()
    if not before:
        pytest.skip("no /proc")
    blob = mmap.mmap(-1, 64 << 20)  # new pages: malloc may have some to spare
    for _ in range(64):
        blob.write(b"x" * (1 << 20))
    assert resident_memory() - before > 32 << 20
    del blob
