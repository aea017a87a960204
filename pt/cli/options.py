"""Options that several commands share, and how their text becomes values.

Precedence everywhere: the command line, then the environment, then the default. An environment
variable that is set but empty counts as unset, except PT_ID, where it is surely a mistake.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pt.errors import UsageError
from pt.node.state import StateDir
from pt.tunnel.config import Forward, Service
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "STDIO",
    "add_common",
    "add_general",
    "add_identity",
    "add_peer",
    "add_relay",
    "addresses_from",
    "configure_logging",
    "parse_forward",
    "parse_service",
    "peers_from",
    "read_name",
    "relay_secret_from",
    "relays_from",
    "state_from",
    "wants_json",
]

STDIO: Final = "-"
MAX_SECRET_FILE: Final = 4096
DEFAULT_DRAIN: Final = 30.0
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})
_LEVELS: Final = {"error", "warning", "info", "debug"}


def add_identity(parser: argparse.ArgumentParser, *, with_open: bool = True) -> None:
    """Declare how the tunnel's name is given and protected."""
    group = parser.add_argument_group("name")
    names = group.add_mutually_exclusive_group()
    names.add_argument(
        "--id",
        metavar="NAME",
        help="the name both ends share; - asks for it. Other users of this machine can see it in "
        "the process list: use --id-file, PT_ID or - where that matters (env PT_ID)",
    )
    names.add_argument(
        "--id-file",
        metavar="FILE",
        help="read the name from the first line of FILE (env PT_ID_FILE, PT_SECRET_FILE)",
    )
    if with_open:
        group.add_argument(
            "--open",
            action="store_true",
            help="speak with the Go program: NO authentication, whoever knows or guesses the name "
            "gets in",
        )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Declare what both ends of a tunnel take."""
    add_general(parser)


def add_general(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Declare what every long-running command takes."""
    group = parser.add_argument_group("general")
    group.add_argument(
        "--home", metavar="DIR", help="where the identity and known peers are kept (env PT_HOME)"
    )
    group.add_argument(
        "--json", action="store_true", help="print events as JSON lines (env PT_JSON=1)"
    )
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: debug")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="no line for every single connection"
    )
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="append what was tried, when, and how it ended, as JSON lines; QUIC connections get "
        "qlog files beside it, FILE.*.sqlog",
    )
    group.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_DRAIN,
        help="how long open connections may go on after SIGTERM or Ctrl-C (default: %(default)g)",
    )
    group.add_argument(
        "--ready-fd", metavar="N", type=int, help="write READY=1 to file descriptor N when ready"
    )
    return group


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def read_name(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the name the user gave by option, file, prompt or environment; None if none.

    Raises:
        UsageError: it is empty, or its file cannot be read.

    """
    env = os.environ if environ is None else environ
    if args.id == STDIO:
        return _ask_name()
    if args.id is not None:
        return _not_empty(args.id, "--id")
    if args.id_file:
        return _name_from_file(args.id_file, "--id-file")
    if "PT_ID" in env:
        return _not_empty(env["PT_ID"], "PT_ID")
    for variable in ("PT_ID_FILE", "PT_SECRET_FILE"):
        if env.get(variable):
            return _name_from_file(env[variable], variable)
    return None


def _not_empty(name: str, source: str) -> str:
    if not name.strip():
        raise UsageError(f"the name given by {source} is empty: both ends need the same name")
    return name


def _ask_name() -> str:
    if sys.stdin.isatty():
        return _not_empty(getpass.getpass("name: "), "the prompt")
    return _not_empty(sys.stdin.readline().rstrip("\r\n"), "stdin")


def _name_from_file(path: str, source: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_SECRET_FILE)
        text = data.decode()
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot read {path} given by {source}: {reason}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} given by {source} is not text: put the name in it") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        print(f"pt: {path} can be read by other users: chmod 600 {path}", file=sys.stderr)
    return _not_empty(text.split("\n", 1)[0].rstrip("\r"), f"{source} {path}")


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise UsageError(f"{whole!r}: {text!r} is not a port number")
    return int(text)


def parse_service(text: str, host: str) -> Service:
    """Read `N`, `N:PORT` or `N:HOST:PORT` (an IPv6 host in brackets); `host` is the default.

    Raises:
        UsageError: it is none of these.

    """
    asked, _, target = text.partition(":")
    if not target:
        return Service(port=_port(asked, text), host=host)
    own_host, _, target_port = target.rpartition(":")
    if own_host.startswith("[") and own_host.endswith("]"):
        own_host = own_host[1:-1]
    elif ":" in own_host:
        raise UsageError(f"{text!r}: put the IPv6 address in brackets, as in 22:[::1]:22")
    return Service(
        port=_port(asked, text), host=own_host or host, target_port=_port(target_port, text)
    )


def parse_forward(text: str, host: str) -> Forward | int:
    """Read `LOCAL` or `LOCAL:REMOTE`; `-` as LOCAL is stdin and stdout, then REMOTE is returned.

    Raises:
        UsageError: it is neither.

    """
    local, colon, remote = text.partition(":")
    remote_port = _port(remote, text) if colon else 0
    if colon and not remote_port:
        raise UsageError(f"{text!r}: 0 is not a port the other side can offer")
    if local == STDIO:
        return remote_port
    return Forward(local_port=_port(local, text), remote_port=remote_port, host=host)


def peers_from(
    texts: list[str] | None, environ: Mapping[str, str] | None = None
) -> tuple[Multiaddr, ...]:
    """Return the addresses given with --peer, or else those in PT_PEER (blanks or commas between).

    Raises:
        UsageError: one is not a multiaddr.

    """
    return addresses_from(texts, "PT_PEER", environ)


def relays_from(
    texts: list[str] | None, environ: Mapping[str, str] | None = None
) -> tuple[Multiaddr, ...]:
    """Return the relays given with --relay, or else those in PT_RELAY (blanks or commas between).

    Raises:
        UsageError: one is not a multiaddr.

    """
    return addresses_from(texts, "PT_RELAY", environ)


def addresses_from(
    texts: list[str] | None, variable: str, environ: Mapping[str, str] | None = None
) -> tuple[Multiaddr, ...]:
    """Return the addresses of an option, or else those of an environment variable.

    Raises:
        UsageError: one is not a multiaddr.

    """
    env = os.environ if environ is None else environ
    if not texts:
        texts = env.get(variable, "").replace(",", " ").split()
    return tuple(Multiaddr.parse(text) for text in texts)


def add_peer(parser: argparse._ArgumentGroup) -> None:
    """Declare how addresses of the other side are given."""
    parser.add_argument(
        "--peer",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="try this address of the other side, as its READY lines print it (env PT_PEER)",
    )


def add_relay(parser: argparse._ArgumentGroup) -> None:
    """Declare how relays are given."""
    parser.add_argument(
        "--relay",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="be reached, or reach the other side, through this relay, as pt relay prints it "
        "(env PT_RELAY)",
    )


def relay_secret_from(path: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the relay's secret: of a file, or of the environment; None if none is given.

    Raises:
        UsageError: it is empty, or its file cannot be read.

    """
    env = os.environ if environ is None else environ
    if path:
        return _name_from_file(path, "--relay-secret-file")
    if env.get("PT_RELAY_SECRET_FILE"):
        return _name_from_file(env["PT_RELAY_SECRET_FILE"], "PT_RELAY_SECRET_FILE")
    return env.get("PT_RELAY_SECRET") or None


def state_from(args: argparse.Namespace) -> StateDir:
    """Return the state directory of --home, PT_HOME or the user's default."""
    return StateDir(args.home or None)


def wants_json(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether --json or PT_JSON asks for JSON lines.

    Raises:
        UsageError: PT_JSON is neither true nor false.

    """
    env = os.environ if environ is None else environ
    value = env.get("PT_JSON", "").lower()
    if value not in _TRUE | _FALSE:
        raise UsageError(f"PT_JSON={value}: use 1 or 0")
    return bool(args.json) or value in _TRUE


def configure_logging(verbose: int, environ: Mapping[str, str] | None = None) -> None:
    """Send the library's log to stderr at the level of -v or PT_LOG (default: warning).

    Raises:
        UsageError: PT_LOG is not a level.

    """
    env = os.environ if environ is None else environ
    name = env.get("PT_LOG", "").lower() or "warning"
    if name not in _LEVELS:
        raise UsageError(f"PT_LOG={name}: use one of {', '.join(sorted(_LEVELS))}")
    if verbose:
        name = "info" if verbose == 1 else "debug"
    logging.basicConfig(
        level=name.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
