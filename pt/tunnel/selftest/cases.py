"""The driver side of the wire-exactness suite: one function a case, judged by what sockets show.

Each case talks to the service (`pt.tunnel.selftest.service`) through HOST:PORT and raises
`ExactnessError` when the forwarder is not transparent. `run_case` turns that into a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from pt.tunnel.selftest.service import BANNER
from pt.tunnel.selftest.wire import (
    CHUNK,
    IO_TIMEOUT,
    ExactnessError,
    Verifier,
    pattern,
    read_line,
    reset,
    send_pattern,
)

__all__ = ["CASES", "CaseResult", "Driver", "run_case"]

MIB: Final = 1024 * 1024
DEFAULT_SIZE: Final = 32 * MIB
HELD_LIMIT: Final = 64 * MIB
"""The most a forwarder may hold for a reader that sleeps: a full 16 MiB window each for stream and
replay, and the kernel's socket buffers of three hops."""
STALLED_SIZE: Final = 2 * HELD_LIMIT
QUIET: Final = 0.7
"""Seconds without progress after which a sender counts as held back."""
PROMPT: Final = 5.0
"""Seconds within which an end must arrive."""
SHORT_CONNECTIONS: Final = 500
SHORT_WORKERS: Final = 20
PARALLEL: Final = 64
PING_PONGS: Final = 300
ONE_BYTE_WRITES: Final = 20_000
_tokens = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How one case went; `detail` is the failure, or what was seen."""

    name: str
    title: str
    ok: bool
    seconds: float
    detail: str
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Driver:
    """Where the forwarder listens, and how much the bulk cases move (bytes, each way)."""

    host: str
    port: int
    refused_port: int | None = None
    size: int = DEFAULT_SIZE
    tag: str = field(default_factory=lambda: f"{os.getpid()}-{next(_tokens)}")

    def connect(self, command: str = "") -> socket.socket:
        """Open a connection and send the command line."""
        sock = socket.create_connection((self.host, self.port), IO_TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if command:
            sock.sendall(command.encode() + b"\n")
        return sock

    def token(self) -> str:
        """A name under which the service can note an outcome."""
        return f"{self.tag}-{next(_tokens)}"

    def report(self, token: str, *, wait: bool = True) -> str:
        """What the service noted."""
        with self.connect(f"report {token}" if wait else f"report {token}?") as sock:
            return read_line(sock)


def _expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise ExactnessError(f"{what}: expected {wanted}, got {seen}")


def _read_pattern(sock: socket.socket, length: int) -> None:
    """Read exactly `length` bytes of the pattern and then the FIN."""
    check = Verifier()
    while data := sock.recv(CHUNK):
        check.feed(data)
    _expect(check.count, length, "bytes before the FIN")


def _read_exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise ExactnessError(f"the connection ended after {len(data)} of {length} bytes")
        data += piece
    return bytes(data)


def _sent_by(target: Callable[[], None]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(OSError):  # the reading side sees and reports the failure
            target()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def fin(drive: Driver) -> str:
    """The service's FIN arrives, after all its bytes and without a reset."""
    with drive.connect("source 0") as sock:
        sock.settimeout(PROMPT)
        _expect(sock.recv(1), b"", "an empty reply")
    with drive.connect(f"source {8 * MIB}") as sock:
        threading.Event().wait(0.3)  # let the service close before the first read
        _read_pattern(sock, 8 * MIB)
    return "8 MiB, then FIN"


def speaks_first(drive: Driver) -> str:
    """A service that speaks first is heard by a client that says nothing."""
    with drive.connect() as sock:
        sock.settimeout(PROMPT)
        _expect(_read_exactly(sock, len(BANNER)), BANNER, "the greeting")
        sock.sendall(b"echo\nx")
        _expect(_read_exactly(sock, 1), b"x", "the echo after it")
    return "greeting received"


def half_close_client(drive: Driver) -> str:
    """The client's FIN arrives and the reply after it still comes back."""
    length = 4 * MIB + 1
    with drive.connect("digest") as sock:
        send_pattern(sock, length)
        sock.shutdown(socket.SHUT_WR)
        reply = read_line(sock)
        _expect(sock.recv(1), b"", "bytes after the reply")
    digest = hashlib.sha256()
    for offset in range(0, length, CHUNK):
        digest.update(pattern(offset, min(CHUNK, length - offset)))
    _expect(reply, f"{length} {digest.hexdigest()}", "the reply")
    return "reply after half-close complete, hash equal"


