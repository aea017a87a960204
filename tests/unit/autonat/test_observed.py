from __future__ import annotations

import pytest

from pt.autonat.observed import ADVERTISE, MAX_CONNECTIONS, MAX_PER_LOCAL, Observed
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence

LISTEN = Multiaddr.parse("/ip4/0.0.0.0/udp/4001/quic-v1")
LOCAL = Multiaddr.parse("/ip4/192.168.1.2/udp/4001/quic-v1")


def peer(number: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/11.0.9.{number}/udp/4001/quic-v1")


def seen(port: int, host: str = "11.0.1.2") -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{host}/udp/{port}/quic-v1")


def observed(*ports: int) -> Observed:
    """One word from each of several peers."""
    known = Observed()
    known.listening([LISTEN])
    for number, port in enumerate(ports, 1):
        assert known.record(number, LOCAL, peer(number), seen(port))
    return known


def test_one_word_is_enough_to_punch_and_four_to_advertise() -> None:
    known = observed(4001)
    assert known.addresses() == [seen(4001)]
    assert known.addresses(ADVERTISE) == []
    assert observed(4001, 4001, 4001, 4001).addresses(ADVERTISE) == [seen(4001)]


def test_one_host_has_one_word() -> None:
    known = observed(4001)
    for number in range(10, 20):
        known.record(number, LOCAL, peer(1), seen(4001))
    assert known.addresses(2) == []


def test_an_ipv6_network_has_one_word() -> None:
    known = Observed()
    known.listening([Multiaddr.parse("/ip6/::/udp/4001/quic-v1")])
    local = Multiaddr.parse("/ip6/2a00:6000::2/udp/4001/quic-v1")
    for number in range(4):
        remote = Multiaddr.parse(f"/ip6/2a00:7000:0:{number}::1/udp/1/quic-v1")
        assert known.record(number, local, remote, local)
    assert known.addresses(2) == []
    other = Multiaddr.parse("/ip6/2a00:7000:0:100::1/udp/1/quic-v1")
    assert known.record(9, local, other, local)
    assert known.addresses(2) == [local]


@pytest.mark.parametrize(
    ("local", "remote", "told"),
    [
        ("/ip4/192.168.1.2/udp/5555/quic-v1", "/ip4/11.0.9.1/udp/1/quic-v1", "/ip4/11.0.1.2/udp/1"),
        (
            "/ip4/192.168.1.2/udp/4001/quic-v1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/11.0.1.2/udp/1",
        ),
        (
            "/ip4/192.168.1.2/udp/4001/quic-v1",
            "/ip4/11.0.9.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/udp/1",
        ),
        ("/ip4/192.168.1.2/udp/4001/quic-v1", "/ip4/11.0.9.1/udp/1/quic-v1", "/ip4/11.0.1.2/tcp/1"),
        ("/ip4/192.168.1.2/udp/4001/quic-v1", "/ip4/11.0.9.1/udp/1/quic-v1", "/ip6/2a00::1/udp/1"),
        (
            "/ip4/192.168.1.2/udp/4001/quic-v1",
            "/dns4/peer.example/udp/1/quic-v1",
            "/ip4/11.0.1.2/udp/1",
        ),
        (
            "/ip4/192.168.1.2/udp/4001/quic-v1",
            "/ip4/11.0.9.1/udp/1/quic-v1",
            "/dns4/a.example/udp/1",
        ),
    ],
)
def test_words_that_do_not_count(local: str, remote: str, told: str) -> None:
    known = Observed()
    known.listening([LISTEN])
    assert not known.record(1, *(Multiaddr.parse(each) for each in (local, remote, told)))
    assert known.addresses() == []


def test_words_through_a_relay_do_not_count() -> None:
    known = Observed()
    known.listening([LISTEN])
    circuit = Multiaddr.parse(
        "/ip4/11.0.9.1/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    ).through_circuit()
    assert not known.record(1, LOCAL, circuit, seen(4001))


def test_the_most_agreed_on_comes_first_and_few_are_told() -> None:
    known = observed(1, 2, 2, 3, 3, 3, 4, 5)
    found = known.addresses()
    assert found[:2] == [seen(3), seen(2)]
    assert len(found) == MAX_PER_LOCAL


def test_a_connection_that_ends_takes_its_word_along() -> None:
    known = observed(4001, 4001)
    known.forget(1)
    assert known.addresses(2) == []
    known.forget(2)
    assert known.addresses() == []
    known.forget(2)


def test_a_port_that_we_do_not_listen_on_any_more() -> None:
    known = observed(4001)
    known.listening([Multiaddr.parse("/ip4/0.0.0.0/udp/4002/quic-v1")])
    assert known.addresses() == []


def test_private_addresses_are_not_told() -> None:
    known = Observed()
    known.listening([LISTEN])
    known.record(1, LOCAL, Multiaddr.parse("/ip4/192.168.1.9/udp/1/quic-v1"), LOCAL)
    assert known.addresses() == []


def test_tcp_has_a_table_of_its_own() -> None:
    known = observed(4001)
    known.listening([LISTEN, Multiaddr.parse("/ip4/0.0.0.0/tcp/4001")])
    known.record(
        9,
        Multiaddr.parse("/ip4/192.168.1.2/tcp/4001"),
        Multiaddr.parse("/ip4/11.0.9.1/tcp/4001"),
        Multiaddr.parse("/ip4/11.0.1.2/tcp/7000"),
    )
    assert set(known.addresses()) == {seen(4001), Multiaddr.parse("/ip4/11.0.1.2/tcp/7000")}


@pytest.mark.parametrize(
    ("ports", "mapping"),
    [
        ((4001,), Dependence.UNKNOWN),
        ((4001, 4001), Dependence.INDEPENDENT),
        ((4001, 4002), Dependence.ADDRESS),
        ((4001, 4001, 4001, 4002), Dependence.INDEPENDENT),  # one lies, or has old news
        ((4001, 4002, 4003, 4004), Dependence.ADDRESS),
    ],
)
def test_what_the_ports_tell_of_the_nat(ports: tuple[int, ...], mapping: Dependence) -> None:
    known = observed(*ports)
    assert known.mapping(4, "udp") is mapping
    assert known.mapping(4, "tcp") is Dependence.UNKNOWN


def test_connections_are_bounded() -> None:
    known = Observed()
    known.listening([LISTEN])
    for number in range(2 * MAX_CONNECTIONS):
        remote = Multiaddr.parse(f"/ip4/11.1.{number // 250}.{number % 250}/udp/1/quic-v1")
        known.record(number, LOCAL, remote, seen(4001))
    assert len(known._words) == MAX_CONNECTIONS
