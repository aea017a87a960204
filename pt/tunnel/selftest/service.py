"""The service side of the wire-exactness suite.

A client sends one line, `VERB [ARG ...]` and a newline; what follows depends on the verb:

| verb            | the service                                                                |
|-----------------|----------------------------------------------------------------------------|
| echo            | sends back every byte, then FIN after the client's FIN                     |
| source N        | sends N bytes of the pattern, then closes                                  |
| progress T N    | the same, and notes under token T how many the kernel has taken so far     |
| digest          | reads to the FIN, then answers `COUNT SHA256`: a reply after half-close    |
| sink T          | reads to the end and notes under T how it ended: `fin N`, `reset N`, `bad` |
| stall T S       | waits S seconds, then as sink                                              |
| duplex T N      | sends N bytes and FIN while it does what sink does                         |
| first T N       | sends N bytes and FIN at once, then does what sink does                    |
| reset N         | sends N bytes, waits for one byte, then resets                             |
| report T        | answers what is noted under T (waits for it if `?` is not appended)        |

A client that says nothing for a while is greeted with `BANNER`: services may speak first.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from typing import Final, Self

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

__all__ = ["BANNER", "CaseServer", "serve"]

BANNER: Final = b"BANNER\n"
BANNER_AFTER: Final = 0.5
BACKLOG: Final = 1024
REPORT_TIMEOUT: Final = 20.0
MAX_NOTES: Final = 10_000


class CaseServer:
    """A listening service; a thread a connection. Use as a context manager, or `close` it."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._notes: dict[str, str] = {}
        self._noted = threading.Condition()
        self._thread = threading.Thread(target=self._accept, name="case-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop accepting; connections under way end by themselves."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def wait(self) -> None:
        """Block until closed."""
        self._thread.join()

    def note(self, token: str, text: str) -> None:
        """Remember the outcome of one connection."""
        with self._noted:
            if len(self._notes) >= MAX_NOTES:
                self._notes.clear()
            self._notes[token] = text
            self._noted.notify_all()

    def noted(self, token: str, *, wait: bool) -> str:
        """Return the note under `token`, "none" if there is none (yet)."""
        with self._noted:
            if wait:
                self._noted.wait_for(lambda: token in self._notes, REPORT_TIMEOUT)
            return self._notes.get(token, "none")

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(BANNER_AFTER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                sock.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                sock.sendall(BANNER)
            sock.settimeout(IO_TIMEOUT)
            words = read_line(sock).split()
            if words:
                _behave(self, sock, words[0], words[1:])


def serve(port: int = 0, host: str = "127.0.0.1") -> CaseServer:
    """Start the service; `.port` tells the port when 0 was asked for."""
    return CaseServer(host, port)


def _behave(server: CaseServer, sock: socket.socket, verb: str, args: list[str]) -> None:
    match verb, args:
        case "echo", []:
            while data := sock.recv(CHUNK):
                sock.sendall(data)
        case "source", [count]:
            send_pattern(sock, int(count))
        case "progress", [token, count]:
            _progress(server, sock, token, int(count))
        case "digest", []:
            _digest(sock)
        case "sink", [token]:
            _sink(server, sock, token)
        case "stall", [token, seconds]:
            threading.Event().wait(float(seconds))
            _sink(server, sock, token)
        case "first", [token, count]:
            send_pattern(sock, int(count))
            sock.shutdown(socket.SHUT_WR)
            _sink(server, sock, token)
        case "duplex", [token, count]:
            reader = threading.Thread(target=_sink, args=(server, sock, token), daemon=True)
            reader.start()
            send_pattern(sock, int(count))
            sock.shutdown(socket.SHUT_WR)
            reader.join()
        case "reset", [count]:
            send_pattern(sock, int(count))
            sock.recv(1)
            reset(sock)
        case "report", [token]:
            text = server.noted(token.rstrip("?"), wait=not token.endswith("?"))
            sock.sendall(text.encode() + b"\n")
        case _:
            sock.sendall(b"ERROR unknown command\n")


def _progress(server: CaseServer, sock: socket.socket, token: str, count: int) -> None:
    sent = 0
    while sent < count:
        sent += sock.send(pattern(sent, min(CHUNK, count - sent)))
        server.note(token, str(sent))


def _digest(sock: socket.socket) -> None:
    digest, count = hashlib.sha256(), 0
    while data := sock.recv(CHUNK):
        digest.update(data)
        count += len(data)
    sock.sendall(f"{count} {digest.hexdigest()}\n".encode())


def _sink(server: CaseServer, sock: socket.socket, token: str) -> None:
    check = Verifier()
    try:
        while data := sock.recv(CHUNK):
            check.feed(data)
    except ConnectionResetError:
        server.note(token, f"reset {check.count}")
    except TimeoutError:
        server.note(token, f"hung {check.count}")
    except ExactnessError as error:
        server.note(token, f"bad {error}")
    else:
        server.note(token, f"fin {check.count}")