def half_close_service(drive: Driver) -> str:
    """After the service's FIN the client may go on sending."""
    token = drive.token()
    with drive.connect(f"first {token} {MIB}") as sock:
        _read_pattern(sock, MIB)
        send_pattern(sock, MIB + 1)
    _expect(drive.report(token), f"fin {MIB + 1}", "the service saw")
    return "1 MiB sent after the service's FIN"


def reset_by_service(drive: Driver) -> str:
    """The service's RST arrives as RST, not as FIN."""
    with drive.connect(f"reset {MIB}") as sock:
        _read_exactly(sock, MIB)
        sock.sendall(b"!")
        sock.settimeout(PROMPT)
        with contextlib.suppress(ConnectionResetError):
            seen = sock.recv(1)
            raise ExactnessError(f"expected a reset, got {seen!r} (a FIN)")
    return "reset seen by the client"


def reset_by_client(drive: Driver) -> str:
    """The client's RST arrives as RST, not as FIN."""
    token = drive.token()
    with drive.connect(f"sink {token}") as sock:
        send_pattern(sock, MIB)
        reset(sock)
    outcome = drive.report(token)
    _expect(outcome.split()[0], "reset", f"the service saw {outcome!r}")
    return "reset seen by the service"


def refused(drive: Driver) -> str:
    """A client of a target that refuses is closed at once, with a reset."""
    if drive.refused_port is None:
        raise ExactnessError("no port of a dead target was given")
    started = time.monotonic()
    try:
        with socket.create_connection((drive.host, drive.refused_port), PROMPT) as sock:
            sock.settimeout(PROMPT)
            seen = sock.recv(1)
    except (ConnectionResetError, ConnectionRefusedError) as error:
        return f"{type(error).__name__} after {(time.monotonic() - started) * 1000:.0f} ms"
    raise ExactnessError(f"expected a reset, got {seen!r} (a FIN)")


def slow_reader(drive: Driver) -> str:
    """A client that does not read holds the service back; nothing is lost."""
    token = drive.token()
    with drive.connect(f"progress {token} {STALLED_SIZE}") as sock:
        held, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET:
            threading.Event().wait(0.1)
            note = drive.report(token, wait=False)
            sent = 0 if note == "none" else int(note)
            if sent != held:
                held, since = sent, time.monotonic()
        if held > HELD_LIMIT:
            raise ExactnessError(f"{held / MIB:.1f} MiB taken for a client that does not read")
        _read_pattern(sock, STALLED_SIZE)
    return f"{held / MIB:.1f} MiB held, then {STALLED_SIZE // MIB} MiB exact"


def slow_service(drive: Driver) -> str:
    """A service that does not read holds the client back; nothing is lost."""
    token = drive.token()
    with drive.connect(f"stall {token} {3 * QUIET:.1f}") as sock:
        sock.settimeout(QUIET)
        held = 0
        with contextlib.suppress(TimeoutError):
            while held < STALLED_SIZE:
                held += sock.send(pattern(held, min(CHUNK, STALLED_SIZE - held)))
        if held > HELD_LIMIT:
            raise ExactnessError(f"{held / MIB:.1f} MiB taken for a service that does not read")
        sock.settimeout(IO_TIMEOUT)
        send_pattern(sock, STALLED_SIZE - held, held)
    _expect(drive.report(token), f"fin {STALLED_SIZE}", "the service saw")
    return f"{held / MIB:.1f} MiB held, then {STALLED_SIZE // MIB} MiB exact"


