"""The client's side of one request: whether an address of ours can be dialed from outside.

A server's word alone is nothing: an address counts as reachable only if the nonce of the request
came back on a connection to us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pt.autonat.messages import (
    MAX_DATA,
    MAX_MESSAGE,
    AutonatError,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Status,
    decode_message,
)
from pt.errors import LocalProtocolError
from pt.wire.delimited import Deframer, DelimitedError
from pt.wire.multiaddr import Multiaddr

__all__ = ["MAX_ASKED", "Client", "Verdict", "askable"]

MAX_ASKED: Final = 10
"""Addresses of a request, as many as go-libp2p tells."""
_CHUNK: Final = 4000


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a request."""

    address: Multiaddr | None
    """What was dialed; None: nothing."""
    reachable: bool | None
    """None: the server has not tried, or could not tell."""
    status: Status
    reason: str


def askable(addresses: Sequence[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Public addresses of this host itself, without peer id, each once."""
    found: dict[Multiaddr, None] = {}
    for address in addresses:
        bare = address.without_peer()
        if bare is not None and bare.is_public and not bare.is_circuit:
            found[bare] = None
    return tuple(found)[:MAX_ASKED]


class Client:
    """One request on one stream.

    Raises:
        LocalProtocolError: no address is public.

    """

    def __init__(
        self,
        addresses: Sequence[Multiaddr],
        nonce: int,
        *,
        pay: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """`pay(count)` says whether the server may have so many bytes for a dial elsewhere."""
        self._may_pay = pay
        self.addresses = askable(addresses)
        if not self.addresses:
            raise LocalProtocolError("none of our addresses is public: there is nothing to ask")
        self.nonce = nonce
        self._deframer = Deframer(MAX_MESSAGE)
        self._out: list[bytes] = [DialRequest(self.addresses, nonce).encode()]
        self._asked: int | None = None
        """The index that data was sent for."""
        self._back: Multiaddr | None = None
        self._response: DialResponse | None = None

    def data_to_send(self) -> list[bytes]:
        """What has to be sent now, in order; write them one by one: they may be 100 kB."""
        out, self._out = self._out, []
        return out

    def dialed_back(self, local: Multiaddr) -> None:
        """The nonce has come on a connection to our address `local`."""
        self._back = local

    def receive_data(self, data: bytes) -> Verdict | None:
        """Take bytes; the verdict, once the server has given its answer.

        Raises:
            AutonatError: the server breaks the protocol.

        """
        try:
            bodies = self._deframer.receive_data(data)
        except DelimitedError as error:
            raise AutonatError(str(error)) from error
        for body in bodies:
            match decode_message(body):
                case DialDataRequest() as wanted:
                    self._pay(wanted)
                case DialResponse() as response:
                    self._response = response
                    return self._verdict(response)
                case _:
                    raise AutonatError("the server sends what only clients send")
        return None

    def _pay(self, wanted: DialDataRequest) -> None:
        if self._asked is not None:
            raise AutonatError("the server wants to be paid twice")
        if wanted.count > MAX_DATA:
            raise AutonatError(f"the server wants {wanted.count} bytes, over {MAX_DATA}")
        if wanted.index >= len(self.addresses):
            raise AutonatError(f"the server means address {wanted.index}, which was not asked for")
        if not self._may_pay(wanted.count):
            raise AutonatError(f"the server wants {wanted.count} bytes, over what it may have now")
        self._asked = wanted.index
        left = wanted.count
        while left > 0:
            self._out.append(DialData(bytes(min(left, _CHUNK))).encode())
            left -= _CHUNK

    def _verdict(self, response: DialResponse) -> Verdict:
        status = response.status
        if status is not Status.OK:
            text = {
                Status.REQUEST_REJECTED: "the server is asked too often",
                Status.DIAL_REFUSED: "the server dials none of the addresses",
            }.get(status, "the server failed")
            return Verdict(None, None, status, text)
        if response.index >= len(self.addresses):
            raise AutonatError(
                f"the server means address {response.index}, which was not asked for"
            )
        address = self.addresses[response.index]
        if self._back is not None and _fits(address, self._back):
            return Verdict(address, True, status, "dialed from outside")
        if response.dial_status is DialStatus.OK:
            return Verdict(address, None, status, "the server claims a dial that nobody has seen")
        if response.dial_status is DialStatus.DIAL_ERROR:
            return Verdict(address, False, status, "the server could not connect")
        return Verdict(address, None, status, "the server connected, and the rest failed")


def _fits(address: Multiaddr, local: Multiaddr) -> bool:
    """Whether a connection to `local` may have been one to `address`, through a NAT perhaps."""

    def kind(each: Multiaddr) -> tuple[str, bool]:
        host = each.host
        family = "" if host is None else host[0]
        return family, each.udp_port is not None

    known, mine = kind(address), kind(local)
    return known[1] == mine[1] and (not known[0].startswith("ip") or known[0] == mine[0])
