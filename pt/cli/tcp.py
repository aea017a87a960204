"""`pt tcp`: expose local TCP ports under a name."""

from __future__ import annotations

import argparse
import secrets

import pt
from pt.cli.media import add_media, maps_ports, media_from, punches
from pt.cli.notify import Notifier
from pt.cli.options import (
    add_common,
    add_identity,
    add_relay,
    configure_logging,
    parse_service,
    read_name,
    relay_secret_from,
    state_from,
)
from pt.cli.render import Renderer
from pt.cli.supervise import run_tunnel
from pt.errors import UsageError
from pt.identity.peer_id import PeerId
from pt.rendezvous.name import GENERATE_BYTES, generate_name
from pt.tunnel.config import ExposeConfig, Service
from pt.tunnel.exposer import Exposer
from pt.wire.multiaddr import Multiaddr

__all__ = ["add_arguments", "config_from", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "Without --id a strong name is made and printed. Only who knows the name gets in."
    )
    parser.add_argument(
        "-p",
        "--port",
        metavar="N[:HOST:PORT]",
        action="append",
        help="port to offer; with HOST:PORT, what it leads to instead of 127.0.0.1:N (repeatable)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="host the ports lead to (default: %(default)s)"
    )
    add_identity(parser)
    group = parser.add_argument_group("network")
    group.add_argument(
        "--allow",
        metavar="PEERID",
        nargs="+",
        action="extend",
        default=[],
        help="let in only these peers (their `pt key` tells), who must know the name too",
    )
    group.add_argument(
        "--listen",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="listen here, e.g. /ip4/0.0.0.0/tcp/4001 (default: all interfaces, any free port)",
    )
    group.add_argument(
        "--announce",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="publish these addresses too, e.g. of a port forwarded by the router",
    )
    add_relay(group)
    group.add_argument(
        "--relay-secret-file",
        metavar="FILE",
        help="the relay operator's secret is the first line of FILE (env PT_RELAY_SECRET_FILE, "
        "PT_RELAY_SECRET)",
    )
    add_media(parser)
    add_common(parser)


def config_from(args: argparse.Namespace) -> ExposeConfig:
    """Return what the options say.

    Raises:
        UsageError: they make no sense.

    """
    if not args.port:
        raise UsageError("no port to expose: give --port N, e.g. pt tcp --port 22 --id NAME")
    services: tuple[Service, ...] = tuple(parse_service(text, args.host) for text in args.port)
    name = read_name(args)
    if name is None:
        if args.open:
            raise UsageError("--open needs the name both ends agreed on: give --id NAME")
        name = generate_name(secrets.token_bytes(GENERATE_BYTES))
    media = media_from(args)
    if args.relay_secret_file and not media.relays:
        raise UsageError("--relay-secret-file without a relay: give --relay MULTIADDR, too")
    return ExposeConfig(
        name=name,
        services=services,
        open=args.open,
        allow=frozenset(PeerId.parse(text) for text in args.allow),
        listen=tuple(Multiaddr.parse(text) for text in args.listen),
        lan=media.lan,
        public=media.public,
        bootstrap=media.bootstrap,
        punch=punches(args),
        portmap=maps_ports(args) and not args.lan_only,
        announce=tuple(Multiaddr.parse(text) for text in args.announce),
        relays=media.relays,
        relay_secret=relay_secret_from(args.relay_secret_file) if media.relays else None,
    )


def run(args: argparse.Namespace) -> int:
    """Expose until told to stop."""
    configure_logging(args.verbose)
    config = config_from(args)
    state = state_from(args)
    renderer = Renderer(args, name=config.name or "")
    notifier = Notifier(args.ready_fd)
    targets = ", ".join(_describe(service) for service in config.services)
    renderer.heading(f"pt {pt.__version__}  {config.name} → {targets}")
    return run_tunnel(
        lambda on_event: Exposer(config, state, on_event, tracer=renderer.tracer),
        renderer=renderer,
        notifier=notifier,
        drain=args.drain,
    )


def _describe(service: Service) -> str:
    host, port = service.target
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return target if port == service.port else f"{target} (as port {service.port})"
