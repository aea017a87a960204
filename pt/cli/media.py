"""Options that say where the two ends look for each other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pt.cli.options import addresses_from, relays_from
from pt.errors import UsageError
from pt.wire.multiaddr import Multiaddr

__all__ = ["Media", "add_media", "maps_ports", "media_from", "punches"]

MAX_NETWORK_FILE: Final = 64 * 1024
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class Media:
    """What the options mean."""

    lan: bool
    public: bool
    relays: tuple[Multiaddr, ...]
    bootstrap: tuple[Multiaddr, ...]


def add_media(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group(
        "rendezvous",
        "By default both ends use the local network, the overlay of the relays that are given, and "
        "the public libp2p DHT, all at once.",
    )
    group.add_argument(
        "--bootstrap",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="enter the public DHT at these peers instead of the well-known ones; an address with "
        "/udp and without /p2p is a server of the overlay (env PT_BOOTSTRAP)",
    )
    group.add_argument(
        "--no-public",
        action="store_true",
        help="do not use the public libp2p DHT (env PT_NO_PUBLIC=1)",
    )
    group.add_argument(
        "--network",
        metavar="FILE",
        help="a private network: only the relays of FILE, one address a line, and the LAN; no "
        "public DHT (env PT_NETWORK)",
    )
    group.add_argument(
        "--lan-only", action="store_true", help="only the local network: no relay, no DHT"
    )
    group.add_argument(
        "--no-lan", action="store_true", help="stay silent on the local network (no mDNS)"
    )
    group.add_argument(
        "--no-punch",
        action="store_true",
        help="stay on the relay where only hole punching leads away from it (env PT_NO_PUNCH=1)",
    )
    group.add_argument(
        "--no-portmap",
        action="store_true",
        help="do not ask the router for port mappings (env PT_NO_PORTMAP=1)",
    )


def media_from(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> Media:
    """Return what options and environment say.

    Raises:
        UsageError: they contradict each other, or name no address.

    """
    env = os.environ if environ is None else environ
    if args.lan_only:
        for given, option in (
            (args.no_lan, "--no-lan"),
            (args.relay, "--relay"),
            (args.bootstrap, "--bootstrap"),
            (args.network, "--network"),
        ):
            if given:
                raise UsageError(f"--lan-only and {option} contradict each other: give one")
        return Media(lan=True, public=False, relays=(), bootstrap=())
    network = args.network or env.get("PT_NETWORK")
    if network:
        env = {}  # what it names is of other networks
    relays = relays_from(args.relay, env)
    bootstrap = addresses_from(args.bootstrap, "PT_BOOTSTRAP", env)
    wanted = bool(args.bootstrap) and any(map(_is_dht_peer, bootstrap))
    unwanted = env.get("PT_NO_PUBLIC", "").lower() in _TRUE and not wanted
    public = not (args.no_public or network or unwanted)
    if not public and not args.bootstrap:
        bootstrap = tuple(each for each in bootstrap if not _is_dht_peer(each))
    if network:
        more_relays, more_servers = _read_network(network)
        relays = tuple(dict.fromkeys((*relays, *more_relays)))
        bootstrap = tuple(dict.fromkeys((*bootstrap, *more_servers)))
    return Media(lan=not args.no_lan, public=public, relays=relays, bootstrap=bootstrap)


def punches(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> bool:
    """Whether holes may be punched."""
    env = os.environ if environ is None else environ
    return not (args.no_punch or env.get("PT_NO_PUNCH", "").lower() in _TRUE)


def maps_ports(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the gateway may be asked for port mappings."""
    env = os.environ if environ is None else environ
    return not (args.no_portmap or env.get("PT_NO_PORTMAP", "").lower() in _TRUE)


def _is_dht_peer(address: Multiaddr) -> bool:
    """Whether it is of the public DHT, not of the overlay."""
    return address.peer_id_bytes is not None


def _read_network(path: str) -> tuple[list[Multiaddr], list[Multiaddr]]:
    """The relays and the overlay's servers that a file lists; # begins a comment."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_NETWORK_FILE + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot read {path} given by --network: {reason}") from error
    if len(data) > MAX_NETWORK_FILE:
        raise UsageError(f"{path} given by --network is over {MAX_NETWORK_FILE} bytes long")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} given by --network is not text: put addresses in it") from error
    relays: list[Multiaddr] = []
    servers: list[Multiaddr] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words[:1] == ["--relay"]:
            del words[0]  # as pt relay prints it
        for word in words:
            try:
                address = Multiaddr.parse(word)
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
            (relays if address.peer_id_bytes is not None else servers).append(address)
    if not relays and not servers:
        raise UsageError(
            f"{path} given by --network lists no relay: put one address a line in it, as pt relay "
            "prints it"
        )
    return relays, servers
