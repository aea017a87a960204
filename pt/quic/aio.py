"""QUIC connections on a UDP port that others share: timers, trains of datagrams, data paths."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from pt.aio.keep_alive import KeepAlive, SilenceWatch
from pt.aio.loop import DIALOGUE, Dialogue
from pt.aio.timer import Timer
from pt.aio.udp import Address, UdpPort
from pt.errors import ClosedError, PtError
from pt.identity.peer_id import PeerId
from pt.muxer import FRAME_HEADROOM, RoomWaiter
from pt.muxer import Stream as AnyStream
from pt.quic.codes import ConnectionCode
from pt.quic.endings import error_of, reason_of
from pt.quic.engine import FULL, Admission, Config, Engine, EngineFactory, Stats
from pt.quic.events import (
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    Event,
    HandshakeDone,
    PathChanged,
)
from pt.quic.muxer import FRAME, Session, Stream
from pt.quic.reception import Drop, Reception, Reply
from pt.quic.routing import Routes, is_quic, runs

__all__ = ["QuicLink", "QuicPort"]

BACKLOG: Final = 512 * 1024
"""Bytes of all streams that wait to be sent, from which on senders are held back: so few that they
are still in the processor's cache when their turn comes."""

Established = Callable[["QuicLink", HandshakeDone], None]
"""Told of a connection whose peer is known: sets `on_lost` and the session's `on_stream`."""


