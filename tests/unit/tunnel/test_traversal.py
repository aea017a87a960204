from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pt.node import nat_view
from pt.tunnel import portmaps, punching
from pt.tunnel.traversal import Traversal


def test_all_look_at_the_nats_once_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class View:
        def __init__(self, node: object, servers: object) -> None:
            made.append("view")

        async def close(self) -> None:
            made.append("closed")

    class Punching:
        def __init__(self, node: object, view: View, emit: object, *, security: object) -> None:
            made.append("punching")
            self.view = view

    async def until_through(used: Any, relayed: str, secret: bytes, **_: object) -> None:
        made.append(f"punch {relayed} {secret!r}")
        seen.append(used.view)

    async def map_meanwhile(node: object, view: View, emit: object, *, changed: Any) -> None:
        seen.append(view)
        changed()

    seen: list[View] = []
    monkeypatch.setattr(nat_view, "NatView", View)
    monkeypatch.setattr(punching, "Punching", Punching)
    monkeypatch.setattr(punching, "until_through", until_through)
    monkeypatch.setattr(portmaps, "map_meanwhile", map_meanwhile)
    told: list[object] = []
    node: Any = SimpleNamespace(addresses=("here",))
    session: Any = SimpleNamespace(secret=b"s", say_addresses=told.append)

    async def main() -> None:
        idle = Traversal(node, session, list, print, security=())
        await idle.close()
        assert made == []
        traversal = Traversal(node, session, list, print, security=())
        relayed: Any = "relayed"
        options: Any = {"moved": None, "wanted": None, "own": None, "take": None}
        await traversal.punch(relayed, **options)
        await traversal.punch(relayed, **options)
        await traversal.map()
        await traversal.close()

    asyncio.run(main())
    punch = "punch relayed b's'"
    assert made == ["view", "punching", punch, punch, "closed"]
    assert len(set(map(id, seen))) == 1
    assert told == [("here",)]
