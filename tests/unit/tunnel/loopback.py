"""Two nodes on loopback with a gate and a session between them: tunnels without processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from pt.aio.hangup import HangupWatch
from pt.identity.keys import PrivateKey
from pt.node.connection import Connection
from pt.node.node import Node, NodeLimits
from pt.tunnel import authenticate
from pt.tunnel.config import Service
from pt.tunnel.core.messages import PROTOCOL
from pt.tunnel.exposer_session import ExposerSession
from pt.tunnel.gate import Gate
from pt.tunnel.session import BinderSession
from pt.tunnel.targets import Targets
from pt.tunnel.v2 import TunnelPump
from pt.wire.multiaddr import Multiaddr

PSK = b"k" * 32


class Loopback:
    """Both ends in one process; `forgotten` and `detached` note what the sessions reported."""

    def __init__(self, limits: NodeLimits | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.errors: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.hangups = HangupWatch(loop)
        self.exposer = Node(
            identity=PrivateKey.generate(os.urandom(32)),
            listen=(Multiaddr.tcp("127.0.0.1", 0),),
            limits=limits,
        )
        self.binder = Node(identity=PrivateKey.generate(os.urandom(32)))
        self.service = listener()
        self.forgotten: list[tuple[str, int, str]] = []
        self.detached: list[str] = []
        self.rejected: list[str] = []
        self.answers: list[int] = []
        self.gate = Gate(
            psk=PSK,
            allow=frozenset(),
            make=self._make,
            on_reject=lambda _, reason: self.rejected.append(reason),
            on_attached=lambda *_: None,
        )
        self.session: BinderSession

    @property
    def granted(self) -> ExposerSession:
        """The exposer's side of the binder's session."""
        return self.gate.sessions[self.session.id]

    def _make(self, secret: bytes, connection: Connection) -> ExposerSession:
        number = authenticate.session_id(secret)

        def detached(_: str) -> None:
            self.detached.append("exposer")

        return ExposerSession(
            session_id=number,
            secret=secret,
            remote=connection.peer_id,
            hangups=self.hangups,
            targets=self.targets,
            on_forget=self._forgot("exposer"),
            on_detached=detached,
            on_open=lambda _: None,
            on_refuse=lambda *_: None,
        )

    def _forgot(self, who: str) -> object:
        def forgot(pump: TunnelPump, reason: str) -> None:
            self.forgotten.append((who, pump.id, reason))

        return forgot

    async def start(self) -> None:
        self.targets = Targets((Service(port=self.service.getsockname()[1]),))
        await self.targets.resolve()
        self.exposer.handle_raw(PROTOCOL, self.gate.accept)
        await self.exposer.start()

    async def dial(self) -> Connection:
        return await self.binder.connect(self.exposer.addresses, expected=self.exposer.peer_id)

    async def authenticate(self) -> Connection:
        """A connection with a new session of ours."""
        connection = await self.dial()
        stream, secret = await authenticate.ask_session(connection, PSK)
        self.session = BinderSession(
            session_id=authenticate.session_id(secret),
            secret=secret,
            remote=connection.peer_id,
            hangups=self.hangups,
            on_forget=self._forgot("binder"),
            on_detached=lambda _: self.detached.append("binder"),
            on_answer=lambda _, code, __: self.answers.append(code),
        )
        self.session.attach(connection, stream.stream, stream.take_buffered())
        await until(lambda: bool(self.session.offered))
        return connection

    async def attach(self) -> Connection:
        """A connection on which our session goes on."""
        connection = await self.dial()
        stream = await authenticate.ask_to_attach(connection, self.session.secret)
        assert stream is not None
        self.session.attach(connection, stream.stream, stream.take_buffered())
        return connection

    def cut(self) -> None:
        """End the path, at both ends at once."""
        for session in (self.session, self.granted):
            if session.connection is not None:
                session.connection.link.lose("cut", abort=True)

    def open(self) -> socket.socket:
        """A local connection through the tunnel; our end."""
        ours, theirs = tcp_pair()
        self.session.open(theirs, 0)
        assert self.session.connection is None or not self.session.connection.closed
        if self.session.connection is not None:
            self.session.connection.link.flush()
        return ours

    async def accept(self) -> socket.socket:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.service)
        sock.setblocking(False)
        return sock

    async def close(self) -> None:
        if hasattr(self, "session"):
            self.session.end("the test is over")
        for session in list(self.gate.sessions.values()):
            session.end("the test is over")
        await self.binder.close()
        await self.exposer.close()
        self.hangups.close()
        self.service.close()


@contextlib.asynccontextmanager
async def loopback(limits: NodeLimits | None = None) -> AsyncIterator[Loopback]:
    """Both ends, started; no callback of theirs may have raised by the end."""
    rig = Loopback(limits)
    await rig.start()
    try:
        async with asyncio.timeout(20):
            yield rig
    finally:
        await rig.close()
    assert not rig.errors


def listener(backlog: int = 64) -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two joined TCP sockets, non-blocking."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def until(condition: object) -> None:
    """Let the loop run until `condition()` holds."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.001)


async def read_all(sock: socket.socket) -> bytes:
    data = b""
    while part := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        data += part
    return data
