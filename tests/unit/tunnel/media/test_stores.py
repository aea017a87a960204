"""Which media are used, and that nothing is left of one that does not start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.amino import Amino
from pt.node.node import Node
from pt.node.state import StateDir
from pt.trace import NO_TRACE
from pt.tunnel.config import BindConfig
from pt.tunnel.media.stores import media_of, open_dht_of, open_stores
from pt.tunnel.network import Network
from pt.wire.multiaddr import Multiaddr

PEER = PeerId.from_public_key(PrivateKey.generate(b"p" * 32).public)
RELAY = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/9/p2p/{PEER}")
SERVER = Multiaddr.parse("/ip4/127.0.0.1/udp/9")


def config(**options: object) -> BindConfig:
    """With peers of the DHT on loopback only."""
    return BindConfig(name="some-name", lan=False, public=False, **options)  # type: ignore[arg-type]


def network(home: Path) -> Network:
    return Network(StateDir(home), (), lambda _: None, NO_TRACE)


def with_media(lan: bool, public: bool, **options: object) -> BindConfig:
    made = config(**options)
    made.__dict__.update(lan=lan, public=public)
    if public:
        made.__dict__["bootstrap"] = (*made.bootstrap, RELAY)
    return made


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("lan", [False, True])
@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("seeds", [{}, {"relays": (RELAY,)}, {"bootstrap": (SERVER,)}])
def test_what_the_options_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open, lan, public, seeds
) -> None:
    """Sealed records are not for an open tunnel, which has a DHT of another kind."""
    quiet(monkeypatch)
    made = with_media(lan, public, open=is_open, **seeds)
    overlay = bool(seeds) and not is_open
    expected = [*["lan"] * lan, *["overlay"] * overlay, *["amino"] * public]
    assert media_of(made) == expected

    async def main() -> None:
        stores = await open_stores(made, StateDir(tmp_path), network(tmp_path))
        dht = await open_dht_of(made, StateDir(tmp_path), network(tmp_path))
        sealed = [] if is_open else [medium for medium in expected if medium != "lan"]
        assert [store.medium for store in stores] == sealed
        assert (dht is not None) == (is_open and public)
        for each in (*stores, *[dht] * (dht is not None)):
            await each.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("fault", [NetworkError("no network"), asyncio.CancelledError()])
def test_nothing_is_left_of_a_dht_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool, fault: BaseException
) -> None:
    closed: list[str] = []
    quiet(monkeypatch, closed)

    async def fail(self: Amino) -> None:
        raise fault

    monkeypatch.setattr(Amino, "start", fail)
    made = with_media(False, True, open=is_open, bootstrap=(SERVER,))

    async def main() -> None:
        with pytest.raises(type(fault)):
            await (open_dht_of if is_open else open_stores)(
                made, StateDir(tmp_path), network(tmp_path)
            )
        assert closed == ["amino", "node"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def quiet(monkeypatch: pytest.MonkeyPatch, closed: list[str] | None = None) -> None:
    """The DHT does nothing, and says when it is closed."""
    told: list[str] = [] if closed is None else closed

    async def start(self: Amino) -> None:
        pass

    async def close(self: Amino) -> None:
        told.append("amino")

    real = Node.close

    async def close_node(self: Node) -> None:
        told.append("node")
        await real(self)

    monkeypatch.setattr(Amino, "start", start)
    monkeypatch.setattr(Amino, "close", close)
    monkeypatch.setattr(Node, "close", close_node)
