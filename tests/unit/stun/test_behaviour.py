"""What follows from what was seen; the tests against NATs are in tests/sim/test_stun.py."""

from __future__ import annotations

import pytest

from pt.stun import behaviour
from pt.stun.behaviour import SIZES, Places, patient, quota_of
from pt.stun.binding import Binding
from pt.wire.nat_facts import Dependence

P11, P12, P21, P22 = (
    ("11.0.0.1", 1),
    ("11.0.0.1", 2),
    ("11.0.0.2", 1),
    ("11.0.0.2", 2),
)
ALL = Places(P11, P21, P12, P22)
A, B, C, D = (("11.9.0.1", port) for port in (5, 6, 7, 8))
EI, AD, APD = Dependence.INDEPENDENT, Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT
UNKNOWN = Dependence.UNKNOWN


def binding(other=None) -> Binding:
    return Binding(mapped=A, source=P11, other=other)


def test_places_of_a_server():
    assert Places.of(P11, binding(P22)) == ALL
    assert Places.of(P11, binding()) == Places(P11)
    assert Places.of(P11, binding(P12)) == Places(P11)  # both have to be different
    assert Places.of(P11, binding(P21)) == Places(P11)


@pytest.mark.parametrize(
    ("server", "told", "wanted"),
    [
        ("11.0.0.1", "11.0.0.2", True),
        ("11.0.0.1", "192.168.1.1", False),
        ("11.0.0.1", "127.0.0.1", False),
        ("11.0.0.1", "224.0.0.251", False),
        ("11.0.0.1", "255.255.255.255", False),
        ("192.168.1.9", "192.168.1.1", True),
        ("2a00::1", "fe80::1", False),
    ],
)
def test_where_a_server_may_send_us(server, told, wanted):
    assert behaviour.may_write((server, 1), (told, 2)) is wanted
    found = Places.of((server, 1), binding((told, 2)))
    assert (found.other is not None) is wanted


def test_other_servers_stand_in_for_another_address():
    assert Places(P11).also([P11, P12, P22]) == Places(P11, same_port=P22)
    assert Places(P11).also([P12]) == Places(P11)
    assert ALL.also([("11.7.7.7", 1)]) == ALL


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ({P11: A, P12: A, P21: A, P22: A}, EI),
        ({P11: A, P12: A, P21: B, P22: B}, AD),
        ({P11: A, P12: B, P21: C, P22: D}, APD),
        ({P11: A, P12: B, P21: A, P22: A}, APD),
        ({P11: A, P12: A, P21: B, P22: C}, APD),
        ({P11: A, P21: A}, EI),
        ({P11: A, P22: A}, EI),
        ({P11: A, P12: A, P22: B}, AD),
        ({P11: A, P21: B, P22: B}, APD),
        ({P11: A, P21: B}, APD),
        ({P11: A, P12: B}, APD),
        ({P11: A, P12: A}, UNKNOWN),
        ({P11: A}, UNKNOWN),
    ],
)
def test_mappings(seen, wanted):
    assert behaviour.dependence_of(ALL, seen) is wanted


def test_an_external_address_that_differs_is_another_mapping_though_the_port_is_the_same():
    seen = {P11: ("11.9.0.1", 5), P12: ("11.9.0.1", 5), P21: ("11.9.0.2", 5)}
    assert behaviour.dependence_of(ALL, seen) is AD


@pytest.mark.parametrize(
    ("answered", "quota"),
    [
        ("xxxxxxxx", None),
        ("xxxxx---", 7),
        ("x-------", 3),
        ("xxxxxx--", None),
        ("xx-xx---", None),
        ("--------", None),
    ],
)
def test_quotas(answered, quota):
    assert quota_of([binding() if each == "x" else None for each in answered], before=2) == quota


@pytest.mark.parametrize("rtt", [0.0, 0.02, 0.3, 2.0])
def test_patience_grows_with_the_round_trip(rtt):
    schedule = patient(rtt)
    assert len(schedule.sends) == 5
    assert schedule.end - schedule.sends[-1] >= max(0.3, 2 * rtt)


def test_sizes_are_in_order_and_fit_ethernet():
    assert list(SIZES) == sorted(SIZES)
    assert SIZES[-1] + 28 == 1500
    assert all(size % 4 == 0 for size in SIZES)
