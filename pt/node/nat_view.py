"""A node's own view of the NATs before it, through the UDP port that it shares with QUIC.

Measured when somebody wants to know, again when the network has changed or the facts are old; where
a server sees the port right now is asked each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pt.aio.udp import Address, UdpPort
from pt.errors import PtError
from pt.node.interfaces import expand
from pt.node.nat_family import measure
from pt.punch.aio import Probes
from pt.punch.candidates import Candidate, Kind, Side
from pt.stun.aio import Explorer, StunClient, bind_over_tcp
from pt.stun.discovery import Wishes
from pt.stun.messages import is_stun
from pt.wire.nat_facts import NatFacts, Protocol

if TYPE_CHECKING:
    from pt.node.node import Node

__all__ = ["MAX_SERVERS", "NatView", "free_tcp_port", "sample_from"]

FRESH: Final = 300.0
"""Seconds for which facts count without being measured again."""
MAX_SERVERS: Final = 4
MEASURE: Final = 6.0
"""Seconds that a measurement may take; what is not known then stays unknown."""
BINDING: Final = 1.0
MAX_HOSTS: Final = 8
MAX_OBSERVED: Final = 2
_WISHES: Final = Wishes(mtu=False, tcp_hairpin=False)


class NatView:
    """`servers` are asked: STUN servers, such as the relays in use are, at IP addresses."""

    def __init__(self, node: Node, servers: Callable[[], Sequence[Address]]) -> None:
        self._node = node
        self.servers = servers
        self._loop = asyncio.get_running_loop()
        self._facts: tuple[NatFacts, ...] = ()
        self._measured_at: float | None = None
        self._measured_for: object = None
        self._measuring: asyncio.Task[None] | None = None
        self._udp: UdpPort | None = None
        self._next: Callable[[bytes, Address], None] | None = None
        self._client: StunClient
        self._explorer: Explorer | None = None
        self.probes: Probes

    @property
    def udp(self) -> UdpPort:
        """The shared port, opened if need be; from then on STUN and probes come here."""
        udp = self._node.quic.ready()
        if udp is not self._udp:
            self._udp = udp
            self._next, udp.received = udp.received, self._received
            self._client = StunClient(udp.send)
            self.probes = Probes(udp)
        return udp

    @property
    def stun(self) -> StunClient:
        """Asks servers from the shared port."""
        assert self.udp
        return self._client

    def _received(self, data: bytes, address: Address) -> None:
        if self.probes.received(data, address):
            return
        if is_stun(data):
            explorer = self._explorer
            if self._client.received(data, address) or (
                explorer is not None and explorer.received(data, address)
            ):
                return
        if self._next is not None:
            self._next(data, address)

    async def ask(self, port: UdpPort) -> Address | None:
        """How the first server sees another port of ours."""
        servers = self._asked(4)
        return await sample_from(port, servers[0]) if servers else None

    def prepare(self) -> None:
        """Begin to measure, so that `side` has less to do."""
        if self._is_stale() and self._measuring is None and self._asked():
            self._measuring = self._loop.create_task(self._measure())
            self._measuring.add_done_callback(self._measured)

    def _measured(self, task: asyncio.Task[None]) -> None:
        self._measuring = None
        if not task.cancelled():
            task.exception()  # there was no way: nothing is known

    async def side(self, tcp_port: int | None = None, own: UdpPort | None = None) -> Side:
        """What to tell a peer: facts, and where this node may be reached now.

        `own`: at this port instead of the shared one.
        """
        self.prepare()
        task = self._measuring
        if task is not None:
            await asyncio.wait([task])
        udp = self._reflexive() if own is None else self._seen(own)
        found = await asyncio.gather(udp, self._reflexive_tcp(tcp_port))
        mapped = [Candidate(Kind.MAPPED, *each) for each in self._node.mapped if own is None]
        hosts = self._hosts(own or self.udp)
        candidates = [*mapped, *hosts, *(each for group in found for each in group)]
        return Side(facts=self._facts, candidates=tuple(dict.fromkeys(candidates)))

    async def close(self) -> None:
        """Measure no more."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.wait([self._measuring])

    # --- measuring -----------------------------------------------------------------------------

    def _asked(self, family: int | None = None) -> list[Address]:
        found = list(dict.fromkeys(self.servers()))[:MAX_SERVERS]
        return [each for each in found if family in (None, 6 if ":" in each[0] else 4)]

    def _situation(self) -> object:
        """What the facts hold for: they are others in another network."""
        return tuple(self._interfaces()), tuple(self._asked())

    def _is_stale(self) -> bool:
        at = self._measured_at
        return (
            at is None or self._loop.time() - at > FRESH or self._measured_for != self._situation()
        )

    async def _measure(self) -> None:
        situation = self._situation()
        facts: list[NatFacts] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEASURE):
                for family in (4, 6):
                    servers = self._asked(family)
                    if servers:
                        facts += await self._measure_family(servers)
        self._facts = tuple(facts)
        self._measured_at, self._measured_for = self._loop.time(), situation
        self._node.tracer.emit(
            "nat_facts",
            servers=[f"{host}:{port}" for host, port in self._asked()],
            facts=[f"{each.protocol.name.lower()}{each.family} {each.label}" for each in facts],
        )

    async def _measure_family(self, servers: list[Address]) -> list[NatFacts]:
        udp = self.udp
        number = next((port for _, port in udp.addresses), None)
        self._explorer = Explorer(udp.send, port=number)
        try:
            found = await measure(self._explorer, servers, _WISHES, every=False)
        except PtError:
            return []
        finally:
            self._explorer = None
        return [each for each in found.facts if each.works]

    # --- candidates ----------------------------------------------------------------------------

    def _interfaces(self) -> list[str]:
        return [*expand("0.0.0.0"), *expand("::")]

    async def _seen(self, port: UdpPort) -> list[Candidate]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BINDING):
                mapped = await self.ask(port)
                return [] if mapped is None else [Candidate(Kind.REFLEXIVE, *mapped)]
        return []

    def _hosts(self, udp: UdpPort) -> list[Candidate]:
        number = next((port for _, port in udp.addresses), 0)
        found = [Candidate(Kind.HOST, host, number) for host in self._interfaces()]
        return [each for each in found if each.usable][:MAX_HOSTS]

    async def _reflexive(self) -> list[Candidate]:
        """Where servers see the shared port; where peers that we talk QUIC with do."""
        found: list[Candidate] = []
        for family in (4, 6):
            servers = self._asked(family)
            if servers and self.udp:
                with contextlib.suppress(PtError, TimeoutError):
                    async with asyncio.timeout(BINDING):
                        binding = await self._client.binding(servers[0])
                        found.append(Candidate(Kind.REFLEXIVE, *binding.mapped))
        seen = self._node.observed.seen(Protocol.UDP)
        return found or [Candidate(Kind.REFLEXIVE, *each) for each in seen[:MAX_OBSERVED]]

    async def _reflexive_tcp(self, tcp_port: int | None) -> list[Candidate]:
        servers = self._asked(4)
        if tcp_port is None or not servers:
            return []
        with contextlib.suppress(PtError, TimeoutError):
            async with asyncio.timeout(BINDING):
                binding, _ = await bind_over_tcp(servers[0], local=("0.0.0.0", tcp_port))
                return [Candidate(Kind.REFLEXIVE, *binding.mapped, Protocol.TCP)]
        return []


async def sample_from(port: UdpPort, server: Address) -> Address | None:
    """How `server` sees a port that nobody else reads."""
    client = StunClient(port.send)

    def received(data: bytes, address: Address) -> None:
        client.received(data, address)

    port.received = received
    try:
        return (await client.binding(server)).mapped
    except PtError:
        return None
    finally:
        client.close()


def free_tcp_port() -> int | None:
    """A TCP port that nobody listens on."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", 0))
            return int(sock.getsockname()[1])
    except OSError:
        return None
