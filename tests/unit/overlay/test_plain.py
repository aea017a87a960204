"""The plain library's requests: which are read, and how little they are answered with."""

from __future__ import annotations

import pytest
import umsgpack

from pt.overlay.adapter import Node
from pt.overlay.plain import PlainRequest, decode, encode_reply

ID, SENDER, KEY = b"\n" * 20, b"s" * 20, b"k" * 20
OWN = bytes(range(32))
ADDR = ("11.0.0.9", 7000)


def datagram(method: str, *args: object) -> bytes:
    return b"\x00" + ID + umsgpack.packb([method, list(args)])


@pytest.mark.parametrize(
    ("method", "args", "key"),
    [
        ("ping", (SENDER,), b""),
        ("stun", (), b""),
        ("find_node", (SENDER, KEY), KEY + bytes(12)),
        ("find_value", (SENDER, KEY), KEY + bytes(12)),
        ("store", (SENDER, KEY, "text"), b""),
        ("store", (SENDER, KEY, 1.5), b""),
        ("store", (SENDER, KEY, b"x" * 900), b""),
    ],
)
def test_what_the_library_sends_is_read(method, args, key):
    data = datagram(method, *args)
    found = decode(data)
    assert found is not None
    assert (found.id, found.key, found.size) == (ID, key, len(data))
    assert found.method == method


@pytest.mark.parametrize(
    "data",
    [
        b"",
        datagram("ping"),
        datagram("ping", SENDER[:-1]),
        datagram("ping", "s" * 20),
        datagram("ping", SENDER, SENDER),
        datagram("find_node", SENDER),
        datagram("find_node", SENDER, KEY + b"k"),
        datagram("store", SENDER, KEY),
        datagram("store", SENDER, KEY, b"x" * 1200),
        datagram("__init__", SENDER),
        datagram("ping", SENDER)[:-1],
        datagram("ping", SENDER) + b"x",
        b"\x01" + datagram("ping", SENDER)[1:],
    ],
)
def test_nothing_else_is(data):
    assert decode(data) is None


def answer(request: PlainRequest, near=(), addr=ADDR):
    reply = encode_reply(request, OWN, near, addr)
    assert reply is not None
    assert reply[:21] == b"\x01" + ID
    assert len(reply) <= 3 * request.size
    return umsgpack.unpackb(reply[21:])


def ask(method: str, *args: object) -> PlainRequest:
    found = decode(datagram(method, *args))
    assert found is not None
    return found


def test_answers():
    assert answer(ask("ping", SENDER)) == OWN[:20]
    assert answer(ask("stun")) == list(ADDR)
    assert answer(ask("store", SENDER, KEY, "v")) is False
    assert answer(ask("find_node", SENDER, KEY)) == []
    near = [Node(bytes([n]) * 32, f"11.0.0.{n}", 4001) for n in range(1, 21)]
    for method in ("find_node", "find_value"):
        found = answer(ask(method, SENDER, KEY), near)
        assert found == [[bytes([n]) * 20, f"11.0.0.{n}", 4001] for n in range(1, len(found) + 1)]
        assert 3 <= len(found) < 20


def test_an_answer_that_would_be_too_long_is_none():
    far = (":".join(["2a00"] * 8), 7000)
    assert encode_reply(ask("stun"), OWN, (), far) is not None
    assert encode_reply(ask("stun"), OWN, (), ("x" * 99, 1)) is None
