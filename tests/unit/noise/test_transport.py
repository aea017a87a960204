from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import CryptoFailure, LocalProtocolError
from pt.noise.handshake import Suite
from pt.noise.transport import MAX_PLAINTEXT, Opener, Sealer

KEY = bytes(range(32))
SUITES = pytest.mark.parametrize("suite", list(Suite))


def frame(sealer: Sealer, plain: bytes) -> memoryview:
    out = memoryview(bytearray(len(plain) + 18))
    assert sealer.seal_into(plain, out) == len(out)
    return out


@SUITES
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_frames_come_back_in_order(suite: Suite, plains: list[bytes]) -> None:
    sealer, opener = Sealer(suite, KEY), Opener(suite, KEY)
    for plain in plains:
        assert opener.open(frame(sealer, plain)[2:]) == plain


@pytest.mark.parametrize(
    ("suite", "cipher", "order"),
    [(Suite.CHACHAPOLY, ChaCha20Poly1305, "little"), (Suite.AESGCM, AESGCM, "big")],
)
def test_nonce_layout_far_along(suite: Suite, cipher, order: str) -> None:
    sealer = Sealer(suite, KEY)
    for _ in range(258):
        got = bytes(frame(sealer, b"x"))
    nonce = bytes(4) + (257).to_bytes(8, order)  # type: ignore[arg-type]
    assert got[2:] == cipher(KEY).encrypt(nonce, b"x", None)


@SUITES
@pytest.mark.parametrize("size", [0, 1, 15, 16, 2047, 2048, MAX_PLAINTEXT])
def test_in_place_equals_out_of_place(suite: Suite, size: int) -> None:
    plain = bytes(i & 0xFF for i in range(size))
    apart = frame(Sealer(suite, KEY), plain)
    buffer = bytearray(2) + plain + bytes(16 + 5)
    view = memoryview(buffer)
    assert Sealer(suite, KEY).seal_into(view[2 : 2 + size], view) == size + 18
    assert view[: size + 18] == apart
    assert buffer[size + 18 :] == bytes(5), "wrote past the frame"
    assert int.from_bytes(buffer[:2], "big") == size + 16
    opened = Opener(suite, KEY).open(view[2 : size + 18])
    assert opened == plain
    assert buffer[2 : 2 + size] == plain, "not in place"


@SUITES
def test_limits_of_seal(suite: Suite) -> None:
    sealer = Sealer(suite, KEY)
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(bytes(MAX_PLAINTEXT + 1), memoryview(bytearray(70000)))
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(b"abc", memoryview(bytearray(20)))
    # Neither attempt used up a nonce.
    assert Opener(suite, KEY).open(frame(sealer, b"abc")[2:]) == b"abc"


@SUITES
@pytest.mark.parametrize("size", [0, 15])
def test_shorter_than_a_tag(suite: Suite, size: int) -> None:
    with pytest.raises(CryptoFailure, match="shorter"):
        Opener(suite, KEY).open(memoryview(bytearray(size)))


@SUITES
@pytest.mark.parametrize("at", [0, 3, 19])
def test_any_damaged_byte(suite: Suite, at: int) -> None:
    body = frame(Sealer(suite, KEY), b"data")[2:]
    body[at] ^= 0x40
    with pytest.raises(CryptoFailure, match="authenticate"):
        Opener(suite, KEY).open(body)


@SUITES
def test_replay_reorder_reflection_and_other_keys(suite: Suite) -> None:
    sealer = Sealer(suite, KEY)
    first, second = bytes(frame(sealer, b"1")), bytes(frame(sealer, b"2"))
    opener = Opener(suite, KEY)
    with pytest.raises(CryptoFailure):
        opener.open(memoryview(bytearray(second))[2:])
    assert opener.open(memoryview(bytearray(first))[2:]) == b"1"
    with pytest.raises(CryptoFailure):
        opener.open(memoryview(bytearray(first))[2:])
    with pytest.raises(CryptoFailure):
        Opener(suite, bytes(32)).open(memoryview(bytearray(first))[2:])
    other = Suite.AESGCM if suite is Suite.CHACHAPOLY else Suite.CHACHAPOLY
    with pytest.raises(CryptoFailure):
        Opener(other, KEY).open(memoryview(bytearray(first))[2:])


@SUITES
@pytest.mark.parametrize("size", [16, 31, 33])
def test_key_length(suite: Suite, size: int) -> None:
    for machine in (Sealer, Opener):
        with pytest.raises(LocalProtocolError, match="32 bytes"):
            machine(suite, bytes(size))
