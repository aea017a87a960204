"""The two ends of a circuit that is measured: a source that never runs dry, and a sink that counts.

    python -m bench.relay_ends sink   KIND --relay MA | --listen IP:PORT
    python -m bench.relay_ends source KIND --relay MA --peer ID | --to IP:PORT  --streams N

KIND is `tcp` (what socat forwards), `raw` or `libp2p`.  Nothing is encrypted end to end here: the
relay is what is measured, and to it all bytes are alike.  Towards the relay a libp2p circuit has
its Noise and yamux, as always.

A sink says {"ready": …} and then, for each line it reads, {"t": s, "rx": bytes}; a source says
{"ready": streams} when all of them send.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import socket
import sys
import threading
import time
from pathlib import Path

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.circuits import Circuits
from pt.node.node import Node, NodeLimits
from pt.node.relays import RelayNews, Relays
from pt.relay.raw import secret_key
from pt.wire.multiaddr import Multiaddr

BLOCK = 1 << 20
COUNTED = [0]


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def drain(sock: socket.socket) -> None:
    """Count what comes; a thread of its own, since the kernel does all the work."""
    sock.setblocking(True)
    buffer = bytearray(BLOCK)
    try:
        while count := sock.recv_into(buffer):
            COUNTED[0] += count
    except OSError:
        pass
    sock.close()


def pour(sock: socket.socket) -> None:
    """Send for ever."""
    sock.setblocking(True)
    block = secrets.token_bytes(BLOCK)
    try:
        while True:
            sock.sendall(block)
    except OSError:
        sock.close()


def start(work: object, sock: socket.socket) -> None:
    threading.Thread(target=work, args=(sock,), daemon=True).start()


def answer_marks() -> None:
    for _ in sys.stdin:
        say(t=time.monotonic(), rx=COUNTED[0])


def node() -> Node:
    return Node(
        identity=PrivateKey.generate(secrets.token_bytes(32)),
        limits=NodeLimits(inbound_streams=20_000, connections=20_000, connections_per_host=20_000),
        congestion="",
    )


async def sink_of_circuits(relay: Multiaddr, raw: bool, key: bytes | None) -> None:
    own = node()

    def heard(news: RelayNews) -> None:
        if news.held:
            say(ready=str(own.peer_id), limited=news.limit is not None)
        else:
            print(f"relay: {news.detail}", file=sys.stderr, flush=True)

    relays = Relays(own, given=(relay,), secret_key=key, on_news=heard)
    relays.circuits.raw = raw

    async def reached(_relay: object, sock: socket.socket, _path: str, _said: object) -> None:
        start(drain, sock)

    relays.circuits._be_reached = reached  # type: ignore[method-assign]
    await own.start()
    relays.start()
    await asyncio.get_running_loop().run_in_executor(None, answer_marks)


async def source_of_circuits(relay: Multiaddr, peer: PeerId, streams: int, raw: bool) -> None:
    own = node()
    circuits = Circuits(own)
    circuits.raw = raw
    await own.start()
    connection = await circuits.relay_connection(relay)
    circuits.use(connection)
    for _ in range(streams):
        sock, route = await circuits._ask(connection, relay, peer)
        assert route.path == ("relay/raw" if raw else "relay/circuit"), route
        start(pour, sock)
    say(ready=streams)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def sink_of_tcp(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    server = socket.create_server((host, int(port)))

    def accept() -> None:
        while True:
            sock, _ = server.accept()
            start(drain, sock)

    threading.Thread(target=accept, daemon=True).start()
    say(ready=listen)
    answer_marks()


def source_of_tcp(to: str, streams: int) -> None:
    host, _, port = to.rpartition(":")
    for _ in range(streams):
        start(pour, socket.create_connection((host, int(port))))
    say(ready=streams)
    sys.stdin.read()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.relay_ends")
    parser.add_argument("role", choices=("sink", "source"))
    parser.add_argument("kind", choices=("tcp", "raw", "libp2p"))
    parser.add_argument("--relay", type=Multiaddr.parse)
    parser.add_argument("--peer", type=PeerId.parse)
    parser.add_argument("--listen")
    parser.add_argument("--to")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--secret-file")
    args = parser.parse_args()
    raw = args.kind == "raw"
    if args.kind == "tcp":
        if args.role == "sink":
            sink_of_tcp(args.listen)
        else:
            source_of_tcp(args.to, args.streams)
    elif args.role == "sink":
        text = Path(args.secret_file).read_text() if args.secret_file else None
        key = None if text is None else secret_key(text)
        asyncio.run(sink_of_circuits(args.relay, raw, key))
    else:
        asyncio.run(source_of_circuits(args.relay, args.peer, args.streams, raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
