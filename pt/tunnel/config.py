"""What a tunnel is asked to do: plain values, checked once, here.

The command line (`pt.cli`) and the library (`pt.api`) build these; the exposer and the binder only
read them. Port 0 means "none chosen yet" wherever it is allowed.
"""

from __future__ import annotations

from typing import Final

from pt.errors import UsageError
from pt.identity.peer_id import PeerId
from pt.rendezvous.name import normalise_name
from pt.tunnel.facts import Facts
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "MAX_SERVICES",
    "BindConfig",
    "ExposeConfig",
    "Forward",
    "Service",
    "TunnelConfig",
    "default_listen",
]

MAX_SERVICES: Final = 64
"""A record lists every port; more of them would outgrow one mDNS datagram."""
MAX_RELAYS: Final = 8
MAX_BOOTSTRAP: Final = 32
MAX_PORT: Final = 65535


def default_listen() -> tuple[Multiaddr, ...]:
    """All interfaces, both IP versions, TCP and QUIC, a port of the kernel's choice."""
    return (
        Multiaddr.tcp("0.0.0.0", 0),
        Multiaddr.tcp("::", 0),
        Multiaddr.quic("0.0.0.0", 0),
        Multiaddr.quic("::", 0),
    )


def _checked_name(name: str | None, *, is_open: bool) -> str | None:
    """The name as both ends derive their keys from it; an open one is passed as typed."""
    if name is None:
        return None
    if is_open and name.strip():
        return name
    return normalise_name(name)


def _check_port(port: int, what: str, *, lowest: int) -> None:
    if not lowest <= port <= MAX_PORT:
        raise UsageError(f"{what} {port} is not a port: give a number from {lowest} to {MAX_PORT}")


def _check_relays(relays: tuple[Multiaddr, ...]) -> None:
    for relay in relays:
        usable = relay.transport in ("tcp", "ws", "wss", "quic-v1") or relay.is_dnsaddr
        if relay.peer_id_bytes is None or not usable:
            raise UsageError(
                f"{relay} is not a relay's address: give one like "
                "/ip4/192.0.2.1/tcp/4001/p2p/12D3…, as pt relay prints it"
            )
    if len(relays) > MAX_RELAYS:
        raise UsageError(f"more than {MAX_RELAYS} relays: two or three are enough")


def _check_bootstrap(addresses: tuple[Multiaddr, ...], *, public: bool) -> None:
    for address in addresses:
        usable = address.host is not None and not address.is_circuit
        overlay = usable and address.udp_port is not None and address.peer_id_bytes is None
        dht = address.peer_id_bytes is not None and (
            address.components[0][0] == "dnsaddr" or (usable and address.tcp_port is not None)
        )
        if not overlay and not dht:
            raise UsageError(
                f"{address} is no address to start from: give a peer of the public DHT, like "
                "/ip4/192.0.2.1/tcp/4001/p2p/12D3… or /dnsaddr/example.org/p2p/12D3…, or where "
                "a relay serves the overlay, like /ip4/192.0.2.1/udp/4001"
            )
        if dht and not public:
            raise UsageError(
                f"{address} is of the public DHT, which --no-public, --network and --lan-only "
                "leave out: give one or the other"
            )
    if len(addresses) > MAX_BOOTSTRAP:
        raise UsageError(f"more than {MAX_BOOTSTRAP} addresses to start from: a few are enough")


