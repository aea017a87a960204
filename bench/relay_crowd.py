"""Many peers at a relay, to see what they cost it: `python -m bench.relay_crowd KIND --relay MA …`.

KIND is `reservations` (each peer has a connection of its own), `raw circuits` or `libp2p circuits`
(between few peers).  Says {"held": n} a tenth of the way first and at the end, and goes on when a
line is read; holds everything until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from pt.aio.muxed import MuxedStream
from pt.identity.keys import PrivateKey
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.node import Node, NodeLimits
from pt.relay import aio as relay_aio
from pt.relay.messages import AUTH, HOP, STOP, Status
from pt.relay.raw import secret_key
from pt.wire.multiaddr import Multiaddr

AT_ONCE = 32
TARGETS = 20
SOURCES = 20


class Crowd:
    """Peers of one relay."""

    def __init__(self, relay: Multiaddr, key: bytes) -> None:
        self.relay = relay
        self.key = key
        self.kept: list[object] = []

    async def peer(self, *, reserve: bool) -> tuple[Node, Circuits, Connection]:
        """A peer that is connected and known as a user."""
        node = Node(
            identity=PrivateKey.generate(secrets.token_bytes(32)),
            limits=NodeLimits(inbound_streams=20_000, connections=40_000, handlers=40_000),
            congestion="",
        )
        circuits = Circuits(node, accepts=lambda _: True)
        await node.start()
        connection = await circuits.relay_connection(self.relay)
        circuits.use(connection)
        stream = await connection.open_stream((AUTH,))
        await relay_aio.authenticate(
            stream,
            self.key,
            client=node.peer_id,
            relay=connection.peer_id,
            binding=connection.handshake_hash,
        )
        self.kept += [node, circuits, stream]
        if reserve:
            hop = await connection.open_stream((HOP,))
            await relay_aio.reserve(hop, relay=connection.peer_id, peer=node.peer_id, now=0)
            hop.finish()
        return node, circuits, connection

    async def reservation(self, _: int) -> None:
        await self.peer(reserve=True)

    async def circuits(self, raw: bool) -> Callable[[int], Awaitable[None]]:
        """What opens the n-th circuit."""

        async def take(stream: MuxedStream, connection: Connection) -> None:
            del connection
            await relay_aio.read_stop(stream)
            await relay_aio.answer_stop(stream, Status.OK)
            self.kept.append(stream)
            await asyncio.Event().wait()

        async def reached(_relay: object, sock: object, _path: str, _said: object) -> None:
            self.kept.append(sock)

        targets = []
        for _ in range(TARGETS):
            node, circuits, _ = await self.peer(reserve=True)
            if raw:
                circuits._be_reached = reached  # type: ignore[method-assign]
            else:
                node.handle(STOP, take)
            targets.append(node.peer_id)
        sources = [await self.peer(reserve=False) for _ in range(SOURCES)]

        async def one(number: int) -> None:
            _, circuits, connection = sources[number % SOURCES]
            target = targets[number // SOURCES % TARGETS]
            if raw:
                self.kept.append(await circuits._ask(connection, self.relay, target))
                return
            stream = await connection.open_stream((HOP,))
            await relay_aio.connect(stream, target)
            self.kept.append(stream)

        return one


async def crowd(kind: str, relay: Multiaddr, key: bytes, count: int, steps: int) -> None:
    made = Crowd(relay, key)
    if kind == "reservations":
        one: Callable[[int], Awaitable[None]] = made.reservation
    else:
        one = await made.circuits(kind.startswith("raw"))
    few = asyncio.Semaphore(AT_ONCE)

    async def bounded(number: int) -> None:
        async with few:
            await one(number)

    done = 0
    for until in (count // steps, count):
        async with asyncio.TaskGroup() as group:
            for number in range(done, until):
                group.create_task(bounded(number))
        done = until
        print(json.dumps({"held": done}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.relay_crowd")
    parser.add_argument("kind", choices=("reservations", "raw circuits", "libp2p circuits"))
    parser.add_argument("--relay", type=Multiaddr.parse, required=True)
    parser.add_argument("--secret-file", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    key = secret_key(Path(args.secret_file).read_text())
    asyncio.run(crowd(args.kind, args.relay, key, args.count, args.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
