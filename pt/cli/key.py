"""`pt key`: show, renew or locate this machine's identity; forget whom a name belonged to.

The private key is never printed.
"""

from __future__ import annotations

import argparse
import base64
import json

from pt.cli.jsonlines import VERSION
from pt.cli.options import add_identity, read_name, state_from, wants_json
from pt.errors import UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.rendezvous.name import normalise_name

__all__ = ["add_arguments", "run"]

ACTIONS = ("show", "new", "path", "export", "forget")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "show    the peer id (for --allow) and where the key is; makes one if needed. With --id\n"
        "        NAME the peer id under which this machine exposes that name (for --pin)\n"
        "new     a new identity in place of the old one (kept beside it); needs --force\n"
        "path    the file that holds the key\n"
        "export  the public key (libp2p protobuf, base64)\n"
        "forget  drop the identity remembered for a name (--id): the next one is trusted anew"
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="show", metavar="ACTION")
    parser.add_argument("--force", action="store_true", help="let `new` replace a key")
    parser.add_argument("--home", metavar="DIR", help="the state directory (env PT_HOME)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_identity(parser, with_open=False)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    state = state_from(args)
    if args.action == "path":
        return _print(args, {"path": str(state.identity_path)})
    if args.action == "forget":
        return _forget(args, state)
    if args.action == "new":
        return _show(args, state, _renew(state, force=args.force))
    if args.action == "export":
        public = state.identity().public.to_protobuf()
        return _print(args, {"public_key": base64.b64encode(public).decode()})
    name = read_name(args)
    return _show(args, state, state.identity(None if name is None else normalise_name(name)))


def _renew(state: StateDir, *, force: bool) -> PrivateKey:
    if state.identity_path.exists() and not force:
        raise UsageError(
            f"{state.identity_path} exists: those who remember or allow the old identity would "
            "refuse the new one. To go on, add --force"
        )
    return state.new_identity()


def _forget(args: argparse.Namespace, state: StateDir) -> int:
    name = read_name(args)
    if name is None:
        raise UsageError("forget which name? Give --id NAME")
    return _print(args, {"forgotten": "yes" if state.forget(name) else "nothing was remembered"})


def _show(args: argparse.Namespace, state: StateDir, key: PrivateKey) -> int:
    peer_id = PeerId.from_public_key(key.public)
    return _print(args, {"peer_id": str(peer_id), "path": str(state.identity_path)})


def _print(args: argparse.Namespace, facts: dict[str, str]) -> int:
    """One fact is printed bare, for use in scripts; several with their names."""
    if wants_json(args):
        print(json.dumps({"v": VERSION, "event": "key", **facts}))
    elif len(facts) == 1:
        print(*facts.values())
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):9}{value}")
    return 0
