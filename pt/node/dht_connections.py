"""Connections to servers of the DHT: dialed for a request, kept for the next, few at a time.

All that is open or being dialed for the DHT has a place in one budget. Who needs a place when there
is none waits, or takes that of the connection that has been idle for longest. A connection of this
node that is there for another reason is used, too, and neither counted nor closed; one of ours that
somebody else begins to use becomes theirs.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final

from pt.errors import ClosedError, ConnectError, PtError
from pt.identity.peer_id import PeerId
from pt.kad.aio import exchange
from pt.kad.diversity import public
from pt.kad.lookup import SLOW
from pt.kad.messages import PROTOCOL, Message, MessageType, PeerInfo
from pt.node.connection import Connection
from pt.node.dial_plan import PUBLIC_STAGGER, Attempt
from pt.node.node import Node
from pt.node.race import Race
from pt.node.upgrade import SECURITY
from pt.wire.multiaddr import Multiaddr

__all__ = ["IDLE", "MAX_SOCKETS", "DhtConnections", "Trouble"]

MAX_SOCKETS: Final = 30
IDLE: Final = 20.0
"""Seconds for which a connection waits for the next request."""
MAX_DIALED: Final = 4
"""Addresses of one server that are tried."""
QUIC_AFTER: Final = 1.5
"""Seconds that a server's addresses of TCP have before those of QUIC, unless they fail."""
DIAL_TIMEOUT: Final = 15.0
_NO_ROUTE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES}
)


class Trouble(Enum):
    """What is in the way of requests."""

    NO_NETWORK = "no-network"
    """No route: connecting failed at once."""
    REFUSED = "refused"
    CLOSED = "closed"
    """Connections open and end before anything is answered."""
    NO_ANSWER = "no-answer"
    NOT_DHT = "not-dht"
    """Somebody answers, and is not who was dialed, or does not speak the protocol."""