class Service(Facts):
    """One port offered: binders ask for `port`, the exposer dials `host`:`target`."""

    port: int
    host: str = "127.0.0.1"
    target_port: int | None = None
    """None: the same as `port`."""

    def _check(self) -> None:
        _check_port(self.port, "the service", lowest=1)
        if self.target_port is not None:
            _check_port(self.target_port, "the target", lowest=1)
        if not self.host:
            raise UsageError("the target host is empty: leave it out for 127.0.0.1")

    @property
    def target(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port if self.target_port is None else self.target_port


class TunnelConfig(Facts):
    """What both ends are told: the name, and where they look for each other."""

    name: str | None
    open: bool = False
    """Speak the unauthenticated protocol of the Go program instead of ours."""
    lan: bool = True
    """Use the local network, by mDNS."""
    relays: tuple[Multiaddr, ...] = ()
    """Relays, each ending in its /p2p/ID: to be reached through, or to try besides those that the
    exposer names."""
    public: bool = False
    """Use the public DHT; the command line and the library turn it on."""
    bootstrap: tuple[Multiaddr, ...] = ()
    """Peers of the DHT (with /p2p) instead of the well-known ones; overlay servers (on /udp)."""

    punch: bool = True
    """Leave a relay through both NATs (hole punching), where that is possible."""
    portmap: bool = False
    """Ask the gateway for port mappings; the command line and the library turn it on."""

    def _check(self) -> None:
        self.__dict__["name"] = _checked_name(self.name, is_open=self.open)
        _check_relays(self.relays)
        _check_bootstrap(self.bootstrap, public=self.public)

    @property
    def overlay_seeds(self) -> tuple[Multiaddr, ...]:
        """Where the overlay's servers are."""
        return (*self.relays, *(each for each in self.bootstrap if each.peer_id_bytes is None))

    @property
    def dht_bootstrap(self) -> tuple[Multiaddr, ...]:
        """Peers of the public DHT to start from; empty: the well-known ones."""
        return tuple(each for each in self.bootstrap if each.peer_id_bytes is not None)


class ExposeConfig(TunnelConfig):
    """What `Exposer` does."""

    hidden = frozenset({"relay_secret"})

    services: tuple[Service, ...]
    allow: frozenset[PeerId] = frozenset()
    """If not empty, only these peers get in, on top of knowing the name."""
    listen: tuple[Multiaddr, ...] = ()
    """None given: `default_listen`."""
    announce: tuple[Multiaddr, ...] = ()
    """Addresses to publish besides those of the interfaces (a forwarded port, say)."""
    relay_secret: str | None = None
    """The secret of the relays' operator, who then sets no limits, as a rule."""

    def _check(self) -> None:
        super()._check()
        if not self.services:
            raise UsageError("nothing to expose: give at least one --port")
        if len(self.services) > MAX_SERVICES:
            raise UsageError(f"more than {MAX_SERVICES} ports: start a second pt tcp for the rest")
        ports = [service.port for service in self.services]
        for port in ports:
            if ports.count(port) > 1:
                raise UsageError(f"port {port} is given twice: binders could not tell them apart")
        if self.relay_secret is not None and not self.relays:
            raise UsageError("a relay's secret without a relay: give --relay MULTIADDR, too")
        if not self.listen:
            self.__dict__["listen"] = default_listen()


class Forward(Facts):
    """One local listener of a binder and the exposer's port it leads to."""

    local_port: int
    """0: the kernel picks one; `Binder.ports` tells which."""
    remote_port: int = 0
    """0: the exposer's only (or first) port."""
    host: str = "127.0.0.1"

    def _check(self) -> None:
        _check_port(self.local_port, "the local port", lowest=0)
        _check_port(self.remote_port, "the remote port", lowest=0)


class BindConfig(TunnelConfig):
    """What `Binder` does."""

    forwards: tuple[Forward, ...] = ()
    stdio: bool = False
    """Serve this process's stdin and stdout as the one connection."""
    stdio_port: int = 0
    peers: tuple[Multiaddr, ...] = ()
    """Addresses to try besides (with `lan` unset: instead of) the look-up."""
    pins: tuple[PeerId, ...] = ()
    """Who may be the exposer; none given: who it was at first use."""
    any_exposer: bool = False
    """Anybody who proves the name may."""
    once: bool = False
    """End when the exposer is lost instead of looking for it for ever."""
    timeout: float | None = None
    """Seconds to find the exposer; None waits for ever."""

    def _check(self) -> None:
        super()._check()
        _check_port(self.stdio_port, "the remote port", lowest=0)
        taken = [(fwd.host, fwd.local_port) for fwd in self.forwards if fwd.local_port]
        for host, port in taken:
            if taken.count((host, port)) > 1:
                raise UsageError(f"local port {port} is given twice: give every forward its own")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError("the timeout must be more than 0 seconds")
