"""STUN messages: the RFCs' vectors, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError, UsageError
from pt.stun.attributes import SOFTWARE, USERNAME, XOR_MAPPED_ADDRESS, read_xor_address
from pt.stun.messages import (
    BINDING,
    FINGERPRINT,
    INTEGRITY,
    INTEGRITY_SHA256,
    MAX_MESSAGE,
    Kind,
    StunError,
    decode,
    encode,
    is_stun,
    password_key,
)
from tests.vectors import load

VECTORS = load("stun/rfc5769.json")
ID = bytes(range(12))
KEY = b"key"


def vector(name):
    found = VECTORS[name]
    return found, bytes.fromhex(found["message"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("request", Kind.REQUEST), ("response4", Kind.SUCCESS), ("response6", Kind.SUCCESS)],
)
def test_vectors_with_short_term_credentials(name, kind):
    facts, data = vector(name)
    message = decode(data)
    assert (message.kind, message.method) == (kind, BINDING)
    assert message.transaction.hex() == "b7e7a701bc34d686fa87dfae"
    assert message.get(SOFTWARE) == facts["software"].encode()
    assert message.get(FINGERPRINT) is not None
    assert message.verify(password_key(facts["password"]))
    assert not message.verify(password_key(facts["password"] + "x"))
    if kind is Kind.REQUEST:
        assert message.get(USERNAME) == facts["username"].encode()
    else:
        mapped = message.get(XOR_MAPPED_ADDRESS)
        assert read_xor_address(mapped, message.transaction) == tuple(facts["mapped"])


@pytest.mark.parametrize(
    ("name", "hashed"), [("long-term", hashlib.md5), ("long-term-sha256", hashlib.md5)]
)
def test_vectors_with_long_term_credentials(name, hashed):
    facts, data = vector(name)
    text = f"{facts['username']}:{facts['realm']}:{facts['password']}"
    message = decode(data)
    assert message.verify(hashed(text.encode()).digest())
    assert not message.verify(b"another key")


def test_we_write_what_the_vector_is():
    facts, data = vector("response4")
    message = decode(data)
    rest = [each for each in message.attributes if each[0] in (SOFTWARE, XOR_MAPPED_ADDRESS)]
    again = encode(
        Kind.SUCCESS, BINDING, message.transaction, rest, key=password_key(facts["password"])
    )
    # the vector pads with a blank, we with a zero: what a signature covers differs by that
    assert len(again) == len(data)
    assert decode(again).verify(password_key(facts["password"]))
    assert decode(again).attributes[:2] == message.attributes[:2]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("method", [0x001, 0x003, 0xF50, 0xFFF, 0x080])
def test_every_kind_and_method_comes_back(kind, method):
    message = decode(encode(kind, method, ID))
    assert (message.kind, message.method, message.transaction) == (kind, method, ID)


def test_both_signatures_and_the_stronger_one_counts():
    data = encode(Kind.REQUEST, BINDING, ID, [(SOFTWARE, b"x")], key=b"old", sha256_key=b"new")
    message = decode(data)
    assert message.get(INTEGRITY) is not None
    assert message.get(INTEGRITY_SHA256) is not None
    assert message.verify(b"new")
    assert not message.verify(b"old")


def test_an_unsigned_message_verifies_with_nothing():
    assert not decode(encode(Kind.REQUEST, BINDING, ID)).verify(b"")


def test_what_follows_a_signature_is_ignored():
    signed = encode(Kind.REQUEST, BINDING, ID, key=KEY, fingerprint=False)
    data = bytearray(signed + b"\x80\x22\x00\x01x\0\0\0")
    data[3] = len(data) - 20
    message = decode(bytes(data))
    assert message.get(SOFTWARE) is None
    assert message.verify(KEY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:19], "not a STUN"),
        (lambda data: b"\x40" + data[1:], "not a STUN"),
        (lambda data: data[:4] + b"\0\0\0\0" + data[8:], "not a STUN"),
        (lambda data: data[:-4], "wrongly"),
        (lambda data: data + bytes(4), "wrongly"),
        (lambda data: data[:3] + b"\x01" + data[4:], "wrongly"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "FINGERPRINT is wrong"),
        (lambda data: data[:21] + b"\x99" + data[22:], "FINGERPRINT is wrong"),
    ],
)
def test_damage_is_refused(change, message):
    data = encode(Kind.REQUEST, BINDING, ID, [(SOFTWARE, b"x" * 8)])
    with pytest.raises(StunError, match=message):
        decode(change(data))


def build(*attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return b"\x00\x01" + len(body).to_bytes(2) + b"\x21\x12\xa4\x42" + ID + body


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ([b"\x80\x22\x00\x05abcd"], "cut off"),
        ([b"\x80\x22\xff\xffabcd"], "cut off"),
        ([b"\x00\x08\x00\x04abcd"], "signature of 4"),
        ([b"\x00\x1c\x00\x11" + bytes(20)], "signature of 17"),
        ([b"\x00\x1c\x00\x0c" + bytes(12)], "signature of 12"),
        ([b"\x80\x28\x00\x04abcd", b"\x80\x22\x00\x04abcd"], "not the last"),
        ([b"\x80\x28\x00\x03abcd"], "FINGERPRINT is wrong"),
    ],
)
def test_attributes_that_make_no_sense(attributes, message):
    with pytest.raises(StunError, match=message):
        decode(build(*attributes))


def test_what_is_too_long_is_neither_read_nor_written():
    with pytest.raises(StunError, match="bytes"):
        decode(build(b"\x80\x22" + (4096).to_bytes(2) + bytes(4096)))
    with pytest.raises(LocalProtocolError, match="at most"):
        encode(Kind.REQUEST, BINDING, ID, [(SOFTWARE, bytes(MAX_MESSAGE))])
    with pytest.raises(LocalProtocolError, match="12 bytes"):
        encode(Kind.REQUEST, BINDING, b"short")


def test_passwords_are_prepared():
    assert password_key("a\u00a0b") == b"a b"
    assert password_key("e\u0301") == "é".encode()
    for bad in ("", "a\0b"):
        with pytest.raises(UsageError):
            password_key(bad)


def test_stun_is_told_from_quic_and_the_overlay():
    assert is_stun(encode(Kind.REQUEST, BINDING, ID))
    assert not is_stun(b"\xc3\0\0\0\1" + bytes(40))
    assert not is_stun(b"\x43" + bytes(40))
    assert not is_stun(b"\x00" + bytes(range(40)))
    assert not is_stun(b"")


@given(st.binary(max_size=200))
def test_bytes_of_strangers(data):
    with pytest.raises(StunError):
        decode(data)


@given(st.binary(max_size=120), st.integers(0, 0x3FFF))
def test_whatever_follows_a_right_header(body, kind):
    body = body[: len(body) // 4 * 4]
    data = kind.to_bytes(2) + len(body).to_bytes(2) + b"\x21\x12\xa4\x42" + ID + body
    try:
        message = decode(data)
    except StunError:
        return
    message.verify(KEY)
    assert message.raw == data


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0xFFFF).filter(
                lambda k: k not in (INTEGRITY, INTEGRITY_SHA256, FINGERPRINT)
            ),
            st.binary(max_size=40),
        ),
        max_size=8,
    ),
    st.sampled_from(Kind),
    st.booleans(),
)
def test_what_was_written_is_read(attributes, kind, sha256):
    signed = {"sha256_key": KEY} if sha256 else {"key": KEY}
    message = decode(encode(kind, BINDING, ID, attributes, **signed))
    assert list(message.attributes[: len(attributes)]) == attributes
    assert message.verify(KEY)


@given(st.integers(0, 99), st.integers(1, 255))  # the FINGERPRINT after it is nobody's signature
def test_no_bit_of_a_signed_message_changes_unnoticed(at, flip):
    facts, data = vector("request")
    changed = bytearray(data)
    changed[at] ^= flip
    try:
        message = decode(bytes(changed))
    except StunError:
        return
    assert not message.verify(password_key(facts["password"]))
