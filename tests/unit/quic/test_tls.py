from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import pytest
from aioquic import tls
from hypothesis import given, settings
from hypothesis import strategies as st

from pt.errors import ProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey, PublicKey
from pt.quic.certificate import CertificateError, identity_key
from pt.quic.tls import Direction, Handshake, HandshakeError, Suite, packet_keys
from tests.unit.quic.forge import NOW, certificate, forge

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)


def check(chain: Sequence[bytes]) -> PublicKey:
    return identity_key(chain, now=NOW)


def side(name: PrivateKey, *, is_client: bool, verify: Callable = check) -> Handshake:
    return Handshake(
        is_client=is_client,
        certificate=certificate(name),
        verify=verify,
        parameters=b"client's" if is_client else b"server's",
        limit=16_000,
    )


def exchange(client: Handshake, server: Handshake, pieces: int = 10_000) -> None:
    client.start()
    while client.output or server.output:
        for source, sink in ((client, server), (server, client)):
            output, source.output = source.output, []
            for epoch, data in output:
                for at in range(0, len(data), pieces):
                    sink.receive(epoch, data[at : at + pieces])


@pytest.mark.parametrize("pieces", [1, 100, 10_000])
def test_both_sides_authenticate(pieces: int) -> None:
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    exchange(client, server, pieces)
    assert client.done
    assert server.done
    assert (client.identity, server.identity) == (BOB.public, ALICE.public)
    assert (client.peer_parameters, server.peer_parameters) == (b"server's", b"client's")
    assert client.binding == server.binding
    assert len(client.binding) == 32
    mine = {(s.direction, s.epoch): s.secret for s in client.secrets}
    theirs = {(s.direction, s.epoch): s.secret for s in server.secrets}
    other = {Direction.ENCRYPT: Direction.DECRYPT, Direction.DECRYPT: Direction.ENCRYPT}
    assert mine == {(other[way], epoch): secret for (way, epoch), secret in theirs.items()}
    assert {epoch for _, epoch in mine} == {2, 3}
    assert {s.suite for s in client.secrets} == {Suite.AES_128_GCM_SHA256}


def test_the_binding_is_the_rfcs_exporter() -> None:
    """Derived by hand from the key schedule of the library."""
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    masters = []
    original = tls.KeySchedule.derive_secret

    def watch(schedule: tls.KeySchedule, label: bytes) -> bytes:
        secret = original(schedule, label)
        if label == b"exp master":
            masters.append(secret)
        return secret

    tls.KeySchedule.derive_secret = watch  # type: ignore[method-assign]
    try:
        exchange(client, server)
    finally:
        tls.KeySchedule.derive_secret = original  # type: ignore[method-assign]
    assert len(masters) == 2
    assert masters[0] == masters[1]
    digest = tls.hashes.SHA256()
    empty = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    secret = tls.hkdf_expand_label(digest, masters[0], b"EXPORTER-Channel-Binding", empty, 32)
    assert client.binding == tls.hkdf_expand_label(digest, secret, b"exporter", empty, 32)


def hello() -> tls.ClientHello:
    client = side(ALICE, is_client=True)
    client.start()
    ((_, data),) = client.output
    return tls.pull_client_hello(tls.Buffer(data=data))


def test_what_a_client_offers() -> None:
    offer = hello()
    assert offer.alpn_protocols == ["libp2p"]
    assert offer.server_name is None
    assert offer.pre_shared_key is None
    assert offer.psk_key_exchange_modes is None
    assert not offer.early_data
    assert offer.supported_versions == [0x0304]
    assert offer.legacy_session_id == b""
    assert [group for group, _ in offer.key_share or ()] == [0x1D, 0x17]
    assert offer.cipher_suites == [0x1301, 0x1303, 0x1302]
    legacy = {0x0201, 0x0202, 0x0203}
    assert not legacy & set(offer.signature_algorithms or ())


def failing(client: Handshake, server: Handshake) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        exchange(client, server)
    return caught.value


