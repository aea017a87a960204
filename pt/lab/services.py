"""What punchers ask on the public host s1: a reflector, and a STUN server with two addresses."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from typing import Final, Self

from pt.lab.lab import Lab
from pt.stun.limits import Allowance
from pt.stun.server import Place, Server

__all__ = ["REFLECTOR_PORT", "STUN_PORTS", "Services"]

REFLECTOR_PORT: Final = 7
STUN_PORTS: Final = (3478, 3479)
_GENEROUS: Final = 1e6
"""Requests a second of one address: nobody is a stranger here."""


class Services:
    """Answers on both IPv4 addresses of s1, in a thread; use it in a `with` block."""

    def __init__(self, lab: Lab) -> None:
        addresses = [each for each in lab["s1"].addresses if ":" not in each]
        places = {
            Place(ip, port): (addresses[ip], STUN_PORTS[port]) for ip in (0, 1) for port in (0, 1)
        }
        self._stun = Server(places, allowance=Allowance(rate=_GENEROUS, burst=_GENEROUS))
        self._selector = selectors.DefaultSelector()
        self._places: dict[Place, socket.socket] = {}
        self._stop, stopper = os.pipe()
        self._stopper = stopper
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        with lab["s1"].inside():
            for place, address in places.items():
                self._places[place] = self._open(address, place)
            self._reflectors = [
                self._open((address, REFLECTOR_PORT), "reflector") for address in addresses
            ]
            self._listeners = [
                socket.create_server((address, REFLECTOR_PORT)) for address in addresses
            ]
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, "tcp")
        self._thread = threading.Thread(target=self._serve, name="lab services", daemon=True)

    def _open(self, address: tuple[str, int], kind: object) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(address)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, kind)
        return sock

    @property
    def environment(self) -> dict[str, str]:
        """What tells programs of them."""
        stun = [self._stun.places[Place(0, 0)], self._stun.places[Place(1, 1)]]
        reflectors = [sock.getsockname() for sock in self._reflectors]
        return {
            "PT_LAB_STUN": " ".join(f"{ip}:{port}" for ip, port in stun),
            "PT_LAB_REFLECTOR": " ".join(f"{ip}:{port}" for ip, port in reflectors),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stopper, b"x")
        self._thread.join()
        self._selector.close()
        for sock in (*self._places.values(), *self._reflectors, *self._listeners):
            sock.close()
        os.close(self._stop)
        os.close(self._stopper)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if key.data == "tcp":
                        self._greet(sock)
                        continue
                    data, source = sock.recvfrom(2048)
                    self._answer(sock, key.data, data, source)
                except OSError:  # an ICMP error about an answer; or its target is unreachable
                    continue

    @staticmethod
    def _greet(listener: socket.socket) -> None:
        """Tell who connects where it comes from."""
        accepted, source = listener.accept()
        with accepted:
            accepted.send(f"{source[0]}:{source[1]}".encode())

    def _answer(
        self, sock: socket.socket, kind: object, data: bytes, source: tuple[str, int]
    ) -> None:
        if not isinstance(kind, Place):
            sock.sendto(f"{source[0]}:{source[1]}".encode(), source)
            return
        answer = self._stun.receive(data, source, kind, time.monotonic())
        if answer is not None:
            self._places[answer.place].sendto(answer.data, answer.to)
