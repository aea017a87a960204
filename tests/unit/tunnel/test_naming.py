from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import UsageError
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys, normalise_name
from pt.rendezvous.topic import cid
from pt.tunnel.naming import keys_of


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names whose keys were derived; the derivation costs nothing here."""
    names: list[str] = []

    def derive(name: str) -> NameKeys:
        normalise_name(name)
        names.append(name)
        return NameKeys.from_master(name.encode().ljust(32, b"-")[:32])

    monkeypatch.setattr(NameKeys, "derive", derive)
    return names


def test_they_are_derived_once(tmp_path: Path, derived: list[str]) -> None:
    async def main() -> None:
        state = StateDir(tmp_path)
        keys = await keys_of("a.name", state)
        assert await keys_of("a.name", state) == keys
        assert await keys_of("a.name", state, is_open=True) == keys
        assert derived == ["a.name"]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["my id", "a~b", "\udcff", "x" * 300])
def test_an_open_id_may_be_what_is_no_name(tmp_path: Path, derived: list[str], name: str) -> None:
    async def main() -> None:
        state = StateDir(tmp_path)
        with pytest.raises(UsageError):
            await keys_of(name, state)
        keys = await keys_of(name, state, is_open=True)
        assert await keys_of(name, state, is_open=True) == keys
        assert derived == [cid(name)]

    asyncio.run(main())
