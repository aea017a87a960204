"""Datagrams: round trips, bounds, and bytes of strangers."""

from __future__ import annotations

import contextlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.overlay.adapter import Node, OverlayError, pack
from pt.overlay.messages import (
    MAX_DATAGRAM,
    MAX_NODES,
    PADDED,
    PART,
    Reply,
    Request,
    decode,
    decode_nodes,
    encode_nodes,
    encode_reply,
    encode_request,
    entries,
)

ID = bytes(range(20))
KEY = b"k" * 32
US = b"s" * 32
TOKEN = b"t" * 8


def test_golden_bytes():
    assert (
        encode_request(ID, "ping", b"", b"") == b"\x00" + ID + b"\x92\xa4ping\x92\xc4\x00\xc4\x00"
    )
    nodes = encode_nodes([Node(KEY, "1.2.3.4", 258), Node(US, "::1", 1)], 200)
    assert nodes == KEY + bytes([4, 1, 2, 3, 4, 1, 2]) + US + b"\x06" + bytes(15) + bytes([1, 0, 1])


@given(st.binary(min_size=1, max_size=PART), st.integers(0, 10240))
def test_a_store_comes_through(part, offset):
    data = encode_request(ID, "store", US, TOKEN, KEY, 10240, offset, part)
    assert len(data) <= MAX_DATAGRAM
    message = decode(data)
    assert isinstance(message, Request)
    assert (message.method, message.sender, message.token) == ("store", US, TOKEN)
    assert message.fields == (KEY, 10240, offset, part)


def test_padding_is_ignored():
    data = encode_request(ID, "find_node", b"", b"", KEY, size=PADDED)
    assert PADDED <= len(data) < PADDED + 4
    message = decode(data)
    assert isinstance(message, Request)
    assert message.get(0, bytes) == KEY


def test_a_reply_is_checked_against_its_method():
    reply = decode(encode_reply(ID, US, TOKEN, b"", 3, b"d" * 8, b"abc"))
    assert isinstance(reply, Reply)
    reply.check("find_value")
    for method in ("store",):
        with pytest.raises(OverlayError):
            reply.check(method)
    client = decode(encode_reply(ID, b"", TOKEN, b""))
    assert isinstance(client, Reply)
    with pytest.raises(OverlayError):
        client.check("ping")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" + ID,
        b"\x02" + ID + pack([b"", b""]),
        b"\x00" + ID + pack("ping"),
        b"\x00" + ID + pack(["ping", b""]),
        b"\x00" + ID + pack(["stun", [b"", b""]]),
        b"\x00" + ID + pack(["__init__", [b"", b""]]),
        b"\x00" + ID + pack(["find_node", [b"", b"", b"short"]]),
        b"\x00" + ID + pack(["find_node", [b"", b"", 5]]),
        b"\x00" + ID + pack(["store", [b"", b"", KEY, b"", 0, b""]]),
        b"\x00" + ID + pack(["ping", [b"one", b""]]),
        b"\x00" + ID + pack(["ping", [b"", b"t"]]),
        b"\x00" + ID + pickle.dumps(print),
        encode_request(ID, "ping", b"", b"", size=MAX_DATAGRAM + 1),
    ],
)
def test_what_is_none_of_ours_is_refused(data):
    with pytest.raises(OverlayError):
        decode(data)


@given(st.binary(max_size=MAX_DATAGRAM + 10))
def test_any_bytes_are_read_or_refused(data):
    for raw in (data, b"\x00" + ID + data, b"\x01" + ID + data):
        with contextlib.suppress(OverlayError):
            decode(raw)


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(part, at, byte):
    data = bytearray(encode_request(ID, "store", US, TOKEN, KEY, 400, 0, part))
    data[at % len(data)] = byte
    with contextlib.suppress(OverlayError):
        decode(bytes(data))


def test_nodes_have_bounds():
    one = encode_nodes([Node(KEY, "10.0.0.1", 5)], 100)
    assert len(decode_nodes(one * MAX_NODES)) == MAX_NODES
    for raw in (one * (MAX_NODES + 1), one[:-1], one + b"x", KEY + b"\x05" + bytes(6)):
        with pytest.raises(OverlayError):
            decode_nodes(raw)
    assert encode_nodes([Node(KEY, "10.0.0.1", 5)] * 5, 100) == one * 2


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.251", "255.255.255.255", "::", "ff02::fb"])
def test_nobody_is_sent_to_impossible_addresses(host):
    assert decode_nodes(encode_nodes([Node(KEY, host, 5)], 100)) == []
    assert decode_nodes(encode_nodes([Node(KEY, "10.0.0.1", 0)], 100)) == []


def test_entries_are_whole():
    assert entries((KEY + b"d" * 8) * 2) == [(KEY, b"d" * 8)] * 2
    with pytest.raises(OverlayError):
        entries(KEY)
