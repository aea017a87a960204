from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from pt.lab import Lab
from pt.node.hops import HOPS, _router, carrier_between, first_routers


def error(origin: int = 2, kind: int = 11, host: str = "100.64.0.1", family: int = 2):
    value = struct.pack("=IBBBxII", 113, origin, kind, 0, 0, 0)
    value += struct.pack("=HH4s", family, 0, socket.inet_aton(host)) + bytes(8)
    return [(socket.IPPROTO_IP, 11, value)]


def test_errors_of_routers():
    assert _router(error()) == "100.64.0.1"
    assert _router(error(kind=3)) == ""
    assert _router(error(origin=1)) == ""
    assert _router(error(family=0)) == ""
    assert _router([(socket.IPPROTO_IP, 11, b"short")]) == ""
    assert _router([]) == ""


@pytest.mark.parametrize(
    ("routers", "wanted"),
    [
        (["192.168.1.1", "100.64.0.1", ""], True),
        (["192.168.1.1", "11.0.0.1", "", ""], False),
        (["10.0.0.1", "172.16.0.1"], False),
        ([], False),
    ],
)
def test_carriers(routers, wanted):
    assert carrier_between(routers) is wanted


def test_on_loopback_there_is_no_router():
    found = asyncio.run(first_routers(("127.0.0.1", 9), b"?", wait=0.05))
    assert found == [""] * HOPS
    assert asyncio.run(first_routers(("::1", 9), b"?")) == []


@pytest.mark.netns
def test_routers_of_a_carrier():
    with Lab(a="eim-apdf+apdm-random", b="eim-apdf") as lab:
        for name, carrier in (("a", True), ("b", False)):
            with lab[name].inside():
                found = asyncio.run(first_routers((lab["s1"].ip, 4001), b"?"))
            assert found[0].startswith("192.168.")
            assert carrier_between(found) is carrier
