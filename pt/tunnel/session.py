"""One authenticated relation between a binder and an exposer, over one connection after another.

The session owns the tunnel's streams by number, their acknowledgements and the memory they keep.
`attach` gives it a connection, `detached` is told when that one is lost; the streams stay.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pt.aio.keep_alive import KeepAlive
from pt.errors import RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import accept_reply, lazy_open
from pt.muxer import Stream
from pt.node.connection import Connection
from pt.tunnel.core import messages as wire
from pt.tunnel.core.messages import Code, Control
from pt.tunnel.core.replay import Ledger
from pt.tunnel.loss import LossWatch
from pt.tunnel.v2 import BinderPump, TunnelPump
from pt.wire.multiaddr import Multiaddr, MultiaddrError

if TYPE_CHECKING:
    import socket

    from pt.aio.hangup import HangupWatch

__all__ = ["MAX_STREAMS", "BinderSession", "TunnelSession"]

MAX_STREAMS: Final = 20_000
"""Connections of one session at a time."""
LEDGER_LIMIT: Final = 64 * 1024 * 1024
"""Memory that unacknowledged bytes of all its streams may take."""
MAX_LEFT: Final = 4
"""Connections left without a proof on the next one."""
ACK_DELAY: Final = 0.04
"""Seconds an acknowledgement may wait for company."""
CONTROL_ROOM: Final = 64 * 1024
KEEP_ALIVE: Final = KeepAlive(2.0, 8.0)
"""Between two `pt`s: a dead path is noticed within 8 s of silence."""
_OPENING: Final = lazy_open(wire.PROTOCOL)
_REPLY: Final = accept_reply(wire.PROTOCOL)


class TunnelSession:
    """What both roles share.  `on_forget(pump, reason)` is told each connection's end."""

    def __init__(
        self,
        *,
        session_id: bytes,
        secret: bytes,
        remote: PeerId,
        hangups: HangupWatch,
        on_forget: Callable[[TunnelPump, str], None],
        on_detached: Callable[[str], None],
    ) -> None:
        self.id = session_id
        self.secret = secret
        self.remote = remote
        self.loop = asyncio.get_running_loop()
        self.hangups = hangups
        self.ledger = Ledger(LEDGER_LIMIT)
        self.ledger_waiters: deque[TunnelPump] = deque()
        self.pumps: dict[int, TunnelPump] = {}
        self.connection: Connection | None = None
        self.bye: str | None = None
        self.ended = False
        self._on_forget = on_forget
        self._on_detached = on_detached
        self._control: Stream | None = None
        self._reader = wire.ControlReader()
        self._dirty: list[TunnelPump] = []
        self._ack_timer: asyncio.TimerHandle | None = None
        self._known: set[Connection] = set()  # connections that will tell us their end
        self.on_addresses: Callable[[tuple[Multiaddr, ...]], None] | None = None
        """Told where the peer says that it can be dialed."""
        self.on_lossy: Callable[[], None] | None = None
        """Told when a path that minds loss, in either direction, has some."""
        self._loss: LossWatch | None = None
        self.moved_at = 0.0
        """When bytes of a connection came last, within `ACK_DELAY`."""

    # --- connections ---------------------------------------------------------------------------

    def attach(self, connection: Connection, control: Stream, early: bytes) -> None:
        """Use `connection`; `control` is its control stream, `early` what was read of it.

        A connection in use until now is let go and stays open: whoever knows whether it is still
        good for anything closes it.
        """
        self._let_go()  # first, or a session without connections would be given up
        self.connection = connection
        link = connection.link
        link.session.limits.streams = MAX_STREAMS + 64
        link.set_keep_alive(KEEP_ALIVE)
        self._control = control
        self._reader = wire.ControlReader()
        control.handler = self
        if connection not in self._known:
            self._known.add(connection)
            connection.on_close.append(lambda reason: self._lost(connection, reason))
        if link.minds_loss and connection.node.quic.chooses:
            self._loss = LossWatch(link, self._loses)
        if early:
            self._control_data(early)

    def _loses(self) -> None:
        """What we send gets lost on the way."""
        self._send(wire.control(Control.LOSSY))
        if self.connection is not None:
            self.connection.link.flush()
        self._expect_loss()

    def _expect_loss(self) -> None:
        connection = self.connection
        if connection is not None and connection.link.minds_loss and connection.node.quic.chooses:
            connection.node.quic.expect_loss(connection)
            if self.on_lossy is not None:
                self.on_lossy()

    def _lost(self, connection: Connection, reason: str) -> None:
        self._known.discard(connection)
        if self.connection is connection:
            self._let_go()
            if not self.ended:
                self._on_detached(reason)

    def _let_go(self) -> None:
        """Forget the path.  The muxer of a lost one tells only streams that it still knows: not
        those that ended both ways and wait for an acknowledgement, or for their local socket.
        """  # noqa: D205
        connection, self.connection = self.connection, None
        control, self._control = self._control, None
        if self._loss is not None:
            self._loss.stop()
            self._loss = None
        left: list[Stream] = []
        if control is not None:
            control.handler = None
            left.append(control)
        self.ledger_waiters.clear()
        for pump in list(self.pumps.values()):
            stream = pump.stream
            if stream is not None:
                pump.stream_lost(None)
                stream.handler = None
                left.append(stream)
        if connection is not None:
            self._leave(connection, left)
            connection.link.flush()

    def _leave(self, connection: Connection, streams: list[Stream]) -> None:
        """The session leaves `connection`, and `streams` on it."""

    def end(self, reason: str) -> None:
        """Reset every connection that is left and forget the session."""
        if self.ended:
            return
        self.ended = True
        for pump in list(self.pumps.values()):
            pump.end(reason, reset=True)
        if self._ack_timer is not None:
            self._ack_timer.cancel()

    def forget(self, pump: TunnelPump, reason: str) -> None:
        """A connection is over; called by its pump."""
        if self.pumps.pop(pump.id, None) is not None:
            self._on_forget(pump, reason)
            self._wake_ledger()

    # --- acknowledgements ----------------------------------------------------------------------

    def ack_later(self, pump: TunnelPump) -> None:
        """`pump` received something: tell the peer soon."""
        self.moved_at = self.loop.time()
        self._dirty.append(pump)
        if self._ack_timer is None:
            self._ack_timer = self.loop.call_later(ACK_DELAY, self._ack_due)

    def _ack_due(self) -> None:
        self._ack_timer = None
        self.send_acks()
        if self.connection is not None:
            self.connection.link.flush()

    def send_acks(self) -> None:
        """Tell the peer what we have; waits by itself while the control stream is full."""
        control = self._control
        if control is None:
            for pump in self._dirty:
                pump.ack_dirty = False
            self._dirty.clear()
            return
        if control.send_window < CONTROL_ROOM:
            if self._ack_timer is None:  # credit that comes before the window is empty tells nobody
                self._ack_timer = self.loop.call_later(ACK_DELAY, self._ack_due)
            return
        count = min(len(self._dirty), 4000)
        batch, self._dirty = self._dirty[:count], self._dirty[count:]
        entries = []
        for pump in batch:
            pump.ack_dirty = False
            pump.ack_told = pump.received
            entries.append((pump.id, pump.received))
        for message in wire.acks(entries):
            self._send(message)
        if self._dirty and self._ack_timer is None:
            self._ack_timer = self.loop.call_later(ACK_DELAY, self._ack_due)

    def _send(self, message: bytes) -> None:
        if self._control is not None and self.connection is not None:
            self.connection.link.send_small(self._control, message)

    def say_offer(self, ports: tuple[int, ...]) -> None:
        """Tell the binder which ports there are."""
        self._send(wire.ports(ports))

    def say_addresses(self, addresses: Sequence[Multiaddr]) -> None:
        """Tell the peer where it may dial us; the many of inner networks do not displace others."""
        found = sorted(addresses, key=lambda address: not (address.is_public or address.is_circuit))
        self._send(wire.addresses(address.encode() for address in found))
        if self.connection is not None:
            self.connection.link.flush()

    def say_bye(self, reason: str) -> None:
        """Tell the peer that we are about to end."""
        if self.connection is not None:
            self._send(wire.control(Control.BYE, reason.encode()[: wire.MAX_REASON]))
            self.connection.link.flush()

    # --- StreamHandler of the control stream -----------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Control messages arrived."""
        if self._control is not None:
            self._control.credit(len(data))
        self._control_data(bytes(data))

    def _control_data(self, data: bytes) -> None:
        try:
            for kind, body in self._reader.receive_data(data):
                self._message(kind, body)
        except RemoteProtocolError as error:
            self._break(str(error))

    def _message(self, kind: int, body: bytes) -> None:
        if kind == Control.ACK:
            for number, received in wire.read_acks(body):
                pump = self.pumps.get(number)
                if pump is not None:
                    pump.acked(received)
            self._wake_ledger()
        elif kind == Control.BYE:
            self.bye = body.decode(errors="replace")
        elif kind == Control.LOSSY:
            self._expect_loss()
        elif kind == Control.ADDRESSES and self.on_addresses is not None:
            self.on_addresses(tuple(_multiaddrs(wire.read_addresses(body))))

    def _wake_ledger(self) -> None:
        waiters = self.ledger_waiters
        for _ in range(len(waiters)):
            if self.ledger.full or not waiters:  # one that ends wakes others itself
                return
            waiters.popleft().ledger_ready()

    def eof_received(self) -> None:
        """The control stream ends only with the connection."""
        self._break("the peer ended the session")

    def window_opened(self) -> None:
        """The control stream has room again."""
        if self._dirty:
            self.send_acks()

    def stream_acked(self) -> None:
        """Nothing depends on it."""

    def stream_lost(self, code: int | None) -> None:
        """A reset of the control stream ends the connection; a lost one is told by `_lost`."""
        if code is not None:
            self._break("the peer reset the session")

    def _break(self, reason: str) -> None:
        """The peer broke the session: drop the connection, not the streams."""
        if self.connection is not None:
            self.loop.call_soon(self.connection.close, reason)


