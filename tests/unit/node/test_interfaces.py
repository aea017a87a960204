from __future__ import annotations

from types import SimpleNamespace

import ifaddr
import pytest

from pt.node.interfaces import expand


def adapter(*ips: object) -> SimpleNamespace:
    return SimpleNamespace(ips=[SimpleNamespace(ip=ip) for ip in ips])


LO = adapter("127.0.0.1", ("::1", 0, 0))
ETH = adapter("192.168.1.5", ("fe80::1%eth0", 0, 2), ("fd00::5", 0, 0), ("2001:db8::5", 0, 0))
LINK_LOCAL_ONLY = adapter("10.0.0.7", ("fe80::2", 0, 3))


@pytest.mark.parametrize(
    ("host", "adapters", "expected"),
    [
        ("192.0.2.1", [LO, ETH], ["192.0.2.1"]),
        ("127.0.0.1", [LO, ETH], ["127.0.0.1"]),
        ("::1", [LO], ["::1"]),
        ("0.0.0.0", [LO, ETH], ["192.168.1.5"]),
        ("0.0.0.0", [LO, ETH, LINK_LOCAL_ONLY], ["192.168.1.5", "10.0.0.7"]),
        ("0.0.0.0", [LO], ["127.0.0.1"]),
        ("::", [LO, ETH], ["fd00::5", "2001:db8::5"]),
        ("::", [LO, LINK_LOCAL_ONLY], ["::1"]),
        ("::", [], []),
    ],
)
def test_expand(monkeypatch, host, adapters, expected) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert expand(host) == expected
