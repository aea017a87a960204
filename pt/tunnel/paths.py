"""Which connection a binder's session runs on, and what is kept ready beside it.

Whatever opens first carries the session.  From a relay it moves to a direct connection as soon as
one can be had: dialed by us, or by the exposer once it knows our addresses.  From then on the
circuit waits as a standby, and takes over within 0.2 s when the direct path falls silent.  A
circuit that its relay limits is replaced by another one before it is used up.

Every move is made before the old path is broken: the session attaches to the new connection, open
streams go on there at their offsets, then the old one is kept or closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from pt.errors import ClosedError, LocalPortError, PtError, UsageError, message_of
from pt.tunnel import authenticate, better, events, probation, rotation
from pt.tunnel.config import TunnelConfig, default_listen
from pt.tunnel.core.messages import PROTOCOL_LOST
from pt.tunnel.early import attach_early
from pt.tunnel.known import Known
from pt.tunnel.limited import limit_warning, used_up
from pt.tunnel.traversal import Traversal
from pt.tunnel.watch import PathWatch
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.aio.muxed import MuxedStream
    from pt.node.connection import Connection
    from pt.node.node import Node
    from pt.tunnel.session import BinderSession

__all__ = ["Paths", "connected"]

UPGRADE_AFTER: Final = (0.0, 1.0, 3.0, 8.0, 20.0)
"""Seconds between attempts to leave a relay; then every `UPGRADE_EVERY`, and at any news."""
UPGRADE_EVERY: Final = 60.0
DIRECT_TIMEOUT: Final = 5.0
STANDBY_AFTER: Final = (0.5, 5.0, 20.0)
STANDBY_EVERY: Final = 60.0
CIRCUIT_TIMEOUT: Final = 15.0
MOVE_TIMEOUT: Final = 4.0
RESCUE_TIMEOUT: Final = 1.5
RACE_OVER: Final = 0.02
"""Seconds, and a round trip, after which who dialed us has chosen among its dials."""
RENEW_RETRY: Final = 2.0
"""Seconds until another circuit is asked for when one could not be had."""
RENEW_TICK: Final = 0.2
LOOPBACK: Final = Multiaddr.tcp("127.0.0.1", 0)


def connected(connection: Connection) -> events.Connected:
    """What is told of a connection that is in use now."""
    return events.Connected(
        peer_id=connection.peer_id,
        path=connection.path,
        address=connection.remote_addr,
        rtt=connection.rtt,
        suite=connection.security,
    )


class Paths:
    """The paths of one session; `emit` is told each new one."""

    def __init__(
        self,
        node: Node,
        session: BinderSession,
        known: Iterable[Multiaddr],
        *,
        security: tuple[str, ...],
        emit: Callable[[events.Event], None],
        config: TunnelConfig | None = None,
    ) -> None:
        self.session = session
        self._punches = config is None or config.punch
        self._maps = config is not None and config.portmap
        self._mapping: asyncio.Task[None] | None = None
        self._node = node
        self._security = security
        self._emit = emit
        self._known = Known()
        self._traversal = Traversal(
            node, session, lambda: self._known.circuits, emit, security=security
        )
        self._standby: Connection | None = None
        self._suspect: Connection | None = None
        self._direct: Connection | None = None  # in use, or lost
        self._ages = rotation.Ages(asyncio.get_running_loop().time)
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._listening = False
        self._kept: set[Connection] = set()  # that will tell us their end
        self._warned = False
        self._watch = PathWatch(
            asyncio.get_running_loop(),
            session,
            lambda: self.alternative,
            spare=lambda: self._standby,
            leave=self._evade,
        )
        self._known.learn(known)
        session.on_addresses = self._known.learn
        session.on_lossy = self._lossy
        node.on_connection.append(self._inbound)
        node.handle(PROTOCOL_LOST, self._told_lost)

    async def _told_lost(self, stream: MuxedStream, connection: Connection) -> None:
        """Nothing of ours reaches the exposer on the path in use, and it says so on another."""
        del stream
        current = self.session.connection
        if connection.peer_id != self.session.remote or current in (None, connection):
            return
        if connection is self._standby:
            self._evade()
        else:
            current.link.lose("the exposer lost this path", abort=True)

    async def close(self) -> None:
        """Stop; the session and its connection are the caller's."""
        self._watch.stop()
        self._stop_listening()
        with contextlib.suppress(ValueError):
            self._node.on_connection.remove(self._inbound)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, PtError, OSError, TimeoutError):
                await task
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.close("the session is over")
        await self._traversal.close()

    # --- what is known ---------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """All of them, in the order in which a lost path is looked for."""
        return (*self._known.direct, *self._known.circuits)

    @property
    def alternative(self) -> bool:
        """Whether there is another way if this one is dead: only then it is given up early."""
        connection = self.session.connection
        if connection is None or connection.limited:
            return False
        if self._standby is not None and not self._standby.closed:
            return True
        own = None if connection.relay is None else connection.relay.raw
        return bool(self._known.relays - {own})

    # --- moving ----------------------------------------------------------------------------------

    async def move(self, connection: Connection, *, upgrade: bool = False) -> bool:
        """Go on over `connection`; False when the exposer knows the session no more.

        `upgrade`: only as long as the session runs over a relay.

        Raises:
            PtError: the connection broke, or the exposer did not prove the session.

        """
        async with self._lock:
            session = self.session
            if session.ended:
                raise ClosedError("the session is over")
            if upgrade and not self._on_relay:
                raise ClosedError("another direct path is in use")
            old = session.connection
            try:
                stream = await authenticate.ask_to_attach(connection, session.secret)
                connection.check_open()
            except BaseException:
                if old is not None and old is not connection:
                    self._start(self._reaffirm(old))
                raise
            if stream is None:
                return False
            old = session.connection
            self.announce(connection)
            session.attach(connection, stream.stream, stream.take_buffered())
            self.settle(connection, old)
            return True

    async def _reaffirm(self, connection: Connection) -> None:
        """A move failed, and the exposer may have made it: have it come back to the old path."""
        if self.session.connection is not connection:
            return
        try:
            async with asyncio.timeout(RESCUE_TIMEOUT):
                if await self.move(connection):
                    return
            reason = "the exposer knows the session no more"
        except (PtError, TimeoutError) as error:
            reason = message_of(error)
        connection.link.lose(reason)

    def announce(self, connection: Connection) -> None:
        """Tell that the session runs on `connection`."""
        self._emit(connected(connection))
        if connection.limited and not self._warned:
            self._warned = True
            self._emit(events.Warned(message=limit_warning(connection)))

    def settle(self, connection: Connection, old: Connection | None = None) -> None:
        """The session runs on `connection` now: decide about `old`, and what to do next."""
        if connection is self._standby:
            self._standby = None
        if connection is self._suspect:
            self._suspect = None
        self._known.used(connection)
        if old is not None and old is not connection and not old.closed:
            self._part_with(old, connection)
        for job in self._jobs.values():
            if job is not asyncio.current_task():
                job.cancel()
        self._jobs.clear()
        if connection.relay is not None:
            if self._suspect is not None:
                self._job("probe", self._probe(self._suspect, connection))
            else:
                self._leave_relay(connection)
        else:
            self._stop_listening()
            if self._mapping is not None:
                self._mapping.cancel()
                self._mapping = None
            if self._standby is None:
                self._job("standby", self._make_standby())
        if connection.limited:
            self._job("renew", self._renew(connection))
        self._direct = connection if connection.relay is None else None
        if connection.path == "direct/quic":
            if self._punches:
                self._job("rotate", self._traversal.rotate(connection, self._ages, self._go))
            self._job(
                "tcp", better.to_tcp(connection, lambda: self._known.direct, self._dial, self._go)
            )
        self._watch.start()

    def _part_with(self, old: Connection, connection: Connection) -> None:
        if connection.relay is None and old.relay is not None and not old.limited:
            self._keep(old)
        elif old is not self._suspect:
            old.close("the session goes on over another path")

    def _leave_relay(self, connection: Connection) -> None:
        """Begin to look for a direct path."""
        self._job("upgrade", self._upgrade())
        if self._punches:
            self._job("punch", self._punch(connection))
        if self._maps and self._mapping is None:
            self._mapping = self._start(self._traversal.map())

    def _evade(self) -> None:
        """The direct path is silent, the standby is not: go on there before it is known why."""
        current, standby = self.session.connection, self._standby
        idle = self._suspect is None and not self._lock.locked()
        if idle and current is not None and standby is not None and current.relay is None:
            self._start(self._go_on(current, standby))

    async def _go_on(self, suspect: Connection, standby: Connection) -> None:
        async with self._lock:
            if self.session.ended or self.session.connection is not suspect or standby.closed:
                return
            self._watch.alarms.left(asyncio.get_running_loop().time())
            self._suspect = suspect
            self._ages.suspected = True
            try:
                proved = attach_early(self.session, standby)
                self.announce(standby)
                self.settle(standby, suspect)
                async with asyncio.timeout(RESCUE_TIMEOUT):
                    await proved
            except (PtError, TimeoutError) as error:
                if self.session.connection is suspect:
                    self._suspect = None
                standby.close(f"the standby does not answer: {error}")

    async def _probe(self, suspect: Connection, relayed: Connection) -> None:
        """Go back to the path that was left if it is alive after all, else find another."""
        try:
            for soon in (True, False):
                back = await probation.came_back(suspect, self._watch.alarms, soon=soon)
                if back and await self._take(suspect):
                    return
                if soon:
                    self._leave_relay(relayed)
        finally:
            if self._suspect is suspect:
                self._suspect = None
            if self.session.connection is not suspect:
                self._ages.dead(suspect)
                suspect.link.lose("it fell silent", abort=True)

    async def rescue(self) -> bool:
        """After the loss of the path: go on over the standby, if there is one that answers."""
        direct, self._direct = self._direct, None
        if direct is not None:
            self._ages.dead(direct)
        standby, self._standby = self._standby, None
        if standby is None or standby.closed:
            return False
        reason = "the exposer knows the session no more"
        try:
            async with asyncio.timeout(RESCUE_TIMEOUT):
                if await self.move(standby):
                    return True
        except (PtError, TimeoutError) as error:
            reason = f"the standby does not answer: {error}"
        standby.close(reason)
        return False

    def _job(self, name: str, coro: Coroutine[None, None, None]) -> None:
        self._jobs[name] = self._start(coro)

    def _start(self, coro: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _keep(self, connection: Connection) -> None:
        if self._standby is not None and self._standby is not connection:
            self._standby.close("another standby is kept")
        self._standby = connection
        if connection not in self._kept:  # it may be kept again and again
            self._kept.add(connection)
            connection.on_close.append(lambda _: self._standby_lost(connection))

    def _standby_lost(self, connection: Connection) -> None:
        self._kept.discard(connection)
        if self._standby is not connection:
            return
        self._standby = None
        current = self.session.connection
        if current is not None and current.relay is None and not self.session.ended:
            self._job("standby", self._make_standby())

    # --- from a relay to a direct path -----------------------------------------------------------

    async def _upgrade(self) -> None:
        """Try to leave the relay, now and then, for as long as the session runs over one."""
        for pause in chain(UPGRADE_AFTER, repeat(UPGRADE_EVERY)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._known.news.wait()
            self._known.news.clear()
            if not self._on_relay:
                return
            self._invite()
            direct = self._known.direct
            if not direct:
                continue
            try:
                connection = await self._node.connect(
                    direct,
                    expected=self.session.remote,
                    security=self._security,
                    timeout=DIRECT_TIMEOUT,
                )
            except (PtError, OSError, TimeoutError):
                continue
            if await self._take(connection):
                return

    async def _punch(self, relayed: Connection) -> None:
        """Get through both NATs, now and from time to time, while the session is on a relay."""
        await self._traversal.punch(
            relayed,
            moved=self._known.moved,
            wanted=lambda: self._on_relay,
            own=lambda: self._ages.suspected,
            take=self._take,
        )

    @property
    def _on_relay(self) -> bool:
        connection = self.session.connection
        return connection is not None and connection.relay is not None

    def _invite(self) -> None:
        """Tell the exposer where we can be dialed: it may get out where we do not get in."""
        connection = self.session.connection
        here = connection is not None and connection.remote_addr.is_loopback
        if not self._listening:
            self._listening = True
            with contextlib.suppress(LocalPortError, UsageError):
                self._node.listen((LOOPBACK,) if here else default_listen())
        told = [each for each in self._node.addresses if each.is_loopback is here]
        if told:
            self.session.say_addresses(told)

    def _stop_listening(self) -> None:
        """Only who is relayed has to be reached."""
        if self._listening:
            self._listening = False
            self._node.unlisten()

    def _inbound(self, connection: Connection) -> None:
        """A connection came in: it may be the exposer, who reached us directly."""
        direct = not connection.initiator and connection.relay is None
        if direct and connection.peer_id == self.session.remote and self._on_relay:
            self._start(self._take_quietly(connection))

    async def _take_quietly(self, connection: Connection) -> None:
        """Take a connection of the exposer's, unless it closes it: another of its dials has won."""
        current = self.session.connection
        rtt = None if current is None else current.rtt
        await asyncio.sleep(RACE_OVER + min(rtt or 0.1, 0.5))
        if not connection.closed:
            await self._take(connection)

    async def _take(self, connection: Connection, *, upgrade: bool = True) -> bool:
        """Move to a direct connection, `upgrade`: unless another one was faster."""
        try:
            async with asyncio.timeout(MOVE_TIMEOUT):
                if await self.move(connection, upgrade=upgrade):
                    return True
            raise ClosedError("the exposer knows the session no more")
        except (PtError, TimeoutError) as error:
            connection.close(message_of(error))
            return False
        except asyncio.CancelledError:
            connection.close("given up")
            raise

    # --- from a direct path to a better one ------------------------------------------------------

    def _lossy(self) -> None:
        connection = self.session.connection
        if connection is not None and connection.relay is None:
            job = better.over_loss(connection, lambda: self._known.direct, self._dial, self._go)
            self._job("loss", job)

    async def _dial(self, addresses: Sequence[Multiaddr], timeout: float) -> Connection:
        return await self._node.connect(
            addresses, expected=self.session.remote, security=self._security, timeout=timeout
        )

    async def _go(self, connection: Connection) -> bool:
        """Move to a connection from a path that works, too."""
        return await self._take(connection, upgrade=False)

    # --- standby and limited circuits ------------------------------------------------------------

    async def _make_standby(self) -> None:
        """Keep a circuit ready, if a relay without limits offers one."""
        for pause in chain(STANDBY_AFTER, repeat(STANDBY_EVERY)):
            await asyncio.sleep(pause)
            circuits = self._known.circuits
            if not circuits or self.session.connection is None:
                continue
            try:
                connection = await self._circuit(circuits)
            except (PtError, OSError, TimeoutError):
                continue
            if connection.limited:
                connection.close("a limited circuit is of no use as a standby")
                continue
            self._keep(connection)
            return

    async def _circuit(self, circuits: list[Multiaddr]) -> Connection:
        return await self._node.connect(
            circuits,
            expected=self.session.remote,
            security=self._security,
            timeout=CIRCUIT_TIMEOUT,
        )

    async def _renew(self, connection: Connection) -> None:
        """Replace a limited circuit before its relay ends it."""
        while not connection.closed:
            await asyncio.sleep(RENEW_TICK)
            if not used_up(connection):
                continue
            try:
                fresh = await self._circuit(self._known.circuits)
                try:
                    async with asyncio.timeout(MOVE_TIMEOUT):
                        if not await self.move(fresh):
                            raise ClosedError("the exposer knows the session no more")
                except BaseException:
                    fresh.close("the session did not move")
                    raise
                return
            except (PtError, OSError, TimeoutError):
                await asyncio.sleep(RENEW_RETRY)
