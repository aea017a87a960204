"""`pt lab`: hosts behind NATs of any kind, on this machine and without a way out of it.

The laboratory is imported only here, and only when it is used: it is nobody else's dependency.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pt.cli import lab_runs
from pt.cli.jsonlines import dumps
from pt.cli.options import wants_json
from pt.errors import PtError, UsageError

if TYPE_CHECKING:
    from pt.lab.remote import Remote

__all__ = ["add_arguments", "run"]

EPILOG: Final = """\
  pt lab up --a eim-apdf --b apdm-random,timeout=30 --link delay=10,loss=1
  pt lab exec a -- pt nat                       on host a: 192.168.1.10 behind its NAT
  pt lab ctl flush a --renumber                 its NAT reboots and gets another address
  pt lab down
  pt lab pair eim-apdf apdm-random --runs 20 --report pair.html
  pt lab matrix --runs 10 --out results.jsonl --report matrix.html

NATs:   MAPPING[-FILTERING[-PORTS]][,OPTION=VALUE …][+CARRIER'S NAT], fw, public, none, or a preset
        eim adm apdm · eif adf apdf · preserve seq random block
links:  delay= jitter= (ms) loss= dup= reorder= (%) burst= rate= (Mbit/s) queue= mtu= hops=
All words: docs/lab.md. It needs root: hosts are network namespaces.
"""


def _words(parser: argparse.ArgumentParser) -> None:
    """Declare what describes a laboratory."""
    parser.add_argument("--a", metavar="NAT", help="the NAT of side a, whose host is a")
    parser.add_argument("--b", metavar="NAT", help="the NAT of side b")
    parser.add_argument(
        "--side", metavar="X=NAT", nargs="+", action="extend", default=[], help="further sides"
    )
    parser.add_argument(
        "--public",
        metavar="N",
        type=int,
        default=2,
        help="hosts in the open: s1, s2 … (default: 2)",
    )
    parser.add_argument(
        "--lan", metavar="N", type=int, default=1, help="hosts a side: a, a2, … (default: 1)"
    )
    parser.add_argument(
        "--overlap", action="store_true", help="all private networks have the same addresses"
    )
    parser.add_argument(
        "--cgn", metavar="NAT", default="", help="one carrier's NAT between all sides and the rest"
    )
    _how(parser)


def _how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", metavar="LINK", default="", help="every link to the internet")
    parser.add_argument(
        "--link-of",
        metavar="NAME=LINK",
        nargs="+",
        action="extend",
        default=[],
        help="the link of one side or public host",
    )
    parser.add_argument(
        "--engine",
        choices=("user", "kernel"),
        default="user",
        help="user: every behaviour; kernel: nftables, for throughput (default: user)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of all that is random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        sub.add_argument("--json", action="store_true", help="JSON lines (env PT_JSON=1)")
        return sub

    def named(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--name", default="lab", help="of the laboratory (default: lab)")
        return sub

    up = named(action("up", "build a laboratory that stays"))
    _words(up)
    up.add_argument("--trace", metavar="FILE", default="", help="write mappings and drops there")
    up.add_argument("--pcap", metavar="FILE", default="", help="write the internet's packets there")
    execute = named(action("exec", "run a program on a host"))
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("argv", metavar="-- PROGRAM …", nargs=argparse.REMAINDER)
    down = named(action("down", "end a laboratory and what runs in it"))
    down.add_argument("--all", action="store_true", help="all laboratories")
    ctl = named(action("ctl", "look into a laboratory that is up, or change it"))
    ctl.add_argument("order", choices=tuple(CTL), help="what to do; " + "; ".join(CTL.values()))
    ctl.add_argument("target", metavar="NAME", nargs="?", default="", help="a NAT or a link")
    ctl.add_argument("spec", metavar="SPEC", nargs="?", default="", help="for nat and link")
    ctl.add_argument("--renumber", action="store_true", help="flush: and give it another address")
    lab_runs.add_verify(action("verify", "ask NATs whether they are what they say (RFC 5780)"))
    lab_runs.add_pair(action("pair", "let two hosts punch through their NATs"))
    lab_runs.add_matrix(action("matrix", "every NAT with every NAT, by every strategy"))
    lab_runs.add_replay(action("replay", "repeat what a trace tells of"))
    lab_runs.add_report(action("report", "sum results up"))


CTL: Final = {
    "hosts": "hosts: who is where",
    "mappings": "mappings: what each NAT remembers",
    "stats": "stats: packets of links, drops by place and reason",
    "flush": "flush NAME: reboot a NAT",
    "nat": "nat NAME SPEC: put another NAT there",
    "link": "link NAME SPEC: give a link another shape",
    "cut": "cut NAME: let a link swallow everything",
    "restore": "restore NAME: undo cut",
    "mark": "mark TEXT: write a line into the trace",
}


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from pt.lab.machine import LanError  # noqa: PLC0415  # only who uses it pays
    from pt.lab.model.spec import SpecError  # noqa: PLC0415
    from pt.lab.netns import unavailable  # noqa: PLC0415

    if args.action != "report" and (reason := unavailable()):
        raise UsageError(f"no laboratory here: {reason}")
    try:
        return ACTIONS[args.action](args)
    except SpecError as error:
        raise UsageError(str(error)) from error
    except LanError as error:
        raise PtError(str(error)) from error


def _pairs(words: list[str], option: str) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{option} takes NAME=…, not {word!r}")
        found[name] = text
    return found


def words_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the words of `make_plan` that the options say."""
    given = {"a": args.a, "b": args.b} | _pairs(args.side, "--side")
    return {
        "sides": {name: spec for name, spec in given.items() if spec is not None},
        "public": args.public,
        "lan": args.lan,
        "overlap": args.overlap,
        "cgn": args.cgn,
        "link": args.link,
        "links": _pairs(args.link_of, "--link-of"),
    }


def _up(args: argparse.Namespace) -> int:
    from pt.lab import session  # noqa: PLC0415
    from pt.lab.model.plan import make_plan  # noqa: PLC0415

    words = words_of(args)
    make_plan(**words)  # type: ignore[arg-type]  # checked there
    remote = session.up(
        args.name,
        words,
        engine=args.engine,
        seed=args.seed,
        trace=os.path.abspath(args.trace) if args.trace else "",
        pcap=os.path.abspath(args.pcap) if args.pcap else "",
    )
    _show_hosts(remote, as_json=wants_json(args))
    remote.disconnect()
    return 0


def _show_hosts(remote: Remote, *, as_json: bool) -> None:
    if as_json:
        for machine in remote:
            facts = {"name": machine.name, "addresses": list(machine.addresses)}
            print(dumps("host", time.time(), {**facts, "netns": machine.netns}))
        for name, addresses in remote.nats.items():
            print(dumps("nat", time.time(), {"name": name, "addresses": list(addresses)}))
        return
    for machine in remote:
        print(f"host {machine.name:4} {'  '.join(machine.addresses)}")
    for name, addresses in remote.nats.items():
        print(f"NAT  {name:4} {'  '.join(addresses)}")


def _exec(args: argparse.Namespace) -> int:
    from pt.lab import session  # noqa: PLC0415

    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise UsageError("pt lab exec HOST -- PROGRAM …: no program is given")
    remote = session.connect(args.name)
    command = remote[args.host].exec_argv(argv)
    remote.disconnect()
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        raise PtError(f"cannot run {command[0]}: {error}") from error


def _down(args: argparse.Namespace) -> int:
    from pt.lab import session  # noqa: PLC0415

    for name in session.names() if args.all else [args.name]:
        session.down(name)
    return 0


def _ctl(args: argparse.Namespace) -> int:
    from pt.lab import session  # noqa: PLC0415

    if args.order not in ("hosts", "mappings", "stats") and not args.target:
        raise UsageError(f"pt lab ctl {CTL[args.order].partition(':')[0]}: something is missing")
    remote = session.connect(args.name)
    as_json = wants_json(args)
    match args.order:
        case "hosts":
            _show_hosts(remote, as_json=as_json)
        case "mappings":
            for nat, found in remote.mappings().items():
                for mapping in found:
                    _show("mapping", {"nat": nat, **mapping}, as_json=as_json)
        case "stats":
            _show_stats(remote.stats(), as_json=as_json)
        case "flush":
            addresses = remote.flush(args.target, renumber=args.renumber)
            facts = {"name": args.target, "addresses": list(addresses)}
            _show("reboot", facts, as_json=as_json)
        case "nat":
            remote.set_nat(args.target, args.spec)
        case "link":
            remote.set_link(args.target, args.spec)
        case "cut":
            remote.cut(args.target)
        case "restore":
            remote.restore(args.target)
        case "mark":
            _show("mark", {"t": remote.mark(args.target)}, as_json=as_json)
        case _:
            raise AssertionError(args.order)
    remote.disconnect()
    return 0


def _show_stats(stats: dict[str, Any], *, as_json: bool) -> None:
    for name, directions in stats["links"].items():
        for direction, counts in directions.items():
            facts = {"name": name, "direction": direction, **counts}
            if as_json:
                print(dumps("link", time.time(), facts))
            else:
                numbers = ", ".join(f"{value} {key}" for key, value in counts.items())
                print(f"link {name:6} {direction:5} {numbers}")
    for place, reasons in stats["drops"].items():
        for why, count in reasons.items():
            if as_json:
                print(dumps("drops", time.time(), {"at": place, "why": why, "count": count}))
            else:
                print(f"drop {place:6} {count} {why}")


def _show(event: str, facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print(dumps(event, time.time(), facts))
    elif event == "mapping" and "external" in facts:
        remotes = facts["remotes"] if isinstance(facts["remotes"], list) else []
        print(
            f"{facts['nat']:5} {facts['protocol']:5} {facts['internal']} ↔ {facts['external']}  "
            f"{facts['left']} s left, with {', '.join(remotes)}"
        )
    else:
        print(json.dumps(facts, indent=2, ensure_ascii=False))


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "up": _up,
    "exec": _exec,
    "down": _down,
    "ctl": _ctl,
    **lab_runs.ACTIONS,
}
