"""The exposer's role in a session: connects to targets, answers, resumes."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pt.aio.tcp import ip_family
from pt.errors import RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.muxer import Stream
from pt.node.connection import Connection
from pt.tunnel.core import messages as wire
from pt.tunnel.core.messages import Code, Control
from pt.tunnel.core.numbers import Numbers
from pt.tunnel.session import MAX_STREAMS, TunnelSession
from pt.tunnel.v2 import ExposerPump, TunnelPump
from pt.tunnel.watch import PathWatch

if TYPE_CHECKING:
    import asyncio

    from pt.aio.hangup import HangupWatch
    from pt.tunnel.targets import Targets

__all__ = ["ExposerSession", "TargetDial", "failure"]

MAX_OLDER: Final = 2
"""Connections that a binder may keep besides the one it uses."""
BACK_SOON: Final = 3.0
"""Seconds within which a binder goes back to a path that was never dead."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds a target may take to accept."""


def _may_stand_in(connection: Connection) -> bool:
    return connection.relay is not None and not connection.closed and not connection.limited


def failure(error: int) -> tuple[Code, str]:
    """The answer to give for a failed connect()."""
    text = errno.errorcode.get(error, str(error))
    if error == errno.ECONNREFUSED:
        return Code.REFUSED, "the target refuses connections: is the service running?"
    if error in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return Code.UNREACHABLE, f"the target cannot be reached ({text})"
    if error == errno.ETIMEDOUT:
        return Code.TIMEOUT, "the target does not answer"
    if error in (errno.EMFILE, errno.ENFILE):
        return Code.LIMIT, "the exposer has no file descriptors left (raise ulimit -n)"
    return Code.FAILED, f"the target cannot be reached ({text})"


