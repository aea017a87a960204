from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LimitError, UsageError
from pt.rendezvous import name as name_module
from pt.rendezvous.name import (
    GENERATE_BYTES,
    NameKeys,
    estimate_strength,
    generate_name,
    hkdf,
    normalise_name,
)

# RFC 5869 appendix A.1 to A.3: ikm, salt, info, length, okm
HKDF_VECTORS = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("ikm", "salt", "info", "length", "okm"), HKDF_VECTORS)
def test_hkdf_rfc5869(ikm: str, salt: str, info: str, length: int, okm: str) -> None:
    got = hkdf(
        bytes.fromhex(ikm), salt=bytes.fromhex(salt), info=bytes.fromhex(info), length=length
    )
    assert got.hex() == okm


def test_scrypt_is_rfc7914() -> None:
    """Our call's form against the vector of RFC 7914 section 12 with the same r and p = 1."""
    got = hashlib.scrypt(
        b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1, maxmem=1 << 26, dklen=64
    )
    assert got.hex().startswith("7023bdcb3afd7348461c06cd81fd38eb")


def test_keys_of_a_name_never_change() -> None:
    """Golden: two versions of `pt` must agree on these for ever."""
    keys = NameKeys.derive("ssh.tao.gossip")
    expected = hashlib.scrypt(
        b"ssh.tao.gossip", salt=b"pt/2", n=131072, r=8, p=1, maxmem=1 << 28, dklen=32
    )
    assert keys.master == expected
    for got, golden in (
        (keys.master, "ad9fe754efd8a5801b99392aa59b195e013d1ddad2489670f4a9003b62d72eab"),
        (keys.record_tag, "af56f79f19dda389a1ee5963b4680c39"),
    ):
        assert got.hex() == golden
    assert (
        keys.membership.hex() == "0b0e4c0912b1261863272c15cc8bbfd7314c7ec7b88fd5d8d4dca462eb8496a0"
    )
    assert (
        keys.record_key.hex() == "5d6f44faf2039d099c3014cecfa2dc0ca4f0fbe188f2151b7d8fd89d8aaae805"
    )
    for got, golden in (
        (keys.master, "ad9fe754efd8a5801b99392aa59b195e013d1ddad2489670f4a9003b62d72eab"),
        (keys.record_tag, "af56f79f19dda389a1ee5963b4680c39"),
    ):
        assert got.hex() == golden
    assert NameKeys.from_master(keys.master) == keys
    for secret in (keys.master, keys.membership, keys.record_key, keys.record_tag):
        assert repr(secret) not in repr(keys)
        assert secret.hex() not in repr(keys)


def test_keys_are_separate() -> None:
    one, other = NameKeys.from_master(bytes(32)), NameKeys.from_master(b"\1" + bytes(31))
    values = {
        value
        for keys in (one, other)
        for value in (keys.master, keys.membership, keys.record_key, keys.record_tag)
    }
    assert len(values) == 8


@pytest.mark.parametrize("size", [0, 31, 33])
def test_master_of_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NameKeys.from_master(bytes(size))


@pytest.mark.parametrize("error", [MemoryError(), ValueError("memory limit exceeded")])
def test_no_memory(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def scrypt(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(name_module.hashlib, "scrypt", scrypt)
    with pytest.raises(LimitError, match="128 MiB"):
        NameKeys.derive("x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" ", "white space"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("end\n", "white space"),
        ("a\u00a0b", "white space"),
        ("a\x00b", r"U\+0000"),
        ("a\x1bb", r"U\+001B"),
        ("a\x7fb", r"U\+007F"),
        ("a\x85b", "white space"),
        ("a\u200bb", r"U\+200B"),
        ("a\u202eb", r"U\+202E"),
        ("a\ud800b", r"U\+D800"),
        ("a\ue000b", r"U\+E000"),
        ("name~code", "NAME~CODE"),
        ("~", "NAME~CODE"),
        ("x" * 256, "256 bytes"),
        ("ä" * 128, "256 bytes"),
    ],
)
def test_names_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        normalise_name(text)
    with pytest.raises(UsageError, match=reason):
        NameKeys.derive(text)


@pytest.mark.parametrize(
    "text", ["a", "ssh.tao.gossip", "x" * 255, "ä" * 127, "пароль", "日本", "A"]
)
def test_names_that_stay(text: str) -> None:
    assert normalise_name(text) == text


def test_one_name_from_every_keyboard() -> None:
    assert normalise_name("u\u0308ber") == normalise_name("\u00fcber") == "über"


@given(st.text(max_size=300))
def test_normalising_is_idempotent_or_refuses(text: str) -> None:
    try:
        once = normalise_name(text)
    except UsageError:
        return
    assert normalise_name(once) == once
    assert 0 < len(once.encode()) <= 255


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ssh", "weak"),
        ("x", "weak"),
        ("aaaaaaaaaaaaaaaaaaaa", "weak"),
        ("12345678", "weak"),
        ("qwertyuiop", "weak"),
        ("p4ssw0rd", "weak"),
        ("home-server-2026", "weak"),
        ("ssh.tao.gossip", "weak"),
        ("Tr0ub4dor&3", "weak"),
        ("192.168.1.20", "weak"),
        ("überraschung", "weak"),
        ("correct-horse-battery-staple", "fair"),
        ("k7qf-2m9x-wd", "fair"),
        ("9f86d081884c7d659a2feaa0c55ad015", "strong"),
        ("xW2a9Lq0Zt7Rk4Vb", "strong"),
    ],
)
def test_strength(name: str, label: str) -> None:
    strength = estimate_strength(name)
    assert strength.label == label, strength
    assert str(strength).startswith(label + ":")
    assert f"{strength.bits} bits" in str(strength)
    assert ("dictionary" in str(strength)) == (label == "weak")


@given(st.text(min_size=1, max_size=255))
def test_strength_of_anything(name: str) -> None:
    assert 0 <= estimate_strength(name).bits <= 8 * 4 * 256


def test_hexadecimal_counts_four_bits_a_digit() -> None:
    assert estimate_strength("9f86d081884c7d659a2feaa0c55ad015").bits == 128


def test_generated_name() -> None:
    # 127.0.0.1 and 63.84.220.193 are known examples of the alphabet
    assert generate_name(bytes([127, 0, 0, 1, 63, 84, 220, 193, 0, 0])) == (
        "lusab-babad-gutih-tugad-babab"
    )


@given(st.binary(min_size=GENERATE_BYTES, max_size=GENERATE_BYTES))
def test_generated_names_are_names_and_differ(random: bytes) -> None:
    name = generate_name(random)
    assert normalise_name(name) == name
    other = bytes((random[0] ^ 1,)) + random[1:]
    assert generate_name(other) != name


def test_generated_names_are_strong() -> None:
    strength = estimate_strength(generate_name(hashlib.sha256(b"seed").digest()[:GENERATE_BYTES]))
    assert (strength.label, strength.bits) == ("strong", 80)


@pytest.mark.parametrize("size", [0, 8, 9, 11])
def test_generating_wants_randomness(size: int) -> None:
    with pytest.raises(ValueError, match="random bytes"):
        generate_name(bytes(size))
