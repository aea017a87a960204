"""The suite passes without any forwarder and fails through each kind of bad one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pt.tunnel.selftest import CASES, run_case, serve
from pt.tunnel.selftest.wire import ExactnessError, Verifier, pattern

MIB = 1024 * 1024
SLOW = {"slow-reader", "slow-service", "speaks-first"}


STOP = threading.Event()


@contextlib.contextmanager
def forwarder(carry: Callable[[socket.socket, socket.socket], None], port: int) -> Iterator[int]:
    """Listen, connect each client to `port`, and `carry` each direction in a thread."""
    socks: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                socks.append(client)
                target = socket.socket()
                socks.append(target)
                try:
                    target.connect(("127.0.0.1", port))
                except OSError:
                    client.close()
                    continue
                for pair in ((client, target), (target, client)):
                    start(quiet, *pair)

    def start(target: Callable[..., None], *args: object) -> None:
        threads.append(threading.Thread(target=target, args=args, daemon=True))
        threads[-1].start()

    def quiet(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            carry(source, sink)

    STOP.clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start(accept)
        yield listener.getsockname()[1]
        STOP.set()
        listener.shutdown(socket.SHUT_RDWR)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for sock in socks:
            sock.close()


def exact_but_for_resets(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def closes_both_at_the_first_fin(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    for sock in (source, sink):
        sock.shutdown(socket.SHUT_RDWR)


def turns_resets_into_fins(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while data := source.recv(65536):
            sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def loses_the_last_byte(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data[:-1] if len(data) > 1000 else data)
    sink.shutdown(socket.SHUT_WR)


def never_ends(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    STOP.wait()


def swallows_everything(source: socket.socket, sink: socket.socket) -> None:
    pieces = []
    while data := source.recv(MIB):
        pieces.append(data)
        if len(data) < 100:
            sink.sendall(pieces.pop())
    for piece in pieces:
        sink.sendall(piece)
    sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("name", sorted(CASES.keys() - SLOW))
def test_without_a_forwarder_all_is_exact(name: str) -> None:
    with serve() as service, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        dead = reserved.getsockname()[1]
        result = run_case(name, "127.0.0.1", service.port, refused_port=dead, size=2 * MIB)
    assert result.ok, result
    assert not result.skipped
    assert result.detail


@pytest.mark.parametrize("name", ["fin", "half-close-client", "half-close-service", "duplex"])
def test_an_exact_forwarder_passes(name: str) -> None:
    with serve() as service, forwarder(exact_but_for_resets, service.port) as port:
        result = run_case(name, "127.0.0.1", port, size=2 * MIB)
    assert result.ok, result


@pytest.mark.parametrize(
    ("carry", "name"),
    [
        (closes_both_at_the_first_fin, "half-close-client"),
        (closes_both_at_the_first_fin, "half-close-service"),
        (turns_resets_into_fins, "reset-service"),
        (turns_resets_into_fins, "reset-client"),
        (loses_the_last_byte, "duplex"),
        (loses_the_last_byte, "half-close-client"),
        (loses_the_last_byte, "fin"),
        (never_ends, "fin"),
        (swallows_everything, "slow-reader"),
    ],
)
def test_a_bad_forwarder_fails(carry: Callable, name: str) -> None:
    with serve() as service, forwarder(carry, service.port) as port:
        result = run_case(name, "127.0.0.1", port, size=2 * MIB)
    assert not result.ok, result
    assert result.detail


def test_a_refused_connection_must_be_a_reset() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with forwarder(
            exact_but_for_resets, reserved.getsockname()[1]
        ) as port:  # its client gets a FIN
            result = run_case("refused", "127.0.0.1", 1, refused_port=port)
    assert not result.ok
    assert "FIN" in result.detail


def test_without_a_dead_target_its_case_is_skipped_and_says_so() -> None:
    result = run_case("refused", "127.0.0.1", 1)
    assert result.skipped
    assert result.detail


def test_nobody_there_is_a_failure() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        assert not run_case("fin", "127.0.0.1", reserved.getsockname()[1]).ok


def test_the_verifier_tells_where() -> None:
    check = Verifier()
    check.feed(pattern(0, 5000))
    wrong = bytearray(pattern(5000, 100))
    wrong[7] ^= 1
    with pytest.raises(ExactnessError, match="byte 5007 "):
        check.feed(bytes(wrong))


@pytest.mark.parametrize("shift", [1, 4096, 65536, MIB])
def test_the_pattern_shows_lost_and_doubled_pieces(shift: int) -> None:
    check = Verifier()
    check.feed(pattern(0, 10_000))
    with pytest.raises(ExactnessError):
        check.feed(pattern(10_000 + shift, 64))