def test_the_client_refuses_a_bad_certificate() -> None:
    def refuse(chain: Sequence[bytes]) -> PublicKey:
        return identity_key([forge(BOB, extension=None)], now=NOW)

    client, server = side(ALICE, is_client=True, verify=refuse), side(BOB, is_client=False)
    error = failing(client, server)
    assert isinstance(error, CertificateError)
    assert "no libp2p extension" in str(error)
    assert error.code == 0x12A
    assert not client.done
    assert client.identity is None


def test_the_server_refuses_a_bad_certificate() -> None:
    def refuse(chain: Sequence[bytes]) -> PublicKey:
        return identity_key([*chain, *chain], now=NOW)

    client, server = side(ALICE, is_client=True), side(BOB, is_client=False, verify=refuse)
    assert "2 certificates" in str(failing(client, server))
    assert client.done, "it cannot know yet"
    assert not server.done


def test_the_server_refuses_a_client_without_a_certificate() -> None:
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    client._context.certificate_private_key = None
    error = failing(client, server)
    assert isinstance(error, CertificateError)
    assert error.code == 0x174
    assert not server.done


def test_a_key_that_is_not_the_certificates() -> None:
    for thief in ("client", "server"):
        client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
        victim = client if thief == "client" else server
        victim._context.certificate_private_key = certificate(ALICE, entropy=b"z" * 56).private_key
        error = failing(client, server)
        assert isinstance(error, HandshakeError)
        assert error.code == 0x133


@pytest.mark.parametrize("protocols", [["h3"], None, []])
def test_another_alpn_is_refused(protocols: list[str] | None) -> None:
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    client._context._alpn_protocols = protocols
    assert failing(client, server).code == 0x178


def test_without_transport_parameters() -> None:
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    client._context.handshake_extensions = []
    assert failing(client, server).code == 0x16D


def test_a_message_under_the_wrong_keys() -> None:
    client, server = side(ALICE, is_client=True), side(BOB, is_client=False)
    client.start()
    ((_, data),) = client.output
    with pytest.raises(HandshakeError) as caught:
        server.receive(2, data)
    assert caught.value.code == 0x10A


def test_a_handshake_without_end() -> None:
    server = side(BOB, is_client=False)
    message = b"\x01\xff\xff\xff"  # 16 MiB are to come
    server.receive(0, message)
    with pytest.raises(RemoteProtocolError, match="does not end"):
        for _ in range(20):
            server.receive(0, bytes(1000))


def flight() -> bytes:
    client = side(ALICE, is_client=True)
    client.start()
    return client.output[0][1]


FLIGHT = flight()


@settings(max_examples=300)
@given(
    st.integers(4, len(FLIGHT) - 1), st.integers(0, 255), st.integers(0, len(FLIGHT)), st.booleans()
)
def test_a_damaged_hello_fails_in_order(at: int, value: int, cut: int, shorten: bool) -> None:
    damaged = bytearray(FLIGHT)
    damaged[at] = value
    if shorten:
        del damaged[cut:]
        damaged[1:4] = (max(len(damaged) - 4, 0)).to_bytes(3, "big")
    server = side(BOB, is_client=False)
    with contextlib.suppress(ProtocolError):
        server.receive(0, bytes(damaged))


def test_keys_of_the_rfc() -> None:
    """RFC 9001, appendix A.1."""
    secret = bytes.fromhex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
    assert [key.hex() for key in packet_keys(Suite.AES_128_GCM_SHA256, secret)] == [
        "1f369613dd76d5467730efcbe3b1a22d",
        "fa044b2f42a3fd3b46fb255c",
        "9f50449e04a0e810283a1e9933adedd2",
    ]
    # Appendix A.5
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    assert [key.hex() for key in packet_keys(Suite.CHACHA20_POLY1305_SHA256, secret)] == [
        "c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8",
        "e0459b3474bdd0e44a41c144",
        "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4",
    ]
