"""Real mailboxes on an overlay in virtual time, against all who mean them ill, and wrong clocks."""

from __future__ import annotations

import pytest

from pt.errors import RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.overlay.messages import MAX_VALUE, PART, Reply, decode, digest, encode_request
from pt.overlay.server import Server
from pt.relayd.overlay import validate
from pt.rendezvous import ipns
from pt.rendezvous.mailbox import LIFE
from tests.unit.overlay.network import EPOCH, Network

HOUR = 3600
SIGNER = PrivateKey.generate(b"s".ljust(32))
OTHER = PrivateKey.generate(b"o".ljust(32))
ID = b"\x07" * 20


def key_of(signer: PrivateKey) -> bytes:
    return ipns.overlay_key(ipns.name_of(signer.public))


def mailbox(
    signer: PrivateKey = SIGNER, seq: int = 5, life: float = LIFE, payload: bytes = bytes(1024)
) -> bytes:
    return ipns.create(signer, payload, seq=seq, expires=int(EPOCH + 100 + life), ttl=60)


KEY, VALUE = key_of(SIGNER), mailbox()


class Stranger:
    """Stores what it likes, with a token of its own."""

    def __init__(self, network: Network, server: Server) -> None:
        self.network, self.server = network, server
        self.addr = network.address()
        self._send = network.sender(self.addr)
        self.got: list[bytes] = []
        network.ends[self.addr] = self
        self.token = b""
        self.token = self.ask("ping").token

    def receive_datagram(self, data, addr):
        self.got.append(data)

    def next_timeout(self):
        return None

    def ask(self, method: str, *fields) -> Reply:
        self.got.clear()
        self._send(encode_request(ID, method, b"", self.token, *fields), self.server.addr)
        self.network.run(0.3)
        (reply,) = map(decode, self.got)
        assert isinstance(reply, Reply)
        return reply

    def store(self, key: bytes, value: bytes, size: int | None = None) -> str:
        """The status of the last part, or of the first that was refused."""
        status = ""
        for at in range(0, len(value), PART):
            part = value[at : at + PART]
            status = self.ask("store", key, size or len(value), at, part).get(0, str)
            if status != "more":
                break
        return status


@pytest.fixture
def network() -> Network:
    return Network(validate=validate)


