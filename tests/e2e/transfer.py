"""Bytes both ways through one connection, each of them checked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pt.tunnel.selftest.wire import Verifier, pattern

PATIENCE = 180.0
CHUNK = 256 * 1024


@dataclass
class Transfer:
    """One connection, full in both directions; every byte is checked where it arrives."""

    client: socket.socket
    service: socket.socket
    size: int
    received: dict[str, int] = field(default_factory=lambda: {"client": 0, "service": 0})
    failures: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    _stopping: bool = False
    _moved: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> list[threading.Thread]:
        threads = []
        for name, sock in (("client", self.client), ("service", self.service)):
            sock.settimeout(PATIENCE)
            threads += [
                threading.Thread(target=self._guard, args=(work, name, sock), daemon=True)
                for work in (self._send, self._receive)
            ]
        for thread in threads:
            thread.start()
        return threads

    def _guard(
        self, work: Callable[[str, socket.socket], None], name: str, sock: socket.socket
    ) -> None:
        try:
            work(name, sock)
        except Exception as error:  # noqa: BLE001  # told in the test's thread
            with self._moved:
                self.failures.append(f"{name} {work.__name__}: {error!r} after {self.received}")
                self._moved.notify_all()

    def _send(self, name: str, sock: socket.socket) -> None:
        # The two directions differ, so that bytes in the wrong one are seen.
        offset = 0 if name == "client" else 12_345
        end = offset + self.size
        start = offset
        while offset < end and not self._stopping:
            piece = pattern(offset, min(CHUNK, end - offset))
            sock.sendall(piece)
            offset += len(piece)
        self.sent[name] = offset - start
        sock.shutdown(socket.SHUT_WR)

    def _receive(self, name: str, sock: socket.socket) -> None:
        check = Verifier()
        start = check.count = 12_345 if name == "client" else 0
        while data := sock.recv(CHUNK):
            check.feed(data)
            with self._moved:
                self.received[name] = check.count - start
                self._moved.notify_all()

    def wait_for(self, total: int) -> None:
        """Wait until so many bytes have arrived, both directions together."""
        with self._moved:
            arrived = self._moved.wait_for(
                lambda: bool(self.failures) or sum(self.received.values()) >= total, PATIENCE
            )
        assert not self.failures, self.failures
        assert arrived, f"stuck at {self.received}"

    def stop(self) -> None:
        """Send no more, on either side."""
        self._stopping = True

    def finish(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(PATIENCE)
        assert not self.failures, self.failures
        assert self.received == {"client": self.sent["service"], "service": self.sent["client"]}
        if not self._stopping:
            assert set(self.sent.values()) == {self.size}
