"""Peers for the tests: ids without keys, each with an address in a network of its own."""

from __future__ import annotations

from pt.identity.peer_id import PeerId
from pt.kad.keyspace import point
from pt.kad.messages import PeerInfo
from pt.wire.multiaddr import Multiaddr

KEY = bytes.fromhex("1220bfb505f5912abf3ebdab239c8c6390b0c22d7415776730f67065b89234a01698")


def peer_id(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


def address(number: int) -> Multiaddr:
    """Public, and for numbers below 16,000 no two in one /16."""
    high, low = divmod(number, 250)
    return Multiaddr.parse(f"/ip4/{130 + high}.{1 + low}.0.1/tcp/4001")


def peer(number: int, *addresses: str) -> PeerInfo:
    said = tuple(Multiaddr.parse(text) for text in addresses)
    return PeerInfo(peer_id(number), said or (address(number),))


def nearest(peers, key: bytes = KEY):
    return sorted(peers, key=lambda info: point(info.id.raw) ^ point(key))
