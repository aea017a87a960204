"""`pt tcp`: offers local services under a name until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import socket
import time
from collections.abc import Callable
from typing import Final

from pt.aio.hangup import HangupWatch
from pt.aio.tcp import ip_family
from pt.errors import LocalProtocolError, NetworkError, PtError, StateError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.bridge import StreamBridge
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.standard import push_all
from pt.node.state import StateDir
from pt.noise.handshake import Suite
from pt.rendezvous.lan import LanPublisher
from pt.rendezvous.mdns import instance_name
from pt.rendezvous.name import NameKeys, estimate_strength, generate_name
from pt.rendezvous.record import Record, seal
from pt.trace import NO_TRACE, Tracer
from pt.tunnel import events
from pt.tunnel.config import ExposeConfig
from pt.tunnel.core.messages import PROTOCOL, PROTOCOL_V1, Code
from pt.tunnel.exposer_session import ExposerSession, TargetDial, failure
from pt.tunnel.gate import Gate
from pt.tunnel.naming import keys_of
from pt.tunnel.settings import congestion, security
from pt.tunnel.targets import Targets
from pt.tunnel.v1 import EXPOSER_HOLD, RawPump
from pt.tunnel.v2 import ExposerPump, TunnelPump
from pt.wire.multiaddr import Multiaddr
from pt.yamux.stream import Stream

__all__ = ["Exposer"]

RESUME_FOR: Final = 300.0
"""Seconds a session without a path keeps its connections."""
IDLE_FOR: Final = 30.0
"""Seconds a session without path and connections is kept."""
RECORD_LIFE: Final = 3600
REFRESH: Final = 20.0
"""Seconds between looks at our own addresses; a change is published at once."""
MAX_OPEN_STREAMS: Final = 4096
"""Connections of the open (unauthenticated) protocol at a time."""
PROBE_TIMEOUT: Final = 5.0
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
        self._emit = on_event
        self._tracer = tracer
        self._targets = Targets(config.services)
        self._stopped: asyncio.Future[None] | None = None
        self._running: Node | None = None
        self._hangups: HangupWatch | None = None
        self._keys: NameKeys
        self._gate: Gate | None = None
        self._publisher: LanPublisher | None = None
        self._published: tuple[Multiaddr, ...] = ()
        self._refresher: asyncio.Task[None] | None = None
        self._raw: set[StreamBridge] = set()
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._lost_at: dict[bytes, float] = {}
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
        return tuple(a.with_peer(self.peer_id.raw) for a in self._node.addresses)

    @property
    def bind_command(self) -> str:
        """The command for the other machine."""
        forwards = []
        for service in self.config.services:
            port = service.port
            local = port if port >= 1024 else 2000 + port if port < 100 else 8000 + port
            if len(self.config.services) == 1:
                forwards.append(f"--port {local}")
            else:
                forwards.append(f"-p {local}:{port}")
        parts = ["pt bind", *forwards, f"--id {shlex.quote(self.name)}"]
        if self.config.open:
            parts.append("--open")
        if not self.config.lan and self.addresses:
            parts.append(f"--peer {self.addresses[0]}")
        return " ".join(parts)

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, publish, probe; emits Ready.

        Raises:
            PtError: why it cannot be exposed, with the next step.

        """
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._hangups = HangupWatch(loop)
        identity = self._state.identity()
        await self._targets.resolve()
        self._keys = await keys_of(self.name, self._state)
        self._running = Node(
            identity=identity,
            listen=self.config.listen,
            security=security(),
            congestion=congestion(),
            tracer=self._tracer,
        )
        self._node.announce = self.config.announce
        strength = self._serve()  # before anybody can ask for it
        await self._node.start()
        try:
            await self._open_doors(identity, strength)
        except BaseException:
            await self.close()
            raise

    def _serve(self) -> str:
        """Offer the tunnel's protocol; how well the name protects it."""
        if self.config.open:
            self._node.handle_raw(PROTOCOL_V1, self._accept_raw)
            return OPEN_STRENGTH
        self._gate = Gate(
            psk=self._keys.membership,
            allow=self.config.allow,
            make=self._make_session,
            on_reject=self._rejected,
            on_attached=self._attached,
        )
        self._node.handle_raw(PROTOCOL, self._gate.accept)
        return str(estimate_strength(self.name))

    async def _open_doors(self, identity: PrivateKey, strength: str) -> None:
        self._emit(
            events.Started(
                peer_id=self.peer_id, name=self.name, strength=strength, addresses=self.addresses
            )
        )
        for port, answers in (await self._targets.answering()).items():
            if not answers:
                self._emit(
                    events.Warned(
                        message=f"nothing answers on the target of port {port} now; connections "
                        "are refused until it does"
                    )
                )
        await self._probe()
        if self.config.lan:
            await self._publish(identity)
        self._refresher = asyncio.get_running_loop().create_task(self._refresh(identity))
        self._emit(
            events.Ready(
                peer_id=self.peer_id, addresses=self.addresses, bind_command=self.bind_command
            )
        )

    async def _probe(self) -> None:
        """Dial ourselves: READY is only said of a listener that answers as us.

        Raises:
            NetworkError: it does not.

        """
        if not self._node.addresses:
            raise NetworkError("no network interface has an address: connect this machine first")
        prober = Node(identity=PrivateKey.generate(secrets.token_bytes(32)))
        try:
            connection = await prober.connect(
                self._node.addresses, expected=self.peer_id, timeout=PROBE_TIMEOUT
            )
            connection.close()
        except PtError as error:
            raise NetworkError(
                f"this machine cannot reach its own listener ({error}): check the firewall"
            ) from error
        finally:
            await prober.close()

    async def _publish(self, identity: PrivateKey) -> None:
        started = time.monotonic()
        addresses = self._node.addresses
        try:
            sealed = self._sealed(identity, addresses)
            port = next((a.tcp_port for a in addresses if a.tcp_port), 0)
            publisher = LanPublisher(
                instance_name(secrets.token_bytes(32)), self.addresses, sealed, port
            )
            await publisher.start()
        except (NetworkError, StateError) as error:
            self._emit(events.Published(medium="lan", ok=False, detail=str(error)))
            return
        self._publisher = publisher
        self._published = addresses
        self._emit(
            events.Published(medium="lan", ok=True, seconds=round(time.monotonic() - started, 3))
        )

    def _sealed(self, identity: PrivateKey, addresses: tuple[Multiaddr, ...]) -> bytes:
        now = time.time()
        record = Record(
            peer_id=self.peer_id,
            addresses=addresses,
            seq=self._state.next_seq(now),
            expires=int(now) + RECORD_LIFE,
            services=self._targets.ports[:32],
        )
        return seal(record, self._keys, identity, secrets.token_bytes(12))

    async def _refresh(self, identity: PrivateKey) -> None:
        """Publish again when our addresses change, and before the record expires."""
        age = 0.0
        while True:
            await asyncio.sleep(REFRESH)
            age += REFRESH
            addresses = self._node.addresses
            publisher = self._publisher
            if publisher is None and self.config.lan and addresses:
                await self._publish(identity)
            elif publisher is not None and (addresses != self._published or age > RECORD_LIFE / 3):
                age = 0.0
                changed = addresses != self._published
                self._published = addresses
                try:
                    await publisher.update(self.addresses, self._sealed(identity, addresses))
                    if changed:
                        await push_all(self._node)
                except (PtError, OSError, TimeoutError) as error:
                    self._emit(events.Published(medium="lan", ok=False, detail=str(error)))

    async def wait(self) -> None:
        """Wait until `close` is called."""
        assert self._stopped is not None
        await asyncio.shield(self._stopped)

    async def drain(self, seconds: float) -> None:
        """Take no new connections, tell binders, and wait for the open ones, at most `seconds`."""
        self._draining = True
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None
        if self._gate is not None:
            for session in list(self._gate.sessions.values()):
                session.closing = True
                session.say_bye("the exposer is shutting down")
        self._check_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def close(self) -> None:
        """End everything; open connections are reset."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        if self._refresher is not None:
            self._refresher.cancel()
        if self._gate is not None:
            for session in list(self._gate.sessions.values()):
                session.end("the exposer stopped")
        for pump in list(self._raw):
            pump.refuse("the exposer stopped")
        if self._publisher is not None:
            await self._publisher.close()
        if self._running is not None:
            await self._running.close()
        if self._hangups is not None:
            self._hangups.close()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
        self._emit(events.Stopped(reason="closed"))

    def _check_idle(self) -> None:
        sessions = self._gate.sessions.values() if self._gate is not None else ()
        if self._draining and not self._raw and not any(session.pumps for session in sessions):
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
        return session

    def _forgot(self, pump: TunnelPump, reason: str) -> None:
        if pump.connected:
            self._emit(
                events.StreamClosed(
                    stream=pump.id,
                    sent=pump.bytes_in,
                    received=pump.bytes_out,
                    seconds=round(asyncio.get_running_loop().time() - pump.started, 3),
                    reason=reason,
                )
            )
        if self._draining:
            self._check_idle()

    def _attached(self, session: ExposerSession, connection: Connection, resumed: bool) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        self._emit(
            events.Connected(
                peer_id=session.remote,
                path="direct/tcp",
                address=connection.remote_addr,
                rtt=connection.rtt,
                suite=connection.suite.name,
            )
        )
        if resumed:
            lost_at = self._lost_at.pop(session.id, loop.time())
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

    # --- the open protocol -----------------------------------------------------------------------

    def _accept_raw(
        self, connection: Connection, stream: Stream, reply: bytes, data: bytes
    ) -> None:
        """A stream of protocol 1 is one connection to the first service."""
        found = self._targets.find(0)
        allowed = not self.config.allow or connection.peer_id in self.config.allow
        if not allowed or self._draining or found is None or len(self._raw) >= MAX_OPEN_STREAMS:
            stream.reset()
            self._rejected(connection, "not allowed, or too many connections")
            return
        connection.link.send_small(stream, reply)
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(ip_family(found[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            stream.reset()
            self._rejected(connection, failure(error.errno or 0)[1])
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = self._targets.ports[0]
        hold = None if connection.suite is Suite.AESGCM else EXPOSER_HOLD
        pump = RawPump(sock, loop, self._watch, hold=hold, on_done=self._raw_done)
        pump.connected = False
        pump.attach(connection.link, stream)
        self._raw.add(pump)

        def connected(result: int) -> None:
            if pump.closed:
                return
            if result:
                code, reason = failure(result)
                self._targets.failed(port)
                self._emit(
                    events.StreamRefused(
                        stream=stream.id, port=port, code=code.name.lower(), reason=reason
                    )
                )
                pump.refuse(reason)
            else:
                self._emit(
                    events.StreamOpened(stream=stream.id, peer_id=connection.peer_id, port=port)
                )
                pump.target_connected()

        dial = TargetDial(loop, sock, found, connected)
        if not pump.connected:
            pump.give_up_dial = dial.cancel
        if data and not pump.closed:
            stream.consumed -= len(data)
            pump.data_received(memoryview(data))

    def _raw_done(self, pump: StreamBridge, reason: str) -> None:
        self._raw.discard(pump)
        if pump.connected:
            self._emit(
                events.StreamClosed(
                    stream=0,
                    sent=pump.bytes_in,
                    received=pump.bytes_out,
                    seconds=round(asyncio.get_running_loop().time() - pump.started, 3),
                    reason=reason,
                )
            )
        self._check_idle()
