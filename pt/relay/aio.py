"""Circuit relay v2, raw circuits and AUTH over byte streams whose protocol is already negotiated.

Nothing is read beyond a message: what follows it belongs to the circuit and stays in the stream.
The caller bounds the time, and resets the stream on any error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pt.aio.stream import ByteStream
from pt.errors import ClosedError, PtError, RemoteProtocolError, UsageError
from pt.identity.peer_id import PeerId
from pt.relay import raw, voucher
from pt.relay.messages import (
    HopMessage,
    HopType,
    Limit,
    MessageReader,
    Peer,
    RelayMessageError,
    Reservation,
    Status,
    StopMessage,
    StopType,
)
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "MAX_LIFETIME",
    "RelayRefusedError",
    "Reserved",
    "answer_auth",
    "answer_hop",
    "answer_stop",
    "authenticate",
    "connect",
    "connect_raw",
    "offer_circuit",
    "read_hop",
    "read_proof",
    "read_stop",
    "reserve",
]

MAX_LIFETIME: Final = 24 * 3600
"""Seconds a reservation is taken to last at most, whatever the relay says."""

_READ: Final = 1024  # a whole message, as a rule
_NOWHERE: Final = ("0.0.0.0", "::")  # hosts that lead to the one who asks

_REASONS: Final[dict[int, str]] = {
    Status.RESERVATION_REFUSED: (
        "the relay has no reservation for us: it is full, or we asked too often; "
        "try later, or another relay"
    ),
    Status.RESOURCE_LIMIT_EXCEEDED: (
        "the relay has reached one of its limits: try later, or another relay"
    ),
    Status.PERMISSION_DENIED: (
        "the relay does not serve us: ask its operator, or use another relay"
    ),
    Status.CONNECTION_FAILED: (
        "the relay could not reach the peer, which may have just left: try again"
    ),
    Status.NO_RESERVATION: (
        "the peer is not reachable through this relay: it is offline, or uses other relays"
    ),
    Status.RAW_UNSUPPORTED: "the peer cannot take a raw circuit: ask for an ordinary one",
    Status.MALFORMED_MESSAGE: "the relay does not understand our request: use another relay",
    Status.UNEXPECTED_MESSAGE: "the relay did not expect our request: use another relay",
}


class RelayRefusedError(PtError):
    """The relay, or the peer behind it, refused; `status` says why (a number if unknown here)."""

    exit_code = 5

    def __init__(self, status: Status | int) -> None:
        super().__init__(
            _REASONS.get(status, f"the relay refused, with status {int(status)}: use another relay")
        )
        self.status = status


@dataclass(frozen=True, slots=True)
class Reserved:
    """A reservation that stands, checked as far as a client can.

    `expire` is Unix time in seconds. `addresses` lead to the relay and end with its /p2p, without
    /p2p-circuit; there may be none: then the one it was reached at is all that is known. `limit`
    is what circuits to us will have.
    """

    expire: int
    addresses: tuple[Multiaddr, ...]
    limit: Limit | None
    voucher: bytes | None


async def reserve(stream: ByteStream, *, relay: PeerId, peer: PeerId, now: float) -> Reserved:
    """Ask `relay` to let others reach us, who are `peer`; a refresh is the same.

    `now` is Unix time in seconds. Close the stream afterwards.

    Raises:
        RelayRefusedError: the relay says no.
        RelayMessageError: the relay's answer is malformed, expired, or its voucher is forged.
        ClosedError: the stream ended first.

    """
    answer = await _ask(stream, HopMessage(HopType.RESERVE))
    reservation = answer.reservation
    if reservation is None:
        raise RelayMessageError("the relay granted a reservation without saying until when")
    if reservation.expire <= now:
        raise RelayMessageError(
            "the relay granted a reservation that has expired: is this machine's clock right?"
        )
    if reservation.voucher is not None:
        try:
            voucher.verify(reservation.voucher, relay=relay, peer=peer, now=now)
        except RemoteProtocolError as error:
            raise RelayMessageError(f"the relay's voucher is not valid: {error}") from error
    return Reserved(
        min(reservation.expire, int(now) + MAX_LIFETIME),
        _usable(reservation.addresses, relay),
        answer.limit,
        reservation.voucher,
    )


async def connect(stream: ByteStream, peer: PeerId) -> Limit | None:
    """Have the relay connect us to `peer`; from then on the stream is the circuit.

    Returns the limit that the relay puts on it, None if there is none.

    Raises:
        RelayRefusedError: the relay says no.
        RelayMessageError: the relay's answer is malformed.
        ClosedError: the stream ended first.

    """
    answer = await _ask(stream, HopMessage(HopType.CONNECT, peer=Peer(peer)))
    return answer.limit


async def connect_raw(stream: ByteStream, peer: PeerId) -> tuple[bytes, Limit | None]:
    """Ask on a RAW_HOP stream for a raw circuit to `peer`: the token of our leg, and the limit.

    Close the stream afterwards.

    Raises:
        RelayRefusedError: the relay says no; RAW_UNSUPPORTED asks for an ordinary circuit.
        RelayMessageError: the relay's answer is malformed.
        ClosedError: the stream ended first.

    """
    answer = await _ask(stream, HopMessage(HopType.CONNECT, peer=Peer(peer)))
    if answer.token is None or len(answer.token) != raw.TOKEN_LEN:
        raise RelayMessageError("the relay opened a raw circuit without a proper token")
    return answer.token, answer.limit


async def offer_circuit(
    stream: ByteStream, source: PeerId, limit: Limit | None, token: bytes | None = None
) -> None:
    """Offer, as the relay on a STOP or RAW_STOP stream, a circuit from `source`.

    Returns when the target takes it; then a STOP stream is the circuit.

    Raises:
        RelayRefusedError: the target says no.
        RelayMessageError: the target's answer is malformed.
        ClosedError: the stream ended first.

    """
    said = StopMessage(StopType.CONNECT, peer=Peer(source), limit=limit, token=token)
    await stream.write(said.encode())
    answer = await read_stop(stream)
    if answer.type != StopType.STATUS or answer.status is None:
        raise RelayMessageError("a peer answered a circuit's offer without a status")
    if answer.status != Status.OK:
        raise RelayRefusedError(answer.status)


async def read_hop(stream: ByteStream) -> HopMessage:
    """Read one message of a hop stream.

    Raises:
        RelayMessageError: malformed or too long; a relay answers MALFORMED_MESSAGE.
        ClosedError: the stream ended first.

    """
    return HopMessage.decode(await _read(stream))


async def read_stop(stream: ByteStream) -> StopMessage:
    """Read one message of a stop stream.

    Raises:
        RelayMessageError: malformed or too long; a target answers MALFORMED_MESSAGE.
        ClosedError: the stream ended first.

    """
    return StopMessage.decode(await _read(stream))


async def answer_hop(
    stream: ByteStream,
    status: Status,
    *,
    reservation: Reservation | None = None,
    limit: Limit | None = None,
    token: bytes | None = None,
) -> None:
    """Answer a client, as the relay."""
    said = HopMessage(
        HopType.STATUS, reservation=reservation, limit=limit, status=status, token=token
    )
    await stream.write(said.encode())


async def answer_stop(stream: ByteStream, status: Status) -> None:
    """Answer a relay, as the target."""
    await stream.write(StopMessage(StopType.STATUS, status=status).encode())


async def authenticate(
    stream: ByteStream, key: bytes | None, client: PeerId, relay: PeerId, binding: bytes
) -> raw.AuthAnswer:
    """Prove on an AUTH stream that we, `client`, know the operator's secret; what we are taken for.

    `key` is that of `pt.relay.raw.secret_key`, None for none; `binding` is the hash of the
    connection's handshake. The stream stays open for `pt.relay.raw.Notice`.

    Raises:
        RelayMessageError: the answer is none that we know.
        ClosedError: the stream ended first.

    """
    proof = (
        raw.NO_PROOF if key is None else raw.proof(key, client=client, relay=relay, binding=binding)
    )
    await stream.write(bytes((raw.AUTH_VERSION,)) + proof)
    answer = (await stream.read_exactly(1))[0]
    try:
        return raw.AuthAnswer(answer)
    except ValueError as error:
        raise RelayMessageError(f"the relay answered {answer} to our proof: update pt") from error


async def read_proof(stream: ByteStream) -> bytes:
    """Read, as the relay on an AUTH stream, the client's proof; NO_PROOF if it has none.

    Raises:
        RelayMessageError: of another version.
        ClosedError: the stream ended first.

    """
    version = (await stream.read_exactly(1))[0]
    if version != raw.AUTH_VERSION:
        raise RelayMessageError(f"a proof of version {version}, which is not known here")
    return await stream.read_exactly(raw.PROOF_LEN)


async def answer_auth(stream: ByteStream, said: raw.AuthAnswer | raw.Notice) -> None:
    """Answer a proof, or give notice later, as the relay."""
    await stream.write(bytes((said,)))


async def _ask(stream: ByteStream, request: HopMessage) -> HopMessage:
    """Send a request and read its STATUS, which is OK."""
    await stream.write(request.encode())
    answer = await read_hop(stream)
    if answer.type != HopType.STATUS or answer.status is None:
        raise RelayMessageError("the relay answered without a status")
    if answer.status != Status.OK:
        raise RelayRefusedError(answer.status)
    return answer


async def _read(stream: ByteStream) -> bytes:
    reader = MessageReader()
    while True:
        data = await stream.read(_READ)
        if not data:
            raise ClosedError("the peer closed the stream within the relay protocol")
        body = reader.receive_data(data)
        if body is not None:
            if rest := reader.leftover():
                stream.unread(rest)
            return body


def _usable(addresses: Iterable[Multiaddr], relay: PeerId) -> tuple[Multiaddr, ...]:
    """Addresses of the relay itself, each once, with its /p2p and without /p2p-circuit."""
    found: dict[Multiaddr, None] = {}
    for said in addresses:
        try:
            address = said.split_circuit()[0] if said.is_circuit else said
            named = address.with_peer(relay.raw)
        except (MultiaddrError, UsageError):
            continue  # a circuit of no relay, or too long with the id
        host = address.host
        if address.is_circuit or host is None or host[1] in _NOWHERE:
            continue
        if address.peer_id_bytes in (None, relay.raw):
            found[named] = None
    return tuple(found)
