"""Connections through relays: dialing a peer that holds a reservation, and being dialed.

A `pt relay` is asked for a raw circuit first: then both ends open a TCP connection of their own to
it, whose bytes its kernel moves; every other relay carries the circuit in a stream of our
connection to it.  Either way the two ends secure and multiplex what they get end to end, as if it
were a TCP connection.  Source: libp2p specs `relay/circuit-v2.md`; docs/design.md, "Relays".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pt.aio import tcp
from pt.aio.hangup import HangupWatch
from pt.aio.keep_alive import KeepAlive
from pt.aio.muxed import MuxedStream
from pt.errors import ConnectError, Dial, DialOutcome, PtError, UsageError
from pt.identity.peer_id import PeerId
from pt.node.bridge import socket_on
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.route import Route
from pt.node.upgrade import SECURITY
from pt.node.ws import WebSocketDialer
from pt.relay import aio as relay_aio
from pt.relay import raw
from pt.relay.messages import HOP, RAW_HOP, RAW_STOP, STOP, Limit, Status, StopMessage, StopType
from pt.wire.multiaddr import Multiaddr

__all__ = ["Circuits"]

ASK_TIMEOUT: Final = 10.0
"""Seconds a relay has to open a circuit; ours answers within a round trip to the target."""
STOP_TIMEOUT: Final = 10.0
RELAY_DIAL_TIMEOUT: Final = 8.0
INBOUND_PER_RELAY: Final = 256
"""Connections that may come to us through one relay."""
HANDSHAKES_PER_RELAY: Final = 32
IDLE_RELAY: Final = 30.0
"""Seconds a connection to a relay that carries nothing is kept."""
RELAY_KEEP_ALIVE: Final = KeepAlive(3.0, 7.0)
"""How fast a dead relay is noticed while something depends on it."""


class Circuits:
    """Circuits of one node.

    `accepts(relay)` says whether circuits may come in through this relay: only through those that
    hold a reservation of ours.
    """

    def __init__(self, node: Node, *, accepts: Callable[[PeerId], bool] = lambda _: False) -> None:
        self.raw = True
        """Whether to ask for raw circuits, and to take them."""
        self._node = node
        self._accepts = accepts
        self._hangups: HangupWatch | None = None
        self._dialing: dict[Multiaddr, asyncio.Task[Connection]] = {}
        self._uses: Counter[Connection] = Counter()
        self._handshakes: Counter[PeerId] = Counter()
        self._websockets = WebSocketDialer(node)
        node.dialers["circuit"] = self.dial
        node.handle(STOP, self._on_stop)
        node.handle(RAW_STOP, self._on_raw_stop)

    async def close(self) -> None:
        """Give up what is being dialed; call after the node's own close."""
        await self._websockets.aclose()
        for task in self._dialing.values():
            task.cancel()
        if self._hangups is not None:
            self._hangups.close()

    # --- relays ----------------------------------------------------------------------------------

    async def relay_connection(self, address: Multiaddr) -> Connection:
        """A direct connection to the relay at `address`, the one that is there or a new one.

        Raises:
            PtError: it cannot be reached.
            UsageError: the address does not say who the relay is.

        """
        raw_id = address.peer_id_bytes
        if raw_id is None:
            raise UsageError(f"{address} does not say who the relay is: add its /p2p/ID")
        relay = PeerId(raw_id)
        for connection in self._node.connections_of(relay):
            if connection.relay is None and connection.link.session.go_away is None:
                return connection
        task = self._dialing.get(address)  # one that hangs must not hold up the relay's others
        if task is None:
            task = asyncio.get_running_loop().create_task(self._dial_relay(address, relay))
            self._dialing[address] = task
            task.add_done_callback(lambda done: self._dialed(address, done))
        return await asyncio.shield(task)

    async def _dial_relay(self, address: Multiaddr, relay: PeerId) -> Connection:
        connection = await self._node.connect(
            address, expected=relay, security=(SECURITY,), timeout=RELAY_DIAL_TIMEOUT
        )
        connection.link.set_keep_alive(RELAY_KEEP_ALIVE)
        self._unless_used(connection)
        return connection

    def _dialed(self, address: Multiaddr, task: asyncio.Task[Connection]) -> None:
        self._dialing.pop(address, None)
        if not task.cancelled():
            task.exception()  # whoever waited was told

    def use(self, connection: Connection) -> None:
        """Keep a connection to a relay until `release`."""
        self._uses[connection] += 1
        connection.uses += 1

    def release(self, connection: Connection) -> None:
        """End a `use`; without any, the connection is closed after a while if we made it."""
        self._uses[connection] -= 1
        connection.uses -= 1
        if self._uses[connection] <= 0:
            del self._uses[connection]
            self._unless_used(connection)

    def _unless_used(self, connection: Connection) -> None:
        def check() -> None:
            if self._uses[connection] or connection.closed:
                return
            if connection.uses:  # by somebody else, who did not make it
                self._unless_used(connection)
            else:
                connection.close("no circuit uses this relay any more")

        if connection.initiator and not connection.closed:
            asyncio.get_running_loop().call_later(IDLE_RELAY, check)

    # --- dialing ---------------------------------------------------------------------------------

    async def dial(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Connect through a relay: `…/p2p/RELAY/p2p-circuit[/p2p/TARGET]`; a `Node.dialers` entry.

        Raises:
            PtError: the relay cannot be reached or refuses, or the target does not answer.

        """
        via, rest = address.split_circuit()
        target = expected
        if rest is not None and rest.peer_id_bytes is not None:
            target = PeerId(rest.peer_id_bytes)
            if expected not in (None, target):
                raise ConnectError(f"{address} leads to another peer than {expected}")
        if target is None:
            raise UsageError(f"{address} does not say who to reach: add its /p2p/ID")
        if via.is_circuit:
            raise ConnectError(f"{address} leads through two relays, which none of them allows")
        relay = await self.relay_connection(via)
        self.use(relay)
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                sock, route = await self._ask(relay, via, target)
            try:
                async with asyncio.timeout(self._node.limits.handshake_timeout):
                    connection = await self._node.adopt(
                        sock, route, initiator=True, expected=target, security=security
                    )
            except BaseException:
                sock.close()
                raise
        except TimeoutError as error:
            self.release(relay)
            raise ConnectError(
                "the relay is there, and the other side gave no answer in time through it",
                (Dial(str(via), "", DialOutcome.ANSWERED, str(relay.peer_id)),),
            ) from error
        except BaseException:
            self.release(relay)
            raise
        if connection.closed:  # by its first bytes: nobody will be told any more
            self.release(relay)
        else:
            connection.on_close.append(lambda _: self.release(relay))
        return connection

    async def _ask(
        self, relay: Connection, via: Multiaddr, target: PeerId
    ) -> tuple[socket.socket, Route]:
        """Have the relay open a circuit; the socket that carries it."""
        started = time.monotonic()
        if self.raw and relay.path == "direct/tcp":
            stream = await relay.open_stream((RAW_HOP, HOP))
        else:
            stream = await relay.open_likely(HOP)
        try:
            if stream.protocol == RAW_HOP:
                try:
                    token, limit = await relay_aio.connect_raw(stream, target)
                except relay_aio.RelayRefusedError as error:
                    if error.status != Status.RAW_UNSUPPORTED:
                        raise
                    stream.finish()
                    stream = await relay.open_stream((HOP,))
                else:
                    stream.finish()
                    sock = await self._raw_socket(relay, token)
                    return sock, self._route(relay, via, "relay/raw", limit)
            limit = await relay_aio.connect(stream, target)
            sock = socket_on(stream, relay.link, self._watch())
        except (PtError, OSError, asyncio.CancelledError):
            await stream.reset()
            raise
        finally:
            self._node.tracer.emit(
                "circuit_asked",
                relay=str(relay.peer_id),
                target=str(target),
                protocol=stream.protocol,
                seconds=round(time.monotonic() - started, 6),
            )
        return sock, self._route(relay, via, "relay/circuit", limit)

    async def _raw_socket(self, relay: Connection, token: bytes) -> socket.socket:
        """Our leg of a raw circuit."""
        host, port = relay.remote_addr.host, relay.remote_addr.tcp_port
        assert host is not None
        assert port is not None
        sock = await tcp.dial(host[1], port)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, raw.preface(token))
        except BaseException:
            sock.close()
            raise
        return sock

    def _route(self, relay: Connection, via: Multiaddr, path: str, limit: Limit | None) -> Route:
        return Route(
            via.through_circuit(),
            local=relay.local_addr,
            path=path,
            relay=relay.peer_id,
            limit=limit,
        )

    def _watch(self) -> HangupWatch:
        if self._hangups is None:
            self._hangups = HangupWatch(asyncio.get_running_loop())
        return self._hangups

    # --- being dialed ----------------------------------------------------------------------------

    async def _on_stop(self, stream: MuxedStream, relay: Connection) -> None:
        message = await self._admit(stream, relay)
        if message is None or message.peer is None:
            return
        with self._handshake(relay.peer_id):
            await relay_aio.answer_stop(stream, Status.OK)
            sock = socket_on(stream, relay.link, self._watch())
            await self._be_reached(relay, sock, "relay/circuit", message)

    async def _on_raw_stop(self, stream: MuxedStream, relay: Connection) -> None:
        message = await self._admit(stream, relay)
        if message is None or message.peer is None:
            return
        usable = relay.initiator and relay.path == "direct/tcp" and self.raw
        if message.token is None or not usable:
            await relay_aio.answer_stop(stream, Status.RAW_UNSUPPORTED)
            return
        with self._handshake(relay.peer_id):
            await relay_aio.answer_stop(stream, Status.OK)
            await stream.close_write()
            async with asyncio.timeout(STOP_TIMEOUT):
                sock = await self._raw_socket(relay, message.token)
            await self._be_reached(relay, sock, "relay/raw", message)

    @contextlib.contextmanager
    def _handshake(self, relay: PeerId) -> Iterator[None]:
        """Count who comes through `relay`, from the moment that `_admit` let them in."""
        self._handshakes[relay] += 1
        try:
            yield
        finally:
            self._handshakes[relay] -= 1
            if not self._handshakes[relay]:
                del self._handshakes[relay]

    async def _admit(self, stream: MuxedStream, relay: Connection) -> StopMessage | None:
        """Read what the relay wants and refuse it unless it is one of ours with something sane."""
        async with asyncio.timeout(STOP_TIMEOUT):
            message = await relay_aio.read_stop(stream)
        source = f"relay {relay.peer_id}"
        status = Status.OK
        if message.type != StopType.CONNECT:
            status = Status.UNEXPECTED_MESSAGE
        elif message.peer is None:
            status = Status.MALFORMED_MESSAGE
        elif relay.relay is not None or not self._accepts(relay.peer_id):
            status = Status.PERMISSION_DENIED
        elif (
            not self._node.admits(source, INBOUND_PER_RELAY)
            or self._handshakes[relay.peer_id] >= HANDSHAKES_PER_RELAY
        ):
            status = Status.RESOURCE_LIMIT_EXCEEDED
        if status is Status.OK:
            return message
        self._node.tracer.emit("circuit_refused", relay=str(relay.peer_id), status=status.name)
        await relay_aio.answer_stop(stream, status)
        return None

    async def _be_reached(
        self, relay: Connection, sock: socket.socket, path: str, message: StopMessage
    ) -> None:
        assert message.peer is not None
        route = self._route(
            relay, relay.remote_addr.with_peer(relay.peer_id.raw), path, message.limit
        )
        try:
            async with asyncio.timeout(self._node.limits.handshake_timeout):
                await self._node.adopt(sock, route, initiator=False, expected=message.peer.id)
        except (PtError, OSError, TimeoutError) as error:
            sock.close()  # and with it the circuit, which is not the handler's any more
            self._node.tracer.emit(
                "inbound_failed", host=route.source, reason=str(error) or "timed out"
            )
        except asyncio.CancelledError:
            sock.close()
            raise