class TargetDial:
    """Connects one non-blocking socket; calls `done(errno)`, 0 for success, at once if it can."""

    __slots__ = ("_done", "_fd", "_loop", "_sock", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        address: tuple[str, int],
        done: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._done = done
        self._timer: asyncio.TimerHandle | None = None
        result = sock.connect_ex(address)
        if result == errno.EINPROGRESS:
            with contextlib.suppress(OSError):
                sock.getpeername()  # a loopback connection is there already
                result = 0
        if result == errno.EINPROGRESS:
            self._timer = loop.call_later(CONNECT_TIMEOUT, self._finish, errno.ETIMEDOUT)
            loop.add_writer(self._fd, self._writable)
        else:
            done(result)

    def _writable(self) -> None:
        self._finish(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _finish(self, result: int) -> None:
        self.cancel()
        self._done(result)

    def cancel(self) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._sock.fileno() == self._fd:
                self._loop.remove_writer(self._fd)


class ExposerSession(TunnelSession):
    """`on_open(pump)` and `on_refuse(port, code, reason)` report what binders ask for."""

    def __init__(
        self,
        *,
        session_id: bytes,
        secret: bytes,
        remote: PeerId,
        hangups: HangupWatch,
        targets: Targets,
        on_forget: Callable[[TunnelPump, str], None],
        on_detached: Callable[[str], None],
        on_open: Callable[[ExposerPump], None],
        on_refuse: Callable[[int, int, Code, str], None],
    ) -> None:
        super().__init__(
            session_id=session_id,
            secret=secret,
            remote=remote,
            hangups=hangups,
            on_forget=on_forget,
            on_detached=on_detached,
        )
        self.closing = False
        self._targets = targets
        self._on_open = on_open
        self._on_refuse = on_refuse
        self._numbers = Numbers()
        self._live: set[int] = set()
        self._older: list[Connection] = []
        self._accused: tuple[Connection, float] | None = None
        self._watch = PathWatch(
            self.loop,
            self,
            lambda: self._spare is not None,
            spare=lambda: self._spare,
            leave=self._accuse,
        )

    def attach(self, connection: Connection, control: Stream, early: bytes) -> None:
        """Use `connection`; an older one is let go and may be used again, if the binder wants."""
        old = self.connection
        self._live = set()
        super().attach(connection, control, early)
        if old is not None and old is not connection:
            self._older = [
                each for each in self._older if each is not connection and not each.closed
            ]
            self._older.append(old)
            while len(self._older) > MAX_OLDER:
                self._older.pop(0).close("replaced by newer connections of the same peer")
        self._acquit(connection)
        self._watch.start()
        self.say_offer(self._targets.ports)

    @property
    def _spare(self) -> Connection | None:
        """A connection that the binder left and keeps."""
        current = self.connection
        if current is None or current.relay is not None:
            return None
        return next((each for each in self._older if _may_stand_in(each)), None)

    def _accuse(self) -> None:
        """The path is silent: tell the binder, who goes on over the standby."""
        connection, spare = self.connection, self._spare
        if connection is not None and spare is not None:
            self._accused = connection, self.loop.time()
            self._say_lost(spare)

    def _acquit(self, connection: Connection) -> None:
        """A path that is used again so soon was alive."""
        if self._accused is None or self._accused[0] is not connection:
            return
        (_, since), self._accused = self._accused, None
        now = self.loop.time()
        if now - since < BACK_SOON:
            self._watch.alarms.false(now)

    def _lost(self, connection: Connection, reason: str) -> None:
        spare = self._spare if self.connection is connection else None
        super()._lost(connection, reason)
        if spare is not None and not self.ended:
            self._say_lost(spare)

    def _say_lost(self, spare: Connection) -> None:
        """Tell the binder, who may see nothing but silence, and only when it speaks itself."""

        async def say() -> None:
            stream = await spare.open_stream((wire.PROTOCOL_LOST,))
            await stream.close_write()

        spare.node.spawn(say())

    def end(self, reason: str) -> None:
        """Reset every connection that is left and forget the session."""
        self._watch.stop()
        super().end(reason)

    def open(self, stream: Stream, number: int, port: int, reply: bytes, rest: bytes) -> None:
        """OPEN: connect to the target and answer.

        Raises:
            RemoteProtocolError: the number was used before.

        """
        connection = self.connection
        assert connection is not None
        if not self._numbers.use(number):
            raise RemoteProtocolError(f"stream number {number} used twice")
        found = self._targets.find(port)
        problem: tuple[Code, str] | None = None
        if self.closing:
            problem = Code.CLOSING, "the exposer is shutting down"
        elif found is None:
            offered = ", ".join(map(str, self._targets.ports))
            problem = Code.NOT_OFFERED, f"port {port} is not exposed; exposed: {offered}"
        elif len(self.pumps) >= MAX_STREAMS:
            problem = Code.LIMIT, f"more than {MAX_STREAMS} connections"
        sock: socket.socket | None = None
        if problem is None and found is not None:
            try:
                sock = socket.socket(ip_family(found[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                problem = failure(error.errno or 0)
        if problem is not None or sock is None or found is None:
            code, reason = problem or (Code.FAILED, "internal")
            self._refuse(connection, stream, number, port, reply, code, reason)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pump = ExposerPump(self, sock, number, port)
        self.pumps[number] = pump
        pump.attach(connection.link, stream)
        pump.owe(reply)

        def connected(result: int) -> None:
            if pump.closed:
                return
            if result:
                code, reason = failure(result)
                self._targets.failed(port)
                self._on_refuse(number, port, code, reason)
                pump.refuse(code, reason)
            else:
                pump.target_connected()
                self._on_open(pump)
            if pump.link is not None:
                pump.link.flush()

        dial = TargetDial(self.loop, sock, found, connected)
        if not pump.connected:
            pump.give_up_dial = dial.cancel
        if rest and pump.stream is not None:
            stream.consumed -= len(rest)
            pump.data_received(memoryview(rest))

    def _refuse(  # noqa: PLR0917
        self,
        connection: Connection,
        stream: Stream,
        number: int,
        port: int,
        reply: bytes,
        code: Code,
        reason: str,
    ) -> None:
        connection.link.send_small(stream, reply + wire.encode_answer(code, 0, reason))
        stream.close()
        stream.handler = None
        self._on_refuse(number, port, code, reason)

    def resume(self, stream: Stream, number: int, received: int, reply: bytes, rest: bytes) -> None:
        """RESUME: go on with a stream on a new connection, or say that it is over.

        Raises:
            RemoteProtocolError: the offset cannot be.

        """
        connection = self.connection
        assert connection is not None
        pump = self.pumps.get(number)
        if not isinstance(pump, ExposerPump):
            code = Code.GONE if number in self._numbers else Code.UNKNOWN
            connection.link.send_small(stream, reply + wire.encode_answer(code, 0, ""))
            stream.close()
            stream.handler = None
            return
        if pump.stream is not None:
            raise RemoteProtocolError(f"stream {number} resumed twice")
        pump.replay.rewind(received)
        pump.attach(connection.link, stream)
        pump.ack_told = pump.received
        pump.owe(reply)
        if rest:
            stream.consumed -= len(rest)
            pump.data_received(memoryview(rest))

    def _message(self, kind: int, body: bytes) -> None:
        if kind == Control.LIVE:
            if len(self._live) > MAX_STREAMS:
                raise RemoteProtocolError("too many live streams")
            self._live.update(wire.read_ids(body))
        elif kind == Control.LIVE_END:
            live, self._live = self._live, set()
            self._numbers.settle(live)
            for number in list(self.pumps):
                pump = self.pumps.get(number)
                if number not in live and pump is not None:
                    pump.peer_forgot("the binder knows it no more")
        else:
            super()._message(kind, body)
