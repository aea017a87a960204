"""`pt bind`: reach a name's ports through local ones, or through stdin and stdout."""

from __future__ import annotations

import argparse

import pt
from pt.cli.media import add_media, maps_ports, media_from, punches
from pt.cli.notify import Notifier
from pt.cli.options import (
    STDIO,
    add_common,
    add_identity,
    add_peer,
    add_relay,
    configure_logging,
    parse_forward,
    peers_from,
    read_name,
    state_from,
)
from pt.cli.render import Renderer
from pt.cli.supervise import run_tunnel
from pt.errors import UsageError
from pt.identity.peer_id import PeerId
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig, Forward

__all__ = ["add_arguments", "config_from", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "with ssh:  ssh -o ProxyCommand='pt bind --port - --id NAME' user@host\n"
        "           (--port=-:22 asks for the other side's port 22)"
    )
    parser.add_argument(
        "-p",
        "--port",
        metavar="LOCAL[:REMOTE]",
        action="append",
        help="local port, and the port of the other side if it offers several; LOCAL 0 picks a "
        "free one, - is stdin and stdout (repeatable)",
    )
    parser.add_argument(
        "--bind-host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s; others can use the tunnel if it is not "
        "a loopback address)",
    )
    add_identity(parser)
    group = parser.add_argument_group("network")
    add_peer(group)
    add_relay(group)
    group.add_argument(
        "--pin",
        metavar="PEERID",
        nargs="+",
        action="extend",
        default=[],
        help="accept only this peer (or these), whoever else knows the name",
    )
    group.add_argument(
        "--any",
        action="store_true",
        help="accept whoever proves the name, not only who did so first: for a name that several "
        "machines offer",
    )
    group.add_argument(
        "--once", action="store_true", help="end when the other side is lost; do not retry"
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="give up if the name is not found in time; the exit code says what is in the way "
        "(default: keep looking)",
    )
    add_media(parser)
    add_common(parser)


def config_from(args: argparse.Namespace) -> BindConfig:
    """Return what the options say.

    Raises:
        UsageError: they make no sense.

    """
    if not args.port:
        raise UsageError("no local port: give --port N, --port 0 (any), or --port - (stdio)")
    wanted = [parse_forward(text, args.bind_host) for text in args.port]
    stdio = [port for port in wanted if isinstance(port, int)]
    if stdio and len(wanted) > 1:
        raise UsageError("--port - is one connection: it cannot stand beside other ports")
    if stdio and args.id == STDIO:
        raise UsageError("--port - uses stdin: give the name with --id-file or PT_ID")
    name = read_name(args)
    if name is None:
        raise UsageError(
            "whose ports? Give the name that pt tcp printed with --id NAME, --id-file or PT_ID"
        )
    media = media_from(args)
    return BindConfig(
        name=name,
        forwards=tuple(each for each in wanted if isinstance(each, Forward)),
        stdio=bool(stdio),
        stdio_port=stdio[0] if stdio else 0,
        peers=peers_from(args.peer),
        relays=media.relays,
        pins=tuple(dict.fromkeys(PeerId.parse(text) for text in args.pin)),
        any_exposer=args.any,
        open=args.open,
        lan=media.lan,
        public=media.public,
        bootstrap=media.bootstrap,
        punch=punches(args),
        portmap=maps_ports(args) and not args.lan_only,
        once=args.once,
        timeout=args.timeout,
    )


def run(args: argparse.Namespace) -> int:
    """Bind until told to stop, or until the one connection on stdio has ended."""
    configure_logging(args.verbose)
    config = config_from(args)
    state = state_from(args)
    renderer = Renderer(args, name=config.name or "", stdio=config.stdio)
    notifier = Notifier(args.ready_fd)
    if not config.stdio:
        renderer.heading(f"pt {pt.__version__}  {config.name}")
    return run_tunnel(
        lambda on_event: Binder(config, state, on_event, tracer=renderer.tracer),
        renderer=renderer,
        notifier=notifier,
        drain=args.drain,
    )
