from __future__ import annotations

from collections.abc import Iterable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import KeyType, PrivateKey, PublicKey
from pt.identity.peer_id import PeerId, PeerMismatchError
from pt.noise.handshake import NoiseXX, Suite, public_key
from pt.noise.payload import SIGNATURE_PREFIX, NoisePayload
from pt.noise.transport import Opener, Sealer
from pt.noise.upgrade import SecureHandshake

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)
ALICE_ID, BOB_ID = PeerId.from_public_key(ALICE.public), PeerId.from_public_key(BOB.public)
YAMUX = ("/yamux/1.0.0",)


def dialer(**options: object) -> SecureHandshake:
    options = {"expected": BOB_ID, "muxers": YAMUX, "suite": Suite.CHACHAPOLY} | options
    return SecureHandshake(initiator=True, identity=ALICE, static=b"1" * 32, **options)  # type: ignore[arg-type]


def listener(**options: object) -> SecureHandshake:
    options = {"muxers": YAMUX, "suite": Suite.CHACHAPOLY} | options
    return SecureHandshake(initiator=False, identity=BOB, static=b"2" * 32, **options)  # type: ignore[arg-type]


def run(initiator: SecureHandshake, responder: SecureHandshake, step: int | None = None) -> None:
    for _ in range(2):
        for source, sink in ((initiator, responder), (responder, initiator)):
            data = source.data_to_send()
            for at in range(0, len(data), step or len(data) or 1):
                sink.receive_data(data[at : at + (step or len(data))])


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("step", [None, 1, 3, 50])
def test_both_sides_agree_however_the_bytes_are_split(suite: Suite, step: int | None) -> None:
    initiator, responder = dialer(suite=suite), listener(suite=suite, expected=ALICE_ID)
    run(initiator, responder, step)
    ours, theirs = initiator.result, responder.result
    assert ours is not None
    assert theirs is not None
    assert (ours.peer_id, theirs.peer_id) == (BOB_ID, ALICE_ID)
    assert (ours.public_key, theirs.public_key) == (BOB.public, ALICE.public)
    assert ours.handshake_hash == theirs.handshake_hash
    assert (ours.send_key, ours.recv_key) == (theirs.recv_key, theirs.send_key)
    assert ours.send_key != ours.recv_key
    assert ours.muxer == theirs.muxer == YAMUX[0]
    assert ours.suite is theirs.suite is suite
    assert initiator.data_to_send() == b""
    frame = memoryview(bytearray(20))
    Sealer(suite, ours.send_key).seal_into(b"hi", frame)
    assert Opener(suite, theirs.recv_key).open(frame[2:]) == b"hi"


def test_wire_form() -> None:
    initiator, responder = dialer(), listener()
    first = initiator.data_to_send()
    assert len(first) == 34
    assert first[:2] == b"\0\x20"
    assert initiator.data_to_send() == b""
    responder.receive_data(first)
    second = responder.data_to_send()
    assert int.from_bytes(second[:2], "big") == len(second) - 2
    initiator.receive_data(second)
    third = initiator.data_to_send()
    assert initiator.result is not None
    assert responder.result is None
    assert int.from_bytes(third[:2], "big") == len(third) - 2


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        (("/a", "/b"), ("/b", "/a"), "/a"),
        (("/c", "/b"), ("/a", "/b"), "/b"),
        (("/a",), ("/b",), None),
        ((), ("/b",), None),
        (("/a",), (), None),
    ],
)
def test_inlined_muxer(ours: tuple[str, ...], theirs: tuple[str, ...], chosen: str | None) -> None:
    initiator, responder = dialer(muxers=ours), listener(muxers=theirs)
    run(initiator, responder)
    assert initiator.result is not None
    assert responder.result is not None
    assert initiator.result.muxer == responder.result.muxer == chosen


def test_leftover_is_what_follows_the_handshake() -> None:
    initiator, responder = dialer(), listener()
    responder.receive_data(initiator.data_to_send())
    initiator.receive_data(responder.data_to_send() + b"early")
    assert initiator.leftover() == b"early"
    assert initiator.leftover() == b""
    assert responder.leftover() == b""
    responder.receive_data(initiator.data_to_send() + b"\0\x10")
    responder.receive_data(b"more")
    assert responder.leftover() == b"\0\x10more"


