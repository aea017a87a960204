"""The library: expose a port, or connect to a name, in one call each (docs/cli.md has the terms).

    async with pt.expose(8080, "name") as exposed:       # on one machine
        print(exposed.bind_command)
        await exposed.wait()

    async with await pt.connect("name") as tunnel:       # on another
        reader, writer = await tunnel.open()

Both raise what is in `pt.errors`: every error is a `PtError`, its message names cause and next
step. Everything runs on the calling event loop; nothing is shared between calls but the state
directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from pt.errors import ClosedError, LocalPortError
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.rendezvous.name import GENERATE_BYTES, generate_name
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, ExposeConfig, Forward, Service
from pt.tunnel.events import Event
from pt.tunnel.exposer import Exposer
from pt.wire.multiaddr import Multiaddr

__all__ = ["Exposed", "Tunnel", "connect", "expose"]

Handler = Callable[[Event], None]


def _ignore(_: Event) -> None:
    """Events that nobody asked for."""


def _addresses(given: str | Multiaddr | Sequence[str | Multiaddr]) -> tuple[Multiaddr, ...]:
    items = (given,) if isinstance(given, (str, Multiaddr)) else given
    return tuple(Multiaddr.parse(item) if isinstance(item, str) else item for item in items)


def _peer(given: str | PeerId) -> PeerId:
    return PeerId.parse(given) if isinstance(given, str) else given


def _peers(given: str | PeerId | Sequence[str | PeerId]) -> tuple[PeerId, ...]:
    several = (given,) if isinstance(given, (str, PeerId)) else given
    return tuple(dict.fromkeys(_peer(each) for each in several))


class Exposed:
    """An exposed port, reachable while `expose`'s block runs."""

    def __init__(self, exposer: Exposer, name: str) -> None:
        self._exposer = exposer
        self.name = name
        """What to give to `connect` or `pt bind --id`."""

    @property
    def peer_id(self) -> PeerId:
        """Our identity, for the other side's `pin`."""
        return self._exposer.peer_id

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where we can be dialled, for the other side's `peer`; they change with the network."""
        return self._exposer.addresses

    @property
    def bind_command(self) -> str:
        """The command for the other machine."""
        return self._exposer.bind_command

    async def wait(self) -> None:
        """Wait until the exposer ends, which it does only by an error or the end of the block."""
        await self._exposer.wait()

    async def drain(self, seconds: float) -> None:
        """Take no new connections; return when the open ones have ended, or after `seconds`."""
        await self._exposer.drain(seconds)


@contextlib.asynccontextmanager
async def expose(
    port: int | Service | Sequence[int | Service],
    name: str | None = None,
    *,
    host: str = "127.0.0.1",
    allow: Iterable[str | PeerId] = (),
    listen: str | Multiaddr | Sequence[str | Multiaddr] = (),
    announce: str | Multiaddr | Sequence[str | Multiaddr] = (),
    relay: str | Multiaddr | Sequence[str | Multiaddr] = (),
    relay_secret: str | None = None,
    lan: bool = True,
    public: bool = True,
    bootstrap: str | Multiaddr | Sequence[str | Multiaddr] = (),
    punch: bool = True,
    portmap: bool = True,
    open_protocol: bool = False,
    home: str | Path | None = None,
    on_event: Handler = _ignore,
) -> AsyncIterator[Exposed]:
    """Offer `port` of `host` (or several, or `Service`s) under `name` while the block runs.

    The block begins when others can really reach it, and its end closes all connections. Without a
    name a strong one is made: `Exposed.name`. `allow` narrows it to these peers, `listen`,
    `announce` and `relay` are multiaddrs, `relay_secret` is the relays' operator's, `lan` is mDNS,
    `public` the public libp2p DHT, `bootstrap` its peers to start from, or servers of the overlay,
    `punch` hole punching from a relay, `portmap` asking the router for port mappings, `home` the
    state directory (None: the user's own).
    `open_protocol` speaks with the Go program, without any authentication. `on_event` gets
    `pt.tunnel.events`, on the loop; it must neither block nor raise.

    Raises:
        UsageError: an argument makes no sense.
        NetworkError: nothing can be listened on.
        StateError: the state directory cannot be used.

    """
    ports = (port,) if isinstance(port, (int, Service)) else port
    services = tuple(
        item if isinstance(item, Service) else Service(port=item, host=host) for item in ports
    )
    own_name = generate_name(secrets.token_bytes(GENERATE_BYTES)) if name is None else name
    config = ExposeConfig(
        name=own_name,
        services=services,
        open=open_protocol,
        allow=frozenset(_peer(item) for item in allow),
        listen=_addresses(listen),
        lan=lan,
        public=public,
        bootstrap=_addresses(bootstrap),
        punch=punch,
        portmap=portmap,
        announce=_addresses(announce),
        relays=_addresses(relay),
        relay_secret=relay_secret,
    )
    exposer = Exposer(config, StateDir(home), on_event)
    try:
        await exposer.start()
        yield Exposed(exposer, own_name)
    finally:
        await exposer.close()