def one_byte(drive: Driver) -> str:
    """Single bytes pass at once, and by the thousand in order."""
    with drive.connect("echo") as sock:
        laps = []
        for number in range(PING_PONGS):
            started = time.monotonic()
            sock.sendall(bytes([number % 256]))
            _expect(sock.recv(2), bytes([number % 256]), f"echo {number}")
            laps.append(time.monotonic() - started)

        def send() -> None:
            for number in range(ONE_BYTE_WRITES):
                sock.sendall(pattern(number, 1))
            sock.shutdown(socket.SHUT_WR)

        thread = _sent_by(send)
        _read_pattern(sock, ONE_BYTE_WRITES)
        thread.join()
    laps.sort()
    return f"{ONE_BYTE_WRITES} writes exact, round trip p50 {laps[len(laps) // 2] * 1e6:.0f} us"


def duplex(drive: Driver) -> str:
    """Both directions full at once, each with its own FIN."""
    token = drive.token()
    started = time.monotonic()
    with drive.connect(f"duplex {token} {drive.size}") as sock:

        def send() -> None:
            send_pattern(sock, drive.size)
            sock.shutdown(socket.SHUT_WR)

        thread = _sent_by(send)
        _read_pattern(sock, drive.size)
        thread.join()
    _expect(drive.report(token), f"fin {drive.size}", "the service saw")
    rate = 2 * drive.size / MIB / (time.monotonic() - started)
    return f"{drive.size / MIB:.0f} MiB each way at once, {rate:.0f} MiB/s"


def short_connections(drive: Driver) -> str:
    """Many short connections, several at a time, each complete."""

    def one(number: int) -> None:
        length = 1 + number * 37 % 9000
        with drive.connect("echo") as sock:
            send_pattern(sock, length, number)
            sock.shutdown(socket.SHUT_WR)
            _expect(_read_exactly(sock, length), bytes(pattern(number, length)), "the echo")
            _expect(sock.recv(1), b"", f"bytes after the echo of connection {number}")

    started = time.monotonic()
    with ThreadPoolExecutor(SHORT_WORKERS) as pool:
        list(pool.map(one, range(SHORT_CONNECTIONS)))
    rate = SHORT_CONNECTIONS / (time.monotonic() - started)
    return f"{SHORT_CONNECTIONS} connections, {rate:.0f}/s"


def parallel(drive: Driver) -> str:
    """Many connections open at once do not disturb one another."""
    length = 256 * 1024
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(drive.connect("echo")) for _ in range(PARALLEL)]

        def one(sock: socket.socket) -> None:
            def send() -> None:
                send_pattern(sock, length)
                sock.shutdown(socket.SHUT_WR)

            thread = _sent_by(send)
            _read_pattern(sock, length)
            thread.join()

        with ThreadPoolExecutor(SHORT_WORKERS) as pool:
            list(pool.map(one, socks))
    return f"{PARALLEL} connections x {length // 1024} KiB"


CASES: Final[dict[str, Callable[[Driver], str]]] = {
    "fin": fin,
    "speaks-first": speaks_first,
    "half-close-client": half_close_client,
    "half-close-service": half_close_service,
    "reset-service": reset_by_service,
    "reset-client": reset_by_client,
    "refused": refused,
    "slow-reader": slow_reader,
    "slow-service": slow_service,
    "one-byte": one_byte,
    "duplex": duplex,
    "short-connections": short_connections,
    "parallel": parallel,
}
"""In the order they are run."""


def run_case(
    name: str, host: str, port: int, *, refused_port: int | None = None, size: int = DEFAULT_SIZE
) -> CaseResult:
    """Run one case of `CASES` through the forwarder at `host`:`port`.

    `refused_port` is a forwarder's port whose target refuses (without it that case is skipped);
    `size` is what the duplex case moves each way, in bytes.
    """
    case = CASES[name]
    title = (case.__doc__ or name).splitlines()[0]
    if case is refused and refused_port is None:
        detail = "no port with a dead target given"
        return CaseResult(name=name, title=title, ok=True, seconds=0.0, detail=detail, skipped=True)
    started = time.monotonic()
    try:
        detail, ok = case(Driver(host, port, refused_port, size)), True
    except ExactnessError as error:
        detail, ok = str(error), False
    except OSError as error:
        hung = isinstance(error, TimeoutError)
        detail, ok = ("hung: nothing came in time" if hung else f"unexpected: {error}"), False
    seconds = time.monotonic() - started
    return CaseResult(name=name, title=title, ok=ok, seconds=seconds, detail=detail)
