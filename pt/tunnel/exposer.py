"""`pt tcp`: offers local services under a name until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.hangup import HangupWatch
from pt.errors import LocalProtocolError, RemoteProtocolError, StateError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.relays import RelayNews, Relays
from pt.node.state import Claim, StateDir
from pt.relay.raw import secret_key
from pt.rendezvous.name import NameKeys, estimate_strength, generate_name
from pt.trace import NO_TRACE, Tracer
from pt.tunnel import events, streams
from pt.tunnel.config import ExposeConfig
from pt.tunnel.core.messages import PROTOCOL, PROTOCOL_PUNCH, PROTOCOL_V1, Code
from pt.tunnel.exposer_session import ExposerSession
from pt.tunnel.gate import Gate
from pt.tunnel.invitation import invitation
from pt.tunnel.limited import reservation
from pt.tunnel.media.stores import open_dht_of, open_stores
from pt.tunnel.naming import keys_of
from pt.tunnel.nat import Nats
from pt.tunnel.network import Network
from pt.tunnel.open_exposer import OpenService
from pt.tunnel.paths import connected
from pt.tunnel.probe import probe
from pt.tunnel.publication import Publication
from pt.tunnel.readiness import Readiness
from pt.tunnel.reversal import Reversal
from pt.tunnel.settings import congestion, security
from pt.tunnel.targets import Targets
from pt.tunnel.v2 import ExposerPump, TunnelPump
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.dcutr import Dcutr
    from pt.tunnel.own_addresses import OwnAddresses

__all__ = ["Exposer"]

RESUME_FOR: Final = 300.0
"""Seconds a session without a path keeps its connections."""
IDLE_FOR: Final = 30.0
"""Seconds a session without path and connections is kept."""
SWEEP: Final = 10.0
"""Seconds between two looks for connections of strangers."""
OPEN_STRENGTH: Final = "open: anyone who guesses the name can connect or impersonate you"


class Exposer:
    """One exposer.  `on_event` is called on the loop and must not raise.

    `start` returns when it is really reachable; `drain` stops taking connections and waits for the
    open ones; `close` ends everything.
    """

    def __init__(
        self,
        config: ExposeConfig,
        state: StateDir,
        on_event: Callable[[events.Event], None],
        *,
        tracer: Tracer = NO_TRACE,
    ) -> None:
        if config.open and config.name is None:
            raise UsageError("--open needs a name that others can guess or know: give --id NAME")
        self.config = config
        self.name = config.name or generate_name(secrets.token_bytes(16))
        self._state = state
        given = (*config.relays, *config.bootstrap)
        self._network = Network(state, given, on_event, tracer)
        self._emit = self._network.emit
        self._tracer = tracer
        self._targets = Targets(config.services)
        self._stopped: asyncio.Future[None] | None = None
        self._running: Node | None = None
        self._hangups: HangupWatch | None = None
        self._keys: NameKeys
        self._gate: Gate | None = None
        self._publication: Publication | None = None
        self._open: OpenService | None = None
        self._readiness: Readiness | None = None
        self._relays: Relays | None = None
        self._claim: Claim | None = None
        self._reversal: Reversal | None = None
        self._nats: Nats | None = None
        self._dcutr: Dcutr | None = None
        self._own: OwnAddresses | None = None
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._lost_at: dict[bytes, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._draining = False
        self._closed = False

    @property
    def _node(self) -> Node:
        if self._running is None:
            raise LocalProtocolError("the exposer was not started")
        return self._running

    @property
    def _watch(self) -> HangupWatch:
        assert self._hangups is not None
        return self._hangups

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._node.peer_id

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where binders can dial us, each ending in /p2p/ID."""
        return tuple(a.with_peer(self.peer_id.raw) for a in self._node.published)

    @property
    def bind_command(self) -> str:
        """The command for the other machine."""
        media = self._publication.media if self._publication is not None else ()
        return invitation(self.config, self.name, self.addresses, media)

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, publish, probe; emits Ready.

        Raises:
            PtError: why it cannot be exposed, with the next step.

        """
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._hangups = HangupWatch(loop)
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        identity = self._state.identity(self.name)
        await self._targets.resolve()
        self._keys = await keys_of(self.name, self._state, is_open=self.config.open)
        self._running = self._network.make_node(
            identity,
            listen=self.config.listen,
            security=security(),
            congestion=congestion(),
        )
        self._node.announce = self.config.announce
        self._nats = Nats(self._node, lambda: self._node.relayed, self._emit, security=security())
        strength = self._serve()  # before anybody can ask for it
        self._reversal = Reversal(self._node, security())
        if self.config.open:
            self._node.on_identified.append(self._reversal.met)
            if self.config.punch:
                from pt.tunnel.open_paths import punch_for_binders  # noqa: PLC0415

                self._dcutr = punch_for_binders(
                    self._node, self._reversal, self.config.allow, self._emit
                )
        secret = self.config.relay_secret
        self._relays = Relays(
            self._node,
            given=self.config.relays,
            secret_key=None if secret is None else secret_key(secret),
            on_news=self._on_relay,
        )
        await self._node.start()
        self._claim = self._claim_relays()
        await self._open_doors(identity, strength)

    def _claim_relays(self) -> Claim | None:
        """Be the one that is reached through relays under our peer id: it has one place at each.

        Raises:
            StateError: somebody else is, and relays were given.

        """
        claim = self._state.claim(self.peer_id)
        if claim is None and self.config.relays:
            raise StateError(
                f"another `pt tcp` of this name, with the state in {self._state.path}, may be "
                "reached through relays, which lead to one of the two only: offer all ports in one "
                "`pt tcp` (--port N --port M), or give this one a state of its own (--home DIR)"
            )
        return claim

    def _serve(self) -> str:
        """Offer the tunnel's protocol; how well the name protects it."""
        if self.config.open:
            self._open = OpenService(
                self._targets,
                allow=self.config.allow,
                hangups=self._watch,
                emit=self._emit,
                on_reject=self._rejected,
                on_idle=self._check_idle,
            )
            self._node.handle_raw(PROTOCOL_V1, self._open.accept)
            return OPEN_STRENGTH
        self._gate = Gate(
            psk=self._keys.membership,
            allow=self.config.allow,
            make=self._make_session,
            on_reject=self._rejected,
            on_attached=self._attached,
        )
        self._node.handle_raw(PROTOCOL, self._gate.accept, limited=True)
        if self.config.punch:
            self._node.handle(PROTOCOL_PUNCH, self._punch, limited=True)
        return str(estimate_strength(self.name))

    async def _punch(self, stream: MuxedStream, connection: Connection) -> None:
        """A binder wants to get through both NATs: only within its session."""
        session = None if self._gate is None else self._gate.session_of(connection)
        direct = connection.relay is None
        if session is None or (direct and session.connection is not connection):
            raise RemoteProtocolError("hole punching outside a session")
        assert self._nats is not None
        await self._nats.punching.serve(stream, connection, session.secret)

    async def _open_doors(self, identity: PrivateKey, strength: str) -> None:
        self._emit(
            events.Started(
                peer_id=self.peer_id, name=self.name, strength=strength, addresses=self.addresses
            )
        )
        self._own = self._own_addresses()
        for port, answers in (await self._targets.answering()).items():
            if not answers:
                self._emit(
                    events.Warned(
                        message=f"nothing answers on the target of port {port} now; connections "
                        "are refused until it does"
                    )
                )
        assert self._relays is not None
        if self._claim is not None:
            self._relays.start()
        else:
            self._emit(
                events.Warned(
                    message="another `pt tcp` of this name may be reached through relays, so that "
                    "this one is not: binders must be able to dial it directly (or start it with "
                    "--home DIR, for an identity of its own)"
                )
            )
        if self._gate is not None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
        await probe(self._node.addresses, self.peer_id, listen=self.config.listen)
        config, state, met = self.config, self._state, self._relays.offer
        stores = await open_stores(config, state, self._network, on_hop=met)
        dht = await open_dht_of(config, state, self._network, node=self._node, on_hop=met)
        self._publication = Publication(
            self._node,
            self._keys,
            identity,
            self._state,
            ports=self._targets.ports,
            lan=self.config.lan,
            stores=stores,
            open_dht=dht,
            emit=self._emit,
        )
        await self._publication.start()
        ready = self._readiness = Readiness(
            self._publication, self._relays, self.peer_id, self._emit, self._network.resolver
        )
        await ready.wait(relays_given=bool(self.config.relays))
        self._emit(
            events.Ready(
                peer_id=self.peer_id,
                addresses=self.addresses,
                bind_command=self.bind_command,
                outside=ready.outside,
            )
        )
        if ready.outside is False:
            ready.watch(self._reachable)

    def _reachable(self) -> None:
        """READY was said for this network, and now machines of others get through."""
        self._emit(events.Reachable(addresses=self.addresses, bind_command=self.bind_command))

    def _on_relay(self, news: RelayNews) -> None:
        """A reservation stands, or is lost."""
        event = reservation(news)
        if event is None:
            return
        self._emit(event)
        self._moved()
        if self._own is not None:
            self._own.recheck()

    def _own_addresses(self) -> OwnAddresses:
        """Find out, from now on, where binders get in."""
        from pt.tunnel.own_addresses import OwnAddresses  # noqa: PLC0415  # in nobody's way

        assert self._nats is not None
        view = self._nats.view if self.config.portmap else None
        own = OwnAddresses(self._node, self._emit, view=view, changed=self._moved)
        own.start()
        return own

    def _moved(self) -> None:
        """Our addresses are others."""
        if self._publication is not None:
            self._publication.changed()
        if self._gate is not None:
            for session in self._gate.sessions.values():
                session.say_addresses(self._node.addresses)

    async def wait(self) -> None:
        """Wait until `close` is called."""
        assert self._stopped is not None
        await asyncio.shield(self._stopped)

    async def drain(self, seconds: float) -> None:
        """Take no new connections, tell binders, and wait for the open ones, at most `seconds`."""
        self._draining = True
        self._release_claim()  # for whoever replaces us; a relay follows the newer reservation
        goodbye = asyncio.get_running_loop().create_task(self._withdraw())
        if self._open is not None:
            self._open.closing = True
        if self._gate is not None:
            for session in list(self._gate.sessions.values()):
                session.closing = True
                session.say_bye("the exposer is shutting down")
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        await goodbye

    async def _withdraw(self) -> None:
        if self._publication is not None:
            await self._publication.withdraw()

    def _release_claim(self) -> None:
        if self._claim is not None:
            self._claim.release()

    async def close(self) -> None:
        """End everything; open connections are reset."""
        if self._closed:
            return
        self._closed = True
        self._release_claim()
        for timer in (*self._timers.values(), self._sweeper):
            if timer is not None:
                timer.cancel()
        if self._gate is not None:
            for session in list(self._gate.sessions.values()):
                session.end("the exposer stopped")
        if self._open is not None:
            self._open.close("the exposer stopped")
        parts = (self._readiness, self._publication, self._dcutr, self._reversal, self._own)
        for part in (*parts, self._nats, self._relays, self._running, self._network):
            if part is not None:
                await part.close()
        if self._hangups is not None:
            self._hangups.close()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
        self._emit(events.Stopped(reason="closed"))

    def _sweep(self) -> None:
        """Close what strangers keep open: there are not many places, above all behind a relay."""
        assert self._gate is not None
        assert self._relays is not None
        for connection in self._gate.strangers(self._node.connections):
            if not self._relays.holds(connection.peer_id):
                connection.close("no session was begun")
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _check_idle(self) -> None:
        sessions = self._gate.sessions.values() if self._gate is not None else ()
        raw = self._open is not None and self._open.carries
        if self._draining and not raw and not any(session.pumps for session in sessions):
            self._idle.set()

    # --- sessions ------------------------------------------------------------------------------

    def _make_session(self, secret: bytes, connection: Connection) -> ExposerSession:
        from pt.tunnel.authenticate import session_id  # noqa: PLC0415

        peer_id = connection.peer_id
        number = session_id(secret)

        def opened(pump: ExposerPump) -> None:
            self._emit(events.StreamOpened(stream=pump.id, peer_id=peer_id, port=pump.port))

        def refused(stream: int, port: int, code: Code, reason: str) -> None:
            self._emit(
                events.StreamRefused(
                    stream=stream, port=port, code=code.name.lower(), reason=reason
                )
            )

        session = ExposerSession(
            session_id=number,
            secret=secret,
            remote=peer_id,
            hangups=self._watch,
            targets=self._targets,
            on_forget=self._forgot,
            on_detached=lambda reason: self._detached(number, reason),
            on_open=opened,
            on_refuse=refused,
        )
        session.closing = self._draining
        session.on_addresses = lambda addresses: self._invited(session, addresses)
        return session

    def _invited(self, session: ExposerSession, addresses: tuple[Multiaddr, ...]) -> None:
        """The binder came through a relay and says where it can be dialed."""
        connection = session.connection
        if connection is not None and connection.relay is not None and self._reversal is not None:
            near = connection.remote_addr.is_loopback
            self._reversal.invited(session.remote, addresses, near=near)

    def _forgot(self, pump: TunnelPump, reason: str) -> None:
        if pump.connected:
            self._emit(streams.closed(pump, reason))
        if self._draining:
            self._check_idle()

    def _attached(self, session: ExposerSession, connection: Connection, resumed: bool) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        self._emit(connected(connection))
        session.say_addresses(self._node.addresses)
        if resumed and session.id in self._lost_at:
            lost_at = self._lost_at.pop(session.id)
            self._emit(
                events.Resumed(
                    peer_id=session.remote,
                    streams=len(session.pumps),
                    seconds=round(loop.time() - lost_at, 3),
                )
            )

    def _detached(self, number: bytes, reason: str) -> None:
        assert self._gate is not None
        session = self._gate.sessions.get(number)
        if session is None or self._closed:
            return
        loop = asyncio.get_running_loop()
        self._emit(events.Disconnected(peer_id=session.remote, reason=reason))
        if session.bye is not None:
            self._expire(number)
            return
        self._lost_at[number] = loop.time()
        # without connections, too: an OPEN may have been lost with the path
        wait = RESUME_FOR if session.pumps else IDLE_FOR
        self._timers[number] = loop.call_later(wait, self._expire, number)

    def _expire(self, number: bytes) -> None:
        assert self._gate is not None
        self._timers.pop(number, None)
        self._lost_at.pop(number, None)
        session = self._gate.sessions.pop(number, None)
        if session is not None:
            session.end("the binder did not come back")
        self._check_idle()

    def _rejected(self, connection: Connection, reason: str) -> None:
        self._emit(
            events.Rejected(
                peer_id=connection.peer_id, address=connection.remote_addr, reason=reason
            )
        )
