"""`pt explain`: why a tunnel runs the way it does, and what would make it better, in a sentence."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from typing import Final

from pt.cli.jsonlines import dumps
from pt.cli.media import add_media, media_from, punches
from pt.cli.options import (
    add_identity,
    add_peer,
    add_relay,
    configure_logging,
    peers_from,
    read_name,
    state_from,
    wants_json,
)
from pt.errors import UsageError
from pt.tunnel import events
from pt.tunnel.binder import Binder
from pt.tunnel.config import BindConfig

__all__ = ["Verdict", "add_arguments", "run"]

FIND: Final = 30.0
SETTLE: Final = 15.0
"""Seconds in which a first attempt to get through the NATs has ended, as a rule."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = (
        "It connects to NAME as pt bind would, watches which path the session takes, says so, and "
        "ends. No port is forwarded."
    )
    add_identity(parser, with_open=False)
    group = parser.add_argument_group("network")
    add_peer(group)
    add_relay(group)
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=FIND,
        help="give up if the name is not found in time (default: %(default)g)",
    )
    add_media(parser)
    group = parser.add_argument_group("general")
    group.add_argument(
        "--home", metavar="DIR", help="where the identity and known peers are kept (env PT_HOME)"
    )
    group.add_argument("--json", action="store_true", help="print a JSON line (env PT_JSON=1)")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: debug")


class Verdict:
    """Takes a session's events; knows when nothing better is to come."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self._paths: list[events.Connected] = []
        self._punched: events.Punched | None = None

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.Connected):
            self._paths.append(event)
            if not event.path.startswith("relay/"):
                self.done.set()
        elif isinstance(event, events.Punched):
            self._punched = event
            if not event.ok:
                self.done.set()

    @property
    def facts(self) -> dict[str, object]:
        """For programs: the path in use, how it was opened, and the sentence."""
        last = self._paths[-1]
        punched = self._punched
        return {
            "path": last.path,
            "address": last.address,
            "rtt": last.rtt,
            "relayed": last.path.startswith("relay/"),
            "strategy": punched.strategy if punched is not None and punched.ok else None,
            "why": self.sentence,
        }

    @property
    def sentence(self) -> str:
        """For people."""
        last, punched = self._paths[-1], self._punched
        kind = last.path.partition("/")[2]
        transport = {"quic": "QUIC", "tcp": "TCP", "ws": "WebSocket"}.get(kind, kind)
        if not last.path.startswith("relay/"):
            if len(self._paths) == 1:
                return f"direct, over {transport}: the other side can be dialed from here"
            if punched is not None and punched.ok:
                return f"direct, over {transport}, through both NATs by {punched.strategy}"
            return f"direct, over {transport}, after a beginning on a relay"
        if punched is not None:
            return f"relayed: {punched.detail}"
        return (
            "relayed: no attempt to get through the NATs has ended yet; the other side, or its "
            "relay, may not take part in hole punching"
        )


async def _watch(config: BindConfig, args: argparse.Namespace, verdict: Verdict) -> None:
    binder = Binder(config, state_from(args), verdict)
    try:
        await binder.start()
        await binder.ready()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                await verdict.done.wait()
    finally:
        await binder.close()


def run(args: argparse.Namespace) -> int:
    """Connect, watch, and say it."""
    configure_logging(args.verbose)
    name = read_name(args)
    if name is None:
        raise UsageError("which tunnel? Give its name with --id NAME, --id-file or PT_ID")
    media = media_from(args)
    config = BindConfig(
        name=name,
        peers=peers_from(args.peer),
        relays=media.relays,
        lan=media.lan,
        public=media.public,
        bootstrap=media.bootstrap,
        punch=punches(args),
        once=True,
        timeout=args.timeout,
    )

    async def main() -> Verdict:
        verdict = Verdict()
        await _watch(config, args, verdict)
        return verdict

    verdict = asyncio.run(main())
    if wants_json(args):
        print(dumps("explained", time.time(), verdict.facts), flush=True)
    else:
        print(verdict.sentence, file=sys.stdout, flush=True)
    return 0