class QuicLink:
    """One connection: the carrier of its streams, and their muxer's owner.

    `on_lost(reason)` is called once, after every stream was told.
    """

    def __init__(
        self, port: QuicPort, engine: Engine, established: Established, *, proved: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.engine = engine
        self.session = Session(engine, clock=self._loop.time, changed=self._changed)
        self.frame = FRAME
        self.closed = False
        self.proved = proved
        """Whether the peer's address was, before the handshake."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.on_lost: Callable[[str], None] | None = None
        self.on_moved: Callable[[Address], None] | None = None
        """Told when the peer has proved to be at another address."""
        self.failed: Callable[[Exception], None] | None = None
        """Told instead when the connection ends before the peer is known."""
        self.port = port
        self._established = established
        self._known = False
        self._address: Address = (engine.address[0], engine.address[1])
        self._queued = False
        self._driving = False
        self._stopped = False
        self._again = False
        self._waiters: deque[RoomWaiter] = deque()
        self._silence: SilenceWatch | None = None
        self._dialogue = Dialogue()
        self._timer = Timer(engine.next_timeout, self._time_out)

    # --- what comes ----------------------------------------------------------------------------

    def receive(self, data: bytes, segment: int, address: Address, now: float) -> None:
        """Take datagrams; `drive` follows when all of a wake-up are there."""
        self.bytes_in += len(data)
        self.engine.receive(data, segment, address, now)

    @property
    def address(self) -> Address:
        """Where the peer is."""
        return self._address

    @property
    def last_rx(self) -> float:
        """When something authentic came last."""
        return self.engine.heard

    def _time_out(self) -> None:
        now = self._loop.time()
        at = self.engine.next_timeout()
        if at is not None and at <= now:
            self.engine.handle_timeout(now)
            self.drive()

    def _changed(self) -> None:
        self._queued = True

    def received(self, count: int) -> None:
        """A wake-up brought `count` bytes in all: answer."""
        if count < DIALOGUE:
            self._dialogue.short(self._loop.time(), self.session.churn)
        self.drive()

    # --- what goes -----------------------------------------------------------------------------

    def drive(self) -> None:
        """Handle events and send until nothing is left to do, or the socket is full."""
        if self._driving:
            self._again = True
            return
        self._driving = True
        try:
            self._drive()
        except BaseException:
            self._loop.call_soon(self.drive)  # whoever raised has a bug, the others go on
            raise
        finally:
            self._driving = False
        if self.engine.terminated:
            self.stop()
        else:
            self._timer.arm()

    def _drive(self) -> None:
        engine, port = self.engine, self.port
        while not self._stopped:
            while (event := self._next()) is not None:
                self._handle(event)
            self._again = self._queued = False
            if port.udp.full:
                port.wait(self)
                break
            count = 0
            for address, segments in engine.trains(self._loop.time()):
                count += len(segments)
                self.bytes_out += len(segments[0]) * (len(segments) - 1) + len(segments[-1])
                port.udp.send_train(segments, (address[0], address[1]))
            if self._waiters and not self.closed:
                self._wake()
            if count < FULL and not self._again and not self._queued:
                event = self._next()
                if event is None:
                    break
                self._handle(event)

    def _next(self) -> Event | None:
        return None if self._stopped else self.engine.next_event()

    def flush(self) -> None:
        """Hand what is queued to the network."""
        before = self.bytes_out
        self.drive()
        if self.bytes_out - before < DIALOGUE:
            self._dialogue.short(self._loop.time(), self.session.churn)

    def nudge(self) -> None:
        """`flush`, if something is queued."""
        if self._queued:
            self.drive()

    @property
    def room(self) -> bool:
        """Whether a full frame can be taken now."""
        return self.engine.backlog < BACKLOG and not self.closed

    @property
    def minds_loss(self) -> bool:
        """Whether the engine takes loss for congestion, and another would not."""
        return self.engine.minds_loss

    def stats(self) -> Stats:
        """How it goes."""
        return self.engine.stats()

    @property
    def pace(self) -> None:
        """Nothing limits what a direct connection carries."""
        return

    def send_slot(self, stream: AnyStream, slot: memoryview, length: int) -> None:
        """See `pt.muxer.Carrier`."""
        assert isinstance(stream, Stream)
        self.session.send(stream, slot[FRAME_HEADROOM : FRAME_HEADROOM + length])
        self._queued = True

    def send_small(self, stream: AnyStream, data: bytes | memoryview) -> None:
        """See `pt.muxer.Carrier`."""
        assert isinstance(stream, Stream)
        self.session.send(stream, data)
        self._queued = True

    def wait_room(self, waiter: RoomWaiter) -> None:
        """Call `waiter.link_ready()` when there is room again."""
        self._waiters.append(waiter)
        if self.room:
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        for _ in range(len(self._waiters)):
            if not self.room:
                return
            self._waiters.popleft().link_ready()

    # --- life ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case HandshakeDone():
                self.port.settled(self)
                self._known = True
                self._established(self, event)
            case ConnectionIdIssued(cid):
                self.port.routes.issued(self, cid)
            case ConnectionIdRetired(cid):
                self.port.routes.retired(self, cid)
            case PathChanged(address):
                self._moved((address[0], address[1]))
            case Closed():
                self.port.settled(self)
                self._over(event)
            case _:
                self.session.handle(event)

    def _moved(self, address: Address) -> None:
        self.port.routes.left(self, self._address)
        self._address = address
        self.port.routes.at(self, address)
        if self.on_moved is not None:
            self.on_moved(address)

    def _over(self, event: Closed) -> None:
        if not self._known:
            self.closed = True
            if self.failed is not None:
                self.failed(error_of(event))
            return
        self._end(reason_of(event))

    def _end(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        if self._silence is not None:
            self._silence.stop()
        self._waiters.clear()
        self.session.lost()
        if self.on_lost is not None:
            self.on_lost(reason)

    def stop(self) -> None:
        """Forget the connection without another datagram."""
        self._stopped = True
        self._timer.close()
        self.port.forget(self)

    def set_keep_alive(self, keep_alive: KeepAlive) -> None:
        """Ask more often than the engine does by itself."""
        if self._silence is not None:
            self._silence.set(keep_alive)
        elif not self.closed:
            self._silence = SilenceWatch(
                keep_alive,
                heard=lambda: self.engine.heard,
                ask=self._ask,
                lose=lambda reason: self.lose(reason, abort=True),
            )

    def _ask(self) -> None:
        self.engine.ping()
        self.drive()

    def lose(self, reason: str, *, abort: bool = False) -> None:
        """End the connection and tell all streams; `abort`: the peer is not told.  Idempotent."""
        if abort:
            self.stop()
        else:
            # Said first: whoever hears of the end may open another connection.
            self.engine.close(ConnectionCode.SHUTDOWN, reason[:200], self._loop.time())
        self._end(reason)
        if not abort:
            self.drive()


class QuicPort:
    """All QUIC connections of one UDP port; `choose` says which engine runs those to an address.

    `admit(address, half_open)` is asked before a stranger costs memory, `half_open` being whose
    handshakes are under way; without `accept` nobody gets in.  What is not QUIC (STUN, hole
    punching, the overlay) goes to `UdpPort.received`, as if there was no QUIC.
    """

    def __init__(
        self,
        udp: UdpPort,
        config: Config,
        choose: Callable[[Address], EngineFactory],
        *,
        accept: Established | None = None,
        admit: Callable[[Address, Iterable[Address]], bool] = lambda _, __: True,
    ) -> None:
        self.udp = udp
        self.accept = accept
        self.routes: Routes[QuicLink] = Routes()
        self.links: set[QuicLink] = set()
        self.counts: Counter[str] = Counter()
        """What was dropped or answered without a connection, by cause."""
        self._config = config
        self._choose = choose
        self._admit = admit
        self._reception = Reception(config.reset_key, config.random)
        self._half_open: set[QuicLink] = set()
        self._touched: dict[QuicLink, int] = {}
        self._waiting: dict[QuicLink, None] = {}
        self._loop = asyncio.get_running_loop()
        udp.on_room = self._room
        udp.on_refused = self._refused
        udp.use_trains(self._received, self._drained)

    # --- dialing -------------------------------------------------------------------------------

    async def dial(
        self, address: Address, expected: PeerId | None, established: Established
    ) -> QuicLink:
        """Connect; `established` is called before anything else of the peer's is handled.

        Raises:
            PeerMismatchError, CryptoFailure, RemoteProtocolError: the peer is not what it should.
            ClosedError: it refused.
            TimeoutError: nobody answered.
            OSError: the network says that nobody is there.

        """
        done: asyncio.Future[None] = self._loop.create_future()

        def up(link: QuicLink, event: HandshakeDone) -> None:
            try:
                established(link, event)
            except PtError as error:
                if not done.done():
                    done.set_exception(error)
                self._loop.call_soon(link.lose, str(error))
            else:
                if not done.done():
                    done.set_result(None)

        def failed(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        now = self._loop.time()
        engine = self._choose(address).connect(self._config, address, now, expected=expected)
        link = self._add(engine, up)
        link.failed = failed
        link.drive()
        try:
            await done
        except BaseException:
            link.lose("given up")
            raise
        finally:
            link.failed = None
        return link

    def _add(self, engine: Engine, established: Established, *, proved: bool = False) -> QuicLink:
        link = QuicLink(self, engine, established, proved=proved)
        self.links.add(link)
        for cid in engine.connection_ids:
            self.routes.issued(link, cid)
        self.routes.at(link, (engine.address[0], engine.address[1]))
        return link

    # --- receiving -----------------------------------------------------------------------------

    def _received(self, data: bytes, size: int, address: Address) -> None:
        if not data:
            return
        now = self._loop.time()
        if len(data) <= size:
            self._run(data, size, address, now)
            return
        for run in runs(data, size):
            self._run(run, size, address, now)

    def _run(self, data: bytes, size: int, address: Address, now: float) -> None:
        """Take datagrams of one connection."""
        if not is_quic(data[0]):
            if self.udp.received is not None:
                self.udp.received(data, address)
            else:
                self.counts["not QUIC"] += 1
            return
        link = self.routes.find(data)
        if link is None:
            for each in self.routes.all_at(address) if not data[0] & 0x80 else ():
                self._give(each, data, size, address, now)  # it may be a stateless reset
                if each.engine.terminated:
                    return
            link = self._unknown(data[:size], address, now)
        if link is not None:
            self._give(link, data, size, address, now)

    def _give(self, link: QuicLink, data: bytes, size: int, address: Address, now: float) -> None:
        link.receive(data, size, address, now)
        self._touched[link] = self._touched.get(link, 0) + len(data)

    def _unknown(self, datagram: bytes, address: Address, now: float) -> QuicLink | None:
        accepting = self.accept is not None
        decision = self._reception.decide(datagram, address, now, accepting=accepting)
        if isinstance(decision, Admission):
            # Who has proved to be at an address does not wait for those who only say so.
            proved = decision.validated
            rivals = (link.address for link in self._half_open if link.proved >= proved)
            if not self._admit(address, rivals):
                self.counts["refused"] += 1
                decision = self._reception.refuse(datagram, now)
        if isinstance(decision, Reply):
            self.counts["answered"] += 1
            self.udp.send(decision.datagram, address)
            return None
        if isinstance(decision, Drop):
            self.counts[decision.cause] += 1
            return None
        engine = self._choose(address).accept(self._config, decision, address, now)
        link = self._add(engine, self._accepted, proved=decision.validated)
        self._half_open.add(link)
        self._reception.half_open += 1
        return link

    def _accepted(self, link: QuicLink, event: HandshakeDone) -> None:
        try:
            if self.accept is None:
                raise ClosedError("this node takes no connections any more")
            self.accept(link, event)
        except PtError as error:
            self._loop.call_soon(link.lose, str(error))

    def _refused(self, address: Address, code: int) -> None:
        """The network says that nobody is there; established connections do not mind."""
        for link in self.routes.all_at(address):
            if link.failed is not None:
                link.failed(OSError(code, os.strerror(code)))

    def settled(self, link: QuicLink) -> None:
        """A handshake is over, one way or the other."""
        if link in self._half_open:
            self._half_open.discard(link)
            self._reception.half_open -= 1

    def _drained(self) -> None:
        try:
            while self._touched:
                link, count = self._touched.popitem()
                link.received(count)
        finally:
            if self._touched:
                self._loop.call_soon(self._drained)

    # --- sending -------------------------------------------------------------------------------

    def wait(self, link: QuicLink) -> None:
        """Drive `link` when the socket has room again."""
        self._waiting[link] = None

    def _room(self) -> None:
        waiting, self._waiting = self._waiting, {}
        try:
            while waiting:
                link, _ = waiting.popitem()
                link.drive()
        finally:
            if waiting:
                self._waiting |= waiting
                self._loop.call_soon(self._room)

    # --- life ----------------------------------------------------------------------------------

    def forget(self, link: QuicLink) -> None:
        """Nothing of a connection is left."""
        self.settled(link)
        self.links.discard(link)
        self._waiting.pop(link, None)
        self.routes.forget(link, link.address)

    def close(self) -> None:
        """Say goodbye to everybody; the UDP port stays its owner's."""
        self.accept = None
        for link in list(self.links):
            link.lose("this node shuts down")
            link.stop()
