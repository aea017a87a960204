"""NATs do what they say: translate, let answers in, and drop everything else in silence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from pt.lab.nat import Internet, Site
from pt.lab.netns import Host, unavailable

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    if reason := unavailable():
        pytest.skip(reason)
    sites = {"a": Site(), "b": Site(), "wall": Site(nat=False, subnet="11.6.0.0/24")}
    with Internet(["one", "two"], sites) as made:
        yield made


def served(host: Host) -> socket.socket:
    with host.inside():
        server = socket.create_server(("0.0.0.0", 0))
    server.settimeout(5)
    return server


def dial(source: Host, target: str, port: int, timeout: float = 5.0) -> socket.socket:
    with source.inside():
        return socket.create_connection((target, port), timeout)


def seen_as(net: Internet, source: str, target: str) -> tuple[str, str]:
    """The source address that a server sees, and the one that the client has."""
    with (
        served(net[target]) as server,
        dial(net[source], net[target].ip, server.getsockname()[1]) as client,
    ):
        accepted, peer = server.accept()
        with accepted:
            accepted.sendall(b"answer")
            assert client.recv(10) == b"answer"
            return peer[0], client.getsockname()[0]


@pytest.mark.parametrize("site", ["a", "b"])
def test_a_nat_translates(net: Internet, site: str) -> None:
    seen, own = seen_as(net, site, "one")
    assert own == "192.168.1.2"
    assert seen == net.router(site).ip


def test_a_wall_does_not(net: Internet) -> None:
    assert seen_as(net, "wall", "two") == ("11.6.0.2", "11.6.0.2")


@pytest.mark.parametrize("source", ["one", "b"])
@pytest.mark.parametrize("site", ["a", "wall"])
def test_what_nobody_asked_for_is_dropped_and_not_answered(
    net: Internet, source: str, site: str
) -> None:
    with served(net[site]) as server:
        port = server.getsockname()[1]
        targets = {net.router(site).ip} | ({net[site].ip} if site == "wall" else set())
        for target in targets:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                dial(net[source], target, port, timeout=0.4)
            assert time.monotonic() - began >= 0.4


def test_public_hosts_reach_each_other_and_paths_are_cut_as_seen_from_outside(
    net: Internet,
) -> None:
    seen_as(net, "one", "two")
    net.cut(net.router("a"), net["one"])
    with served(net["one"]) as server, pytest.raises(TimeoutError):
        dial(net["a"], net["one"].ip, server.getsockname()[1], timeout=0.3)
    seen_as(net, "a", "two")
    net.restore(net.router("a"), net["one"])
    seen_as(net, "a", "one")


@pytest.mark.parametrize("source", ["one", "a", "wall"])
def test_there_is_no_way_out(net: Internet, source: str) -> None:
    with pytest.raises(OSError):
        dial(net[source], "11.99.0.1", 80, timeout=0.3)
    devices = net[source].run(["ip", "-o", "link"]).stdout.decode()
    assert {line.split(": ")[1].split("@")[0] for line in devices.splitlines()} <= {"lo", "eth0"}
