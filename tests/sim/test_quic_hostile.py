"""A UDP port with QUIC on it among those who mean no good."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pt.errors import ClosedError, ProtocolError
from pt.quic.certificate import Certificate, CertificateError, load
from pt.quic.engine import EngineFactory
from pt.quic.engine_aioquic import AioquicEngine
from pt.quic.events import HandshakeDone
from pt.quic.initials import opens
from pt.quic.packets import Kind, parse_header, put_varint
from pt.quic.reception import HALF_OPEN, RETRY_FROM
from tests.contract.quic_world import identity
from tests.sim.loop import run
from tests.unit.quic.forge import forge
from tests.unit.quic.shell import ENGINES, Endpoint, Raw, first_datagram, talk

pytestmark = pytest.mark.timeout(120)
QUIET = 20.0
ALL = pytest.mark.parametrize("engine", ENGINES, ids=[engine.name for engine in ENGINES])


def check(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(600):
            await body()

    run(bounded())


def now() -> float:
    return asyncio.get_running_loop().time()


# --- junk --------------------------------------------------------------------------------------

IDS = st.binary(max_size=20).map(lambda cid: bytes([len(cid)]) + cid)
VERSIONS = st.sampled_from([b"\0\0\0\0", b"\0\0\0\x01", b"\x6b\x33\x43\xcf", b"\xba\xba\xba\xba"])
LONG = st.builds(
    lambda first, version, to, source, rest, size: (
        bytes([0x80 | first]) + version + to + source + rest
    ).ljust(size, b"\x5a"),
    st.integers(0, 127),
    VERSIONS,
    IDS,
    IDS,
    st.binary(max_size=60),
    st.sampled_from([0, 40, 1199, 1200, 1500]),
)
INITIAL = st.builds(
    lambda to, token, length, size: (
        b"\xc3\0\0\0\x01"
        b"\x08" + to + b"\x04from" + put_varint(len(token)) + token + put_varint(length)
    ).ljust(size, b"\xa7"),
    st.binary(min_size=8, max_size=8),
    st.binary(max_size=80),
    st.integers(0, 2000),
    st.sampled_from([1199, 1200, 1350]),
)
SHORT = st.builds(lambda first, rest: bytes([0x40 | first]) + rest, st.integers(0, 63), st.binary())
JUNK = st.one_of(st.binary(max_size=1400), LONG, INITIAL, SHORT)


@ALL
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), JUNK), max_size=40))
def test_junk_costs_nobody_a_connection(
    engine: EngineFactory, junk: list[tuple[bool, bytes]]
) -> None:
    """From a stranger, and from the address of a peer that is connected."""

    async def body() -> None:
        client, server, raw = Endpoint("client", engine), Endpoint("server", engine), Raw()
        link, theirs = await client.joined(server)
        for from_peer, datagram in junk:
            if from_peer:
                client.udp.send(datagram, server.address)
            else:
                raw.send(datagram, server)
            raw.send(datagram, client)
        await talk(link, server)
        assert len(server.port.links) <= 1 + RETRY_FROM
        assert theirs in server.port.links
        assert not client.reasons
        assert not server.reasons
        raw.close()
        client.close()
        server.close()

    check(body)


@ALL
def test_datagrams_cut_short_or_changed_cost_nobody_a_connection(engine: EngineFactory) -> None:
    """Genuine ones of the handshake and after it, from their own address and from another."""

    async def body() -> None:
        client, server, raw = Endpoint("client", engine), Endpoint("server", engine), Raw()
        chance = random.Random(11)
        send_train = client.udp.send_train
        changed = 0

        def send(segments: list[bytes], address: tuple[str, int]) -> None:
            nonlocal changed
            for segment in segments:
                broken = bytearray(segment[: chance.randrange(1, len(segment) + 1)])
                if chance.random() < 0.7:
                    broken = bytearray(segment)
                    broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
                if not opens(bytes(broken)):  # else it is a copy, and who can make one has won
                    raw.send(bytes(broken), server)
                client.udp.send(bytes(broken), address)
                changed += 1
            send_train(segments, address)

        client.udp.send_train = send  # type: ignore[method-assign,assignment]
        links = []
        for _ in range(12):
            links.append(await client.dial(server))
            await talk(links[-1], server, 50_000)
        client.udp.send_train = send_train  # type: ignore[method-assign]
        assert changed > 100
        assert len(links) == 12
        assert server.port.counts["broken Initial"]
        await talk(await client.dial(server), server)
        assert not client.reasons
        await asyncio.sleep(QUIET)
        assert server.port._reception.half_open == 0
        raw.close()
        client.close()
        server.close()

    check(body)


# --- floods ------------------------------------------------------------------------------------


@ALL
def test_a_flood_of_initials_is_bounded(engine: EngineFactory) -> None:
    async def body() -> None:
        client, server = Endpoint("client", engine), Endpoint("server", engine)
        crowd = [Raw(f"127.0.{number // 200}.{number % 200 + 2}") for number in range(400)]
        kinds: Counter[Kind] = Counter()
        for raw in crowd:
            raw.send(first_datagram(client, server, now()), server)
        await asyncio.sleep(0.01)
        for raw in crowd:
            for datagram in raw.got():
                header = parse_header(datagram)
                assert header is not None
                kinds[header.kind] += 1
                assert len(datagram) <= 1500
        assert len(server.port.links) == RETRY_FROM
        assert kinds[Kind.RETRY] == len(crowd) - RETRY_FROM == server.port.counts["answered"]
        await talk(await client.dial(server), server)  # through a Retry
        await asyncio.sleep(QUIET)
        assert len(server.port.links) == 1
        assert server.port._reception.half_open == 0
        for raw in crowd:
            raw.close()
        client.close()
        server.close()

    check(body)


@ALL
def test_a_crowd_that_comes_back_with_tokens_is_bounded_too(engine: EngineFactory) -> None:
    async def body() -> None:
        server = Endpoint("server", engine)
        crowd = [Endpoint(f"client {number % 4}", engine) for number in range(200)]

        dials = []
        for endpoint in crowd:
            endpoint.udp.use_trains(
                lambda data, size, address, it=endpoint: stalls(it, data, size, address),
                endpoint.port._drained,
            )
            dials.append(asyncio.ensure_future(endpoint.dial(server)))
        await asyncio.sleep(0.5)
        assert len(server.port.links) == HALF_OPEN
        assert server.port.counts["too many handshakes"] >= len(crowd) - HALF_OPEN
        for error in await asyncio.gather(*dials, return_exceptions=True):
            assert isinstance(error, TimeoutError)
        await asyncio.sleep(QUIET)
        assert not server.port.links
        assert server.port._reception.half_open == 0
        client = Endpoint("client", engine)
        await talk(await client.dial(server), server)
        for endpoint in (*crowd, client, server):
            endpoint.close()

    check(body)


def stalls(endpoint: Endpoint, data: bytes, size: int, address: tuple[str, int]) -> None:
    """Hear Retries, and nothing that a handshake would go on with."""
    for at in range(0, len(data), size):
        header = parse_header(data[at : at + size])
        if header is not None and header.kind is Kind.RETRY:
            datagram = data[at : at + size]
            endpoint.port._received(datagram, len(datagram), address)


@ALL
def test_nobody_is_made_to_amplify(engine: EngineFactory) -> None:
    """What goes to an address that has proved nothing is three times what came from it at most."""

    async def body() -> None:
        client, server = Endpoint("client", engine), Endpoint("server", engine)
        chance = random.Random(7)
        stranger = bytes([0xC0]) + b"\xba\xba\xba\xba" + b"\x08" + bytes(8) + b"\x08" + bytes(8)
        probes = [
            [first_datagram(client, server, now())],
            [first_datagram(client, server, now()) for _ in range(3)],
            [first_datagram(client, server, now())] * 3,
            [stranger.ljust(1200, b"\0")],
            [stranger],
            [b"\x40" + chance.randbytes(size) for size in range(10, 100)],
            [chance.randbytes(1200) for _ in range(20)],
        ]
        for probe in probes:
            raw = Raw()
            for datagram in probe:
                raw.send(datagram, server)
            await asyncio.sleep(30)
            back = sum(map(len, raw.got()))
            assert back <= 3 * raw.sent
            raw.close()
        client.close()
        server.close()

    check(body)


@ALL
def test_versions_that_nobody_speaks(engine: EngineFactory) -> None:
    async def body() -> None:
        client, server, raw = Endpoint("client", engine), Endpoint("server", engine), Raw()
        alien = bytearray(first_datagram(client, server, now()))
        alien[1:5] = b"\xba\xba\xba\xba"
        raw.send(bytes(alien[:1199]), server)
        await asyncio.sleep(0.1)
        assert raw.got() == []
        raw.send(bytes(alien), server)
        await asyncio.sleep(0.1)
        (answer,) = raw.got()
        header = parse_header(answer)
        assert header is not None
        assert header.kind is Kind.VERSION_NEGOTIATION
        assert b"\x00\x00\x00\x01" in answer[-8:]
        # Nobody is answered for ever: neither an answer to an answer, nor more than so many.
        raw.send(answer.ljust(1300, b"\0"), server)
        await asyncio.sleep(0.1)
        assert raw.got() == []
        answers = 0
        for _ in range(70):
            for _ in range(10):
                raw.send(bytes(alien), server)
            await asyncio.sleep(0.0001)
            answers += len(raw.got())
        assert 450 < answers < 550
        assert server.port.counts["too many answers"] > 100
        assert not server.port.links
        raw.close()
        client.close()
        server.close()

    check(body)


# --- peers that are not what they should be ----------------------------------------------------


async def refused(client: Endpoint, server: Endpoint) -> str:
    """Dial; what the client hears of it.  The server must not have got to know anybody."""
    said = ""
    try:
        link = await client.dial(server)
    except (ClosedError, ProtocolError) as error:
        said = str(error)
    else:
        await client.until(lambda: bool(client.reasons))
        said = client.reasons[link]
    await asyncio.sleep(QUIET)
    assert not server.links
    assert not server.port.links
    assert not client.port.links
    client.close()
    server.close()
    return said


@ALL
def test_a_client_without_a_certificate(engine: EngineFactory) -> None:
    async def body() -> None:
        class Anonymous(AioquicEngine):
            @classmethod
            def connect(cls, *args: object, **options: object) -> AioquicEngine:
                engine = AioquicEngine.connect(*args, **options)  # type: ignore[arg-type]
                engine._conn.tls.certificate_private_key = None
                return engine

        said = await refused(Endpoint("client", Anonymous), Endpoint("server", engine))
        assert "certificate" in said

    check(body)


def expired(name: str) -> Certificate:
    key = ec.derive_private_key(77, ec.SECP256R1())
    return Certificate(load(forge(identity(name), key=key, since=-7200, until=-600)), key)


@ALL
def test_a_client_with_an_expired_certificate(engine: EngineFactory) -> None:
    async def body() -> None:
        client = Endpoint("client", engine, its=expired("client"))
        assert "certificate" in await refused(client, Endpoint("server", engine))

    check(body)


@ALL
def test_a_server_with_an_expired_certificate(engine: EngineFactory) -> None:
    async def body() -> None:
        client = Endpoint("client", engine)
        server = Endpoint("server", engine, its=expired("server"))
        with pytest.raises(CertificateError, match="clocks"):
            await client.dial(server)
        await asyncio.sleep(QUIET)
        assert not client.links
        assert not server.port.links
        client.close()
        server.close()

    check(body)


@ALL
def test_a_server_with_somebody_elses_certificate(engine: EngineFactory) -> None:
    """An attacker that has copied it cannot sign with it."""

    async def body() -> None:
        client = Endpoint("client", engine)
        key = ec.derive_private_key(78, ec.SECP256R1())
        stolen = Certificate(load(forge(identity("server"))), key)
        server = Endpoint("server", engine, its=stolen)
        seen: list[HandshakeDone] = []
        with pytest.raises((ClosedError, ProtocolError)):
            await client.port.dial(
                server.address, server.peer_id, lambda _, event: seen.append(event)
            )
        assert not seen
        client.close()
        server.close()

    check(body)


@ALL
def test_a_peer_that_claims_to_have_moved_gets_nothing_for_it(engine: EngineFactory) -> None:
    """Datagrams of a connection, copied and sent from elsewhere first: it stays where it is."""

    async def body() -> None:
        client, server, raw = Endpoint("client", engine), Endpoint("server", engine), Raw()
        link, theirs = await client.joined(server)
        await talk(link, server)
        send_train = client.udp.send_train

        def overtaken(segments: list[bytes], address: tuple[str, int]) -> None:
            for segment in segments if raw.sent < 40_000 else ():
                raw.send(segment, server)
            send_train(segments, address)

        client.udp.send_train = overtaken  # type: ignore[method-assign,assignment]
        await talk(link, server, 200_000)
        client.udp.send_train = send_train  # type: ignore[method-assign]
        await talk(link, server, 200_000)
        await asyncio.sleep(QUIET)
        assert theirs.address == client.address
        assert sum(map(len, raw.got())) <= 3 * raw.sent
        await talk(link, server, 200_000)
        assert not client.reasons
        assert not server.reasons
        raw.close()
        client.close()
        server.close()

    check(body)
