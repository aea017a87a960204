"""A server against strangers: what it answers, whom it believes, what it keeps."""

from __future__ import annotations

import pytest
import umsgpack

from pt.overlay.messages import (
    AMPLIFICATION,
    DIGEST_LEN,
    MAX_DATAGRAM,
    MAX_VALUE,
    PADDED,
    Reply,
    decode,
    digest,
    encode_reply,
    encode_request,
)
from pt.overlay.storage import Storage
from tests.unit.overlay.network import Network
from tests.unit.overlay.records import key_of, record, signer, validate

ONE = signer(1)
KEY = key_of(ONE)
ID = b"\x07" * 20


class Stranger:
    """Sends what it likes, keeps what comes back."""

    def __init__(self, network: Network, server, sender: bytes = b"") -> None:
        self.network, self.server, self.sender = network, server, sender
        self.addr = network.address()
        self.send = network.sender(self.addr)
        self.got: list[bytes] = []
        network.ends[self.addr] = self

    def receive_datagram(self, data, addr):
        self.got.append(data)

    def next_timeout(self):
        return None

    def ask(self, method: str, *fields, token: bytes = b"", size: int = 0) -> Reply | None:
        self.got.clear()
        self.raw(encode_request(ID, method, self.sender, token, *fields, size=size))
        replies = [one for one in map(decode, self.got) if isinstance(one, Reply)]
        return replies[0] if replies else None

    def raw(self, data: bytes) -> None:
        self.send(data, self.server.addr)
        self.network.run(0.3)

    def token(self) -> bytes:
        reply = self.ask("ping")
        assert reply is not None
        return reply.token


@pytest.fixture
def network():
    return Network()


def test_a_value_is_stored_and_found(network):
    server = network.server()
    stranger = Stranger(network, server)
    value = record(ONE)
    reply = stranger.ask("store", KEY, len(value), 0, value, token=stranger.token())
    assert reply is not None
    assert reply.get(0, str) == "ok"
    reply = stranger.ask("find_value", KEY, size=PADDED)
    assert reply is not None
    assert reply.fields[1:] == (len(value), digest(value), value)


@pytest.mark.parametrize("token", [b"", b"x" * 8])
def test_nothing_is_stored_or_fetched_without_a_token(network, token):
    server = network.server()
    stranger, value = Stranger(network, server), record(ONE)
    server.storage.put(KEY, value, "a", network.wall())
    other = signer(2)
    reply = stranger.ask("store", key_of(other), 500, 0, record(other), token=token)
    assert reply is not None
    assert reply.get(0, str) == "token"
    assert stranger.ask("fetch", KEY, digest(value), 0, token=token).fields == (b"",)
    assert stranger.ask("offer", KEY + b"d" * DIGEST_LEN, token=token).fields == (b"",)
    assert len(server.storage) == 1


@pytest.mark.parametrize("pad", [0, 100, 200, 300, PADDED])
@pytest.mark.parametrize("size", [200, 600, 1100, MAX_VALUE])
def test_no_reply_is_more_than_three_times_an_unverified_request(network, pad, size):
    server = network.grow(12)[0]
    server.storage.put(KEY, record(ONE, size=size), "a", network.wall())
    stranger = Stranger(network, server)
    for method in ("ping", "find_node", "find_value"):
        data = encode_request(ID, method, b"", b"", *([KEY] if method != "ping" else []), size=pad)
        stranger.got.clear()
        stranger.raw(data)
        assert sum(map(len, stranger.got)) <= AMPLIFICATION * len(data)
        assert stranger.got
    reply = stranger.ask("find_value", KEY, token=stranger.token())
    assert reply is not None
    assert len(stranger.got[0]) <= MAX_DATAGRAM


def test_clients_and_liars_are_in_no_table(network):
    server = network.grow(3)[0]
    before = len(server.rpc.table)
    client = network.client()
    client.put(KEY, record(ONE))
    client.get(KEY)
    liar = Stranger(network, server, sender=b"l" * 32)
    token = liar.token()
    liar.ask("find_node", KEY, token=token)
    network.run(10)
    assert any(data[0] == 0 for data in liar.got), "it was asked whether it is a server"
    assert len(server.rpc.table) == before
    assert all(len(one.rpc.table) <= 2 for one in network.servers.values())


def test_a_forged_id_does_not_displace_its_owner(network):
    first, second, _ = network.grow(3)
    thief = Stranger(network, first, sender=second.rpc.sender)
    token = thief.token()
    thief.ask("find_node", KEY, token=token)
    network.run(10)
    known = {node.id: node.address for node in first.rpc.table}
    assert known[second.rpc.sender] == second.addr
    myself = Stranger(network, first, sender=first.rpc.sender)
    assert myself.ask("ping") is None
    assert first.rpc.counts["dropped: forged sender"] == 1