class Tunnel:
    """A path to an exposer, kept up until `aclose`: it heals by itself when it breaks."""

    def __init__(self, binder: Binder) -> None:
        self._binder = binder

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open one connection to the exposer's `port` (0: its only or first one).

        A target that refuses shows as `ConnectionResetError` on the first read, as it does with a
        listening port; the events say why.

        Raises:
            LocalPortError: this process has no descriptor left for it.
            ClosedError: the tunnel is closed.

        """
        ours, theirs = _loopback_pair()
        try:
            self._binder.carry(theirs, port)
        except ClosedError:
            ours.close()
            theirs.close()
            raise
        return await asyncio.open_connection(sock=ours)

    async def listen(self, port: int = 0, *, host: str = "127.0.0.1", remote_port: int = 0) -> int:
        """Listen on a local port and lead its connections to `remote_port`; the port listened on.

        Raises:
            LocalPortError: the port is taken or not ours to take.
            ClosedError: the tunnel is closed.

        """
        bound = self._binder.listen(Forward(local_port=port, remote_port=remote_port, host=host))
        return bound.local

    async def aclose(self) -> None:
        """Close the tunnel and all its connections; twice is no mistake."""
        await self._binder.close()


async def connect(
    name: str,
    *,
    peer: str | Multiaddr | Sequence[str | Multiaddr] = (),
    relay: str | Multiaddr | Sequence[str | Multiaddr] = (),
    pin: str | PeerId | Sequence[str | PeerId] = (),
    any_exposer: bool = False,
    lan: bool = True,
    public: bool = True,
    bootstrap: str | Multiaddr | Sequence[str | Multiaddr] = (),
    punch: bool = True,
    portmap: bool = True,
    open_protocol: bool = False,
    timeout: float | None = None,
    home: str | Path | None = None,
    on_event: Handler = _ignore,
) -> Tunnel:
    """Find `name`, prove that we know it, and return the tunnel to it.

    `peer` are addresses to try besides the look-up, `relay` relays to try to reach it through,
    `pin` are the only identities to accept (none: who it was at first use; `any_exposer`: anybody
    who proves the name), `lan`, `public`, `bootstrap`, `punch` and `portmap` are as in `expose`,
    `timeout` is the seconds to find it in (None: keep looking), `home` the state directory (None:
    the user's own). `open_protocol` speaks with the Go program, without any authentication.
    `on_event` gets `pt.tunnel.events`, on the loop; it must neither block nor raise.

    Raises:
        NotFoundError: nobody was found under the name in time.
        ConnectError: it was found, but no path opened.
        DnsError, BlockedError: the DNS does not answer; the network lets nothing through.
        RefusedError: the other side does not let us in.
        IdentityChangedError: it is not the peer it was, or not the pinned one.
        UsageError, NetworkError, StateError: as in `expose`.

    """
    config = BindConfig(
        name=name,
        peers=_addresses(peer),
        relays=_addresses(relay),
        pins=_peers(pin),
        any_exposer=any_exposer,
        lan=lan,
        public=public,
        bootstrap=_addresses(bootstrap),
        punch=punch,
        portmap=portmap,
        open=open_protocol,
        timeout=timeout,
    )
    binder = Binder(config, StateDir(home), on_event)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(binder.close)
        await binder.start()
        await binder.ready()
        undo.pop_all()
    return Tunnel(binder)


def _loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection within this process: unlike a Unix pair it can be reset."""
    with contextlib.ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
            ours = undo.enter_context(socket.create_connection(listener.getsockname()))
            theirs, address = listener.accept()
            undo.enter_context(theirs)
        except OSError as error:
            raise LocalPortError(f"cannot make a local connection: {error}") from error
        if address != ours.getsockname():
            raise LocalPortError("another process took our local connection: try again")
        undo.pop_all()
    listener.close()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs
