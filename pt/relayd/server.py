"""`pt relay`: a node that others are reached through."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.muxed import MuxedStream
from pt.errors import LocalProtocolError
from pt.identity.peer_id import PeerId
from pt.node.node import Node, NodeLimits
from pt.node.state import StateDir
from pt.relay.raw import Notice, secret_key
from pt.relay.registry import Circuit, Grade, Registry, Slot
from pt.relay.shaper import Shaper, Share
from pt.relayd import events
from pt.relayd.autonat import serve_autonat
from pt.relayd.config import RelayConfig
from pt.relayd.guests import Guests
from pt.relayd.hop import Hop
from pt.relayd.join import JoinedCircuit
from pt.relayd.ledger import Ledger, OpenCircuit
from pt.relayd.splice import SpliceCircuit, Splicer
from pt.relayd.tls import certificate
from pt.relayd.tokens import Pending
from pt.relayd.traffic import Traffic
from pt.trace import NO_TRACE, Tracer
from pt.tunnel.events import Event, Stopped
from pt.tunnel.settings import congestion, security
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.connection import Connection
    from pt.overlay.aio import Port
    from pt.relayd.http import AdminServer
    from pt.relayd.overlay import Overlay
    from pt.relayd.status import Snapshot
    from pt.relayd.stun import Stun
    from pt.websocket.aio import WebSockets

__all__ = ["RelayServer"]

SWEEP: Final = 1.0
IDLE_FOR: Final = 120.0
"""Seconds after which a stranger's connection has to be for something: a reservation, a circuit or
a request.  Other streams are no reason to keep it, or a few hosts could hold all places."""
IDLE_SWEEP: Final = 10.0
HANDSHAKES: Final = 1024
HANDSHAKES_PER_HOST: Final = 256
HOST_SHARE: Final = 4
"""One host may have a quarter of all connections; a NAT has many users behind it."""
INBOUND_STREAMS: Final = 512
HANDLERS: Final = 8192
REFUSALS_TOLD: Final = 5
"""Refusals of a kind told one by one in a second; what goes beyond is told together."""
MAX_WEBSOCKETS: Final = 4096
RESTART: Final = (
    *("listen", "announce", "http", "connections", "websocket", "overlay"),
    *("stun", "stun_port", "stun_peers", "stun_secret"),
)
"""What a reload does not change."""


class RelayServer:
    """One relay.  `on_event` is called on the loop and must not raise.

    `start` returns when it serves; `drain` takes nothing new and waits for the circuits; `reload`
    changes what can be changed without a restart; `close` ends everything.
    """

    def __init__(
        self,
        config: RelayConfig,
        state: StateDir,
        on_event: Callable[[Event], None],
        *,
        tracer: Tracer = NO_TRACE,
        version: str = "",
    ) -> None:
        self.config = config
        self._version = version
        self._state = state
        self._emit = on_event
        self._tracer = tracer
        self._node: Node | None = None
        self._registry = Registry(None if config.private else config.strangers, config.users)
        self._guests = Guests(_key(config), config.allow, private=config.private)
        self._ledger = Ledger()
        self._hop: Hop
        self._traffic: Traffic
        self._splicer: Splicer
        self._admin: AdminServer | None = None
        self._websockets: WebSockets | None = None
        self._overlay: Overlay | None = None
        self._stun: Stun | None = None
        self._tls: ssl.SSLContext | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._flood: dict[tuple[str, str], list[object]] = {}
        self._told: Counter[str] = Counter()
        self._carrying: Counter[Connection] = Counter()
        """Circuits in the streams of each connection."""
        self._closed = False

    @property
    def node(self) -> Node:
        """The node that serves, once started."""
        if self._node is None:
            raise LocalProtocolError("the relay was not started")
        return self._node

    @property
    def peer_id(self) -> PeerId:
        """The relay's own id."""
        return self.node.peer_id

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where users find it, each ending in /p2p/ID."""
        return self._hop.own_addresses

    @property
    def page(self) -> str | None:
        """Where the status page is served, if it is."""
        return None if self._admin is None else self._admin.url

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and serve; emits RelayReady.

        Raises:
            PtError: why it cannot, with the next step.

        """
        loop = asyncio.get_running_loop()
        config = self.config
        self._stopped = loop.create_future()
        self._traffic = Traffic(loop, Shaper(config.rate, config.circuit_rate))
        self._splicer = Splicer(self._traffic)
        if config.tls_cert is not None:
            self._tls = certificate(config)
        node = Node(
            identity=self._state.identity(),
            listen=config.listen,
            limits=NodeLimits(
                connections=config.connections,
                connections_per_host=max(64, config.connections // HOST_SHARE),
                handshakes=HANDSHAKES,
                handshakes_per_host=HANDSHAKES_PER_HOST,
                inbound_streams=INBOUND_STREAMS,
                handlers=HANDLERS,
            ),
            security=security(),
            congestion=congestion(),
            tracer=self._tracer,
        )
        node.announce = config.announce
        node.on_connection.append(self._accepted)
        self._node = node
        self._hop = Hop(
            node,
            self._registry,
            self._guests,
            on_joined=self._join,
            on_raw=self._splice,
            on_refused=self._refused,
            on_reserved=self._reserved,
            on_left=self._left,
        )
        if config.websocket:
            self._serve_websockets(node)
        try:
            await node.start()
            serve_autonat(node)
            if config.overlay or config.stun:
                self._serve_udp(node)
            if config.http is not None:
                from pt.relayd.http import AdminServer  # noqa: PLC0415  # not everybody's

                self._admin = AdminServer(self.snapshot, listen=config.http)
                await self._admin.start()
        except BaseException:
            await self.close()
            raise
        self._timers["sweep"] = loop.call_later(SWEEP, self._sweep)
        self._timers["idle"] = loop.call_later(IDLE_SWEEP, self._sweep_idle)
        self._emit(
            events.RelayReady(
                peer_id=node.peer_id,
                addresses=self.addresses,
                option=self._option,
                secret=config.secret is not None,
                private=config.private,
                page=self.page,
                overlay=() if self._overlay is None else self._overlay.addresses,
                stun=() if self._stun is None else self._stun.addresses,
            )
        )

    @property
    def _option(self) -> str:
        """What users add to `pt tcp`."""
        best = next((a for a in self.addresses if a.transport == "tcp"), None)
        if best is None:
            best = self.addresses[0]
        return f"--relay {shlex.quote(str(best))}"

    def _serve_websockets(self, node: Node) -> None:
        from pt.websocket.aio import WebSockets  # noqa: PLC0415

        sockets = self._websockets = WebSockets(limit=MAX_WEBSOCKETS)

        async def plain(sock: socket.socket, remote: Multiaddr) -> socket.socket:
            del remote
            return await sockets.accept(sock, tls=None)

        async def secured(sock: socket.socket, remote: Multiaddr) -> socket.socket:
            del remote
            return await sockets.accept(sock, tls=self._tls)

        node.prefaces[ord("G")] = plain
        if self._tls is not None:
            node.prefaces[0x16] = secured

    def _serve_udp(self, node: Node) -> None:
        from pt.relayd.overlay import Overlay, open_port  # noqa: PLC0415

        config = self.config
        udp = open_port(node, config.listen)
        port: Port = udp
        if config.stun:
            from pt.relayd.stun import Stun  # noqa: PLC0415

            self._stun = Stun(udp, self._emit, config, version=self._version)
            self._stun.start()
            self._hop.stun = self._stun.serve
            port = self._stun.shared
        if config.overlay:
            home, names = self._state.path, node.resolver
            self._overlay = Overlay(port, home, self._emit, names=names, own=self.addresses)
            self._overlay.start(config.bootstrap)
        node.quic.share(udp)

    async def wait(self) -> None:
        """Wait until `close` is called."""
        assert self._stopped is not None
        await asyncio.shield(self._stopped)

    async def drain(self, seconds: float) -> None:
        """Take nobody new, tell users to go elsewhere, wait for the circuits at most `seconds`."""
        self._hop.closing = True
        self._guests.say(Notice.DRAINING)
        self._emit(
            events.RelayDraining(circuits=len(self._ledger.open), reservations=len(self._hop.slots))
        )
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """End everything; circuits are reset."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        if self._admin is not None:
            await self._admin.aclose()
        if self._node is not None:
            self._hop.tokens.close()
            for one in list(self._ledger.open.values()):
                one.mover.close("the relay stops")
            self._splicer.close()
            self._traffic.close()
            await self._node.close()
        if self._websockets is not None:
            await self._websockets.aclose()
        if self._overlay is not None:
            await self._overlay.close()
        if self._stun is not None:
            await self._stun.close()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
        self._emit(Stopped(reason="closed"))

    def reload(self, config: RelayConfig) -> None:
        """Go on with another configuration; circuits and reservations stay.

        Raises:
            UsageError: certificate or secret cannot be used; nothing is changed then.
            LocalProtocolError: the relay does not run yet.

        """
        if self._node is None:
            raise LocalProtocolError("the relay does not run yet: send the signal again")
        key = _key(config)
        tls = certificate(config) if config.tls_cert is not None else None
        ignored = tuple(
            name for name in RESTART if getattr(config, name) != getattr(self.config, name)
        )
        if tls is not None and self._tls is None:
            ignored = (*ignored, "tls-cert")
        elif tls is not None:
            self._tls = tls
        self._registry.reconfigure(None if config.private else config.strangers, config.users)
        self._guests.reconfigure(key, config.allow, private=config.private)
        self._traffic.set_rates(config.rate, config.circuit_rate)
        if self._overlay is not None and config.bootstrap != self.config.bootstrap:
            self._overlay.join(config.bootstrap)
        self.config = config
        self._emit(events.RelayReloaded(ignored=ignored))

    # --- circuits --------------------------------------------------------------------------------

    def _join(
        self,
        circuit: Circuit,
        source: tuple[MuxedStream, Connection],
        target: tuple[MuxedStream, Connection],
    ) -> None:
        ends = (source[1], target[1])

        def done(mover: JoinedCircuit, reason: str) -> None:
            for connection in ends:
                self._carrying[connection] -= 1
                if not self._carrying[connection]:
                    del self._carrying[connection]
            self._ended(one, reason)

        self._carrying.update(ends)
        mover = JoinedCircuit(
            (source[1].link, source[0]),
            (target[1].link, target[0]),
            self._traffic,
            share=self._share(circuit),
            limit=circuit.limit,
            on_done=done,
        )
        one = self._opened("libp2p", circuit, mover)

    def _splice(self, pending: Pending) -> None:
        source, target = pending.legs
        assert source is not None
        assert target is not None

        def done(mover: SpliceCircuit, reason: str) -> None:
            self._ended(one, reason)

        mover = self._splicer.join(
            source,
            target,
            share=self._share(pending.circuit),
            limit=pending.limit,
            on_done=done,
        )
        one = self._opened("raw", pending.circuit, mover)

    def _share(self, circuit: Circuit) -> Share:
        """Of the bandwidth; a circuit is its target's, who holds the reservation."""
        return self._traffic.shaper.add(circuit.target)

    def _opened(
        self, kind: str, circuit: Circuit, mover: JoinedCircuit | SpliceCircuit
    ) -> OpenCircuit:
        now = asyncio.get_running_loop().time()
        one = self._ledger.add("raw" if kind == "raw" else "libp2p", circuit, mover, now)
        self._emit(
            events.CircuitOpened(
                circuit=one.number,
                kind=one.kind,
                source=circuit.source,
                target=circuit.target,
                grade=circuit.grade.value,
            )
        )
        return one

    def _ended(self, one: OpenCircuit, reason: str) -> None:
        self._registry.close(one.circuit)
        self._ledger.remove(one)
        sent, received = one.mover.bytes
        self._emit(
            events.CircuitClosed(
                circuit=one.number,
                kind=one.kind,
                sent=sent,
                received=received,
                seconds=round(asyncio.get_running_loop().time() - one.started, 3),
                reason=reason,
            )
        )
        if self._hop.closing:
            self._check_idle()

    def _check_idle(self) -> None:
        if self._hop.closing and not self._ledger.open and not len(self._hop.tokens):
            self._idle.set()

    # --- guests ----------------------------------------------------------------------------------

    def _accepted(self, connection: Connection) -> None:
        self._ledger.accepted += 1
        if not connection.closed:
            self._guests.watch(connection)

    def _reserved(self, slot: Slot, fresh: bool) -> None:
        if fresh:
            left = slot.expire - asyncio.get_running_loop().time()
            self._emit(
                events.Reserved(peer_id=slot.peer, grade=slot.grade.value, seconds=round(left, 1))
            )

    def _left(self, slot: Slot, reason: str) -> None:
        self._emit(events.ReservationEnded(peer_id=slot.peer, reason=reason))

    def _refused(self, what: str, reason: str, connection: Connection) -> None:
        """Tell a refusal, unless there is a flood of them: then their number, once a second."""
        word = reason.partition(":")[0]
        self._ledger.refusals[_label(what, word)] += 1
        self._told[what] += 1
        if self._told[what] <= REFUSALS_TOLD:
            self._emit(events.RelayRefused(what=what, reason=reason, peer_id=connection.peer_id))
            return
        entry = self._flood.setdefault((what, word), [0, connection.peer_id])
        entry[0] = int(str(entry[0])) + 1

    def _tell_flood(self) -> None:
        self._told.clear()
        flood, self._flood = self._flood, {}
        for (what, reason), (count, peer_id) in flood.items():
            assert isinstance(peer_id, PeerId)
            self._emit(
                events.RelayRefused(
                    what=what, reason=reason, peer_id=peer_id, count=int(str(count))
                )
            )

    # --- time ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._hop.sweep(loop.time())
        self._check_idle()  # a circuit that was granted and never made was perhaps the last
        self._tell_flood()
        self._timers["sweep"] = loop.call_later(SWEEP, self._sweep)

    def _sweep_idle(self) -> None:
        """Close connections that nobody uses: a stranger's place is somebody else's."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        holders = self._guests.holders
        for connection in list(self.node.connections):
            idle = (
                now - connection.since > IDLE_FOR
                and connection not in self._carrying
                and not self._guests.asking(connection)
                and holders.get(connection.peer_id) is not connection
                and self._guests.grade(connection) is Grade.STRANGER
            )
            if idle:
                connection.close("neither a reservation nor a circuit")
        self._timers["idle"] = loop.call_later(IDLE_SWEEP, self._sweep_idle)

    def snapshot(self) -> Snapshot:
        """The relay at this moment."""
        return self._ledger.snapshot(
            now=asyncio.get_running_loop().time(),
            config=self.config,
            registry=self._registry,
            slots=self._hop.slots.values(),
            peer_id=self.peer_id,
            addresses=self.addresses,
            connections=len(self.node.connections),
            draining=self._hop.closing,
            version=self._version,
            overlay=None if self._overlay is None else self._overlay.view(),
            stun=None if self._stun is None else self._stun.view(),
        )


def _key(config: RelayConfig) -> bytes | None:
    return None if config.secret is None else secret_key(config.secret)


def _label(what: str, reason: str) -> str:
    """A word for the metrics; reasons are ours, so there are few."""
    return f"{what}: {reason}"[:80]
