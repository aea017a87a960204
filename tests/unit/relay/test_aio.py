"""Circuit relay v2 over streams: both sides of each exchange, liars, and what follows a message."""

from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay import aio, raw
from pt.relay.aio import RelayRefusedError
from pt.relay.messages import (
    HopMessage,
    HopType,
    Limit,
    Peer,
    RelayMessageError,
    Reservation,
    Status,
    StopMessage,
    StopType,
)
from pt.relay.voucher import Voucher
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr
from tests.unit.memory import MemoryStream, stream_pair

RELAY_KEY, OTHER_KEY = (PrivateKey.generate(bytes([n]) * 32) for n in (1, 2))
RELAY, OTHER, SELF = (
    PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in (1, 2, 3)
)
NOW = 1_700_000_000.5
EXPIRY = 1_700_003_600
LIMIT = Limit(120, 131072)
ADDRESS = Multiaddr.parse(f"/ip4/11.0.1.2/tcp/4001/p2p/{RELAY}")
TOKEN = bytes(range(32))
BINDING = bytes(range(32, 64))
KEY = raw.secret_key("correct horse battery")

each_chunk = pytest.mark.parametrize("chunk", [1, 5, 1 << 16])


def ok(**kwargs) -> bytes:
    return HopMessage(HopType.STATUS, status=Status.OK, **kwargs).encode()


def granted(
    *addresses: Multiaddr, expire: int = EXPIRY, voucher: bytes | None = None, **kwargs
) -> bytes:
    return ok(reservation=Reservation(expire, addresses, voucher), **kwargs)


async def answered(ask, data: bytes, *, end: bool = False, chunk: int = 1 << 16):
    """What `ask(stream)` makes of `data`; the stream's other end afterwards."""
    ours, theirs = stream_pair(chunk)
    await theirs.write(data)
    if end:
        await theirs.close_write()
    return await ask(ours), ours, theirs


def reserve(data: bytes, *, end: bool = False) -> aio.Reserved:
    async def ask(stream):
        return await aio.reserve(stream, relay=RELAY, peer=SELF, now=NOW)

    return asyncio.run(answered(ask, data, end=end))[0]


# --- reserving ---


@each_chunk
def test_a_reservation_from_both_sides(chunk):
    voucher = Voucher(RELAY, SELF, EXPIRY).sealed(RELAY_KEY)

    async def relay(stream: MemoryStream) -> None:
        assert await aio.read_hop(stream) == HopMessage(HopType.RESERVE)
        await aio.answer_hop(
            stream,
            Status.OK,
            reservation=Reservation(EXPIRY, (ADDRESS,), voucher),
            limit=LIMIT,
        )

    async def scenario() -> None:
        ours, theirs = stream_pair(chunk)
        got, _ = await asyncio.gather(
            aio.reserve(ours, relay=RELAY, peer=SELF, now=NOW), relay(theirs)
        )
        assert got == aio.Reserved(EXPIRY, (ADDRESS,), LIMIT, voucher)
        assert ours.written == b"\x02\x08\x00"

    asyncio.run(scenario())


def test_a_reservation_without_limit_voucher_or_addresses():
    assert reserve(granted()) == aio.Reserved(EXPIRY, (), None, None)


def test_which_addresses_are_usable():
    plain = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
    quic = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
    named = Multiaddr.parse(f"/dns4/relay.example/tcp/443/wss/p2p/{RELAY}")
    said = (
        plain,
        ADDRESS,  # the same again
        ADDRESS.through_circuit(),  # and again, as some relays say it
        ADDRESS.through_circuit().with_peer(SELF.raw),
        Multiaddr.parse(f"/ip4/11.0.1.3/tcp/4001/p2p/{OTHER}"),
        Multiaddr.parse(f"/ip4/11.0.1.3/tcp/4001/p2p/{OTHER}/p2p-circuit/p2p/{RELAY}"),
        Multiaddr.parse("/p2p-circuit"),
        Multiaddr.parse(f"/p2p/{RELAY}"),
        Multiaddr.parse("/ip4/0.0.0.0/tcp/4001"),
        Multiaddr.parse("/ip6/::/tcp/4001"),
        quic,
        named,
    )
    assert reserve(granted(*said)).addresses == (ADDRESS, quic.with_peer(RELAY.raw), named)


def test_an_address_that_is_too_long_with_the_id_is_dropped():
    long = Multiaddr.parse("/dns/" + "/dns/".join(["a" * 124] * 8) + "/tcp/1")
    assert len(long.encode()) <= 1024 < len(long.encode()) + 40
    assert reserve(granted(long, ADDRESS)).addresses == (ADDRESS,)


