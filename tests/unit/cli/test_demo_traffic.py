from __future__ import annotations

import socket
import threading

import pytest

from pt.cli.demo_traffic import PAGE, DemoService, Transfer, get_with_half_close

MIB = 1024 * 1024


def test_the_page_comes_whole_after_our_fin() -> None:
    with DemoService() as service:
        body, expected = get_with_half_close(service.port)
    assert body == expected == PAGE


def test_a_browser_needs_no_half_close() -> None:
    with (
        DemoService() as service,
        socket.create_connection(("127.0.0.1", service.port), 10) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        reply = b""
        while data := sock.recv(65536):
            reply += data
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(PAGE)


@pytest.mark.parametrize("size", [1, MIB, 3 * MIB + 7])
def test_a_transfer_of_a_size(size: int) -> None:
    with DemoService() as service:
        transfer = Transfer(service.port, size, None)
        transfer.run()
    assert transfer.error == ""
    assert transfer.received == size
    assert transfer.under_way.is_set()


def test_a_transfer_of_a_time() -> None:
    with DemoService() as service:
        transfer = Transfer(service.port, MIB, 0.2)
        transfer.run()
    assert transfer.error == ""
    assert transfer.received > 0
    assert transfer.seconds >= 0.2


def answering(change) -> tuple[socket.socket, threading.Thread]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(MIB):
                sock.sendall(change(data.removeprefix(b"ECHO\n")))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:-1] + b"\xaa"],
    ids=["lost", "more", "other"],
)
def test_a_change_on_the_way_is_seen(change) -> None:
    listener, thread = answering(change)
    with listener:
        transfer = Transfer(listener.getsockname()[1], 5000, None)
        transfer.run()
        thread.join(10)
    assert "not what was sent" in transfer.error


def test_nobody_there() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        transfer = Transfer(reserved.getsockname()[1], 1, None)
        transfer.run()
    assert "broke" in transfer.error
    assert transfer.under_way.is_set()  # whoever waits for it does not hang
