"""The entry point: find the command, import only that command, turn errors into exit codes.

argparse, because importing anything richer costs more than a command's whole start-up may
(docs/design.md). Exit codes are documented in docs/cli.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

import pt
from pt.errors import ConnectError, PtError

__all__ = ["COMMANDS", "CommandModule", "build_parser", "entry", "main"]

COMMANDS: Final = {
    "tcp": "expose local TCP ports under a name",
    "bind": "reach a name's ports through local ones",
    "relay": "let machines behind NATs reach each other through this one",
    "nat": "find out what kind of NAT and firewall this machine is behind",
    "explain": "say why a tunnel is relayed, and what would cure it",
    "key": "show or change this machine's identity",
    "demo": "see it work: everything on this machine, nothing leaves it",
    "selftest": "check that a tunnel on this machine carries TCP exactly",
    "lab": "hosts behind NATs of any kind on this machine, for research and tests",
    "completion": "print a shell's completion script",
}
EPILOG: Final = """\
on one machine:       pt tcp --port 22 --id NAME
on the other:         pt bind --port 2022 --id NAME
then:                 ssh -p 2022 user@127.0.0.1

exit codes: 0 ok, 1 internal error, 2 usage, 3 name not found in time, 4 refused, 5 no path to the
peer, 6 local port or target unusable, 7 no network, 8 timeout, 9 the peer's identity changed,
10 name held by another exposer, 11 state directory unusable, 12 a host's name not resolved,
13 network blocked, 130/143 ended by a signal
"""
MAX_ATTEMPTS_SHOWN: Final = 8


class CommandModule(Protocol):
    """What each of `pt.cli.<command>` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the result is the exit code."""


def load(command: str) -> CommandModule:
    """Import a command's module."""
    return cast("CommandModule", importlib.import_module(f"pt.cli.{command}"))


def build_parser(commands: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser; only `commands` get their options (and are imported)."""
    parser = argparse.ArgumentParser(
        prog="pt",
        description="TCP ports from one machine to another, with no server between: end-to-end "
        "encrypted, found by name.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pt {pt.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, help_text in COMMANDS.items():
        sub = subparsers.add_parser(
            command,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command in commands:
            module = load(command)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `SystemExit` only for --help, --version, usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in arguments if not word.startswith("-")), "")
    args = build_parser((named,) if named in COMMANDS else ()).parse_args(arguments)
    try:
        return int(args.run(args))
    except PtError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away; keep the interpreter from trying to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def report(error: PtError) -> None:
    """Say on stderr what went wrong."""
    print(f"pt: {error}", file=sys.stderr)
    if isinstance(error, ConnectError):
        for dial in error.attempts[:MAX_ATTEMPTS_SHOWN]:
            if dial.address not in str(error):
                print(f"    {dial.address}: {dial.reason}", file=sys.stderr)


def entry() -> None:
    """Be the console script."""
    sys.exit(main())
