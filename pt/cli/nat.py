"""`pt nat`: what kind of NAT and firewall this machine is behind."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Final

from pt.cli.jsonlines import VERSION
from pt.cli.media import maps_ports
from pt.cli.nat_text import as_json, as_text
from pt.cli.options import configure_logging, relays_from, wants_json
from pt.cli.output import use_colour
from pt.errors import NetworkError, UsageError
from pt.node.gateways import find_places
from pt.node.nat import MAX_SERVERS, StunServer, Survey, survey
from pt.node.resolve import Resolver
from pt.stun.discovery import Wishes
from pt.stun.lifetime import CLIFFS, LONG_CLIFFS

__all__ = ["add_arguments", "run", "server_of"]

EPILOG: Final = """\
  pt nat --relay /ip4/192.0.2.1/tcp/4001     a pt relay tells how it sees this machine
  pt nat --stun stun.example.org:3478        so does any STUN server; this one is asked, no other
  pt nat --relay … --lifetime 120            also how long a mapping lives: takes minutes

No server is asked that is not named; the router is asked for its port-mapping services (PCP,
NAT-PMP, UPnP), and nothing is mapped. What a NAT lets in can only be told by a server with two IP
addresses, or by two relays that answer for each other (docs/relay.md).
"""
SHORTEST: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = EPILOG
    group = parser.add_argument_group("whom to ask")
    group.add_argument(
        "--relay",
        metavar="MULTIADDR",
        nargs="+",
        action="extend",
        default=[],
        help="pt relays, as they print their addresses (env PT_RELAY)",
    )
    group.add_argument(
        "--stun",
        metavar="HOST:PORT",
        nargs="+",
        action="extend",
        default=[],
        help="STUN servers, e.g. 192.0.2.1:3478 or [2001:db8::1]:3478 (port 3478 if none is given)",
    )
    group = parser.add_argument_group("what to find out")
    group.add_argument(
        "--lifetime",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=CLIFFS[-1],
        help="try silences up to SECONDS, 298 if no number is given, over UDP and TCP, and what "
        "keeps a mapping: it takes two to four times as long as a mapping lives",
    )
    group.add_argument(
        "--no-portmap",
        action="store_true",
        help="do not ask the router which ports it would map, and by what (env PT_NO_PORTMAP=1)",
    )
    group.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=float,
        const=30.0,
        help="ask again so often, and tell what has changed, until Ctrl-C (default: 30)",
    )
    group = parser.add_argument_group("general")
    group.add_argument("--json", action="store_true", help="print JSON lines (env PT_JSON=1)")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: debug")


def server_of(text: str) -> StunServer:
    """Read HOST, HOST:PORT, or an IPv6 address in brackets with or without a port.

    Raises:
        UsageError: it is none of these.

    """
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        host, port = text, "3478"
    elif ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(
            f"--stun {text}: put an IPv6 address in brackets, as in [2001:db8::1]:3478"
        )
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--stun {text}: give host and port, such as 192.0.2.1:3478")
    kind = "ip6" if ":" in host else "ip4" if _is_ip4(host) else "dns"
    return StunServer(kind, host, int(port))


def _is_ip4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(part.isdigit() for part in parts)


def run(args: argparse.Namespace) -> int:
    """Ask, and show."""
    configure_logging(args.verbose)
    servers = [StunServer.of_relay(each) for each in relays_from(args.relay)]
    servers += [server_of(each) for each in args.stun]
    servers = list(dict.fromkeys(servers))
    if not servers:
        raise UsageError(
            "whom to ask? Give --relay with the address of a pt relay, or --stun HOST:PORT; no "
            "server is asked that is not named"
        )
    if len(servers) > MAX_SERVERS:
        raise UsageError(f"{len(servers)} servers are more than {MAX_SERVERS}")
    for name, value in (("--lifetime", args.lifetime), ("--watch", args.watch)):
        if value is not None and not SHORTEST <= value <= 3600:
            raise UsageError(f"{name} {value:g}: give {SHORTEST:g} to 3600 seconds")
    wishes = Wishes(cliffs=_cliffs(args.lifetime))
    return asyncio.run(_run(args, servers, wishes))


def _cliffs(most: float | None) -> tuple[float, ...]:
    """The silences to try, up to that one."""
    if most is None:
        return ()
    usual = [each for each in (*CLIFFS, *LONG_CLIFFS) if each < most]
    return (*usual, most) if usual else (most / 2, most)


async def _run(args: argparse.Namespace, servers: list[StunServer], wishes: Wishes) -> int:
    resolver = Resolver()
    places = find_places if maps_ports(args) else None
    before: object = None
    try:
        while True:
            found = await survey(servers, wishes, resolver=resolver, places=places, say=_say(args))
            if not found.answered and args.watch is None:
                _show(args, found)
                raise NetworkError(_nobody(servers, found))
            if before != (before := _essence(found)):
                _show(args, found)
            if args.watch is None:
                return 0
            await asyncio.sleep(args.watch)
    finally:
        await resolver.close()


def _essence(found: Survey) -> object:
    """What has to change for it to be told again."""
    paths = tuple(
        (facts.family, facts.protocol, facts.works, facts.label, facts.external)
        for facts in found.facts
    )
    gateways = tuple(
        (each.place, each.service, each.ok, each.external) for each in found.gateways or ()
    )
    return paths, gateways


def _nobody(servers: list[StunServer], found: Survey) -> str:
    names = ", ".join(map(str, servers))
    why = next((each.problem for each in found.tcp if each.problem), "")
    return (
        f"no answer from {names}, neither over UDP nor over TCP{f' ({why})' if why else ''}: check "
        "the address, whether a relay or STUN server runs there, and the network"
    )


def _say(args: argparse.Namespace) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not wants_json(args):
            if args.lifetime is not None:
                text += "; this takes minutes"
            print(text, file=sys.stderr)

    return say


def _show(args: argparse.Namespace, found: Survey) -> None:
    if wants_json(args):
        line = {"v": VERSION, "event": "nat", "time": round(time.time(), 3), **as_json(found)}
        print(json.dumps(line, ensure_ascii=False, separators=(",", ":")), flush=True)
        return
    print("\n".join(as_text(found, colour=use_colour(sys.stdout))), flush=True)
