"""Hosts of one LAN find each other by multicast DNS, fast and on every network they are on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pt.lab.netns import Host, Lan
from pt.rendezvous.mdns import MAX_ADDRESSES
from tests.e2e.lan_lab import NAME, Peer, address, publish

pytestmark = pytest.mark.netns

QUICK = 0.3
"""Seconds from asking or announcing to hearing; it takes two milliseconds on an idle machine."""
OTHER = "b" * 40


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(hosts=3) as made:
        yield made


def test_exposer_is_there_already(lan: Lan) -> None:
    a, b, _ = lan.hosts
    publisher = publish(a)
    publisher.next("started")
    for _ in range(3):
        browser = Peer(b, "browse")
        asked = browser.next("starting")["at"]
        found = browser.next("heard", instance=NAME)
        assert found["addresses"] == [address(a.ip)]
        assert found["sealed"] == bytes(range(256)).hex()
        assert found["at"] - asked < QUICK
        browser.stop()


def test_exposer_comes_and_goes_later(lan: Lan) -> None:
    a, b, c = lan.hosts
    browsers = [Peer(b, "browse"), Peer(c, "browse"), Peer(a, "browse")]
    for browser in browsers:
        browser.next("started")
    publisher = publish(a)
    announced = publisher.next("started")["at"]
    for browser in browsers:
        assert browser.next("heard", instance=NAME)["at"] - announced < QUICK
    publisher.stop()
    for browser in browsers:
        browser.next("heard", instance=NAME, ttl=0)


def test_several_exposers_on_several_hosts(lan: Lan) -> None:
    names = [letter * 40 for letter in "abcdef"]
    publishers = [publish(host, name) for host, name in zip(lan.hosts * 2, names, strict=True)]
    for publisher in publishers:
        publisher.next("started")
    browser = Peer(lan.hosts[0], "browse")
    asked = browser.next("starting")["at"]
    found = {}
    while len(found) < len(names):
        line = browser.next("heard")
        found[line["instance"]] = line["at"]
    assert sorted(found) == names
    assert max(found.values()) - asked < 2 * QUICK


def test_killed_exposer_and_its_successor(lan: Lan) -> None:
    a, b, _ = lan.hosts
    browser = Peer(b, "browse")
    browser.next("started")
    publisher = publish(a)
    browser.next("heard", instance=NAME)
    publisher.process.kill()
    publisher.process.wait()
    successor = publish(a, OTHER)
    announced = successor.next("started")["at"]
    assert browser.next("heard", instance=OTHER)["at"] - announced < QUICK


def second_network(one: Host, other: Host, number: int) -> None:
    """Join two hosts by one more cable: eth1 with 11.2.N.1 and 11.2.N.2."""
    one.run(["ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns",
             str(other.pid)])  # fmt: skip
    for index, host in enumerate((one, other), 1):
        host.run(["ip", "addr", "add", f"11.2.{number}.{index}/24", "dev", "eth1"])
        host.run(["ip", "link", "set", "eth1", "up"])


def test_multi_homed() -> None:
    """b is on two networks; a is on the one only and c on the other only."""
    with Lan(hosts=2) as first, Lan(hosts=1, subnet="11.3.0.0/24") as lone:
        a, b = first.hosts
        [c] = lone.hosts
        second_network(b, c, 1)
        publisher = publish(b)
        publisher.next("started")
        for host in (a, c):
            browser = Peer(host, "browse")
            asked = browser.next("starting")["at"]
            assert browser.next("heard", instance=NAME)["at"] - asked < QUICK
            browser.stop()
        publish(a, OTHER).next("started")
        publish(c, "c" * 40).next("started")
        browser = Peer(b, "browse")
        found = {browser.next("heard")["instance"] for _ in range(3)}
        assert found == {NAME, OTHER, "c" * 40}


def test_new_network_is_noticed_by_both() -> None:
    """The cable between them comes after both have started, as a laptop joins a network."""
    with Lan(hosts=1) as left, Lan(hosts=1, subnet="11.3.0.0/24") as right:
        [a], [b] = left.hosts, right.hosts
        browser = Peer(b, "browse")
        browser.next("started")
        publish(a).next("started")
        second_network(a, b, 2)
        assert browser.next("heard", instance=NAME)["addresses"] == [address(a.ip)]


def test_no_network_says_so(lan: Lan) -> None:
    a, *_ = lan.hosts
    a.run(["ip", "addr", "flush", "dev", "eth0"])
    for args in (("publish", NAME, "0"), ("browse",)):
        assert "--peer ADDRESS" in Peer(a, *args).next("failed")["reason"]


def test_no_multicast_route_is_needed(lan: Lan) -> None:
    a, b, _ = lan.hosts
    for host in (a, b):
        host.run(["ip", "route", "del", "224.0.0.0/4", "dev", "eth0"])
        host.run(["ip", "route", "del", "default"])
    publish(a).next("started")
    Peer(b, "browse").next("heard", instance=NAME)


def test_packets_fit_an_ethernet_frame(lan: Lan) -> None:
    """With the biggest record and more addresses than fit, in answers and announcements."""
    a, b, c = lan.hosts
    with c.inside():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with b.inside():
        unicast = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with sniffer, unicast:
        many = [address(f"11.1.0.{i}") for i in range(100, 130)]
        publisher = Peer(a, "publish", NAME, "768", *many)
        publisher.next("started")
        browser = Peer(b, "browse")
        found = browser.next("heard", instance=NAME)
        assert found["sealed"] == (bytes(range(256)) * 3).hex()
        assert 1 <= len(found["addresses"]) <= MAX_ADDRESSES
        publisher.stop()
        browser.next("heard", instance=NAME, ttl=0)
        packets = []
        for sock in (sniffer, unicast):
            sock.setblocking(False)
            try:
                while True:
                    packets.append(sock.recv(65535))
            except BlockingIOError:
                pass
    from_a = [p for p in packets if p[12:16] == socket.inet_aton(a.ip) and p[9] == 17]
    assert len(from_a) >= 3
    for data in from_a:
        assert len(data) <= 1500
        assert int.from_bytes(data[6:8], "big") & 0x3FFF == 0, "a fragment"
