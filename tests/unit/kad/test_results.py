"""How finds are taken from answers."""

from __future__ import annotations

import pytest

from pt.errors import CryptoFailure
from pt.kad.lookup import News
from pt.kad.messages import MAX_VALUE, KadMessageError
from pt.kad.results import Found, addresses, nothing, valid_value
from tests.unit.kad.peers import peer, peer_id


def refuse(value: bytes) -> None:
    raise CryptoFailure(f"{value!r} is forged")


def test_values() -> None:
    seen: list[bytes] = []
    assert valid_value(peer_id(1), News(b"v"), seen.append) == (Found(b"v", peer_id(1)),)
    assert seen == [b"v"]
    assert valid_value(peer_id(1), News(), refuse) == ()


def test_a_bad_value_is_the_peers_lie() -> None:
    with pytest.raises(CryptoFailure):
        valid_value(peer_id(1), News(b"v"), refuse)


def test_a_long_value_is_not_even_looked_at() -> None:
    with pytest.raises(KadMessageError):
        valid_value(peer_id(1), News(bytes(MAX_VALUE + 1)), refuse)


def test_addresses_of_the_target() -> None:
    assert addresses(peer_id(1), News(target=peer(2))) == (peer(2),)
    assert addresses(peer_id(1), News()) == ()
    assert nothing(peer_id(1), News(b"v", (peer(1),), peer(2))) == ()
