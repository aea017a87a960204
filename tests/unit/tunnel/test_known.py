from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pt.tunnel.known import MAX_KNOWN, Known
from pt.wire.multiaddr import Multiaddr

ONE = "12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
TWO = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"


def circuit(relay: str, host: str) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{host}/tcp/4001/p2p/{relay}/p2p-circuit")


def test_what_is_new_is_told_once() -> None:
    known = Known()
    direct, through = Multiaddr.tcp("11.0.0.1", 4001), circuit(ONE, "11.0.0.9")
    known.learn([direct, through])
    assert known.direct == [direct]
    assert known.circuits == [through]
    assert known.news.is_set()
    assert known.moved.is_set()
    known.news.clear()
    known.moved.clear()
    known.learn([direct, through])
    assert not known.news.is_set()
    assert not known.moved.is_set()


def test_the_oldest_give_way() -> None:
    known = Known()
    known.learn(Multiaddr.tcp("11.0.0.1", port) for port in range(1, MAX_KNOWN + 3))
    assert len(known.direct) == MAX_KNOWN
    assert known.direct[0] == Multiaddr.tcp("11.0.0.1", 3)


def test_the_relay_that_was_used_comes_last() -> None:
    known = Known()
    first, second = circuit(ONE, "11.0.0.8"), circuit(TWO, "11.0.0.9")
    known.learn([first, second])
    assert known.circuits == [first, second]
    relay = first.split_circuit()[0].peer_id_bytes
    connection: Any = SimpleNamespace(relay=SimpleNamespace(raw=relay))
    known.used(connection)
    assert known.circuits == [second, first]
    assert known.relays == {relay, second.split_circuit()[0].peer_id_bytes}
    direct: Any = SimpleNamespace(relay=None)
    known.used(direct)
    assert known.circuits == [second, first]