def _multiaddrs(encoded: Sequence[bytes]) -> Iterator[Multiaddr]:
    """Those that can be read."""
    for raw in encoded:
        with contextlib.suppress(MultiaddrError):
            yield Multiaddr.decode(raw)


class BinderSession(TunnelSession):
    """The binder's role: opens streams, and resumes them on a new connection.

    `on_answer(pump, code, reason)` is told each OPEN's answer.
    """

    def __init__(
        self,
        *,
        session_id: bytes,
        secret: bytes,
        remote: PeerId,
        hangups: HangupWatch,
        on_forget: Callable[[TunnelPump, str], None],
        on_detached: Callable[[str], None],
        on_answer: Callable[[BinderPump, int, str], None],
    ) -> None:
        super().__init__(
            session_id=session_id,
            secret=secret,
            remote=remote,
            hangups=hangups,
            on_forget=on_forget,
            on_detached=on_detached,
        )
        self.offered: tuple[int, ...] = ()
        self._left: list[tuple[Connection, list[Stream]]] = []  # whose streams are to be ended
        self.proved = True
        """Whether the exposer has shown that it has the session, on the connection in use."""
        self._on_answer = on_answer
        self._next = 1
        self._to_open: deque[BinderPump] = deque()

    def attach(
        self, connection: Connection, control: Stream, early: bytes, *, proved: bool = True
    ) -> None:
        """Use `connection` and resume every stream on it."""
        self.proved = proved
        super().attach(connection, control, early)
        if proved:
            self._end_left()
        connection.link.session.on_acked = self._open_waiting
        self._to_open.clear()
        if self.pumps:
            for message in wire.ids(Control.LIVE, list(self.pumps)):
                self._send(message)
        self._send(wire.control(Control.LIVE_END))
        for pump in list(self.pumps.values()):
            assert isinstance(pump, BinderPump)
            self._start(pump)
        connection.link.flush()

    def confirm(self, control: Stream, early: bytes) -> None:
        """The exposer has proved the session on `control`, which was attached before."""
        if control is self._control:
            self.proved = True
            self._end_left()
            control.handler = self
            self._control_data(early)

    def _leave(self, connection: Connection, streams: list[Stream]) -> None:
        """End the streams: what the exposer said there might arrive before its word on the new
        connection.  Not before it is there, too: it would take the end for the application's.
        """  # noqa: D205
        self._left.append((connection, streams))
        if len(self._left) > MAX_LEFT:
            self._left.pop(0)[0].close("left without an answer on any other path")
        if self.proved:
            self._end_left()

    def _end_left(self) -> None:
        left, self._left = self._left, []
        for connection, streams in left:
            for stream in streams:
                stream.reset()
            connection.link.flush()

    def open(self, sock: socket.socket, port: int) -> BinderPump:
        """Begin to forward a freshly accepted connection to the exposer's `port`."""
        pump = BinderPump(self, sock, self._next, port)
        self._next += 1
        self.pumps[pump.id] = pump
        self._start(pump)
        return pump

    def _start(self, pump: BinderPump) -> None:
        connection = self.connection
        if connection is None:
            return  # attach will come back to it
        muxer = connection.link.session
        if not muxer.can_open or self._to_open:
            self._to_open.append(pump)
            return
        self._open_now(pump, connection)

    def _open_waiting(self) -> None:
        connection = self.connection
        if connection is None:
            return
        connection.wake_openers()
        while self._to_open and connection.link.session.can_open:
            pump = self._to_open.popleft()
            if pump.id in self.pumps and pump.stream is None:
                self._open_now(pump, connection)

    def _open_now(self, pump: BinderPump, connection: Connection) -> None:
        stream = connection.link.session.open()
        pump.attach(connection.link, stream)
        pump.expect(_REPLY)
        if pump.announced:  # it was, perhaps, seen: only the exposer knows
            pump.resuming = True
            pump.ack_told = pump.received
            head = wire.RESUME.pack(wire.RESUME_KIND, 0, pump.id, pump.received)
            connection.link.send_small(stream, _OPENING + head)
            return
        pump.announced = True
        head = wire.OPEN.pack(wire.OPEN_KIND, 0, pump.id, pump.port)
        connection.link.send_small(stream, _OPENING + head)
        pump.sending = True
        pump.pump()

    def answered(self, pump: BinderPump, code: int, received: int, reason: str) -> None:
        """The exposer answered an OPEN or RESUME."""
        if not self.proved:
            stream = pump.stream
            pump.stream_lost(None)
            if stream is not None:
                stream.handler = None
                stream.reset()
            self._break("an answer before the proof")
            return
        first = not pump.opened
        if code == Code.OK:
            try:
                pump.go(received)
            except RemoteProtocolError as error:
                pump.end(str(error), reset=True)
                return
            if first:
                self._on_answer(pump, code, reason)
            return
        if code == Code.UNKNOWN and first:
            try:
                self._open_again(pump)
            except RemoteProtocolError as error:
                pump.end(str(error), reset=True)
            return
        if first:
            self._on_answer(pump, code, reason)
        pump.peer_forgot(reason or "the exposer knows it no more")

    def _open_again(self, pump: BinderPump) -> None:
        """The OPEN was lost with its path: the exposer never saw it, so nothing was delivered."""
        connection = self.connection
        if connection is None or pump.stream is None:
            return
        pump.stream.reset()
        pump.stream = None
        pump.announced = pump.resuming = False
        pump.replay.rewind(0)
        self._start(pump)

    def _message(self, kind: int, body: bytes) -> None:
        if kind == Control.OFFER:
            self.offered = wire.read_ports(body)
        else:
            super()._message(kind, body)
