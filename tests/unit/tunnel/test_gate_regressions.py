"""The exposer's door: strangers who stand in it, and those who are taken for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.tunnel import authenticate
from pt.tunnel import exposer as exposer_module
from pt.tunnel import gate as gate_module
from pt.tunnel.core import messages as wire
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.tunnel.loopback import PSK, Loopback, loopback, until
from tests.unit.tunnel.test_relayed import SECRET, world
from tests.unit.tunnel.test_relayed_regressions import direct, paths_of


def test_what_others_of_a_source_fail_at_does_not_keep_out_who_knew_the_name() -> None:
    """Behind a relay all binders have one source: ten wrong guesses locked all of them out."""

    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            stranger = Node(identity=PrivateKey.generate(b"s" * 32))
            for psk in (*[b"x" * 32] * 10, PSK):
                connection = await stranger.connect(
                    rig.exposer.addresses, expected=rig.exposer.peer_id
                )
                with pytest.raises(PtError):  # also with the name: the source has had its tries
                    await authenticate.ask_session(connection, psk)
                connection.close()
            await _new_session(rig)
            await stranger.close()

    run(asyncio.wait_for(main(), 20))


async def _new_session(rig: Loopback) -> None:
    connection = await rig.dial()
    await authenticate.ask_session(connection, PSK)


def test_connections_of_strangers_are_closed_and_standbys_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 silent circuits through its relay kept every binder from an exposer, for ever."""
    monkeypatch.setattr(gate_module, "GRACE", 0.5)
    monkeypatch.setattr(exposer_module, "SWEEP", 0.1)

    async def main() -> None:
        async with world(tmp_path) as w:
            relay = await w.relay(secret=SECRET)
            exposer = await w.expose(relay, secret=SECRET)
            binder = await w.bind(exposer)
            await direct(w, binder)
            standby = paths_of(binder)._standby
            stranger = Node(identity=PrivateKey.generate(b"s" * 32))
            connection = await stranger.connect(exposer.addresses, expected=exposer.peer_id)
            await until(lambda: connection.closed)
            await asyncio.sleep(0.5)
            assert standby is not None
            assert not standby.closed
            assert paths_of(binder)._standby is standby
            await stranger.close()

    run(asyncio.wait_for(main(), 20))


def test_many_inner_networks_do_not_displace_the_relay() -> None:
    """A machine with many containers told sixteen of their bridges, and no way that leads to it."""

    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            told: list[tuple[Multiaddr, ...]] = []
            rig.session.on_addresses = told.append
            inner = [Multiaddr.tcp(f"172.17.0.{n}", 4001) for n in range(1, 30)]
            public = Multiaddr.tcp("8.8.8.8", 4001)
            relay = public.with_peer(rig.exposer.peer_id.raw).through_circuit()
            rig.granted.say_addresses((*inner, public, relay))
            await until(lambda: told)
            assert told[0][:2] == (public, relay)
            assert len(told[0]) == wire.MAX_ADDRESSES

    run(asyncio.wait_for(main(), 20))
