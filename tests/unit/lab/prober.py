"""A prober of its own: what a NAT is, found out with plain sockets on both of its sides.

It shares no code with the laboratory's model nor with `pt.stun`, so that each can be held to it.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pt.lab.machine import Machine

WAIT = 0.3
"""Seconds without a packet that count as never; links of these tests have no delay."""
PATIENCE = 3.0


def udp(host: Machine, address: str = "0.0.0.0", port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.inside():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock


def receive(sock: socket.socket, wait: float) -> tuple[bytes, tuple] | None:
    if not select.select([sock], [], [], wait)[0]:
        return None
    return sock.recvfrom(2048)


@dataclass(frozen=True)
class Findings:
    mapping: str
    filtering: str
    ports: str


class Servers:
    """A public host's two addresses with two ports each: [address][port]."""

    def __init__(self, host: Machine, *, v6: bool = False) -> None:
        own = [each for each in host.addresses if (":" in each) == v6]
        first = udp(host, own[0])
        ports = [first.getsockname()[1], udp_port(host, own[0])]
        self.sockets = [
            [first, udp(host, own[0], ports[1])],
            [udp(host, own[1], ports[0]), udp(host, own[1], ports[1])],
        ]

    def close(self) -> None:
        for row in self.sockets:
            for sock in row:
                sock.close()

    def seen(self, client: socket.socket, address: int, port: int, text: bytes = b"?"):
        """Let the client send to one of ours; the endpoint it is seen as, None if it is not."""
        server = self.sockets[address][port]
        client.sendto(text, server.getsockname()[:2])
        got = receive(server, PATIENCE)
        return None if got is None else got[1][:2]

    def reaches(self, client: socket.socket, seen, address: int, port: int) -> bool:
        """Whether what one of ours sends to `seen` arrives at the client."""
        server = self.sockets[address][port]
        server.sendto(b"!", seen)
        got = receive(client, WAIT)
        assert got is None or got[1][:2] == server.getsockname()[:2], "the sender is rewritten"
        return got is not None

    def passes(self, client: socket.socket, seen, address: int, port: int) -> bool:
        """The same for a client that the first socket may answer, whose packet comes behind.

        Nothing overtakes anything here: when that one is there, the other one will not come.
        """
        server = self.sockets[address][port]
        server.sendto(b"!", seen)
        self.sockets[0][0].sendto(b".", seen)
        got = receive(client, PATIENCE)
        assert got is not None, "not even the answer passes"
        if got[0] == b".":
            return False
        assert got[1][:2] == server.getsockname()[:2], "the sender is rewritten"
        assert receive(client, PATIENCE) is not None
        return True


def udp_port(host: Machine, address: str) -> int:
    with udp(host, address) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def servers(host: Machine, *, v6: bool = False) -> Iterator[Servers]:
    made = Servers(host, v6=v6)
    try:
        yield made
    finally:
        made.close()


def mapping(client: socket.socket, on: Servers) -> str:
    first, port, address = (on.seen(client, *which) for which in ((0, 0), (0, 1), (1, 0)))
    assert on.seen(client, 0, 0) == first
    if first == port == address:
        return "eim"
    return "adm" if first == port else "apdm"


def filtering(client: socket.socket, on: Servers) -> str:
    seen = on.seen(client, 0, 0)
    if on.passes(client, seen, 1, 1):
        return "eif"
    return "adf" if on.passes(client, seen, 0, 1) else "apdf"


def steps(ports: Sequence[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(ports)]


def allocation(host: Machine, on: Servers, count: int = 8) -> str:
    """How outer ports follow from inner ones: preserve, seq+STEP or random."""
    clients = [udp(host) for _ in range(count)]
    try:
        inner = [client.getsockname()[1] for client in clients]
        outer = [on.seen(client, 0, 0)[1] for client in clients]
    finally:
        for client in clients:
            client.close()
    if inner == outer:
        return "preserve"
    found = sorted(steps(outer))
    usual = found[len(found) // 2]
    if 0 < usual <= 64 and found.count(usual) >= count - 3:
        return f"seq+{usual}"
    return "random"


def probe(host: Machine, on: Servers) -> Findings:
    with udp(host) as one, udp(host) as two:
        return Findings(mapping(one, on), filtering(two, on), allocation(host, on))
