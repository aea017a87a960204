"""A QUIC engine on a plain UDP socket, for tests against other implementations.

    python -m tests.interop.quic_peer listen --ip A --engine NAME
    python -m tests.interop.quic_peer dial --ip A --engine NAME --to MULTIADDR
        --test ping|echo [--bytes N] [--streams N]

It prints a JSON line a fact.  No GSO, no loop: what is tested is the engine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import Initiator, Responder
from pt.quic.certificate import ENTROPY_SIZE, Certificate
from pt.quic.engine import Admission, Config, Engine
from pt.quic.events import (
    Address,
    Closed,
    HandshakeDone,
    StopSending,
    StreamData,
    StreamOpened,
    StreamReset,
    Writable,
)
from pt.quic.packets import parse_header
from pt.quic.reception import Reception, Reply
from pt.quic.select import default

PING, ECHO, RESET = "/ipfs/ping/1.0.0", "/interop/echo/1.0.0", "/interop/reset/1.0.0"
SERVED = (PING, ECHO, RESET)
BUFFER = 4 << 20
BLOCK = 256 << 10


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


class Stream:
    """A stream with multistream-select in front; `on_data` gets what follows."""

    def __init__(self, owner: Connection, number: int, protocols: tuple[str, ...] = ()) -> None:
        self.owner = owner
        self.id = number
        self.out = bytearray()
        self.finish = False
        self.fin_sent = False
        self.on_data: Callable[[bytes, bool], None] = self.serve
        self.on_agreed: Callable[[], None] = lambda: None
        self.negotiation: Initiator | Responder | None = (
            Initiator(protocols) if protocols else Responder(SERVED.__contains__)
        )
        self.protocol = ""
        self.send(self.negotiation.data_to_send())

    def send(self, data: bytes, *, fin: bool = False) -> None:
        self.out += data
        self.finish |= fin
        self.pump()

    def pump(self) -> None:
        engine = self.owner.engine
        while self.out:
            part = bytes(self.out[:BLOCK])
            count = engine.write(self.id, part)
            del self.out[:count]
            if count < len(part):
                break
        if not self.out and self.finish and not self.fin_sent:
            self.fin_sent = True
            engine.finish(self.id)

    def received(self, data: bytes, fin: bool) -> None:
        if self.negotiation is not None:
            self.negotiation.receive_data(data)
            self.send(self.negotiation.data_to_send())
            if self.negotiation.result is None:
                if fin:
                    self.send(b"", fin=True)
                return
            self.protocol = self.negotiation.result
            data = self.negotiation.leftover()
            self.negotiation = None
            self.on_agreed()
        if data or fin:
            self.on_data(data, fin)

    def serve(self, data: bytes, fin: bool) -> None:
        if self.protocol == RESET:
            self.serve_reset(data, fin)
        else:  # echo; a ping is one of 32 bytes
            self.send(data, fin=fin)

    def serve_reset(self, data: bytes, fin: bool) -> None:
        """What the Go peer's reset protocol asks for; see its `outcomes`."""
        seen = self.owner.seen
        command, token = data[:1], data[1:17]
        if command == b"W":
            seen[token] = b"p"
            self.token = token
            self.send(b"k")
        elif command == b"Q":
            self.send(seen.get(token, b"p"), fin=True)
        elif command == b"R":
            self.owner.engine.reset(self.id, 0)
            self.owner.engine.stop(self.id, 0)
        elif fin and hasattr(self, "token"):
            if seen[self.token] == b"p":
                seen[self.token] = b"e"
            self.send(b"", fin=True)

    def gave_up(self) -> None:
        """RESET_STREAM came, or STOP_SENDING, which is all that rust-libp2p sends for it."""
        if hasattr(self, "token"):
            self.owner.seen[self.token] = b"r"
        self.owner.engine.reset(self.id, 0)


class Connection:
    def __init__(self, peer: Peer, engine: Engine) -> None:
        self.peer = peer
        self.engine = engine
        self.streams: dict[int, Stream] = {}
        self.seen: dict[bytes, bytes] = {}
        self.on_done: Callable[[], None] = lambda: None

    def open(self, *protocols: str) -> Stream:
        number = self.engine.open_stream()
        self.streams[number] = Stream(self, number, protocols)
        return self.streams[number]

    def events(self) -> bool:
        happened = False
        while (event := self.engine.next_event()) is not None:
            happened = True
            match event:
                case HandshakeDone():
                    self.peer.settled(self)
                    say(event="connected", peer=str(event.peer), engine=self.engine.name)
                    self.on_done()
                case Closed():
                    self.peer.settled(self)
                    say(
                        event="closed",
                        code=event.code,
                        by_peer=event.by_peer,
                        reason=event.reason,
                        error=str(event.error or ""),
                    )
                case StreamOpened(number):
                    self.streams[number] = Stream(self, number)
                case StreamData(number, data, fin):
                    self.streams[number].received(data, fin)
                    self.engine.consumed(number, len(data), time.monotonic())
                case StreamReset(number) | StopSending(number):
                    self.streams[number].gave_up()
                case Writable(number):
                    self.streams[number].pump()
        return happened


