"""A whole relay: its start, its circuits end to end, other configurations, and its end."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pt.aio.muxed import MuxedStream
from pt.errors import LocalPortError, LocalProtocolError, PtError, UsageError
from pt.node.connection import Connection
from pt.node.state import StateDir
from pt.relay.messages import Limit, Status
from pt.relay.raw import AuthAnswer
from pt.relay.registry import Quotas
from pt.relayd import events
from pt.relayd.config import RelayConfig
from pt.relayd.server import RelayServer
from pt.relayd.traffic import DATA_UP, TIME_UP
from pt.tunnel.events import Event, Stopped
from pt.wire.multiaddr import Multiaddr
from tests.unit.relayd.lab import LOOPBACK, SECRET, Guest, lab
from tests.unit.relayd.rig import noise, open_descriptors

ECHO = "/echo/1"
FREE = Quotas(limit=None)


def certify(folder: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(cert), str(private)


async def echo(stream: MuxedStream, connection: Connection) -> None:
    while data := await stream.read(65536):
        await stream.write(data)
    await stream.close_write()


async def through(relay: RelayServer, source: Guest, target: Guest, *, raw: bool) -> Connection:
    """A connection from one guest to the other over the relay."""
    source.circuits.raw = raw
    target.node.handle(ECHO, echo, limited=True)
    address = relay.addresses[0].through_circuit().with_peer(target.peer_id.raw)
    return await source.circuits.dial(address, target.peer_id, ("/noise",))


async def answer_to(connection: Connection, data: bytes) -> bytes:
    stream = await connection.open_stream((ECHO,), limited=True)

    async def say() -> None:
        await stream.write(data)
        await stream.close_write()

    async def hear() -> bytes:
        got = bytearray()
        while part := await stream.read(65536):
            got += part
        return bytes(got)

    async with asyncio.timeout(20):
        _, got = await asyncio.gather(say(), hear())
    return got


def test_ready_says_what_users_need(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made:
            (ready,) = made.of(events.RelayReady)
            assert ready.peer_id == made.relay.peer_id
            assert ready.addresses == made.relay.addresses
            assert ready.option == f"--relay {ready.addresses[0]}"
            assert (ready.secret, ready.private, ready.page) == (True, False, None)
            assert SECRET not in repr(ready)

    asyncio.run(main())


def test_its_identity_stays(tmp_path: Path) -> None:
    async def main() -> None:
        seen = set()
        for _ in range(2):
            async with lab(tmp_path) as made:
                seen.add(made.relay.peer_id)
        assert len(seen) == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["raw", "libp2p"])
def test_bytes_pass_exactly_and_are_told(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with (
            lab(tmp_path, strangers=FREE) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            connection = await through(made.relay, source, target, raw=kind == "raw")
            assert connection.path == ("relay/raw" if kind == "raw" else "relay/circuit")
            assert connection.limit is None
            assert connection.peer_id == target.peer_id
            data = noise(1, 1_000_000)
            assert await answer_to(connection, data) == data
            (opened,) = made.of(events.CircuitOpened)
            assert (opened.kind, opened.source, opened.target, opened.grade) == (
                kind, source.peer_id, target.peer_id, "stranger",
            )  # fmt: skip
            (view,) = made.relay.snapshot().circuits
            assert view.sent > len(data)
            assert view.received > len(data)
            connection.close()
            await made.until(lambda: made.of(events.CircuitClosed))
            (closed,) = made.of(events.CircuitClosed)
            assert (closed.circuit, closed.kind) == (opened.circuit, kind)
            assert closed.sent > len(data)
            assert made.relay.snapshot().open_circuits.get(kind, 0) == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("near", "far"), [("quic-v1", "tcp"), ("tcp", "quic-v1"), ("quic-v1", "quic-v1")]
)
def test_users_may_come_over_quic(tmp_path: Path, near: str, far: str) -> None:
    """What passes is a circuit of libp2p's: the kernel moves bytes between TCP connections only."""

    async def main() -> None:
        async with (
            lab(tmp_path, strangers=FREE) as made,
            made.guest(near) as source,
            made.guest(far) as target,
        ):
            assert source.connection.path == "direct/" + near.removesuffix("-v1")
            assert (await target.reserve()).status == Status.OK
            assert await target.prove(None) is AuthAnswer.STRANGER
            connection = await through(made.relay, source, target, raw=True)
            assert connection.path == "relay/circuit"
            assert connection.peer_id == target.peer_id
            data = noise(1, 300_000)
            assert await answer_to(connection, data) == data

    asyncio.run(main())


@pytest.mark.parametrize("raw", [True, False])
def test_limits_of_strangers_end_circuits_and_users_have_none(tmp_path: Path, raw: bool) -> None:
    async def main() -> None:
        small = Quotas(limit=Limit(0, 40_000))
        async with (
            lab(tmp_path, strangers=small, secret=SECRET) as made,
            made.guest() as source,
            made.guest() as target,
            made.guest() as user,
        ):
            assert (await target.reserve()).status == Status.OK
            connection = await through(made.relay, source, target, raw=raw)
            assert connection.limit == Limit(0, 40_000)
            connection.link._pace = None  # a client that does not care
            with pytest.raises((PtError, TimeoutError)):
                await answer_to(connection, bytes(200_000))
            await made.until(lambda: made.of(events.CircuitClosed))
            (closed,) = made.of(events.CircuitClosed)
            assert closed.reason == DATA_UP
            assert max(closed.sent, closed.received) == 40_000
            assert await user.prove() is AuthAnswer.USER
            assert (await user.reserve()).limit is None
            connection = await through(made.relay, source, user, raw=raw)
            assert connection.limit is None
            assert len(await answer_to(connection, bytes(200_000))) == 200_000

    asyncio.run(main())


