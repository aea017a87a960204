from __future__ import annotations

import contextlib
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LimitError, LocalProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.noise.handshake import NoiseXX, Suite
from pt.tunnel.core.auth import (
    INITIATOR,
    MAX_HELLO,
    MAX_MESSAGE,
    RESPONDER,
    SessionAuth,
    resume_proof,
    verify_resume_proof,
)

ALICE, BOB, MALLORY = (
    PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in (1, 2, 3)
)
PSK, BINDING = b"k" * 32, b"h" * 32
PROLOGUE = b"/peertunnel/2.0.0" + b"\x26" + ALICE.raw + b"\x26" + BOB.raw + BINDING


def alice(**options: object) -> SessionAuth:
    options = {"psk": PSK, "local": ALICE, "remote": BOB, "binding": BINDING} | options
    return SessionAuth(initiator=True, static=b"1" * 32, **options)  # type: ignore[arg-type]


def bob(**options: object) -> SessionAuth:
    options = {"psk": PSK, "local": BOB, "remote": ALICE, "binding": BINDING} | options
    return SessionAuth(initiator=False, static=b"2" * 32, **options)  # type: ignore[arg-type]


def run(initiator: SessionAuth, responder: SessionAuth, step: int = 1 << 20) -> bytes:
    wire = b""
    for _ in range(2):
        for source, sink in ((initiator, responder), (responder, initiator)):
            data = source.data_to_send()
            wire += data
            for at in range(0, len(data), step):
                sink.receive_data(data[at : at + step])
    return wire


@given(st.binary(max_size=MAX_HELLO), st.binary(max_size=MAX_HELLO), st.integers(1, 100))
def test_both_ends_agree_however_the_bytes_are_split(ours: bytes, theirs: bytes, step: int) -> None:
    initiator, responder = alice(hello=ours), bob(hello=theirs)
    run(initiator, responder, step)
    assert initiator.done
    assert responder.done
    assert (initiator.remote_hello, responder.remote_hello) == (theirs, ours)
    assert initiator.resume_secret == responder.resume_secret
    assert len(initiator.resume_secret) == 32
    assert initiator.data_to_send() == responder.data_to_send() == b""


def test_each_session_has_its_own_secret() -> None:
    secrets = set()
    for _ in range(3):
        initiator = alice()
        run(initiator, bob())
        secrets.add(initiator.resume_secret)
    assert len(secrets) == 3


def test_wire_form_against_a_bare_handshake() -> None:
    """Prologue, pattern, order and framing, from the bytes the module's text promises."""
    initiator = alice(hello=b"hello of alice")
    peer = NoiseXX(Suite.CHACHAPOLY, initiator=False, static=b"2" * 32, prologue=PROLOGUE, psk=PSK)
    first = initiator.data_to_send()
    assert first[:2] == (48).to_bytes(2, "big"), "e, and the tag of an empty payload"
    assert peer.read_message(first[2:]) == b""
    second = peer.write_message()
    initiator.receive_data(len(second).to_bytes(2, "big") + second)
    third = initiator.data_to_send()
    assert int.from_bytes(third[:2], "big") == len(third) - 2
    assert peer.read_message(third[2:]) == b"hello of alice"
    assert not initiator.done, "the responder has proven nothing yet"
    with pytest.raises(LocalProtocolError):
        _ = initiator.resume_secret
    with pytest.raises(LocalProtocolError):
        _ = initiator.remote_hello

    responder_key, initiator_key = peer.keys()
    fourth = ChaCha20Poly1305(responder_key).encrypt(bytes(12), b"hello of bob", None)
    initiator.receive_data(len(fourth).to_bytes(2, "big") + fourth + b"rest")
    assert initiator.done
    assert initiator.remote_hello == b"hello of bob"
    assert initiator.leftover() == b"rest"
    secret = HKDF(SHA256(), 32, peer.handshake_hash, b"/peertunnel/2.0.0 resume secret").derive(
        initiator_key + responder_key
    )
    assert initiator.resume_secret == secret


def test_leftover_of_the_responder() -> None:
    initiator, responder = alice(), bob()
    responder.receive_data(initiator.data_to_send())
    initiator.receive_data(responder.data_to_send())
    responder.receive_data(initiator.data_to_send() + b"\xff\xffearly")
    assert responder.done
    responder.receive_data(b" data")
    assert responder.leftover() == b"\xff\xffearly data"
    assert responder.leftover() == b""
    assert initiator.leftover() == b""


def test_another_psk_is_found_by_the_responder_at_message_3() -> None:
    initiator, responder = alice(psk=b"x" * 32), bob()
    responder.receive_data(initiator.data_to_send())
    initiator.receive_data(responder.data_to_send())  # says nothing of the psk
    with pytest.raises(CryptoFailure, match="--id"):
        responder.receive_data(initiator.data_to_send())
    assert not responder.done
    assert responder.data_to_send() == b""
    assert not initiator.done
    with pytest.raises(LocalProtocolError, match="failed"):
        responder.receive_data(b"")


