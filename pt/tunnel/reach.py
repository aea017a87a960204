"""Finding the exposer and keeping a session with it: the binder's background work.

The loop of `Reach.run`: collect candidates, dial, authenticate or re-attach, wait until the path is
lost, again.  Open connections outlive paths; the binder's listening ports know nothing of all this.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.errors import (
    ClosedError,
    IdentityChangedError,
    NotFoundError,
    PtError,
    RefusedError,
    UsageError,
)
from pt.node.state import StateDir
from pt.trace import Tracer
from pt.tunnel import events, streams
from pt.tunnel.config import BindConfig
from pt.tunnel.pinning import Pinning

if TYPE_CHECKING:
    from pt.aio.hangup import HangupWatch
    from pt.identity.peer_id import PeerId
    from pt.node.circuits import Circuits
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.rendezvous.name import NameKeys
    from pt.tunnel.answer import Answer, Turns
    from pt.tunnel.lookup import Candidate
    from pt.tunnel.network import Network
    from pt.tunnel.open_binder import OpenTunnel
    from pt.tunnel.open_paths import OpenPaths
    from pt.tunnel.paths import Paths
    from pt.tunnel.seeker import Seeker
    from pt.tunnel.session import BinderSession
    from pt.tunnel.v2 import BinderPump, TunnelPump
    from pt.wire.multiaddr import Multiaddr

__all__ = ["Reach"]

RESUME_FOR: Final = 300.0
"""Seconds open connections survive without a path."""
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 15.0
LONGEST_RESUME_DELAY: Final = 1.0
"""While connections wait to be resumed, the next attempt is never far."""
DIAL_TIMEOUT: Final = 10.0
REDIAL_TIMEOUT: Final = 2.5
"""A lost path is redialed in short attempts: the next one may find it mended."""
PATIENT: Final = 4
"""Each so many-th attempt has the time of a first one, or a slow path would never be reached."""
SESSION_TIMEOUT: Final = 15.0
STEADY: Final = 1.0
"""Seconds after which a path that was lost was one."""
FAILOVER_AFTER: Final = 10.0
"""Seconds that open connections wait for their exposer before another one takes over."""


class Reach:
    """`on_up` is called whenever connections can be opened (again), `on_idle` when one ended.

    `run` ends only with the error that makes going on pointless, or normally with `once`.
    """

    def __init__(
        self,
        config: BindConfig,
        state: StateDir,
        emit: Callable[[events.Event], None],
        *,
        hangups: HangupWatch,
        tracer: Tracer,
        ports: Callable[[], tuple[events.BoundPort, ...]],
        on_up: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.config = config
        self._state = state
        self._emit = emit
        self._hangups = hangups
        self._tracer = tracer
        self._ports = ports
        self._on_up = on_up
        self._on_idle = on_idle
        self._session: BinderSession | None = None
        self._paths: Paths | None = None
        self._open: OpenTunnel | None = None
        self._open_paths: OpenPaths | None = None
        self._circuits: Circuits | None = None
        self._path_lost = asyncio.Event()
        self._node: Node | None = None
        self._network: Network | None = None
        self._seeker: Seeker | None = None
        self._keys: NameKeys | None = None
        self._security: tuple[str, ...] = ()
        self._lost_at = 0.0
        self._redials = 0
        self._dialed = False
        self._turns: Turns
        self._pinning = Pinning(config, state, emit)
        self._was_up = False
        self._closed = False

    # --- for the binder ------------------------------------------------------------------------

    @property
    def carries(self) -> bool:
        """Whether any connection is open."""
        return (self._open is not None and self._open.carries) or self._alive

    def open(self, sock: socket.socket, port: int) -> bool:
        """Forward a local connection; False while there is no exposer to forward it to."""
        session = self._session
        if session is not None and not session.ended:
            session.open(sock, port)
        elif self._open is not None and self._open.can_open:
            self._open.open(sock)
        else:
            return False
        return True

    @property
    def _connection(self) -> Connection | None:
        if self._open is not None:
            return self._open.connection
        return None if self._session is None else self._session.connection

    def flush(self) -> None:
        """Send what `open` has queued."""
        if (connection := self._connection) is not None:
            connection.link.flush()

    def drop(self) -> bool:
        """Cut the path as a broken network would; whether there was one."""
        if (connection := self._connection) is None:
            return False
        connection.link.lose("cut on purpose", abort=True)
        return True

    async def close(self) -> None:
        """End session, node and search; open connections are reset."""
        self._closed = True
        if self._session is not None:
            self._session.say_bye("the binder stopped")
            self._session.end("the binder stopped")
        if self._open is not None:
            self._open.close("the binder stopped")
        parts = (self._paths, self._open_paths, self._seeker, self._node, self._circuits)
        for part in (*parts, self._network):
            if part is not None:
                await part.close()

    # --- finding and keeping the exposer -------------------------------------------------------

    async def run(self) -> None:
        """See the class.

        Raises:
            PtError: why there is no going on.

        """
        await self._prepare()
        delay = FIRST_DELAY
        deadline = None
        loop = asyncio.get_running_loop()
        if self.config.timeout is not None:
            deadline = loop.time() + self.config.timeout
        while True:
            self._path_lost.clear()
            try:
                async with asyncio.timeout_at(None if self._was_up else deadline):
                    await self._connect_once()
            except (IdentityChangedError, UsageError):
                raise
            except (PtError, OSError, TimeoutError) as error:
                if isinstance(error, RefusedError) and not self._was_up:
                    raise  # else the exposer is being restarted, and offers nothing yet
                if deadline is not None and not self._was_up and loop.time() >= deadline:
                    raise self._given_up(error) from error
                if self.config.once:
                    raise self._explained(error) from error
                pause = delay * random.uniform(0.7, 1.3)  # noqa: S311  # jitter, not a secret
                if deadline is not None and not self._was_up:
                    pause = min(pause, max(0.0, deadline - loop.time()))
                self._retry(pause, error)
                await asyncio.sleep(pause)
                delay = min(delay * 2, LONGEST_RESUME_DELAY if self._alive else LONGEST_DELAY)
                continue
            self._redials = 0
            self._was_up = True
            since = loop.time()
            await self._path_lost.wait()
            if self.config.once and not self._alive:
                return
            if loop.time() - since >= STEADY:
                delay = FIRST_DELAY
            else:  # an exposer that hangs up on us again and again
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RESUME_DELAY if self._alive else LONGEST_DELAY)

    def _retry(self, pause: float, error: BaseException) -> None:
        """There will be another attempt: tell why, and look again meanwhile."""
        reason = str(error) or "timeout"
        if self._seeker is not None:
            reason += self._seeker.aside
            self._seeker.resume()
        self._emit(events.Retrying(delay=round(pause, 3), reason=reason))
        self._expire_session()

    @property
    def _alive(self) -> bool:
        """Whether connections wait to be resumed."""
        return self._session is not None and bool(self._session.pumps)

    def _given_up(self, error: BaseException) -> PtError:
        if self._seeker is not None and not self._dialed:
            error = self._seeker.not_found()
        error = self._explained(error)
        if isinstance(error, PtError):
            return error
        name, seconds = self.config.name or "the peer", self.config.timeout
        return NotFoundError(f"{name!r} did not answer within {seconds:g} s")

    def _explained(self, error: BaseException) -> BaseException:
        """The same, or what is in the way of everything."""
        return error if self._network is None else self._network.explain(error)

    async def _prepare(self) -> None:
        """Load what the search and the session need, while the ports already listen."""
        from pt.node.circuits import Circuits  # noqa: PLC0415  # listening does not wait for it
        from pt.tunnel.answer import Turns  # noqa: PLC0415
        from pt.tunnel.naming import keys_of  # noqa: PLC0415
        from pt.tunnel.network import Network  # noqa: PLC0415
        from pt.tunnel.seeker import Seeker  # noqa: PLC0415
        from pt.tunnel.settings import congestion, security  # noqa: PLC0415

        config = self.config
        self._security = security()
        self._turns = Turns()
        given = (*config.peers, *config.relays, *config.bootstrap)
        network = self._network = Network(self._state, given, self._emit, self._tracer)
        self._emit = network.emit
        node = network.make_node(self._state.identity(), congestion=congestion())
        await node.start()
        self._node = node
        self._circuits = Circuits(node)
        if config.open:
            from pt.tunnel.open_paths import OpenPaths  # noqa: PLC0415

            self._open_paths = OpenPaths(node, self._emit, punch=config.punch)
        self._emit(events.Started(peer_id=node.peer_id, name=config.name))
        if config.name is not None:
            self._keys = await keys_of(config.name, self._state, is_open=config.open)
        self._seeker = Seeker(config, self._state, self._emit, self._pinning, network)
        await self._seeker.start(self._keys)

    async def _connect_once(self) -> None:
        """Reach one candidate and stand a session, or raise why not."""
        from pt.tunnel.hunt import worse  # noqa: PLC0415

        seeker = self._seeker
        assert seeker is not None
        if await self._rescue():
            return
        seeker.only = self._still_wanted()
        await seeker.wait()
        if self._session is not None or self._open is not None:
            self._redials += 1
        failure: BaseException | None = None
        async with contextlib.aclosing(seeker.hunt(self._dial)) as dials:
            async for candidate, result in dials:
                try:
                    if isinstance(result, BaseException):
                        raise result
                    await self._use(candidate, result)
                except (PtError, OSError, TimeoutError) as error:
                    failure = worse(failure, error)
                    seeker.failed(candidate)
                else:
                    seeker.reached(candidate)
                    return
        if failure is None or not self._was_up:
            failure = seeker.judge(failure)
        if isinstance(failure, IdentityChangedError) and self._session is not None:
            raise ClosedError(str(failure))  # the pinned one may come back
        raise failure

    def _still_wanted(self) -> PeerId | None:
        """The only one to look for: whoever has our open connections, for a while."""
        session = self._session
        if session is None or not self._alive or session.bye is not None:
            return None
        lost_for = asyncio.get_running_loop().time() - self._lost_at
        return session.remote if lost_for < FAILOVER_AFTER else None

    async def _rescue(self) -> bool:
        """Go on over the standby of a session that lost its path, if there is one."""
        session, paths = self._session, self._paths
        if session is None or paths is None or session.ended:
            return False
        if session.connection is not None:  # the exposer came back by itself
            self._resumed(session)
            return True
        if not await paths.rescue():
            return False
        self._resumed(session)
        return True

    def _resumed(self, session: BinderSession) -> None:
        lost_for = asyncio.get_running_loop().time() - self._lost_at
        self._emit(
            events.Resumed(
                peer_id=session.remote, streams=len(session.pumps), seconds=round(lost_for, 3)
            )
        )
        self._on_up()

    async def _dial(self, candidate: Candidate) -> Answer:
        """Have a candidate answer, and prove the name if there is no session to go on with."""
        from pt.tunnel.answer import Answer, prove  # noqa: PLC0415

        assert self._node is not None
        redial = self._session is not None or self._open is not None
        hurry = redial and self._redials % PATIENT
        started = time.monotonic()
        self._dialed = True
        addresses = self._addresses(candidate)
        if self._open_paths is not None:
            self._open_paths.prepare(addresses)
        connection = await self._node.connect(
            addresses,
            expected=candidate.peer_id,
            security=self._security,
            timeout=REDIAL_TIMEOUT if hurry else DIAL_TIMEOUT,
            relay_after=0.0 if redial else None,
        )
        if self._open_paths is not None:
            connection = await self._open_paths.usable(connection)
        if self._seeker is not None:
            self._seeker.answered(candidate, time.monotonic() - started)
        if self.config.open or self._goes_on(connection):
            return Answer(connection)
        assert self._keys is not None
        try:
            self._check_wanted(connection)
            async with asyncio.timeout(SESSION_TIMEOUT), self._turns.one():
                return await prove(connection, self._keys.membership)
        except (PtError, OSError, TimeoutError, asyncio.CancelledError):
            connection.close("no session")
            raise

    def _goes_on(self, connection: Connection) -> bool:
        """Whether our session is with this peer, and may go on over the connection."""
        session = self._session
        return session is not None and not session.ended and session.remote == connection.peer_id

    def _check_wanted(self, connection: Connection) -> None:
        """Raise what is to be said to whoever is not the one to talk to."""
        self._pinning.check(connection.peer_id)
        if self._still_wanted() not in (None, connection.peer_id):
            raise ClosedError("somebody else answers than who has the open connections")

    async def _use(self, candidate: Candidate, answer: Answer) -> None:
        try:
            self._check_wanted(answer.connection)
            async with asyncio.timeout(SESSION_TIMEOUT):
                if self.config.open:
                    self._use_raw(answer.connection)
                else:
                    await self._use_session(answer, self._addresses(candidate))
        except (PtError, OSError, TimeoutError, asyncio.CancelledError):
            answer.close("no session")
            raise

    def _addresses(self, candidate: Candidate) -> tuple[Multiaddr, ...]:
        """All that is known of where the candidate is, through our own relays, too."""
        found = dict.fromkeys(candidate.addresses)
        paths = self._paths
        if paths is not None and paths.session.remote == candidate.peer_id:
            found = dict.fromkeys((*paths.addresses, *found))
        if candidate.peer_id is not None:
            for relay in self.config.relays:
                found[relay.through_circuit()] = None
        return tuple(found)

    async def _use_session(self, answer: Answer, addresses: tuple[Multiaddr, ...]) -> None:
        from pt.tunnel.answer import prove  # noqa: PLC0415
        from pt.tunnel.paths import Paths  # noqa: PLC0415

        assert self._keys is not None
        assert self._node is not None
        connection = answer.connection
        old, paths = self._session, self._paths
        if old is not None and paths is not None and not old.ended:
            same = connection.peer_id == old.remote
            if same and answer.stream is None and await paths.move(connection):
                self._resumed(old)
                return
            old.end("the exposer was restarted" if same else "another exposer took over")
            self._session = None
        if answer.stream is None:
            answer = await prove(connection, self._keys.membership)
        stream = answer.stream
        assert stream is not None
        if paths is not None:
            await paths.close()
        connection.check_open()  # from here on nothing is waited for
        self._pinning.remember(connection.peer_id)
        session = self._new_session(answer.secret, connection.peer_id)
        self._session = session
        self._paths = Paths(
            self._node,
            session,
            addresses,
            security=self._security,
            emit=self._emit,
            config=self.config,
        )
        self._paths.announce(connection)
        session.attach(connection, stream.stream, stream.take_buffered())
        self._paths.settle(connection)
        self._announce_ready(connection.peer_id)
        self._on_up()

    def _use_raw(self, connection: Connection) -> None:
        from pt.tunnel.open_binder import OpenTunnel  # noqa: PLC0415

        assert self._open_paths is not None
        self._open = OpenTunnel(
            connection,
            hangups=self._hangups,
            emit=self._emit,
            on_room=self._on_up,
            on_idle=self._on_idle,
            on_lost=self._raw_lost,
        )
        self._open_paths.follow(self._open)
        self._announce_ready(connection.peer_id)
        self._on_up()

    def _raw_lost(self, reason: str) -> None:
        tunnel, self._open = self._open, None
        if tunnel is not None and not self._closed:
            self._emit(events.Disconnected(peer_id=tunnel.connection.peer_id, reason=reason))
            self._path_lost.set()

    def _announce_ready(self, peer_id: PeerId) -> None:
        if not self._was_up:
            self._emit(events.Ready(peer_id=peer_id, ports=self._ports()))

    def _new_session(self, secret: bytes, peer_id: PeerId) -> BinderSession:
        from pt.tunnel.authenticate import session_id  # noqa: PLC0415
        from pt.tunnel.session import BinderSession  # noqa: PLC0415

        return BinderSession(
            session_id=session_id(secret),
            secret=secret,
            remote=peer_id,
            hangups=self._hangups,
            on_forget=self._forgot,
            on_detached=self._detached,
            on_answer=self._answered,
        )

    def _detached(self, reason: str) -> None:
        session = self._session
        if session is None or self._closed:
            return
        self._lost_at = asyncio.get_running_loop().time()
        self._emit(events.Disconnected(peer_id=session.remote, reason=session.bye or reason))
        self._path_lost.set()

    def _expire_session(self) -> None:
        """Without a path for too long, the open connections are given up."""
        session = self._session
        if session is None or session.connection is not None:
            return
        if asyncio.get_running_loop().time() - self._lost_at > RESUME_FOR:
            session.end("the exposer was not reached again")
            self._session = None

    # --- streams -------------------------------------------------------------------------------

    def _answered(self, pump: BinderPump, code: int, reason: str) -> None:
        assert self._session is not None
        self._emit(streams.answered(pump, self._session.remote, code, reason))

    def _forgot(self, pump: TunnelPump, reason: str) -> None:
        self._emit(streams.closed(pump, reason))
        self._on_idle()