def test_garbage_is_counted_and_not_answered(network):
    server = network.server()
    stranger = Stranger(network, server)
    for data in (b"", b"\x00" * 9000, network.random.randbytes(300), b"\x80\x04c__builtin__\n"):
        stranger.raw(data)
    stranger.raw(encode_reply(ID, b"x" * 32, b"", b""))
    assert stranger.got == []
    assert server.rpc.counts["dropped: malformed"] == 4
    assert server.rpc.counts["dropped: unsolicited"] == 1


def test_a_flood_of_requests_is_cut_off(network):
    server = network.server(rate=10)
    stranger = Stranger(network, server)
    for _ in range(100):
        stranger.send(encode_request(ID, "ping", b"", b""), server.addr)
    network.run(1)
    assert 40 <= len(stranger.got) <= 55
    assert server.rpc.counts["dropped: rate"] == 100 - len(stranger.got)


def test_oversize_and_broken_stores_are_refused(network):
    server = network.server()
    stranger = Stranger(network, server)
    token = stranger.token()

    def status(size: int, offset: int, part: bytes) -> str:
        reply = stranger.ask("store", KEY, size, offset, part, token=token)
        assert reply is not None
        return reply.get(0, str)

    assert status(MAX_VALUE + 1, 0, b"x") == "oversize"
    assert status(2000, 1000, b"x") == "order"
    assert status(3, 0, b"xxxx") == "size"
    assert status(500, 0, record(signer(2))) == "invalid"
    assert status(500, 0, record(ONE, expires=1)) == "expired"
    assert status(500, 0, record(ONE, seq=5)) == "ok"
    assert status(500, 0, record(ONE, seq=4)) == "stale"
    assert len(server.storage) == 1


def test_a_quota_holds_for_an_address(network):
    server = network.server(storage=Storage(validate, max_value=MAX_VALUE, quota=5))
    stranger = Stranger(network, server)
    token, seen = stranger.token(), []
    for number in range(1, 9):
        one = signer(number)
        reply = stranger.ask("store", key_of(one), 500, 0, record(one), token=token)
        seen.append(reply.get(0, str))
    assert seen == ["ok"] * 5 + ["quota"] * 3


def test_records_reach_a_newcomer(network):
    first = network.server(republish=100)
    value = record(ONE, size=5000)
    first.storage.put(KEY, value, "a", network.wall())
    second = network.server([first.addr])
    network.run(200)
    assert second.storage.get(KEY, network.wall()) == value


def test_a_dead_node_leaves_the_table(network):
    first, second, third = network.grow(3)
    network.kill(third)
    network.run(1000)
    assert {node.id for node in first.rpc.table} == {second.rpc.sender}


def test_close_ends_everything(network):
    first, second = network.grow(2)
    first.close()
    sent = network.packets[first.addr]
    Stranger(network, first).ask("ping")
    first.handle_timeout()
    assert len(first.rpc) == 0
    assert network.packets[first.addr] == sent + 1  # what the stranger sent


def test_the_plain_library_is_answered_and_keeps_nothing_here(network):
    server = network.server()
    stranger = Stranger(network, server)
    for method, *fields in (("ping",), ("store", KEY[:20], b"x"), ("find_node", KEY[:20])):
        data = b"\x00" + ID + umsgpack.packb([method, [KEY[:20], *fields]])
        stranger.got.clear()
        stranger.raw(data)
        (reply,) = stranger.got
        assert len(reply) <= AMPLIFICATION * len(data)
    stranger.raw(b"\x00" + ID + umsgpack.packb(["eval", [KEY[:20]]]))
    assert len(server.rpc.table) == len(server.storage) == 0
    assert server.storage.refused["plain"] == 1
    assert server.rpc.counts["requests: plain"] == 3
    assert server.rpc.counts["dropped: malformed"] == 1


def test_who_forges_addresses_takes_no_time_from_those_who_do_not(network):
    server = network.server()
    friend = Stranger(network, server)
    token = friend.token()
    for number in range(5000):
        request = encode_request(ID, "find_node", b"", b"", KEY, size=PADDED)
        server.receive_datagram(request, (f"11.{number >> 8}.{number & 255}.1", 9))
        if number % 3 == 0:
            server.receive_datagram(
                b"\x00" + ID + umsgpack.packb(["ping", [KEY[:20]]]), ("11.255.0.1", 9)
            )
    assert server.rpc.counts["dropped: rate of strangers"] > 3000
    assert friend.ask("find_node", KEY, token=token) is not None
    network.run(5)
    assert friend.ask("find_node", KEY) is not None
