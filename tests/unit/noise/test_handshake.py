from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.errors import CryptoFailure, LocalProtocolError
from pt.noise.handshake import MAX_MESSAGE, NoiseXX, Suite, preload, public_key
from pt.noise.transport import Opener, Sealer

VECTORS = Path(__file__).parents[2] / "vectors" / "noise"
SUITES = {
    "Noise_XX_25519_ChaChaPoly_SHA256": Suite.CHACHAPOLY,
    "Noise_XX_25519_AESGCM_SHA256": Suite.AESGCM,
    "Noise_XXpsk3_25519_ChaChaPoly_SHA256": Suite.CHACHAPOLY,
}


def vectors() -> Iterator[object]:
    for source in ("cacophony", "snow"):
        for vector in json.loads((VECTORS / f"{source}.json").read_text())["vectors"]:
            yield pytest.param(vector, id=f"{source}-{vector['protocol_name']}")


def side(vector: dict, who: str) -> NoiseXX:
    psks = vector.get(f"{who}_psks")
    return NoiseXX(
        SUITES[vector["protocol_name"]],
        initiator=who == "init",
        static=bytes.fromhex(vector[f"{who}_static"]),
        prologue=bytes.fromhex(vector[f"{who}_prologue"]),
        psk=bytes.fromhex(psks[0]) if psks else None,
        test_ephemeral=bytes.fromhex(vector[f"{who}_ephemeral"]),
    )


def pair(suite: Suite = Suite.CHACHAPOLY, **responder: object) -> tuple[NoiseXX, NoiseXX]:
    return (
        NoiseXX(suite, initiator=True, static=b"\x11" * 32),
        NoiseXX(suite, initiator=False, static=b"\x22" * 32, **responder),  # type: ignore[arg-type]
    )


def run(initiator: NoiseXX, responder: NoiseXX) -> None:
    responder.read_message(initiator.write_message())
    initiator.read_message(responder.write_message())
    responder.read_message(initiator.write_message())


@pytest.mark.parametrize("vector", list(vectors()))
def test_public_vector(vector: dict) -> None:
    writer, reader = side(vector, "init"), side(vector, "resp")
    initiator, responder = writer, reader
    messages = [
        (bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]
    ]
    for payload, ciphertext in messages[:3]:
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
        writer, reader = reader, writer

    assert initiator.finished
    assert responder.finished
    assert initiator.keys() == responder.keys()[::-1]
    assert initiator.handshake_hash == responder.handshake_hash
    if "handshake_hash" in vector:
        assert initiator.handshake_hash.hex() == vector["handshake_hash"]
    assert initiator.remote_static == public_key(bytes.fromhex(vector["resp_static"]))
    assert responder.remote_static == public_key(bytes.fromhex(vector["init_static"]))

    suite = SUITES[vector["protocol_name"]]
    directions = [
        (Sealer(suite, a.keys()[0]), Opener(suite, b.keys()[1]))
        for a, b in ((responder, initiator), (initiator, responder))
    ]
    assert len(messages) > 3
    for turn, (payload, ciphertext) in enumerate(messages[3:]):
        sealer, opener = directions[turn % 2]  # message 4 is the responder's
        frame = bytearray(len(payload) + 18)
        assert sealer.seal_into(payload, memoryview(frame)) == len(frame)
        assert frame == len(ciphertext).to_bytes(2, "big") + ciphertext
        assert opener.open(memoryview(frame)[2:]) == payload


def test_random_ephemerals_differ() -> None:
    assert len({pair()[0].write_message() for _ in range(4)}) == 4


