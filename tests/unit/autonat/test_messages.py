from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.autonat.messages import (
    MAX_ADDRESSES,
    AutonatError,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Status,
    decode_dial_back,
    decode_dial_back_response,
    decode_message,
    encode_dial_back,
    encode_dial_back_response,
)
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr
from tests.vectors import load

GOLDEN = {name: bytes.fromhex(text) for name, text in load("libp2p/messages.json").items()}
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
NONCE = 0x0102030405060708
MESSAGES = {
    "autonat2-dialreq": DialRequest((QUIC,), NONCE),
    "autonat2-dialresp": DialResponse(Status.OK, 0, DialStatus.OK),
    "autonat2-dialdatareq": DialDataRequest(0, 30000),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_messages(name: str) -> None:
    assert MESSAGES[name].encode() == uvarint.prefix(GOLDEN[name])
    assert decode_message(GOLDEN[name]) == MESSAGES[name]


def test_golden_dial_back() -> None:
    assert encode_dial_back(NONCE) == uvarint.prefix(GOLDEN["autonat2-dialback"])
    assert decode_dial_back(GOLDEN["autonat2-dialback"]) == NONCE
    assert encode_dial_back_response() == b"\x00"
    assert decode_dial_back_response(b"")
    assert not decode_dial_back_response(protobuf.put_uint(1, 100))


def test_data_is_read_as_it_was_written() -> None:
    data = DialData(b"x" * 4000)
    assert decode_message(data.encode()[2:]) == data
    assert len(data.encode()) <= 4104  # what rust-libp2p takes


def test_an_address_that_cannot_be_read_keeps_its_place() -> None:
    body = protobuf.put_bytes(1, b"\xff") + protobuf.put_bytes(1, QUIC.encode())
    body += protobuf.put_fixed64(2, 7)
    assert decode_message(protobuf.put_bytes(1, body)) == DialRequest((None, QUIC), 7)


def test_addresses_are_bounded() -> None:
    body = protobuf.put_bytes(1, QUIC.encode()) * 200 + protobuf.put_fixed64(2, 7)
    request = decode_message(protobuf.put_bytes(1, body))
    assert isinstance(request, DialRequest)
    assert len(request.addresses) == MAX_ADDRESSES


def test_words_of_a_newer_version_are_errors() -> None:
    body = protobuf.put_uint(1, 999) + protobuf.put_uint(3, 999)
    assert decode_message(protobuf.put_bytes(2, body)) == DialResponse(Status.INTERNAL_ERROR)


@pytest.mark.parametrize(
    "body", [b"", b"\x0a", protobuf.put_uint(1, 1), protobuf.put_bytes(1, b""), b"\x0a\x01\x0f"]
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(AutonatError):
        decode_message(body)


@pytest.mark.parametrize("body", [b"", b"\x08\x01", b"\x09\x01"])
def test_what_is_no_dial_back_is_refused(body: bytes) -> None:
    with pytest.raises(AutonatError):
        decode_dial_back(body)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (decode_message, decode_dial_back, decode_dial_back_response):
        with contextlib.suppress(AutonatError):
            decode(body)
