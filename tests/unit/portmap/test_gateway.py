import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.gateway import Gateway, parse_addresses6, parse_route4, parse_route6

ROUTE4 = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
eth1\t00000000\t0103A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth2\t00000000\t0104A8C0\t0003\t0\t0\t2\t00000080\t0\t0\t0
"""
ZERO = "0" * 32
ROUTE6 = (
    f"{ZERO} 00 {ZERO} 00 fe80000000000000020000fffe000001 00000400 00000001 0 00000003     eth0\n"
    f"{ZERO} 00 {ZERO} 00 fe80000000000000020000fffe000002 00000064 00000001 0 00000003    wlan0\n"
    f"2a000000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 0 00000001     eth0\n"
    f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 0 00200200       lo\n"
)


@pytest.mark.skipif(sys.byteorder == "big", reason="the file is in the machine's byte order")
def test_default_routes_over_ipv4_by_metric():
    assert parse_route4(ROUTE4.splitlines()) == [
        Gateway(100, "192.168.1.1", "eth0"),
        Gateway(600, "192.168.2.1", "wlan0"),
    ]


def test_default_routes_over_ipv6_by_metric():
    found = parse_route6(ROUTE6.splitlines())
    assert [(each.host, each.device) for each in found] == [
        ("fe80::200:ff:fe00:2", "wlan0"),
        ("fe80::200:ff:fe00:1", "eth0"),
    ]
    assert {each.family for each in found} == {6}


def test_public_ipv6_addresses_of_a_device():
    told = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe800000000000000020000fffe00001 02 40 20 80     eth0\n"
        "fe800000000000000200000ffe000001 02 40 20 80     eth0\n"
        "fd110000000000000000000000000001 02 40 00 80     eth0\n"
        "2a006000000000000000000000000002 02 40 00 80     eth0\n"
        "2a006000000000000000000000000003 02 40 00 01     eth0\n"
        "2a006000000000000000000000000004 02 40 00 21     eth0\n"
        "2a006000000000000000000000000005 02 40 00 40     eth0\n"
        "2a006000000000000000000000000006 03 40 00 80    wlan0\n"
    )
    assert parse_addresses6(told.splitlines(), "eth0") == ["2a00:6000::2", "2a00:6000::3"]


@given(st.lists(st.text()))
def test_any_text_is_read(lines):
    parse_addresses6(lines, "eth0")
    parse_route4(lines)
    parse_route6(lines)
