from __future__ import annotations

import pytest

from pt.overlay.address import overlay_address, overlay_host
from pt.wire.multiaddr import Multiaddr

PEER = "/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@pytest.mark.parametrize(
    ("relay", "address"),
    [
        (f"/ip4/11.0.0.7/tcp/4001{PEER}", ("11.0.0.7", 4001)),
        ("/ip4/11.0.0.7/tcp/443/tls/ws", ("11.0.0.7", 443)),
        (f"/ip4/11.0.0.7/udp/4001/quic-v1{PEER}", ("11.0.0.7", 4001)),
        ("/ip4/11.0.0.7/udp/4001", ("11.0.0.7", 4001)),
        ("/ip6/2A00::0007/tcp/4001", ("2a00::7", 4001)),
        ("/dns4/relay.example/tcp/4001", None),
        ("/dnsaddr/relay.example", None),
        (f"/ip4/11.0.0.7/tcp/4001{PEER}/p2p-circuit", None),
        (f"/ip4/11.0.0.7/tcp/4001{PEER}/p2p-circuit{PEER}", None),
        ("/ip4/11.0.0.7", None),
        ("/ip4/11.0.0.7/tcp/0", None),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/4001", None),
        (PEER, None),
    ],
)
def test_where_a_relay_serves_the_overlay(relay, address):
    assert overlay_address(Multiaddr.parse(relay)) == address


@pytest.mark.parametrize(
    ("relay", "host"),
    [
        ("/dns4/relay.example/tcp/4001", ("dns4", "relay.example", 4001)),
        (f"/dns/relay.example/tcp/443/wss{PEER}", ("dns", "relay.example", 443)),
        ("/dns6/relay.example/udp/4001", ("dns6", "relay.example", 4001)),
        ("/ip4/11.0.0.7/tcp/4001", ("ip4", "11.0.0.7", 4001)),
        ("/dnsaddr/relay.example/tcp/4001", None),
    ],
)
def test_names_are_left_to_the_caller(relay, host):
    assert overlay_host(Multiaddr.parse(relay)) == host
