"""`python -m bench.micro`: the hot loops of the data path alone, one process, no sockets.

Each line is the best of several repeats, so that a busy machine disturbs little: microseconds of
CPU a call, and CPU seconds a GB (10⁹ bytes) of payload where a payload moves. It locates a loss of
speed; what a user gets is measured by bench.run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pt.noise.handshake import Suite
from pt.noise.transport import MAX_PLAINTEXT, Opener, Sealer
from pt.wire import multiaddr, uvarint
from pt.yamux.frames import DATA, HEADER, HEADER_LEN, MAX_PAYLOAD
from pt.yamux.session import Limits, Session
from pt.yamux.stream import Stream

__all__ = ["main"]

KEY = bytes(range(32))
ADDRESS = "/ip4/11.1.0.1/tcp/4001/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


class Case(NamedTuple):
    """`run(n)` does the thing `n` times; each moves `size` bytes of payload."""

    name: str
    size: int
    run: Callable[[int], None]


class _Reader:
    """A stream's handler that consumes at once, as a fast local socket does."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def data_received(self, data: memoryview) -> None:
        self.stream.credit(len(data))

    def eof_received(self) -> None:
        """Not sent here."""

    def window_opened(self) -> None:
        """Not waited for here."""

    def stream_acked(self) -> None:
        """Not waited for here."""

    def stream_lost(self, code: int | None) -> None:
        """Not sent here."""


def _seal(suite: Suite, size: int) -> Case:
    sealer = Sealer(suite, KEY)
    out = memoryview(bytearray(size + 18))

    def run(count: int) -> None:
        seal, plain = sealer.seal_into, out[2 : 2 + size]
        for _ in range(count):
            seal(plain, out)

    return Case(f"noise seal {suite.name.lower()} {size} B, in place", size, run)


def _open(suite: Suite, size: int) -> Case:
    sealer, opener = Sealer(suite, KEY), Opener(suite, KEY)
    batch = 64
    room = memoryview(bytearray(batch * (size + 18)))
    plain = bytes(size)

    def run(count: int) -> None:
        # Sealing the next batch is part of it: subtract the line above to get opening alone.
        for _ in range(count // batch):
            frames = [room[i * (size + 18) : (i + 1) * (size + 18)] for i in range(batch)]
            for frame in frames:
                sealer.seal_into(plain, frame)
            for frame in frames:
                opener.open(frame[2:])

    return Case(f"noise seal + open {suite.name.lower()} {size} B", size, run)


def _parse(size: int) -> Case:
    def accept(stream: Stream) -> None:
        stream.handler = _Reader(stream)

    session = Session(
        initiator=False, clock=time.monotonic, on_stream=accept, limits=Limits(streams=4)
    )
    session.receive(memoryview(HEADER.pack(0, DATA, 1, 1, 0)))
    session.end_batch()
    frames = max(1, MAX_PLAINTEXT // (size + HEADER_LEN))
    message = memoryview((HEADER.pack(0, DATA, 0, 1, size) + bytes(size)) * frames)

    def run(count: int) -> None:
        for _ in range(count // frames or 1):
            session.receive(message)
            session.outgoing.clear()

    return Case(f"yamux receive, DATA of {size} B", size, run)


def _header() -> Case:
    session = Session(initiator=True, clock=time.monotonic, on_stream=lambda _: None)
    stream = session.open()
    slot = memoryview(bytearray(HEADER_LEN + MAX_PAYLOAD))

    def run(count: int) -> None:
        for _ in range(count):
            stream.send_window = MAX_PAYLOAD
            session.write_header(stream, slot, MAX_PAYLOAD)

    return Case(f"yamux header of a DATA of {MAX_PAYLOAD} B", MAX_PAYLOAD, run)


def _small() -> Case:
    session = Session(initiator=True, clock=time.monotonic, on_stream=lambda _: None)
    stream = session.open()

    def run(count: int) -> None:
        for _ in range(count):
            stream.send_window = 100
            session.queue_data(stream, b"x")
            session.outgoing.clear()

    return Case("yamux queue a DATA of 1 B", 1, run)


def _streams() -> Case:
    session = Session(initiator=True, clock=time.monotonic, on_stream=lambda _: None)

    def run(count: int) -> None:
        for _ in range(count):
            stream = session.open()
            session.announce(stream)
            stream.open_acked = True
            session._unacked = 0  # as if the peer had answered
            stream.reset()
            session.outgoing.clear()

    return Case("yamux open and reset a stream", 0, run)


def _wire() -> Iterator[Case]:
    packed = multiaddr.Multiaddr.parse(ADDRESS).encode()

    def varint(count: int) -> None:
        for _ in range(count):
            uvarint.decode(b"\xac\x02")

    def address(count: int) -> None:
        for _ in range(count):
            multiaddr.Multiaddr.decode(packed)

    yield Case("uvarint decode, 2 B", 0, varint)
    yield Case("multiaddr decode, with a peer id", 0, address)


def _cases() -> Iterator[Case]:
    for suite in Suite:
        for size in (64, 1024, MAX_PLAINTEXT):
            yield _seal(suite, size)
            yield _open(suite, size)
    for size in (1, 1024, MAX_PAYLOAD):
        yield _parse(size)
    yield _header()
    yield _small()
    yield _streams()
    yield from _wire()


def _best(case: Case, seconds: float, repeats: int) -> float:
    """CPU seconds a call."""
    count = 64
    while True:
        began = time.process_time()
        case.run(count)
        if (took := time.process_time() - began) >= seconds / repeats:
            break
        count *= 2
    best = took
    for _ in range(repeats - 1):
        began = time.process_time()
        case.run(count)
        best = min(best, time.process_time() - began)
    return best / count


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.micro", description=__doc__)
    parser.add_argument("filter", nargs="?", default="", help="only cases with this in their name")
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU time of each case")
    args = parser.parse_args()
    print(f"{'':48} {'µs a call':>10} {'CPU s/GB':>10}")
    for case in _cases():
        if args.filter in case.name:
            cost = _best(case, args.seconds, 5)
            share = f"{cost / case.size * 1e9:10.3f}" if case.size else ""
            print(f"{case.name:48} {cost * 1e6:10.3f} {share}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