def test_a_reservation_for_ever_is_taken_for_a_day():
    for expire in (2**64 - 1, int(NOW) + aio.MAX_LIFETIME + 1):
        assert reserve(granted(expire=expire)).expire == int(NOW) + aio.MAX_LIFETIME
    day = int(NOW) + aio.MAX_LIFETIME
    assert reserve(granted(expire=day)).expire == day


@pytest.mark.parametrize("expire", [0, int(NOW) - 3600, int(NOW)])
def test_a_reservation_that_has_expired(expire):
    with pytest.raises(RelayMessageError, match="clock"):
        reserve(granted(expire=expire))


@pytest.mark.parametrize(
    "voucher",
    [
        Voucher(RELAY, SELF, EXPIRY).sealed(OTHER_KEY),
        Voucher(OTHER, SELF, EXPIRY).sealed(OTHER_KEY),
        Voucher(RELAY, OTHER, EXPIRY).sealed(RELAY_KEY),
        Voucher(RELAY, SELF, int(NOW) - 60).sealed(RELAY_KEY),
        Voucher(RELAY, SELF, EXPIRY).sealed(RELAY_KEY)[:-1] + b"\0",
        b"no voucher",
        b"",
    ],
)
def test_a_voucher_that_is_not_good(voucher):
    with pytest.raises(RelayMessageError, match="voucher"):
        reserve(granted(voucher=voucher))


@pytest.mark.parametrize(
    "data",
    [
        ok(),  # without a reservation
        HopMessage(HopType.STATUS, reservation=Reservation(EXPIRY)).encode(),
        HopMessage(HopType.CONNECT, reservation=Reservation(EXPIRY), status=Status.OK).encode(),
        HopMessage(HopType.RESERVE).encode(),
        HopMessage(7, reservation=Reservation(EXPIRY), status=Status.OK).encode(),
        b"\x03\x08\x02\xff",
        uvarint.encode(4097),
    ],
)
def test_answers_that_are_none(data):
    with pytest.raises(RelayMessageError):
        reserve(data)


@pytest.mark.parametrize("data", [b"", b"\x05", granted()[:-1]])
def test_a_stream_that_ends_first(data):
    with pytest.raises(ClosedError):
        reserve(data, end=True)


@pytest.mark.parametrize("status", [one for one in Status if one is not Status.OK])
def test_refusals_say_why_and_what_next(status):
    said = HopMessage(HopType.STATUS, status=status, reservation=Reservation(EXPIRY))
    with pytest.raises(RelayRefusedError) as caught:
        reserve(said.encode())
    assert caught.value.status is status
    assert isinstance(caught.value, PtError)
    assert ":" in str(caught.value)


def test_a_refusal_that_is_not_known_here():
    with pytest.raises(RelayRefusedError, match="status 299") as caught:
        reserve(HopMessage(HopType.STATUS, status=299).encode())
    assert caught.value.status == 299


# --- connecting ---


@each_chunk
def test_a_circuit_from_all_three_sides(chunk):
    async def relay(hop: MemoryStream, stop: MemoryStream) -> None:
        asked = await aio.read_hop(hop)
        assert asked == HopMessage(HopType.CONNECT, peer=Peer(OTHER))
        await aio.offer_circuit(stop, SELF, LIMIT)
        await aio.answer_hop(hop, Status.OK, limit=LIMIT)
        await hop.write(b"from the target")
        await stop.write(b"from the source")

    async def target(stream: MemoryStream) -> None:
        offered = await aio.read_stop(stream)
        assert offered == StopMessage(StopType.CONNECT, peer=Peer(SELF), limit=LIMIT)
        await aio.answer_stop(stream, Status.OK)
        assert await stream.read_exactly(15) == b"from the source"

    async def source(stream: MemoryStream) -> None:
        assert await aio.connect(stream, OTHER) == LIMIT
        assert await stream.read_exactly(15) == b"from the target"

    async def scenario() -> None:
        hop, hop_relay = stream_pair(chunk)
        stop_relay, stop = stream_pair(chunk)
        await asyncio.gather(source(hop), relay(hop_relay, stop_relay), target(stop))

    asyncio.run(scenario())


@each_chunk
@pytest.mark.parametrize("rest", [b"", b"\x13/multistream/1.0.0\n", bytes(5000)])
def test_what_follows_the_answer_stays_in_the_stream(chunk, rest):
    async def scenario() -> None:
        async def ask(stream):
            return await aio.connect(stream, OTHER)

        limit, ours, _ = await answered(ask, ok() + rest, chunk=chunk)
        assert limit is None
        assert await ours.read_exactly(len(rest)) == rest if rest else not ours.pushed_back

    asyncio.run(scenario())


