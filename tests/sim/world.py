"""Two nodes, a path between them that breaks on demand, and a tunnel over it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from pt.aio import tcp
from pt.aio.hangup import HangupWatch
from pt.aio.keep_alive import KeepAlive
from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.buffers import POOL
from pt.node.connection import Connection
from pt.node.link import Link
from pt.node.node import Node
from pt.node.route import Route
from pt.noise.handshake import Suite
from pt.noise.transport import Opener, Sealer
from pt.tunnel import authenticate
from pt.tunnel.config import Service
from pt.tunnel.core import messages as wire
from pt.tunnel.events import Event
from pt.tunnel.exposer_session import ExposerSession
from pt.tunnel.gate import Gate
from pt.tunnel.paths import Paths
from pt.tunnel.session import BinderSession
from pt.tunnel.targets import Targets
from pt.tunnel.v2 import TunnelPump
from pt.wire.multiaddr import Multiaddr
from pt.yamux.session import Limits, Session

PSK = b"k" * 32
RELAY_READ = 64 * 1024
LOCAL = Multiaddr.tcp("127.0.0.1", 1)


def node(seed: int) -> Node:
    return Node(identity=PrivateKey.generate(bytes([seed]) * 32), congestion="")


def quiet_pair(small: bool = True) -> tuple[socket.socket, socket.socket]:
    """Two joined sockets with little room, so that back-pressure is soon felt."""
    left, right = socket.socketpair()
    for sock in (left, right):
        sock.setblocking(False)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    return left, right


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection on loopback: half-close and reset as applications have them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def connection_on(
    sock: socket.socket,
    here: Node,
    there: PeerId,
    *,
    initiator: bool,
    keys: tuple[bytes, bytes] = (b"i" * 32, b"r" * 32),
    binding: bytes = b"h" * 32,
    keep_alive: KeepAlive | None = None,
) -> Connection:
    """What `Node._upgrade` makes, without its hand-shake."""
    send, receive = keys if initiator else keys[::-1]
    connection = Connection(
        here,
        peer_id=there,
        suite=Suite.AESGCM,
        handshake_hash=binding,
        route=Route(LOCAL),
        local_addr=LOCAL,
        initiator=initiator,
    )
    session = Session(
        initiator=initiator,
        clock=asyncio.get_running_loop().time,
        on_stream=connection.accept_stream,
        limits=Limits(),
    )
    session.on_acked = connection.wake_openers

    def lost(reason: str) -> None:
        here.connections.discard(connection)
        connection.lost(reason)

    connection.link = Link(
        sock,
        sealer=Sealer(Suite.AESGCM, send),
        opener=Opener(Suite.AESGCM, receive),
        session=session,
        keep_alive=keep_alive or KeepAlive(2.0, 8.0),
        on_lost=lost,
    )
    here.connections.add(connection)
    connection.link.start()
    return connection


class Path:
    """Carries bytes between two sockets with a delay, and forgets what it carries when cut."""

    def __init__(self, delay: float = 0.005, budget: int | None = None) -> None:
        self.left, self._a = quiet_pair()
        self.right, self._b = quiet_pair()
        self.delay = delay
        self.budget = budget  # bytes until it cuts itself
        self.mode = "both"
        self.carried = 0
        self.broken = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._carry(self._a, self._b)),
            asyncio.create_task(self._carry(self._b, self._a)),
        ]

    async def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, RELAY_READ):
                await asyncio.sleep(self.delay)
                self.carried += len(data)
                if self.budget is not None and self.carried >= self.budget:
                    keep = len(data) - (self.carried - self.budget)
                    with contextlib.suppress(OSError):
                        sink.send(data[:keep])
                    break
                await loop.sock_sendall(sink, data)
        self.cut(self.mode)

    def cut(self, mode: str = "both") -> None:
        """Break: `both` ends notice, or only `left` or `right`, or `none` (until keep-alive)."""
        if self.broken.is_set():
            return
        self.broken.set()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        if mode in ("both", "left"):
            self._a.close()
        if mode in ("both", "right"):
            self._b.close()

    def close(self) -> None:
        self.cut()
        self._a.close()
        self._b.close()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Log:
    """What both roles were told."""

    answers: list[tuple[int, int, str]] = field(default_factory=list)
    forgotten: list[tuple[str, int, str]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class World:
    """A binder that keeps a session to an exposer, over as many paths as it takes.

    `next_path()` makes each path. `serve` runs for each connection at the target.
    """

    def __init__(self, next_path: Callable[[], Path], serve: Script) -> None:
        self.binder, self.exposer = node(1), node(2)
        self.log = Log()
        self.session: BinderSession | None = None
        self.moves: Paths
        self.gate: Gate
        self.paths: list[Path] = []
        self._next_path = next_path
        self._serve = serve
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._binder_hangups = HangupWatch(asyncio.get_running_loop())
        self._exposer_hangups = HangupWatch(asyncio.get_running_loop())

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]
        self.targets = Targets([Service(port=80, target_port=self.port)])
        await self.targets.resolve()
        self.gate = Gate(
            psk=PSK,
            allow=frozenset(),
            make=self._make,
            on_reject=lambda connection, reason: self.log.rejected.append(reason),
            on_attached=lambda session, connection, resumed: None,
        )
        self.exposer.handle_raw(wire.PROTOCOL, self.gate.accept)
        self._keeper = asyncio.create_task(self._keep())
        await self._up.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        if self.session is not None:
            await self.moves.close()
            self.session.end("over")
        for session in self.gate.sessions.values():
            session.end("over")
        await self.binder.close()
        await self.exposer.close()
        for path in self.paths:
            path.close()
        self.server.close()
        self._binder_hangups.close()
        self._exposer_hangups.close()
        await asyncio.sleep(0.1)

    @property
    def exposer_session(self) -> ExposerSession:
        """The one that serves ours; a path cut during authentication leaves others behind."""
        assert self.session is not None
        return self.gate.sessions[self.session.id]

    def _make(self, secret: bytes, connection: Connection) -> ExposerSession:
        return ExposerSession(
            session_id=authenticate.session_id(secret),
            secret=secret,
            remote=connection.peer_id,
            hangups=self._exposer_hangups,
            targets=self.targets,
            on_forget=lambda pump, why: self.log.forgotten.append(("exposer", pump.id, why)),
            on_detached=lambda reason: None,
            on_open=lambda pump: self.log.opened.append(pump.id),
            on_refuse=lambda number, port, code, why: self.log.refused.append((number, code, why)),
        )

    async def _keep(self) -> None:
        """Hold a path; when it is lost make another, as the binder's reach does."""
        while True:
            self._lost.clear()
            path = self._next_path()
            ours, theirs = self.connect(path)
            try:
                async with asyncio.timeout(5):
                    await self._use(ours)
            except (PtError, TimeoutError):
                ours.close("no session")
                path.cut()
                theirs.close("no session")
                await asyncio.sleep(0.1)
                continue
            await self._lost.wait()
            if self.session is not None and self.session.connection is not None:
                continue  # lost, and found again by a move
            path.cut(path.mode)
            await asyncio.sleep(0.1)

    def connect(self, path: Path) -> tuple[Connection, Connection]:
        """One more connection between the two nodes: the binder's end and the exposer's."""
        self.paths.append(path)
        binding = os.urandom(32)
        theirs = connection_on(
            path.right, self.exposer, self.binder.peer_id, initiator=False, binding=binding
        )
        ours = connection_on(
            path.left, self.binder, self.exposer.peer_id, initiator=True, binding=binding
        )
        return ours, theirs

    async def _use(self, connection: Connection) -> None:
        if self.session is not None:
            assert await self.moves.move(connection), "the exposer forgot the session"
            return
        stream, secret = await authenticate.ask_session(connection, PSK)
        session = BinderSession(
            session_id=authenticate.session_id(secret),
            secret=secret,
            remote=connection.peer_id,
            hangups=self._binder_hangups,
            on_forget=lambda pump, why: self.log.forgotten.append(("binder", pump.id, why)),
            on_detached=lambda reason: self._lost.set(),
            on_answer=lambda pump, code, why: self.log.answers.append((pump.id, code, why)),
        )
        session.attach(connection, stream.stream, stream.take_buffered())
        self.session = session
        self.moves = Paths(self.binder, session, (), security=(), emit=self.log.events.append)
        self._up.set()

    def open(self, port: int = 80) -> tuple[socket.socket, TunnelPump]:
        """An application's connection to the tunnel: its socket, non-blocking, and the pump."""
        assert self.session is not None
        application, local = tcp_pair()
        return application, self.session.open(local, port)

    async def settled(self, seconds: float = 120.0) -> None:
        """Wait until neither side holds a connection or a byte."""
        assert self.session is not None
        deadline = asyncio.get_running_loop().time() + seconds
        sides = (self.session, self.exposer_session)
        while any(side.pumps for side in sides):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"left over: {[describe(side) for side in sides]}")
            await asyncio.sleep(0.05)
        assert [side.ledger.held for side in sides] == [0, 0]


def describe(session: BinderSession | ExposerSession) -> dict[int, dict[str, object]]:
    return {
        number: {
            "local_eof": pump.local_eof,
            "remote_eof": pump.remote_eof,
            "write_closed": pump.write_closed,
            "closed": pump.closed,
            "stream": pump.stream is not None,
            "backlog": pump._backlog is not None,
            "replay": (pump.replay.acked, pump.replay.sent, pump.replay.end, pump.replay.fin),
            "received": pump.received,
        }
        for number, pump in session.pumps.items()
    }


def lent() -> tuple[int, int, int]:
    return POOL.rx.lent, POOL.tx.lent, POOL.slots.lent


abort = tcp.abort
