"""An exposer and a binder in this process, joined over loopback; no packet leaves the machine.

What the demonstration and the self-test run on: both ends complete, each with a home of its own
that is gone afterwards, mDNS and hole punching off, listening on 127.0.0.1, the address given
instead of looked up.
With a relay between them, the binder knows nothing but the exposer's address there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pt.node.state import StateDir
from pt.rendezvous.name import GENERATE_BYTES, NameKeys, generate_name
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, ExposeConfig, Forward, Service
from pt.tunnel.events import Event
from pt.tunnel.exposer import Exposer
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.relayd.server import RelayServer

__all__ = ["Pair", "embedded_pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both ends, running; `ports` are the binder's local ports, in the services' order."""

    name: str
    exposer: Exposer
    binder: Binder
    ports: tuple[int, ...]
    relay: RelayServer | None = None


def _ignore(_: Event) -> None:
    pass


@contextlib.asynccontextmanager
async def embedded_pair(
    services: tuple[Service, ...],
    *,
    relayed: bool = False,
    on_exposer: Callable[[Event], None] = _ignore,
    on_binder: Callable[[Event], None] = _ignore,
) -> AsyncIterator[Pair]:
    """Run a tunnel to `services`, each with a local port of its own, while the block runs."""
    name = generate_name(secrets.token_bytes(GENERATE_BYTES))
    with tempfile.TemporaryDirectory(prefix="pt-") as directory:
        homes = [StateDir(Path(directory) / role) for role in ("tcp", "bind")]
        keys = await asyncio.to_thread(NameKeys.derive, name)
        for home in homes:
            home.cache_keys(name, keys)  # so that the slow derivation is paid once
        loopback = Multiaddr.tcp("127.0.0.1", 0)
        async with contextlib.AsyncExitStack() as stack:
            relay: RelayServer | None = None
            if relayed:
                relay = await _relay(StateDir(Path(directory) / "relay"), loopback)
                stack.push_async_callback(relay.close)
            exposer = Exposer(
                ExposeConfig(
                    name=name,
                    services=services,
                    listen=(loopback,),
                    lan=False,
                    punch=False,
                    relays=() if relay is None else relay.addresses[:1],
                    relay_secret=None if relay is None else relay.config.secret,
                ),
                homes[0],
                on_exposer,
            )
            stack.push_async_callback(exposer.close)
            await exposer.start()
            peers = tuple(each for each in exposer.addresses if each.is_circuit is relayed)
            forwards = tuple(Forward(local_port=0, remote_port=each.port) for each in services)
            binder = Binder(
                BindConfig(name=name, forwards=forwards, peers=peers, lan=False, punch=False),
                homes[1],
                on_binder,
            )
            stack.push_async_callback(binder.close)
            await binder.start()
            await binder.ready()
            ports = tuple(port.local for port in binder.ports)
            yield Pair(name=name, exposer=exposer, binder=binder, ports=ports, relay=relay)


async def _relay(home: StateDir, listen: Multiaddr) -> RelayServer:
    from pt.relayd.config import RelayConfig  # noqa: PLC0415  # the self-test needs none
    from pt.relayd.server import RelayServer  # noqa: PLC0415

    secret = secrets.token_hex(16)
    relay = RelayServer(RelayConfig(listen=(listen,), secret=secret), home, _ignore)
    await relay.start()
    return relay
