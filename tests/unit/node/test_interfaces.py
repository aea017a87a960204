from __future__ import annotations

from types import SimpleNamespace

import ifaddr
import pytest

from pt.node import interfaces as module
from pt.node import listeners
from pt.node.interfaces import expand, own_addresses


def adapter(*ips: object, name: str = "unknown") -> SimpleNamespace:
    return SimpleNamespace(name=name, ips=[SimpleNamespace(ip=ip) for ip in ips])


LO = adapter("127.0.0.1", ("::1", 0, 0), name="lo")
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


@pytest.mark.parametrize(
    ("four", "six", "expected"),
    [
        (["192.0.2.5"], ["::1"], ["192.0.2.5"]),
        (["127.0.0.1"], ["2001:db8::5"], ["2001:db8::5"]),
        (["127.0.0.1"], ["::1"], ["127.0.0.1", "::1"]),
        (["192.0.2.5"], ["2001:db8::5"], ["192.0.2.5", "2001:db8::5"]),
    ],
)
def test_loopback_is_told_only_if_there_is_nothing_else(monkeypatch, four, six, expected) -> None:
    """Of either family: who is told of it would dial itself."""
    behind = {"0.0.0.0": four, "::": six}
    monkeypatch.setattr(listeners, "expand", lambda host: behind.get(host, [host]))
    made = listeners.Listeners(lambda *_: None, None)
    made._sockets = [
        (SimpleNamespace(getsockname=lambda host=host: (host, 4001)), [""]) for host in behind
    ]
    assert [address.host[1] for address in made.addresses] == expected
    made._sockets.append((SimpleNamespace(getsockname=lambda: ("127.0.0.1", 5)), [""]))
    assert "127.0.0.1" in [address.host[1] for address in made.addresses], "asked for by --listen"


def test_an_interface_that_is_down_has_no_addresses(monkeypatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LO, ETH])
    monkeypatch.setattr(module, "_is_running", lambda name: name == "lo")
    assert expand("0.0.0.0") == ["127.0.0.1"]


def test_own_addresses_change_with_the_network(monkeypatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LO, ETH])
    before = own_addresses()
    assert before == {"192.168.1.5", "fd00::5", "2001:db8::5"}
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: [LO])
    assert own_addresses() == {"127.0.0.1", "::1"}
