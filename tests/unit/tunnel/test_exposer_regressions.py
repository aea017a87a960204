"""The exposer's life: what once turned early binders away."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from pt.errors import LocalPortError, NetworkError
from pt.node.node import Node
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from pt.tunnel import events, publication
from pt.tunnel.config import ExposeConfig, Service
from pt.tunnel.core.messages import PROTOCOL, PROTOCOL_V1
from pt.tunnel.exposer import Exposer
from pt.tunnel.readiness import Readiness
from pt.wire.multiaddr import Multiaddr
from tests.unit.tunnel.loopback import listener


@pytest.mark.parametrize("is_open", [False, True])
def test_the_tunnel_is_offered_before_anybody_can_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """To a binder that dials a restarting exposer, "not offered" is a refusal."""
    real, offered = Node.start, []

    async def start(self: Node) -> None:
        offered.append(self.protocols)
        await real(self)

    monkeypatch.setattr(Node, "start", start)

    async def main() -> None:
        with listener() as service:
            state = StateDir(tmp_path)
            state.cache_keys("some-name", NameKeys.from_master(bytes(32)))
            config = ExposeConfig(
                name="some-name",
                services=(Service(port=service.getsockname()[1]),),
                open=is_open,
                listen=(Multiaddr.tcp("127.0.0.1", 0),),
                lan=False,
            )
            exposer = Exposer(config, state, lambda _: None)
            await exposer.start()
            await exposer.close()
        assert (PROTOCOL_V1 if is_open else PROTOCOL) in offered[0]

    asyncio.run(asyncio.wait_for(main(), 10))


def exposer_in(
    tmp: Path, service: socket.socket, *, seen: list[events.Event], **options
) -> Exposer:
    state = StateDir(tmp)
    state.cache_keys("some-name", NameKeys.from_master(bytes(32)))
    where = options.pop("listen", Multiaddr.tcp("127.0.0.1", 0))
    config = ExposeConfig(
        name="some-name",
        services=(Service(port=service.getsockname()[1]),),
        listen=(where, Multiaddr.tcp("127.0.0.1", 0)),
        lan=False,
        public=False,
        **options,
    )
    return Exposer(config, state, seen.append)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("fault", ["the port is taken", "nothing answers", "it is cancelled"])
def test_a_start_that_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def wait(self: Readiness, *, relays_given: bool) -> None:
        if fault == "it is cancelled":
            raise asyncio.CancelledError
        raise NetworkError("nothing answers")

    monkeypatch.setattr(Readiness, "wait", wait)

    async def main() -> None:
        with listener() as service, listener() as taken:
            before, tasks = descriptors(), asyncio.all_tasks()
            options: dict[str, object] = {"bootstrap": (Multiaddr.parse("/ip4/127.0.0.1/udp/9"),)}
            if fault == "the port is taken":
                options["listen"] = Multiaddr.tcp(*taken.getsockname())
            exposer = exposer_in(tmp_path, service, seen=[], **options)
            with pytest.raises((LocalPortError, NetworkError, asyncio.CancelledError)):
                await exposer.start()
            assert descriptors() == before
            assert asyncio.all_tasks() == tasks

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_command_for_the_other_machine_works_without_a_lan_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        def __init__(self, *_: object) -> None:
            pass

        async def start(self) -> None:
            raise NetworkError("no network interface to announce on")

        async def close(self) -> None:
            pass

    monkeypatch.setattr(publication, "LanPublisher", Deaf)

    async def main() -> None:
        with listener() as service:
            seen: list[events.Event] = []
            exposer = exposer_in(tmp_path, service, seen=seen)
            exposer.config.__dict__["lan"] = True
            await exposer.start()
            (ready,) = [event for event in seen if isinstance(event, events.Ready)]
            await exposer.close()
            assert f"--peer {ready.addresses[0]}" in str(ready.bind_command)

    asyncio.run(asyncio.wait_for(main(), 20))
