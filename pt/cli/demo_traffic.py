"""The demonstration's service and its clients: plain blocking sockets, as any application's."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from typing import Final, Self

__all__ = ["DemoService", "Transfer", "get_with_half_close"]

CHUNK: Final = 256 * 1024
IO_TIMEOUT: Final = 60.0
MAX_REQUEST: Final = 8192
PAGE: Final = b"<h1>It works</h1>\n" + b"This page came through a pt tunnel.\n" * 2048
ECHO: Final = b"ECHO\n"
_DATA: Final = random.Random(22).randbytes(CHUNK)  # noqa: S311  # any bytes will do


class DemoService:
    """A listening service: HTTP GET gets a page, a line `ECHO` makes it an echo."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=_serve, args=(sock,), daemon=True).start()


def _serve(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        sock.settimeout(IO_TIMEOUT)
        request = b""
        while b"\n" not in request and len(request) < MAX_REQUEST:
            piece = sock.recv(CHUNK)
            if not piece:
                return
            request += piece
        if request.startswith(ECHO):
            sock.sendall(request[len(ECHO) :])
            while data := sock.recv(CHUNK):
                sock.sendall(data)
            return
        # /slow answers only after the client's FIN: half-close must get through for that.
        slow = request.startswith(b"GET /slow ")
        while (slow or b"\r\n\r\n" not in request) and len(request) < MAX_REQUEST:
            piece = sock.recv(CHUNK)
            if not piece:
                break
            request += piece
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n"
        sock.sendall(head.encode() + b"Connection: close\r\n\r\n" + PAGE)


def get_with_half_close(port: int) -> tuple[bytes, bytes]:
    """Ask for the page, send our FIN, read to the end; what came, and what should have."""
    reply = bytearray()
    with socket.create_connection(("127.0.0.1", port), IO_TIMEOUT) as sock:
        sock.sendall(b"GET /slow HTTP/1.1\r\nHost: demo\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(CHUNK):
            reply += data
    return bytes(reply.partition(b"\r\n\r\n")[2]), PAGE


class Transfer:
    """Sends through the echo and takes back, both at once; compares the hashes.

    `size` is in bytes; with `seconds` it sends for that long instead. `under_way` is set when about
    a third is through.
    """

    def __init__(self, port: int, size: int, seconds: float | None) -> None:
        self._port = port
        self._size = size
        self._deadline_after = seconds
        self._sock: socket.socket | None = None
        self._sent = hashlib.sha256()
        self.received = 0
        self.seconds = 0.0
        self.error = ""
        self.under_way = threading.Event()

    def run(self) -> None:
        """Move it all; `error` tells what went wrong, if anything."""
        started = time.monotonic()
        came = hashlib.sha256()
        try:
            with socket.create_connection(("127.0.0.1", self._port), IO_TIMEOUT) as sock:
                self._sock = sock
                sock.sendall(ECHO)
                sender = threading.Thread(target=self._send, args=(sock, started), daemon=True)
                sender.start()
                while data := sock.recv(CHUNK):
                    came.update(data)
                    self.received += len(data)
                    if self._share(started, self.received) > 1 / 3:
                        self.under_way.set()
                sender.join()
        except OSError as error:
            self.error = f"the connection broke: {error}"
        self.under_way.set()
        self.seconds = time.monotonic() - started
        if not self.error and came.digest() != self._sent.digest():
            self.error = "what came back is not what was sent"

    def abort(self) -> None:
        """End it now."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _share(self, started: float, moved: int) -> float:
        if self._deadline_after is not None:
            return (time.monotonic() - started) / self._deadline_after
        return moved / self._size

    def _send(self, sock: socket.socket, started: float) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while self._share(started, sent) < 1:
                # Every piece differs, or pieces lost or swapped would go unseen.
                piece = sent.to_bytes(8, "big") + _DATA[8:]
                if self._deadline_after is None:
                    piece = piece[: self._size - sent]
                sock.sendall(piece)
                self._sent.update(piece)
                sent += len(piece)
            sock.shutdown(socket.SHUT_WR)