def flipped(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


@pytest.mark.parametrize("at", [0, 3, 40, 60, 150, len(VALUE) // 2, len(VALUE) - 1])
def test_a_changed_byte_is_a_forged_record(network, at):
    server = network.server()
    stranger = Stranger(network, server)
    assert stranger.store(KEY, flipped(VALUE, at)) == "invalid"
    assert len(server.storage) == 0
    assert server.storage.refused == {"invalid": 1}


@pytest.mark.parametrize(
    "value",
    [
        mailbox(OTHER),  # a true record, under another's key
        bytes(700),
        b"\x00",
        VALUE + b"\x00",
        VALUE + VALUE,
        VALUE[1:],
        *(VALUE[:length] for length in (1, 10, 100, 1000, len(VALUE) - 1)),
    ],
    ids=len,
)
def test_forged_and_truncated_records_are_refused(network, value):
    server = network.server()
    stranger = Stranger(network, server)
    assert stranger.store(KEY, VALUE) == "ok"
    assert stranger.store(KEY, value) == "invalid"
    assert server.storage.get(KEY, network.wall()) == VALUE
    assert server.storage.refused == {"invalid": 1}


def test_stale_and_replayed_records_are_refused(network):
    server = network.server()
    stranger = Stranger(network, server)
    old, new = mailbox(seq=5), mailbox(seq=6, life=HOUR)
    assert [stranger.store(KEY, value) for value in (old, new)] == ["ok", "ok"]
    assert stranger.store(KEY, old) == "stale"
    assert server.storage.get(KEY, network.wall()) == new
    network.run(HOUR + 10)
    assert server.storage.get(KEY, network.wall()) is None
    late = Stranger(network, server)
    assert late.store(KEY, new) == "expired"
    network.run(LIFE)
    late = Stranger(network, server)
    assert late.store(KEY, old) == "expired"
    assert len(server.storage) == 0


def test_of_two_with_one_sequence_the_same_stays_everywhere(network):
    two = [mailbox(payload=bytes([n]) * 1024) for n in range(2)]
    kept = set()
    for values in (two, two[::-1]):
        server = network.server()
        stranger = Stranger(network, server)
        for value in values:
            stranger.store(KEY, value)
        kept.add(server.storage.get(KEY, network.wall()))
    assert kept == {max(two)}


def test_oversize_records_are_refused_before_they_are_sent_whole(network):
    server = network.server()
    stranger = Stranger(network, server)
    assert stranger.store(KEY, bytes(PART), size=MAX_VALUE + 1) == "oversize"
    assert stranger.store(KEY, bytes(PART + 1), size=PART + 5) == "more"  # and never the rest
    assert stranger.ask("store", KEY, 5, 0, bytes(10)).get(0, str) == "size"
    assert stranger.ask("store", KEY, 1 << 63, 1 << 62, b"x").get(0, str) == "oversize"
    assert len(server.storage) == 0
    with pytest.raises(RemoteProtocolError):
        validate(KEY, bytes(ipns.MAX_RECORD + 1), EPOCH)


class Liar(Server):
    """A server that gives out what it is told to, whatever it holds."""

    value = b""

    def _find_value(self, request, room):
        nodes = self._nodes(request, 8, room)
        inline = self.value if len(self.value) <= room - len(nodes) else b""
        return (nodes, len(self.value), digest(self.value), inline)

    def _fetch(self, request):
        offset = request.get(2, int)
        return self.value[offset : offset + PART]


@pytest.mark.parametrize(
    "lie",
    [flipped(VALUE, 200), VALUE[:500], mailbox(OTHER, seq=9), mailbox(seq=99, life=-10), bytes(99)],
    ids=["forged", "truncated", "another's", "expired", "garbage"],
)
def test_servers_that_lie_are_not_believed(network, lie):
    servers = network.grow(6)
    network.client().put(KEY, VALUE)
    for server in servers[:5]:
        server.__class__ = Liar
        server.value = lie
    client = network.client()
    assert [found.value for found in client.get(KEY)] == [VALUE]
    assert client.rpc.counts["dropped: invalid value"] >= 1


def test_old_values_do_not_hide_the_new_one(network):
    servers = network.grow(6)
    network.client().put(KEY, mailbox(seq=7))
    for server in servers[:5]:
        server.__class__ = Liar
        server.value = mailbox(seq=6, payload=b"")
    found = network.client().get(KEY)
    assert sorted(one.facts.seq for one in found) == [6, 7]


def test_a_reply_from_another_address_than_was_asked_counts_for_nothing(network):
    """Whoever saw the request, and answers faster: with the right id, from elsewhere."""
    server, twin = network.server(), network.server()
    server.storage.put(KEY, VALUE, "a", network.wall())
    make = network.sender

    def sender(source):
        send = make(source)
        return make(twin.addr) if source == server.addr else send

    server.rpc._send = sender(server.addr)  # all its answers leave from the twin's address
    client = network.client([server.addr])
    assert client.get(KEY) == []
    assert client.rpc.counts["dropped: unsolicited"] >= 2
    assert len(client.rpc.table) == 0


def test_a_flood_of_valid_records_from_one_source_displaces_nobody(network):
    server = network.server()
    friend, flooder = Stranger(network, server), Stranger(network, server)
    assert friend.store(KEY, VALUE) == "ok"
    sent = 0
    for number in range(3000):
        one = PrivateKey.generate(number.to_bytes(32, "big"))
        value = mailbox(one, payload=bytes(400))
        request = encode_request(ID, "store", b"", flooder.token, key_of(one), len(value), 0, value)
        for port in (flooder.addr[1], 5000 + number):  # another port has no token
            server.receive_datagram(request, (flooder.addr[0], port))
            sent += 1
        network.now += 0.005
    held = len(server.storage)
    assert 500 < held <= 1001
    assert server.rpc.counts["dropped: rate"] > sent / 2
    assert server.storage.get(KEY, network.wall()) == VALUE
    assert friend.store(KEY, mailbox(seq=6)) == "ok"


@pytest.mark.parametrize("server_skew", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("client_skew", [-HOUR, 0, HOUR])
def test_clocks_an_hour_wrong_lose_no_mailbox(server_skew, client_skew):
    network = Network(validate=validate)
    first = network.server(skew=server_skew, republish=600)
    second = network.server([first.addr], skew=-server_skew, republish=600)
    network.run(20)
    assert network.client(skew=client_skew).put(KEY, VALUE).acknowledged == 2
    network.run(LIFE - 2 * HOUR - 1800)  # renewed by then
    found = network.client(skew=client_skew).get(KEY)
    assert [one.value for one in found] == [VALUE]
    assert len(first.storage) == len(second.storage) == 1


def test_a_clock_an_hour_ahead_ends_a_record_at_that_server_alone():
    network = Network(validate=validate)
    ahead = network.server(skew=HOUR)
    others = [network.server([ahead.addr]) for _ in range(2)]
    network.run(30)
    stored = network.client().put(KEY, mailbox(life=HOUR / 2))
    assert (stored.acknowledged, stored.refusals) == (2, ("expired",))
    assert [len(one.storage) for one in (ahead, *others)] == [0, 1, 1]
    assert len(network.client([ahead.addr]).get(KEY)) == 1
    network.run(HOUR)
    assert [len(one.storage) for one in others] == [0, 0]
