"""A STUN server on loopback: Binding over UDP, from one place."""

from __future__ import annotations

import asyncio
from typing import Self

from pt.aio.udp import Address, UdpPort
from pt.stun.server import PRIMARY, Server


class StunOn:
    """Serves in a `with` block of a running loop; `count` requests were answered."""

    def __init__(self) -> None:
        self.count = 0
        self._port = UdpPort(("127.0.0.1", 0))
        self.address = self._port.address
        self._server = Server({PRIMARY: self.address})

    def __enter__(self) -> Self:
        self._port.received = self._received
        return self

    def _received(self, data: bytes, source: Address) -> None:
        now = asyncio.get_running_loop().time()
        answer = self._server.receive(data, source, PRIMARY, now)
        if answer is not None:
            self.count += 1
            self._port.send(answer.data, answer.to)

    def __exit__(self, *exc: object) -> None:
        self._port.close()
