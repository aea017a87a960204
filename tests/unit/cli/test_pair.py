from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from pt.cli.pair import embedded_pair
from pt.tunnel.config import Service
from pt.tunnel.events import Event, Ready, Stopped


def test_both_ends_run_on_loopback_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exposer_said: list[Event] = []
    binder_said: list[Event] = []

    async def run() -> None:
        services = (Service(port=1), Service(port=2))
        async with embedded_pair(
            services, on_exposer=exposer_said.append, on_binder=binder_said.append
        ) as pair:
            assert len(pair.ports) == 2
            assert all(address.is_loopback for address in pair.exposer.addresses)
            assert os.listdir(tmp_path)
        assert os.listdir(tmp_path) == []

    asyncio.run(run())
    for said in (exposer_said, binder_said):
        assert any(isinstance(event, Ready) for event in said)
        assert isinstance(said[-1], Stopped)


def test_a_failing_block_still_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def run() -> None:
        async with embedded_pair((Service(port=1),)):
            raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert os.listdir(tmp_path) == []
