"""`pt completion`: print the completion script of a shell."""

from __future__ import annotations

import argparse

import shtab

from pt.cli.main import COMMANDS, build_parser

__all__ = ["add_arguments", "run"]

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "bash:  pt completion bash > ~/.local/share/bash-completion/completions/pt\n"
        "zsh:   pt completion zsh > ~/.zfunc/_pt          (with ~/.zfunc in $fpath)\n"
        "fish:  pt completion fish > ~/.config/fish/completions/pt.fish"
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(shtab.complete(build_parser(tuple(COMMANDS)), args.shell))
    return 0
