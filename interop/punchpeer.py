"""The peer that is us, behind a NAT, punching as libp2p does (DCUtR); see `interop.dcutr`.

    python -m interop.punchpeer --relay MULTIADDR [--quic] [--to MULTIADDR] [--timeout S]

Without --to it is reached through the relay and says `multiaddr` when it can be; else it dials
through it, and ends with a ping over the direct connection.  It says `relayed` and `direct` with
the address and the seconds when it has such a connection; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import time
from typing import Final

from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.dcutr import Dcutr, direct_of
from pt.node.node import Node
from pt.node.relays import Relays
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr

RESERVE_TIMEOUT: Final = 15.0


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def new_node(*, quic: bool) -> Node:
    path = os.environ.get("PT_TRACE")
    sink = open(path, "w", encoding="utf-8") if path else None  # noqa: SIM115  # until the end
    own = Multiaddr.quic if quic else Multiaddr.tcp
    return Node(
        identity=PrivateKey.generate(secrets.token_bytes(32)),
        listen=(own("0.0.0.0", 0),),
        agent="interop-peer-pt",
        tracer=Tracer(sink, time.monotonic, time.time()),
    )


class Seen:
    """Says what connections there are, but for the relay's."""

    def __init__(self, node: Node, relay: Multiaddr) -> None:
        self._relay = relay.peer_id_bytes
        self._began = time.monotonic()
        self.direct = asyncio.Event()
        node.on_connection.append(self._tell)

    def _tell(self, connection: Connection) -> None:
        if connection.peer_id.raw == self._relay:
            return
        name = "direct" if connection.relay is None else "relayed"
        seconds = time.monotonic() - self._began
        if name == "relayed":
            self._began = time.monotonic()
        else:
            self.direct.set()
        report(**{name: str(connection.remote_addr), "seconds": seconds})


def note(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def listen(node: Node, relay: Multiaddr) -> None:
    relays = Relays(node, given=(relay,), want=1, meet=False)
    relays.start()
    if not await relays.wait_first(RESERVE_TIMEOUT):
        raise PtError("no reservation")
    report(multiaddr=str(relays.addresses[0].with_peer(node.peer_id.raw)))
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()
    await relays.close()


async def dial(node: Node, relay: Multiaddr, to: Multiaddr, seen: Seen, timeout: float) -> None:
    circuits = Circuits(node)
    async with asyncio.timeout(timeout):
        met = await node.connect(relay)
        await met.identify()
        relayed = await node.connect(to)
        await seen.direct.wait()
        found = direct_of(node, relayed.peer_id)
        if found is None:
            raise PtError("the direct connection has ended")
        await found.ping()
    await circuits.close()


async def run(args: argparse.Namespace) -> int:
    relay = Multiaddr.parse(args.relay)
    node = new_node(quic=args.quic)
    dcutr = Dcutr(node, on_failed=lambda _, reason: note(f"dcutr: {reason}"))
    await node.start()
    seen = Seen(node, relay)
    try:
        if args.to is None:
            await listen(node, relay)
        else:
            await dial(node, relay, Multiaddr.parse(args.to), seen, args.timeout)
    except (PtError, OSError, TimeoutError) as error:
        note(f"{type(error).__name__}: {error}")
        return 1
    finally:
        await dcutr.close()
        await node.close()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="punchpeer")
    parser.add_argument("--relay", required=True)
    parser.add_argument("--quic", action="store_true")
    parser.add_argument("--to")
    parser.add_argument("--timeout", type=float, default=30.0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
