"""Groups of addresses: what counts as one owner."""

from __future__ import annotations

import pytest

from pt.kad.diversity import MAX_IN_REPLY, crowded, groups, public
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.peers import peer, peer_id


def grouped(text: str):
    return groups([Multiaddr.parse(text)])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/ip4/130.1.0.1/tcp/1", "/ip4/130.1.255.2/udp/2/quic-v1", True),
        ("/ip4/130.1.0.1/tcp/1", "/ip4/130.2.0.1/tcp/1", False),
        ("/ip4/12.1.0.1/tcp/1", "/ip4/12.200.0.1/tcp/1", True),  # an old class A network
        ("/ip4/11.1.0.1/tcp/1", "/ip4/11.200.0.1/tcp/1", False),
        ("/ip6/2a01:db8:1::1/tcp/1", "/ip6/2a01:db8:ffff::1/tcp/1", True),
        ("/ip6/2a01:db8::1/tcp/1", "/ip6/2a01:db9::1/tcp/1", False),
        ("/ip6/::ffff:130.1.0.1/tcp/1", "/ip4/130.1.0.2/tcp/1", True),
    ],
)
def test_groups(one: str, other: str, same: bool) -> None:
    assert (grouped(one) == grouped(other)) is same
    assert len(grouped(one)) == 1


def test_names_have_no_group() -> None:
    assert grouped("/dns4/example.org/tcp/1") == frozenset()


def test_public_addresses_are_neither_local_nor_circuits() -> None:
    texts = [
        "/ip4/130.1.0.1/tcp/1",
        "/ip4/192.168.1.1/tcp/1",
        f"/ip4/130.1.0.1/tcp/1/p2p/{peer_id(1)}/p2p-circuit",
        "/ip6/fe80::1/tcp/1",
        "/dns4/example.org/tcp/1",
    ]
    found = public([Multiaddr.parse(text) for text in texts])
    assert [str(each) for each in found] == [texts[0], texts[4]]


def test_a_crowd_is_out_as_a_whole() -> None:
    crowd = [peer(number, f"/ip4/130.1.0.{number + 1}/tcp/1") for number in range(MAX_IN_REPLY + 1)]
    alone = peer(99, "/ip4/130.2.0.1/tcp/1")
    assert crowded([*crowd, alone]) == {each.id for each in crowd}
    assert crowded([*crowd[1:], alone]) == set()
    both = peer(98, "/ip4/130.2.0.1/tcp/1", "/ip4/130.1.9.9/tcp/1")
    assert both.id in crowded([*crowd, both])