def test_a_responder_without_the_psk_cannot_make_message_4_up() -> None:
    initiator = alice()
    rogue = NoiseXX(Suite.CHACHAPOLY, initiator=False, static=b"2" * 32, prologue=PROLOGUE, psk=PSK)
    rogue.read_message(initiator.data_to_send()[2:])
    second = rogue.write_message()
    initiator.receive_data(len(second).to_bytes(2, "big") + second)
    initiator.data_to_send()
    with pytest.raises(CryptoFailure, match="--id"):
        initiator.receive_data(b"\x00\x10" + bytes(16))
    assert not initiator.done


@pytest.mark.parametrize(
    "options",
    [
        {"binding": b"other" * 8},
        {"remote": MALLORY},
        {"local": MALLORY},
        {"local": ALICE, "remote": BOB},
    ],
    ids=["other connection", "other initiator", "other responder", "roles swapped"],
)
def test_another_prologue_is_found_by_the_responder_at_message_1(options: dict) -> None:
    initiator, responder = alice(), bob(**options)
    with pytest.raises(CryptoFailure, match="does not belong"):
        responder.receive_data(initiator.data_to_send())
    assert responder.data_to_send() == responder.leftover() == b""
    assert not responder.done


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@given(at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_one_changed_byte_in_any_message(number: int, at: int, mask: int) -> None:
    initiator, responder = alice(hello=b"a"), bob(hello=b"b")
    ends = [(initiator, responder), (responder, initiator)]
    for message in range(number):
        source, sink = ends[message % 2]
        sink.receive_data(source.data_to_send())
    source, sink = ends[number % 2]
    data = bytearray(source.data_to_send())
    data[2 + at % (len(data) - 2)] ^= mask
    with pytest.raises(CryptoFailure):
        sink.receive_data(data)
    assert not sink.done
    assert sink.data_to_send() == b""


@pytest.mark.parametrize("end", [alice, bob])
def test_oversize_is_refused_before_it_arrives(end) -> None:
    with pytest.raises(LimitError, match="1025"):
        end().receive_data((MAX_MESSAGE + 1).to_bytes(2, "big"))


def test_oversize_hello_of_the_peer() -> None:
    responder = bob()
    rogue = NoiseXX(Suite.CHACHAPOLY, initiator=True, static=b"1" * 32, prologue=PROLOGUE, psk=PSK)
    first = rogue.write_message()
    responder.receive_data(len(first).to_bytes(2, "big") + first)
    rogue.read_message(responder.data_to_send()[2:])
    third = rogue.write_message(bytes(MAX_HELLO + 1))
    with pytest.raises(LimitError, match="513"):
        responder.receive_data(len(third).to_bytes(2, "big") + third)
    assert not responder.done
    assert responder.data_to_send() == b""


@given(st.binary(min_size=1, max_size=200))
def test_garbage_never_succeeds(garbage: bytes) -> None:
    for end in (alice(), bob()):
        with contextlib.suppress(CryptoFailure, LimitError):
            end.receive_data(garbage)
            end.receive_data(b"\0\0")
        assert not end.done


@pytest.mark.parametrize(
    "options", [{"psk": b"short"}, {"binding": b"short"}, {"hello": bytes(MAX_HELLO + 1)}]
)
def test_our_own_arguments(options: dict) -> None:
    for end in (alice, bob):
        with pytest.raises(LocalProtocolError):
            end(**options)


def test_resume_proof_golden() -> None:
    proof = resume_proof(PSK, binding=BINDING, initiator=ALICE, responder=BOB, role=INITIATOR)
    text = (
        b"/peertunnel/2.0.0 resume proof\x09initiator\x26"
        + ALICE.raw
        + b"\x26"
        + BOB.raw
        + b"\x20"
        + BINDING
    )
    assert proof == hmac.new(PSK, text, hashlib.sha256).digest()
    verify_resume_proof(proof, PSK, binding=BINDING, initiator=ALICE, responder=BOB, role=INITIATOR)


@pytest.mark.parametrize(
    "change",
    [
        {"role": RESPONDER},
        {"binding": b"other" * 8},
        {"initiator": BOB, "responder": ALICE},
        {"initiator": MALLORY},
        {"responder": MALLORY},
        {"secret": b"x" * 32},
        {"proof": b""},
        {"proof": bytes(32)},
    ],
    ids=["reflected", "connection", "swapped", "initiator", "responder", "secret", "none", "zero"],
)
def test_resume_proof_holds_for_nothing_else(change: dict) -> None:
    facts = {"binding": BINDING, "initiator": ALICE, "responder": BOB, "role": INITIATOR}
    facts |= {"secret": PSK}
    proof = resume_proof(**facts)  # type: ignore[arg-type]
    with pytest.raises(CryptoFailure, match="resume"):
        verify_resume_proof(**({"proof": proof} | facts | change))