def test_a_target_that_is_not_there():
    async def ask(stream):
        return await aio.connect(stream, OTHER)

    refusal = HopMessage(HopType.STATUS, status=Status.NO_RESERVATION).encode()
    with pytest.raises(RelayRefusedError, match="other relays"):
        asyncio.run(answered(ask, refusal))


def test_a_raw_circuit():
    async def relay(hop: MemoryStream, stop: MemoryStream) -> None:
        asked = await aio.read_hop(hop)
        assert asked == HopMessage(HopType.CONNECT, peer=Peer(OTHER))
        await aio.offer_circuit(stop, SELF, None, TOKEN[::-1])
        await aio.answer_hop(hop, Status.OK, token=TOKEN)

    async def target(stream: MemoryStream) -> None:
        assert (await aio.read_stop(stream)).token == TOKEN[::-1]
        await aio.answer_stop(stream, Status.OK)

    async def scenario() -> None:
        hop, hop_relay = stream_pair()
        stop_relay, stop = stream_pair()
        got, *_ = await asyncio.gather(
            aio.connect_raw(hop, OTHER), relay(hop_relay, stop_relay), target(stop)
        )
        assert got == (TOKEN, None)

    asyncio.run(scenario())


@pytest.mark.parametrize("token", [None, b"", TOKEN[:-1], TOKEN + b"x"])
def test_a_raw_circuit_without_a_proper_token(token):
    async def ask(stream):
        return await aio.connect_raw(stream, OTHER)

    with pytest.raises(RelayMessageError, match="token"):
        asyncio.run(answered(ask, ok(token=token)))


def test_a_target_that_cannot_do_raw_circuits():
    async def ask(stream):
        return await aio.connect_raw(stream, OTHER)

    refusal = HopMessage(HopType.STATUS, status=Status.RAW_UNSUPPORTED).encode()
    with pytest.raises(RelayRefusedError) as caught:
        asyncio.run(answered(ask, refusal))
    assert caught.value.status is Status.RAW_UNSUPPORTED


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (
            StopMessage(StopType.STATUS, status=Status.RESOURCE_LIMIT_EXCEEDED).encode(),
            RelayRefusedError,
        ),
        (StopMessage(StopType.CONNECT, status=Status.OK).encode(), RelayMessageError),
        (StopMessage(StopType.STATUS).encode(), RelayMessageError),
        (b"\x02\x08", ClosedError),
    ],
)
def test_a_target_that_does_not_take_the_circuit(data, error):
    async def ask(stream):
        await aio.offer_circuit(stream, SELF, LIMIT)

    with pytest.raises(error):
        asyncio.run(answered(ask, data, end=True))


@pytest.mark.parametrize("read", [aio.read_hop, aio.read_stop])
@pytest.mark.parametrize("data", [uvarint.encode(4097) + bytes(5000), b"\x01\xff", b"\x80\x00"])
def test_requests_that_are_malformed(read, data):
    with pytest.raises(RelayMessageError):
        asyncio.run(answered(read, data))


# --- authenticating ---


@pytest.mark.parametrize("answer", raw.AuthAnswer)
@pytest.mark.parametrize("key", [None, KEY])
@each_chunk
def test_proving_the_secret(chunk, key, answer):
    async def relay(stream: MemoryStream) -> None:
        proof = await aio.read_proof(stream)
        knows = raw.verify_proof(proof, KEY, client=SELF, relay=RELAY, binding=BINDING)
        assert knows == (key is not None)
        assert (proof == raw.NO_PROOF) == (key is None)
        await aio.answer_auth(stream, answer)
        await aio.answer_auth(stream, raw.Notice.DRAINING)

    async def scenario() -> None:
        ours, theirs = stream_pair(chunk)
        got, _ = await asyncio.gather(
            aio.authenticate(ours, key, SELF, RELAY, BINDING), relay(theirs)
        )
        assert got is answer
        assert await ours.read(10) == b"\x10"
        assert len(ours.written) == 33
        assert not ours.closed

    asyncio.run(scenario())


def test_an_answer_to_the_proof_that_is_not_known_here():
    async def ask(stream):
        return await aio.authenticate(stream, KEY, SELF, RELAY, BINDING)

    with pytest.raises(RelayMessageError, match="update pt"):
        asyncio.run(answered(ask, b"\x03"))
    with pytest.raises(ClosedError):
        asyncio.run(answered(ask, b"", end=True))


def test_a_proof_of_another_version():
    with pytest.raises(RelayMessageError, match="version 2"):
        asyncio.run(answered(aio.read_proof, b"\x02" + bytes(32)))
    with pytest.raises(ClosedError):
        asyncio.run(answered(aio.read_proof, b"\x01" + bytes(31), end=True))
