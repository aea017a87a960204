"""Who sees every packet on a host's cable: what flows there in the clear.

with Wire(router) as wire:
    ...
wire.flows()        # payloads of TCP and UDP, joined for each direction of a connection
"""

from __future__ import annotations

import socket
import sys
import threading
from types import TracebackType
from typing import Final, Self

from pt.lab.netns import DEVICE, Host

IPV4: Final = 0x0800
EVERYTHING: Final = 0x0003
"""What is sent, too; with a protocol, Linux gives what is received alone."""
UDP: Final = 17
TCP: Final = 6
_ROOM: Final = 64 * 1024 * 1024
_FRAME: Final = 65536
_SO_RCVBUFFORCE: Final = 33
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6

Flow = tuple[int, bytes, bytes]
"""Protocol, both addresses, both ports."""


class Wire:
    """Reads along on the devices of hosts until it is closed; a packet missed is an error."""

    def __init__(self, *hosts: Host) -> None:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._flows: dict[Flow, bytearray] = {}
        self._lock = threading.Lock()
        for host in hosts:
            with host.inside():
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERYTHING))
                sock.bind((DEVICE, EVERYTHING))
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            sock.settimeout(0.1)
            self._sockets.append(sock)
        self._open = True

    def __enter__(self) -> Self:
        for sock in self._sockets:
            thread = threading.Thread(target=self._read, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        for thread in self._threads:
            thread.join()
        try:
            dropped = sum(_dropped(sock) for sock in self._sockets)
        finally:
            for sock in self._sockets:
                sock.close()
        if dropped and error is None:
            raise RuntimeError(f"{dropped} packets were missed: the observer proves nothing")

    def flows(self, protocol: int | None = None) -> list[bytes]:
        """What each direction of each connection carried, in the order in which it came."""
        with self._lock:
            return [
                bytes(data)
                for flow, data in self._flows.items()
                if protocol is None or flow[0] == protocol
            ]

    def _read(self, sock: socket.socket) -> None:
        while True:
            try:
                packet, (_, kind, *_) = sock.recvfrom(_FRAME)
                if kind == IPV4:
                    self._take(packet)
            except TimeoutError:
                if not self._open:
                    return

    def _take(self, packet: bytes) -> None:
        header = (packet[0] & 15) * 4
        protocol = packet[9]
        if protocol not in (TCP, UDP):
            return
        end = int.from_bytes(packet[2:4], "big") or len(packet)
        start = header + (8 if protocol == UDP else (packet[header + 12] >> 4) * 4)
        flow = protocol, packet[12:20], packet[header : header + 4]
        with self._lock:
            self._flows.setdefault(flow, bytearray()).extend(packet[start:end])


def _dropped(sock: socket.socket) -> int:
    """Packets that the kernel had no room for (PACKET_STATISTICS)."""
    counts = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
    return int.from_bytes(counts[4:8], sys.byteorder)