@pytest.mark.parametrize("suite", list(Suite))
def test_payloads_of_any_length_up_to_the_limit(suite: Suite) -> None:
    initiator, responder = pair(suite)
    longest = bytes(MAX_MESSAGE - 32)  # message 1 is e and a payload in clear
    assert responder.read_message(initiator.write_message(longest)) == longest
    longest = bytes(MAX_MESSAGE - 32 - 48 - 16)
    assert initiator.read_message(responder.write_message(longest)) == longest
    with pytest.raises(LocalProtocolError, match="exceeds"):
        initiator.write_message(bytes(MAX_MESSAGE))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("empty", lambda m: b""),
        ("half a key", lambda m: m[:16]),
        ("cut in the static key", lambda m: m[:50]),
        ("cut by one", lambda m: m[:-1]),
        ("one more", lambda m: m + b"\0"),
        ("last bit", lambda m: m[:-1] + bytes([m[-1] ^ 1])),
        ("static key's bit", lambda m: m[:40] + bytes([m[40] ^ 1]) + m[41:]),
        ("low-order ephemeral", lambda m: bytes(32) + m[32:]),
        ("too long", lambda m: m + bytes(MAX_MESSAGE)),
    ],
)
def test_spoilt_second_message(name: str, spoil) -> None:
    initiator, responder = pair()
    responder.read_message(initiator.write_message())
    with pytest.raises(CryptoFailure) as caught:
        initiator.read_message(spoil(responder.write_message(b"payload")))
    assert "authenticate" in str(caught.value)
    with pytest.raises(LocalProtocolError, match="failed"):
        initiator.read_message(b"")
    with pytest.raises(LocalProtocolError):
        initiator.keys()
    with pytest.raises(LocalProtocolError):
        _ = initiator.remote_static


def test_short_first_message() -> None:
    _, responder = pair()
    with pytest.raises(CryptoFailure):
        responder.read_message(b"\x01" * 31)


def test_low_order_key_in_the_first_message_fails_on_the_answer() -> None:
    _, responder = pair()
    responder.read_message(bytes(32))
    with pytest.raises(CryptoFailure):
        responder.write_message()


@pytest.mark.parametrize(
    ("initiator", "responder"),
    [
        ({"prologue": b"a"}, {"prologue": b"b"}),
        ({"psk": b"a" * 32}, {"psk": b"b" * 32}),
        ({"psk": b"a" * 32}, {}),
    ],
    ids=["prologue", "psk", "psk on one side"],
)
def test_disagreement(initiator: dict, responder: dict) -> None:
    with pytest.raises(CryptoFailure):
        run(
            NoiseXX(Suite.CHACHAPOLY, initiator=True, static=b"\x11" * 32, **initiator),
            NoiseXX(Suite.CHACHAPOLY, initiator=False, static=b"\x22" * 32, **responder),
        )


def test_suites_do_not_mix() -> None:
    with pytest.raises(CryptoFailure):
        run(
            NoiseXX(Suite.CHACHAPOLY, initiator=True, static=b"\x11" * 32),
            NoiseXX(Suite.AESGCM, initiator=False, static=b"\x22" * 32),
        )


def test_turns_are_enforced() -> None:
    initiator, responder = pair()
    with pytest.raises(LocalProtocolError, match="alternate"):
        initiator.read_message(b"")
    with pytest.raises(LocalProtocolError, match="alternate"):
        responder.write_message()
    with pytest.raises(LocalProtocolError, match="not over"):
        _ = initiator.handshake_hash
    run(initiator, responder)
    for over in (initiator.write_message, lambda: initiator.read_message(b"")):
        with pytest.raises(LocalProtocolError, match="is over"):
            over()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_key_lengths(size: int) -> None:
    with pytest.raises(LocalProtocolError, match="static"):
        NoiseXX(Suite.AESGCM, initiator=True, static=bytes(size))
    with pytest.raises(LocalProtocolError, match="pre-shared"):
        NoiseXX(Suite.AESGCM, initiator=True, static=bytes(32), psk=bytes(size))
    with pytest.raises(LocalProtocolError):
        public_key(bytes(size))


def test_importing_the_package_does_not_import_the_library() -> None:
    code = (
        "import sys, pt.noise; "
        "assert not {'noise', 'cryptography'} & set(sys.modules); "
        "pt.noise.preload(); assert 'noise.connection' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    preload()
