"""Address classes: a representative and both edges of every range."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.wire import ipranges

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.0.64",
    "192.0.3.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::",
    "2a01:db8::1",
    "2001:db7:ffff::1",
    "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "64:ff9b::1.1.1.1",
    "64:ff9b:1::1",
    "::ffff:8.8.8.8",
]
PRIVATE = [
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.1.1",
    "172.16.0.0",
    "172.31.255.255",
    "192.168.0.0",
    "192.168.255.255",
    "::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "::ffff:192.168.1.1",
]
NEITHER = [
    "0.0.0.0",
    "0.255.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.251",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "ff02::1",
    "2001:db8::1",
    "1fff::1",
    "4000::1",
    "fec0::1",
]


@pytest.mark.parametrize(
    ("text", "public", "private"),
    [(text, True, False) for text in PUBLIC]
    + [(text, False, True) for text in PRIVATE]
    + [(text, False, False) for text in NEITHER],
)
def test_class(text, public, private):
    address = ip_address(text)
    assert (ipranges.is_public(address), ipranges.is_private(address)) == (public, private)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("::2", False),
    ],
)
def test_loopback(text, loopback):
    assert ipranges.is_loopback(ip_address(text)) is loopback


@given(st.ip_addresses())
def test_the_classes_exclude_each_other(address):
    assert not (ipranges.is_public(address) and ipranges.is_private(address))
    if ipranges.is_loopback(address):
        assert ipranges.is_private(address)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("example.com", True),
        ("bootstrap.libp2p.io.", True),
        ("arpa", True),
        ("mylocal", True),
        ("home.arpa.example", True),
        ("localhost", False),
        ("a.LOCALHOST", False),
        ("printer.local", False),
        ("x.test.", False),
        ("x.invalid", False),
        ("nas.home.arpa", False),
        ("1.2.0.192.in-addr.arpa", False),
        ("8.b.d.0.ip6.arpa", False),
    ],
)
def test_names(name, public):
    assert ipranges.is_public_name(name) is public