class _Dial:
    """A server that is being dialed, for so many requests."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Connection]) -> None:
        self.task = task
        self.waiting = 0


class DhtConnections:
    """`ask` is what a `pt.kad.aio.Client` needs; `on_reply` is told of each reply.

    A server is asked who it is only while `curious` says so: the answer is a fifth of all bytes.
    """

    def __init__(
        self,
        node: Node,
        *,
        public_only: bool = True,
        most: int = MAX_SOCKETS,
        idle: float = IDLE,
        on_reply: Callable[[], None] = lambda: None,
        curious: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sockets = 0
        """Open or being dialed now."""
        self.most_sockets = 0
        self.requests = 0
        self.replies = 0
        self.troubles: Counter[Trouble] = Counter()
        """What went wrong since the last reply."""
        self._node = node
        self._public_only = public_only
        self._most = most
        self._idle_time = idle
        self._on_reply = on_reply
        self._curious = curious
        self._dialing: dict[PeerId, _Dial] = {}
        self._ours: Counter[Connection] = Counter()  # with the requests that are running on each
        self._charged: dict[Connection, int] = {}  # of ours: bytes that replies were charged for
        self._idle: OrderedDict[Connection, float] = OrderedDict()  # since when
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._past_sent = 0
        self._past_received = 0
        self._closed = False

    @property
    def sent(self) -> int:
        """Bytes over all connections so far, hand-shakes too, without TCP and IP headers."""
        return self._past_sent + sum(each.link.bytes_out for each in self._ours)

    @property
    def received(self) -> int:
        """As `sent`."""
        return self._past_received + sum(each.link.bytes_in for each in self._ours)

    def concerns(self, connection: Connection) -> bool:
        """Whether this is a connection to a server of the DHT, made for it."""
        return connection in self._ours

    async def ask(self, info: PeerInfo, request: Message) -> Message:
        """Send a request to a server and return its reply, dialing it if need be.

        What its connection has taken besides, since the last reply, is the reply's `overhead`.

        Raises:
            PtError, OSError, TimeoutError: there is no answer.

        """
        self._check_open()
        self.requests += 1
        connection = self._there(info.id)
        if connection is not None:
            try:
                return await self._exchange(connection, request)
            except ClosedError:
                if not connection.closed:
                    raise  # the stream's end is the answer
                self._check_open()
        return await self._exchange(await self._dial(info), request)

    def drop_idle(self) -> None:
        """Close what waits for requests: the network has changed."""
        while self._evict():
            pass

    async def close(self) -> None:
        """Close what is ours and give up what is being dialed."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [dial.task for dial in self._dialing.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in list(self._ours):
            if connection.uses > self._ours[connection]:
                self._let_go(connection)
            else:
                connection.close("the DHT is not needed any more")

    # --- requests --------------------------------------------------------------------------------

    def _there(self, peer: PeerId) -> Connection | None:
        for connection in self._node.connections_of(peer):
            if connection.relay is None and connection.link.session.go_away is None:
                return connection
        return None

    async def _exchange(self, connection: Connection, request: Message) -> Message:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._begin(connection)
        usable = False
        try:
            if request.type is MessageType.ADD_PROVIDER:  # has no answer but that of the opening
                stream = await connection.open_stream((PROTOCOL,))
            else:
                stream = await connection.open_known(PROTOCOL)
            reply = await exchange(stream, request)
            stream.finish()
            usable = True
        except PtError as error:
            self._failed(error)
            raise
        except (asyncio.CancelledError, TimeoutError):
            usable = loop.time() - began < SLOW
            if not usable:
                self.troubles[Trouble.NO_ANSWER] += 1
            raise
        finally:
            self._end(connection, usable=usable)
        self.replies += 1
        self.troubles.clear()
        self._on_reply()
        return replace(reply, overhead=self._overhead(connection, request, reply))

    def _overhead(self, connection: Connection, request: Message, reply: Message) -> int:
        """Bytes besides the two messages; of a connection that is somebody else's none."""
        if connection not in self._charged:
            return 0
        before = self._charged[connection]
        now = self._charged[connection] = connection.link.bytes_in + connection.link.bytes_out
        return max(0, now - before - len(request.encode()) - reply.size)

    def _begin(self, connection: Connection) -> None:
        connection.uses += 1
        if connection in self._ours:
            self._ours[connection] += 1
            self._idle.pop(connection, None)

    def _end(self, connection: Connection, *, usable: bool) -> None:
        connection.uses -= 1
        if connection not in self._ours:
            return
        self._ours[connection] -= 1
        if self._ours[connection]:
            return
        if connection.uses:
            self._let_go(connection)
        elif usable and not self._waiting and not self._closed:
            self._rest(connection)
        else:
            connection.close("the DHT does not need this connection any more")

    def _failed(self, error: BaseException) -> None:
        """Note why there was no answer."""
        if isinstance(error, TimeoutError | asyncio.CancelledError):
            trouble = Trouble.NO_ANSWER
        elif isinstance(error, ConnectionRefusedError):
            trouble = Trouble.REFUSED
        elif isinstance(error, OSError) and error.errno in _NO_ROUTE:
            trouble = Trouble.NO_NETWORK
        elif isinstance(error, OSError):
            trouble = Trouble.NO_ANSWER
        elif isinstance(error, ClosedError):
            trouble = Trouble.CLOSED
        else:
            trouble = Trouble.NOT_DHT
        self.troubles[trouble] += 1

    # --- dialing ---------------------------------------------------------------------------------

    async def _dial(self, info: PeerInfo) -> Connection:
        """A new connection; requests to the same server share it."""
        dial = self._dialing.get(info.id)
        if dial is None:
            attempts = self._attempts(info)
            race = Race(self, info.id, (SECURITY,))
            task = asyncio.get_running_loop().create_task(race.run(attempts, DIAL_TIMEOUT))
            dial = self._dialing[info.id] = _Dial(task)
            task.add_done_callback(lambda done: self._dialed(info.id, done))
        dial.waiting += 1
        try:
            return await asyncio.shield(dial.task)
        except asyncio.CancelledError:
            this = asyncio.current_task()
            assert this is not None
            if not this.cancelling():  # the dial was, by `close`
                self._check_open()
            raise
        finally:
            dial.waiting -= 1
            if not dial.waiting:
                dial.task.cancel()
                self._keep(dial.task)

    def _dialed(self, peer: PeerId, task: asyncio.Task[Connection]) -> None:
        if not self._dialing.pop(peer).waiting:
            self._keep(task)

    def _keep(self, task: asyncio.Task[Connection]) -> None:
        """What was dialed, and nobody has begun to use yet, is there for the next request."""
        if task.done() and not task.cancelled() and task.exception() is None:
            connection = task.result()
            if connection in self._ours and not self._ours[connection]:
                self._rest(connection)

    def _attempts(self, info: PeerInfo) -> list[Attempt]:
        """IPv4 first: every server has it, and a network without it says so at once.

        QUIC only if TCP has not come through for a while: its hand-shake takes several times the
        bytes, and whoever is far away would be dialed over both.

        Raises:
            ConnectError: no address can be dialed.

        """
        usable = public(info.addresses) if self._public_only else info.addresses
        found: list[Multiaddr] = []
        for transport in ("tcp", "quic-v1"):
            by_family: dict[str, list[Multiaddr]] = {"ip4": [], "ip6": []}
            for address in usable:
                bare, host = address.without_peer(), address.host
                if address.transport != transport or host is None or bare is None:
                    continue
                if host[0] in by_family and bare.port:  # behind a name might be anybody's host
                    by_family[host[0]].append(bare)
            four, six = by_family.values()
            mixed = [each for pair in zip(four, six, strict=False) for each in pair]
            rest = four[len(six) :] + six[len(four) :]
            kind = list(dict.fromkeys(mixed + rest))
            found += kind[: MAX_DIALED - 1 if transport == "tcp" else MAX_DIALED]
        chosen = found[:MAX_DIALED]
        if not chosen:
            raise ConnectError("the server has no address that is dialed here: TCP and QUIC are")
        late = QUIC_AFTER if chosen[0].udp_port is None else 0.0
        return [
            Attempt(number * PUBLIC_STAGGER + (late if each.udp_port is not None else 0.0), each)
            for number, each in enumerate(chosen)
        ]

    async def dial_one(
        self, address: Multiaddr, expected: PeerId | None, security: Sequence[str]
    ) -> Connection:
        """Dial one address once there is a place for its socket; for `Race`."""
        loop = asyncio.get_running_loop()
        await self._take()
        began = loop.time()
        try:
            connection = await self._node.dial_one(address, expected, security)
            connection.check_open()
        except (PtError, OSError, TimeoutError) as error:
            self._give()
            self._failed(error)
            raise
        except BaseException as error:
            self._give()
            if loop.time() - began >= SLOW:
                self._failed(error)
            raise
        connection.curious = self._curious()
        self._ours[connection] = 0
        self._charged[connection] = 0
        connection.on_close.append(lambda _: self._lost(connection))
        return connection

    # --- places ----------------------------------------------------------------------------------

    async def _take(self) -> None:
        while self.sockets >= self._most and not self._evict():
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done():
                    self._wake()  # somebody else may have it
                raise
            finally:
                if place in self._waiting:
                    self._waiting.remove(place)
        self.sockets += 1
        self.most_sockets = max(self.most_sockets, self.sockets)

    def _give(self) -> None:
        self.sockets -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    def _rest(self, connection: Connection) -> None:
        """Keep a connection for a while."""
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        self._idle.move_to_end(connection)
        if self._timer is None:
            self._timer = loop.call_later(self._idle_time, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for long enough."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._idle:
            since = next(iter(self._idle.values()))
            if loop.time() - since < self._idle_time:
                self._timer = loop.call_at(since + self._idle_time, self._sweep)
                return
            self._evict()

    def _evict(self) -> bool:
        """Give up the connection that has been idle for longest; whether there was one."""
        if not self._idle:
            return False
        connection, _ = self._idle.popitem(last=False)
        if connection.uses:
            self._let_go(connection)
        else:
            connection.close("nothing was asked of this DHT server for a while")
        return True

    def _let_go(self, connection: Connection) -> None:
        """It is no connection of ours any more: it has closed, or somebody else uses it."""
        del self._ours[connection]
        del self._charged[connection]
        self._idle.pop(connection, None)
        self._past_sent += connection.link.bytes_out
        self._past_received += connection.link.bytes_in
        self._give()

    def _lost(self, connection: Connection) -> None:
        if connection in self._ours:
            self._let_go(connection)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the client of the DHT was closed")