@pytest.mark.parametrize("raw", [True, False])
def test_a_circuit_ends_when_its_time_is_up(tmp_path: Path, raw: bool) -> None:
    async def main() -> None:
        brief = Quotas(limit=Limit(1, 0))
        async with (
            lab(tmp_path, strangers=brief) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            connection = await through(made.relay, source, target, raw=raw)
            await made.until(lambda: made.of(events.CircuitClosed))
            assert made.of(events.CircuitClosed)[0].reason == TIME_UP
            async with asyncio.timeout(5):
                while not connection.closed:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_drain_waits_for_the_circuits_and_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            lab(tmp_path, strangers=FREE) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            connection = await through(made.relay, source, target, raw=True)
            draining = asyncio.create_task(made.relay.drain(30))
            await made.until(lambda: made.of(events.RelayDraining))
            assert await answer_to(connection, b"still here") == b"still here"
            assert not draining.done()
            connection.close()
            async with asyncio.timeout(5):
                await draining
            await made.relay.close()
            await made.relay.close()
            async with asyncio.timeout(1):
                await made.relay.wait()
            assert len(made.of(Stopped)) == 1

    asyncio.run(main())


def test_closing_resets_what_is_open_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        before = open_descriptors()
        async with (
            lab(tmp_path, strangers=FREE, http=("127.0.0.1", 0)) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            connections = [
                await through(made.relay, source, target, raw=raw) for raw in (True, False)
            ]
            await made.relay.close()
            async with asyncio.timeout(5):
                while not all(each.closed for each in connections):
                    await asyncio.sleep(0.01)
            assert {each.reason for each in made.of(events.CircuitClosed)} == {"the relay stops"}
        assert open_descriptors() <= before

    asyncio.run(main())


def test_a_port_that_is_taken_stops_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        before = open_descriptors()
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            for options in (
                {"listen": (Multiaddr.tcp("127.0.0.1", port),)},
                {"listen": (LOOPBACK,), "http": ("127.0.0.1", port)},
            ):
                said: list[Event] = []
                relay = RelayServer(RelayConfig(**options), StateDir(tmp_path), said.append)
                with pytest.raises(LocalPortError):
                    await relay.start()
                assert not [each for each in said if isinstance(each, events.RelayReady)]
        assert open_descriptors() <= before

    asyncio.run(main())


def test_nothing_can_be_asked_of_a_relay_that_was_not_started(tmp_path: Path) -> None:
    config = RelayConfig(listen=(LOOPBACK,))
    relay = RelayServer(config, StateDir(tmp_path), lambda _: None)
    with pytest.raises(LocalProtocolError):
        relay.reload(config)
    with pytest.raises(LocalProtocolError):
        _ = relay.peer_id


def test_another_configuration_holds_for_circuits_that_are_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            lab(tmp_path, strangers=FREE, rate=20_000.0) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            connection = await through(made.relay, source, target, raw=True)
            slow = asyncio.create_task(answer_to(connection, bytes(1_000_000)))  # for 100 s
            await asyncio.sleep(0.3)
            assert not slow.done()
            listen = (*made.config.listen, Multiaddr.tcp("127.0.0.1", 1))
            made.relay.reload(
                RelayConfig(listen=listen, strangers=Quotas(circuits=0), http=("127.0.0.1", 0))
            )
            assert len(await slow) == 1_000_000
            (reloaded,) = made.of(events.RelayReloaded)
            assert set(reloaded.ignored) == {"listen", "http"}
            with pytest.raises(PtError):
                await through(made.relay, source, target, raw=True)

    asyncio.run(main())


def test_another_certificate_is_shown_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    old, new = certify(tmp_path, "old"), certify(tmp_path, "new")
    wss = Multiaddr.parse("/ip4/127.0.0.1/tcp/0/tls/ws")

    async def subject(relay: RelayServer) -> str:
        port = relay.addresses[0].tcp_port
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(raw).subject.rfc4514_string()

    async def main() -> None:
        options = {"listen": (LOOPBACK, wss), "secret": SECRET}
        async with lab(tmp_path, **options, tls_cert=old[0], tls_key=old[1]) as made:
            assert await subject(made.relay) == "CN=old"
            bad = RelayConfig(**options, tls_cert=new[0], tls_key=old[1])
            with pytest.raises(UsageError, match="certificate"):
                made.relay.reload(bad)
            assert made.relay.config is made.config
            assert await subject(made.relay) == "CN=old"
            made.relay.reload(RelayConfig(**options, tls_cert=new[0], tls_key=new[1]))
            assert await subject(made.relay) == "CN=new"

    asyncio.run(main())


def test_a_secret_that_is_too_short_once_it_is_normalised_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            with pytest.raises(UsageError):
                made.relay.reload(
                    RelayConfig(
                        listen=made.config.listen, secret="e\u0301" * 8, strangers=Quotas(ttl=60.0)
                    )
                )
            said = await guest.reserve()
            assert said.reservation is not None
            (reserved,) = made.of(events.Reserved)
            assert reserved.seconds > 3000
            assert await guest.prove() is AuthAnswer.USER

    asyncio.run(main())