def test_wrong_peer() -> None:
    initiator, responder = dialer(expected=ALICE_ID), listener()
    with pytest.raises(PeerMismatchError, match="address") as caught:
        run(initiator, responder)
    assert (caught.value.expected, caught.value.actual) == (ALICE_ID, BOB_ID)
    assert initiator.result is None
    assert initiator.data_to_send() == b"", "must not reveal our identity to the wrong peer"
    with pytest.raises(LocalProtocolError, match="failed"):
        initiator.receive_data(b"")


def test_listener_may_expect_a_peer_too() -> None:
    with pytest.raises(PeerMismatchError):
        run(dialer(), listener(expected=BOB_ID))


def test_suites_differ() -> None:
    with pytest.raises(CryptoFailure):
        run(dialer(), listener(suite=Suite.AESGCM))


def answer(payload: bytes) -> SecureHandshake:
    """A dialer without expectations that has received `payload` in message 2."""
    initiator = dialer(expected=None)
    rogue = NoiseXX(Suite.CHACHAPOLY, initiator=False, static=b"3" * 32)
    rogue.read_message(initiator.data_to_send()[2:])
    initiator.receive_data(framed(rogue.write_message(payload)))
    return initiator


STATIC_3 = public_key(b"3" * 32)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (NoisePayload.create(BOB, b"4" * 32), CryptoFailure),
        (
            NoisePayload(
                identity_key=BOB.public.to_protobuf(),
                identity_sig=ALICE.sign(SIGNATURE_PREFIX + STATIC_3),
            ),
            CryptoFailure,
        ),
        (NoisePayload(identity_key=b"", identity_sig=b""), RemoteProtocolError),
        (b"", RemoteProtocolError),
        (b"\xff\xff", RemoteProtocolError),
    ],
    ids=["stolen signature", "forged", "empty", "no payload", "garbage"],
)
def test_bad_payload(payload: NoisePayload | bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        answer(payload if isinstance(payload, bytes) else payload.encode())


def other_keys() -> Iterable[object]:
    message = SIGNATURE_PREFIX + STATIC_3
    der = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    key = rsa.generate_private_key(65537, 2048)
    yield pytest.param(
        PublicKey(KeyType.RSA, key.public_key().public_bytes(*der)),
        key.sign(message, padding.PKCS1v15(), SHA256()),
        id="rsa",
    )
    curve = ec.generate_private_key(ec.SECP256R1())
    yield pytest.param(
        PublicKey(KeyType.ECDSA, curve.public_key().public_bytes(*der)),
        curve.sign(message, ec.ECDSA(SHA256())),
        id="ecdsa",
    )
    koblitz = ec.generate_private_key(ec.SECP256K1())
    point = koblitz.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    yield pytest.param(
        PublicKey(KeyType.SECP256K1, point), koblitz.sign(message, ec.ECDSA(SHA256())), id="secp"
    )


@pytest.mark.parametrize(("key", "signature"), list(other_keys()))
def test_other_key_types(key: PublicKey, signature: bytes) -> None:
    payload = NoisePayload(identity_key=key.to_protobuf(), identity_sig=signature)
    result = answer(payload.encode()).result
    assert result is not None
    assert result.peer_id == PeerId.from_public_key(key)
    assert result.muxer is None


@given(st.binary(min_size=1, max_size=400))
def test_garbage_never_succeeds(garbage: bytes) -> None:
    for side in (dialer(), listener()):
        try:
            side.receive_data(garbage)
            side.receive_data(b"\0\0")  # an empty message, or part of a longer one
        except RemoteProtocolError:
            pass
        assert side.result is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_never_succeeds(at: int, mask: int) -> None:
    initiator, responder = dialer(), listener()
    responder.receive_data(initiator.data_to_send())
    message = bytearray(responder.data_to_send())
    message[2 + at % (len(message) - 2)] ^= mask
    with pytest.raises(CryptoFailure):
        initiator.receive_data(message)
    assert initiator.result is None
