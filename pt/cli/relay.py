"""`pt relay`: let two machines behind NATs reach each other through this one."""

from __future__ import annotations

import argparse
import base64
import os
import resource
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pt
from pt.cli.notify import Notifier
from pt.cli.options import add_general, configure_logging, wants_json
from pt.cli.output import use_colour
from pt.cli.relay_text import RelayView
from pt.cli.render import Renderer
from pt.cli.supervise import run_tunnel
from pt.errors import UsageError
from pt.node.state import StateDir, default_path
from pt.relay.registry import STRANGERS, USERS
from pt.relayd.config import (
    STUN_PORT,
    RelayConfig,
    quotas_from,
    rate,
    read_allow,
    read_secret,
    read_toml,
)
from pt.relayd.server import RelayServer
from pt.tunnel.events import Event
from pt.wire.multiaddr import Multiaddr

__all__ = ["add_arguments", "config_from", "run"]

EPILOG = """\
  pt relay --make-secret relay.secret             make a secret for your users
  pt relay --secret-file relay.secret             they have no limits; strangers have libp2p's
  pt relay --secret-file relay.secret --private   nobody else gets anything
  pt relay --bootstrap /ip4/192.0.2.1/tcp/4001    one overlay with the relay at that address
  pt relay --listen /ip4/0.0.0.0/tcp/443/tls/ws --tls-cert c.pem --tls-key k.pem …

The relay moves bytes that it cannot read: the two ends encrypt for each other. SIGHUP reads
secret, allow-list, certificate, rates and limits again; circuits stay.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = EPILOG
    group = parser.add_argument_group("network")
    group.add_argument(
        "--listen",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="listen here; several transports may share a port: /ip4/0.0.0.0/tcp/4001, …/ws, "
        "…/tls/ws (default: port 4001 on all interfaces, TCP and WebSocket)",
    )
    group.add_argument(
        "--announce",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="tell users these addresses, too, e.g. of a port forwarded by the router",
    )
    group.add_argument(
        "--bootstrap",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="join the overlay of these relays, as they print their addresses; sealed records by "
        "which `pt tcp` and `pt bind` find each other are then kept by all (default: begin one)",
    )
    group.add_argument(
        "--no-overlay",
        dest="overlay",
        action="store_false",
        default=None,
        help="keep no records; otherwise the UDP port of each listener's number serves the overlay",
    )
    group.add_argument(
        "--no-stun",
        dest="stun",
        action="store_false",
        default=None,
        help="serve no STUN; otherwise the ports of each listener's number do, UDP and TCP, and "
        "`pt nat` finds out by it what NAT it is behind",
    )
    group.add_argument(
        "--stun-port",
        metavar="N",
        type=int,
        help="the second port that STUN answers from (default: 3479)",
    )
    group.add_argument(
        "--stun-peer",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="another relay, which answers for this one as this one for it: STUN needs two IP "
        "addresses to tell what a NAT filters. Both relays name each other",
    )
    group.add_argument(
        "--stun-secret-file",
        metavar="FILE",
        help="the first line of FILE is known to these two relays alone (`--make-secret`)",
    )
    group.add_argument("--tls-cert", metavar="PEM", help="certificate chain for /tls/ws")
    group.add_argument("--tls-key", metavar="PEM", help="its key")
    group.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="serve the status page, /metrics and /healthz here, e.g. 127.0.0.1:9090 "
        "(default: nowhere)",
    )
    group = parser.add_argument_group("who may use it")
    group.add_argument(
        "--secret-file", metavar="FILE", help="users know the secret in the first line of FILE"
    )
    group.add_argument(
        "--allow-file", metavar="FILE", help="users are the peers in FILE, one id a line"
    )
    group.add_argument(
        "--private", action="store_true", default=None, help="strangers get no reservations"
    )
    group.add_argument("--make-secret", metavar="FILE", help="write a new secret to FILE, and end")
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--rate", metavar="BYTES/S", help="of all circuits together, in fair shares, e.g. 12.5M"
    )
    group.add_argument("--circuit-rate", metavar="BYTES/S", help="of each circuit")
    group.add_argument(
        "--stranger-data",
        metavar="BYTES",
        help="what strangers may send through a circuit each way, 0: any (default: 128K)",
    )
    group.add_argument(
        "--stranger-duration",
        metavar="SECONDS",
        type=int,
        help="how long a circuit of strangers may last, 0: for ever (default: 120)",
    )
    group.add_argument(
        "--connections", metavar="N", type=int, help="connections at a time (default: 16384)"
    )
    group.add_argument(
        "--config",
        metavar="TOML",
        help="read all of this, and every quota, from a file; options win (docs/relay.md)",
    )
    add_general(parser)


def config_from(args: argparse.Namespace) -> RelayConfig:
    """Return what the options and the configuration file say; read again at each reload.

    Raises:
        UsageError: they make no sense.

    """
    table = read_toml(args.config) if args.config else {}
    strangers = quotas_from(table.get("strangers", {}), STRANGERS, "strangers")
    override: dict[str, object] = {}
    if args.stranger_data is not None:
        override["limit-data"] = args.stranger_data
    if args.stranger_duration is not None:
        override["limit-duration"] = args.stranger_duration
    strangers = quotas_from(override, strangers, "strangers")
    secret_file = args.secret_file or _text(table, "secret-file")
    allow_file = args.allow_file or _text(table, "allow-file")
    stun_secret_file = args.stun_secret_file or _text(table, "stun-secret-file")
    http = args.http or _text(table, "http")
    private = args.private if args.private is not None else _flag(table, "private", False)
    connections = args.connections
    if connections is None:
        connections = _number(table, "connections", RelayConfig.connections)
    return RelayConfig(
        listen=_addresses(args.listen or table.get("listen"), "listen"),
        announce=_addresses(args.announce or table.get("announce"), "announce"),
        private=private,
        secret=read_secret(secret_file) if secret_file else None,
        allow=read_allow(allow_file) if allow_file else frozenset(),
        strangers=strangers,
        users=quotas_from(table.get("users", {}), USERS, "users"),
        rate=rate(args.rate or table.get("rate", 0), "rate"),
        circuit_rate=rate(args.circuit_rate or table.get("circuit-rate", 0), "circuit-rate"),
        tls_cert=args.tls_cert or _text(table, "tls-cert"),
        tls_key=args.tls_key or _text(table, "tls-key"),
        http=_endpoint(http) if http else None,
        connections=connections,
        websocket=_flag(table, "websocket", True),
        overlay=args.overlay if args.overlay is not None else _flag(table, "overlay", True),
        bootstrap=_addresses(args.bootstrap or table.get("bootstrap"), "bootstrap"),
        stun=args.stun if args.stun is not None else _flag(table, "stun", True),
        stun_port=args.stun_port
        if args.stun_port is not None
        else _number(table, "stun-port", STUN_PORT),
        stun_peers=_addresses(args.stun_peer or table.get("stun-peer"), "stun-peer"),
        stun_secret=read_secret(stun_secret_file) if stun_secret_file else None,
    )


def _text(table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{key} = {value!r}: give a text in quotes")
    return value or None


def _number(table: Mapping[str, object], key: str, default: int = 0) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{key} = {value!r}: give a whole number")
    return value


def _flag(table: Mapping[str, object], key: str, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise UsageError(f"{key} = {value!r}: give true or false")
    return value


def _addresses(value: object, key: str) -> tuple[Multiaddr, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{key}: give a list of multiaddrs in quotes")
    return tuple(Multiaddr.parse(each) for each in value)


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--http {text}: give address and port, such as 127.0.0.1:9090")
    return host, int(port)


def make_secret(path: str) -> int:
    """Write a new secret to a file that only its owner can read.

    Raises:
        UsageError: there is a file already, or it cannot be written.

    """
    secret = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already: remove it first, or choose another") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    with open(fd, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    print(f"{path}: a new secret; copy it to your users, who give it with --relay-secret-file")
    return 0


def state_of(home: str | None) -> StateDir:
    """The relay's own state directory: a relay and a tunnel of one machine are two peers."""
    return StateDir(Path(home) if home else default_path() / "relay")


def run(args: argparse.Namespace) -> int:
    """Relay until told to stop."""
    if args.make_secret:
        return make_secret(args.make_secret)
    configure_logging(args.verbose)
    config = config_from(args)
    _raise_descriptors(config.connections)
    view = RelayView(
        secret_file=args.secret_file or "",
        colour=use_colour(sys.stderr),
        quiet=args.quiet,
        verbose=args.verbose > 0,
    )
    renderer = Renderer(args, view=view)
    notifier = Notifier(args.ready_fd)
    if not wants_json(args):
        renderer.heading(f"pt {pt.__version__}  relay")
    server: list[RelayServer] = []

    def make(on_event: Callable[[Event], None]) -> RelayServer:
        server.append(
            RelayServer(
                config,
                state_of(args.home),
                on_event,
                tracer=renderer.tracer,
                version=pt.__version__,
            )
        )
        return server[0]

    def reload() -> None:
        server[0].reload(config_from(args))

    return run_tunnel(
        make, renderer=renderer, notifier=notifier, drain=args.drain, on_hangup=reload
    )


def _raise_descriptors(connections: int) -> None:
    """As many descriptors as the system gives: a raw circuit takes two, and pipes under load."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * connections + 1024
    for most in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):
            continue
        return
