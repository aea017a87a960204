"""The server's side of one request, and how many are served.

An address with another IP address than the client's costs the client 30 to 100 kB first, more than
the dial will send there, and the dial comes after a random delay: nobody gains an amplifier, nor a
crowd at one moment.  A client that has not proved anything gets one dial a request.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pt.autonat.messages import (
    MAX_DATA,
    MAX_MESSAGE,
    MIN_DATA,
    AutonatError,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Status,
    decode_message,
)
from pt.wire.delimited import Deframer, DelimitedError
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_DELAY", "DialBack", "Rates", "Request"]

MAX_DELAY: Final = 3.0
MIN_CHUNK: Final = 100
"""Bytes of data in a message, but for the last one; less is a way to keep us busy."""
MINUTE: Final = 60.0
PER_MINUTE: Final = 60
PER_PEER: Final = 12
DATA_PER_MINUTE: Final = 12
CONCURRENT: Final = 2
MAX_PEERS: Final = 1024


@dataclass(frozen=True, slots=True)
class DialBack:
    """Dial `address` after `delay` seconds, from a fresh identity and port, then `dialed`."""

    index: int
    address: Multiaddr
    nonce: int
    delay: float


class Request:
    """One request on one stream.

    `observed` is the client's IP address; `random(n)` gives 0 to n-1; `dials` says whether this
    server can dial an address at all (transports, IP versions).
    """

    def __init__(
        self,
        observed: str,
        *,
        random: Callable[[int], int],
        dials: Callable[[Multiaddr], bool],
        admit: Callable[[bool], bool] = lambda _: True,
    ) -> None:
        """`admit(with_data)` is asked once, when it is clear what the request costs."""
        self.done = False
        self._observed = observed
        self._random = random
        self._dials = dials
        self._admit = admit
        self._deframer = Deframer(MAX_MESSAGE)
        self._out = bytearray()
        self._dial: DialBack | None = None
        self._owed = 0

    def data_to_send(self) -> bytes:
        """What has to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def receive_data(self, data: bytes) -> DialBack | None:
        """Take bytes; the dial, once it is due.

        Raises:
            AutonatError: the client breaks the protocol.

        """
        try:
            bodies = self._deframer.receive_data(data)
        except DelimitedError as error:
            raise AutonatError(str(error)) from error
        for body in bodies:
            message = decode_message(body)
            if self.done:
                raise AutonatError("the client goes on talking after the answer")
            if isinstance(message, DialRequest) and self._dial is None:
                dial = self._request(message)
            elif isinstance(message, DialData) and self._owed:
                dial = self._paid(message)
            else:
                raise AutonatError("the client sends a message at the wrong time")
            if dial is not None:
                return dial
        return None

    def dialed(self, outcome: DialStatus) -> None:
        """The dial is over: tell the client."""
        assert self._dial is not None
        self._answer(DialResponse(Status.OK, self._dial.index, outcome))

    def failed(self) -> None:
        """We cannot serve the request after all."""
        self._answer(DialResponse(Status.INTERNAL_ERROR))

    def _request(self, message: DialRequest) -> DialBack | None:
        chosen = None
        for index, address in enumerate(message.addresses):
            if address is not None and self._dialable(address):
                chosen = DialBack(index, address, message.nonce, 0.0)
                break
        if chosen is None:
            self._answer(DialResponse(Status.DIAL_REFUSED))
            return None
        host = chosen.address.host
        elsewhere = host is None or host[1] != self._observed
        if not self._admit(elsewhere):
            self._answer(DialResponse(Status.REQUEST_REJECTED))
            return None
        self._dial = chosen
        if not elsewhere:
            return chosen
        self._owed = MIN_DATA + self._random(MAX_DATA - MIN_DATA + 1)
        self._out += DialDataRequest(chosen.index, self._owed).encode()
        return None

    def _paid(self, message: DialData) -> DialBack | None:
        size = len(message.data)
        if size < min(MIN_CHUNK, self._owed):
            raise AutonatError(f"the client pays {size} bytes at a time")
        self._owed = max(0, self._owed - size)
        if self._owed:
            return None
        assert self._dial is not None
        delay = self._random(1000) / 1000 * MAX_DELAY
        return DialBack(self._dial.index, self._dial.address, self._dial.nonce, delay)

    def _dialable(self, address: Multiaddr) -> bool:
        host = address.host
        numeric = host is not None and host[0] in ("ip4", "ip6")
        return numeric and address.is_public and not address.is_circuit and self._dials(address)

    def _answer(self, response: DialResponse) -> None:
        self.done = True
        self._out += response.encode()


class Rates:
    """How many requests are served: in all, of a peer, with dials elsewhere, at a time."""

    def __init__(self) -> None:
        self._all: deque[float] = deque()
        self._data: deque[float] = deque()
        self._peers: OrderedDict[bytes, deque[float]] = OrderedDict()
        self._active: dict[bytes, int] = {}

    def begin(self, peer: bytes) -> bool:
        """A request of `peer` comes in; False: it has too many under way.  `end` it, if True."""
        if self._active.get(peer, 0) >= CONCURRENT:
            return False
        self._active[peer] = self._active.get(peer, 0) + 1
        return True

    def end(self, peer: bytes) -> None:
        """A request of `peer` is over."""
        left = self._active[peer] - 1
        if left:
            self._active[peer] = left
        else:
            del self._active[peer]

    def admit(self, peer: bytes, now: float, *, with_data: bool) -> bool:
        """Whether a dial for `peer` is within the rates, and counts."""
        mine = self._peers.setdefault(peer, deque())
        self._peers.move_to_end(peer)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        for times in (self._all, self._data, mine):
            while times and times[0] <= now - MINUTE:
                times.popleft()
        if len(self._all) >= PER_MINUTE or len(mine) >= PER_PEER:
            return False
        if with_data and len(self._data) >= DATA_PER_MINUTE:
            return False
        self._all.append(now)
        mine.append(now)
        if with_data:
            self._data.append(now)
        return True