class Peer:
    """One UDP socket, all its connections."""

    def __init__(self, ip: str, engine: str, name: str) -> None:
        self.identity = PrivateKey.generate(hashlib.sha256(name.encode()).digest())
        self.id = PeerId.from_public_key(self.identity.public)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        self.socket.bind((ip, 0))
        self.socket.setblocking(False)
        self.factory = default(engine)
        self.config = Config(
            certificate=Certificate.create(
                self.identity, now=time.time(), entropy=os.urandom(ENTROPY_SIZE)
            ),
            reset_key=os.urandom(32),
            random=os.urandom,
            unix_time=time.time,
        )
        self.reception = Reception(self.config.reset_key, os.urandom)
        self.connections: list[Connection] = []
        self.half_open: set[int] = set()
        self.serving = False

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def dial(self, address: Address, expected: PeerId) -> Connection:
        engine = self.factory.connect(self.config, address, time.monotonic(), expected=expected)
        return self.add(engine)

    def add(self, engine: Engine) -> Connection:
        connection = Connection(self, engine)
        self.connections.append(connection)
        return connection

    def settled(self, connection: Connection) -> None:
        if id(connection) in self.half_open:
            self.half_open.remove(id(connection))
            self.reception.half_open -= 1

    def find(self, data: bytes, address: Address) -> Connection | None:
        header = parse_header(data)
        if header is None:
            return None
        for connection in self.connections:
            if header.destination in connection.engine.connection_ids:
                return connection
        if not data[0] & 0x80:
            for connection in self.connections:
                if connection.engine.address == address:
                    return connection
        return None

    def receive(self) -> None:
        for _ in range(64):
            try:
                data, address = self.socket.recvfrom(65535)
            except BlockingIOError:
                return
            now = time.monotonic()
            connection = self.find(data, address)
            if connection is None:
                decision = self.reception.decide(data, address, now, accepting=self.serving)
                if isinstance(decision, Reply):
                    self.send(decision.datagram, address)
                if not isinstance(decision, Admission):
                    continue
                connection = self.add(self.factory.accept(self.config, decision, address, now))
                self.half_open.add(id(connection))
                self.reception.half_open += 1
            connection.engine.receive(data, len(data), address, now)

    def send(self, data: bytes, address: Address) -> None:
        while True:
            try:
                self.socket.sendto(data, address)
            except BlockingIOError:
                select.select([], [self.socket], [])
                continue
            return

    def turn(self) -> None:
        """Wait for something, and do it."""
        now = time.monotonic()
        timeouts = [c.engine.next_timeout() for c in self.connections]
        wait = min([t - now for t in timeouts if t is not None], default=1.0)
        if select.select([self.socket], [], [], max(0.0, min(wait, 1.0)))[0]:
            self.receive()
        self.flush()

    def flush(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            engine = connection.engine
            timeout = engine.next_timeout()
            if timeout is not None and timeout <= now:
                engine.handle_timeout(now)
            while True:
                happened = connection.events()
                trains = engine.trains(time.monotonic())
                for train in trains:
                    for segment in train.segments:
                        self.send(segment, train.address)
                if not (happened or trains or connection.events()):
                    break
            if engine.terminated:
                self.connections.remove(connection)


def listen(peer: Peer, ip: str) -> None:
    peer.serving = True
    say(multiaddr=f"/ip4/{ip}/udp/{peer.port}/quic-v1/p2p/{peer.id}")
    while True:
        peer.turn()


def dial(peer: Peer, to: str, test: str, size: int, streams: int) -> bool:
    _, _, ip, _, port, _, _, expected = to.split("/")
    connection = peer.dial((ip, int(port)), PeerId.parse(expected))
    done: list[bool] = []

    def ping() -> None:
        stream = connection.open(PING)
        sent: list[bytes] = []
        began: list[float] = []
        got = bytearray()
        times: list[float] = []

        def again() -> None:
            sent.append(os.urandom(32))
            began.append(time.monotonic())
            stream.send(sent[-1])

        def received(data: bytes, fin: bool) -> None:
            got.extend(data)
            if len(got) < 32:
                return
            times.append(time.monotonic() - began[-1])
            done_well = bytes(got) == sent[-1]
            got.clear()
            if len(times) == 5 or not done_well:
                say(event="ping", best_us=round(min(times) * 1e6))
                done.append(done_well)
            else:
                again()

        stream.on_agreed = again
        stream.on_data = received

    def echo() -> None:
        began = time.monotonic()
        left = [streams]

        def one() -> None:
            stream = connection.open(ECHO)
            payload = os.urandom(size)
            wanted, got, count = hashlib.sha256(payload).digest(), hashlib.sha256(), [0]

            def received(data: bytes, fin: bool) -> None:
                got.update(data)
                count[0] += len(data)
                if not fin:
                    return
                if got.digest() != wanted:
                    say(event="wrong", bytes=count[0])
                    done.append(False)
                left[0] -= 1
                if not left[0]:
                    say(event="echo", seconds=round(time.monotonic() - began, 3))
                    done.append(True)

            stream.on_agreed = lambda: stream.send(payload, fin=True)
            stream.on_data = received

        for _ in range(streams):
            one()

    connection.on_done = ping if test == "ping" else echo
    peer.flush()
    deadline = time.monotonic() + 60
    while not done and peer.connections and time.monotonic() < deadline:
        peer.turn()
    if peer.connections:
        connection.engine.close(0x1006, "done", time.monotonic())
        peer.flush()
    return bool(done) and all(done)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["listen", "dial"])
    parser.add_argument("--ip", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--to", default="")
    parser.add_argument("--test", default="ping")
    parser.add_argument("--bytes", type=int, default=1 << 20)
    parser.add_argument("--streams", type=int, default=1)
    options = parser.parse_args()
    peer = Peer(options.ip, options.engine, options.role)
    if options.role == "listen":
        listen(peer, options.ip)
    return 0 if dial(peer, options.to, options.test, options.bytes, options.streams) else 1


if __name__ == "__main__":
    sys.exit(main())
