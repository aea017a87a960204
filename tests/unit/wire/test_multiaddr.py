"""Multiaddrs: golden bytes of go-multiaddr, properties, mutations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import RemoteProtocolError, UsageError
from pt.wire import multiaddr
from pt.wire.multiaddr import (
    Multiaddr,
    MultiaddrBytesError,
    MultiaddrError,
    MultiaddrTextError,
)
from pt.wire.multihash import Multihash
from tests.vectors import load

GOLDEN = load("libp2p/multiaddrs.json")
PEER_TEXT = load("libp2p/identities.json")["keys"][0]["peer_id"]
CID_TEXT = load("libp2p/identities.json")["keys"][0]["cid"]
PEER = Multiaddr.parse(f"/p2p/{PEER_TEXT}").peer_id_bytes
OTHER = Multihash.sha256(b"other").encode()
CERT = "uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ"


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["text"][:40])
def test_golden(vector):
    raw = bytes.fromhex(vector["bytes"])
    assert Multiaddr.parse(vector["text"]).encode() == raw
    assert str(Multiaddr.decode(raw)) == vector["text"]
    assert Multiaddr.decode(raw) == Multiaddr.parse(vector["text"])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/ip4/11.0.1.2/tcp/4001/", "/ip4/11.0.1.2/tcp/4001"),
        ("/ip4/11.0.1.2/tcp/00080", "/ip4/11.0.1.2/tcp/80"),
        ("/ip6/2A01:0DB8:0::1/tcp/1", "/ip6/2a01:db8::1/tcp/1"),
        (f"/ipfs/{PEER_TEXT}", f"/p2p/{PEER_TEXT}"),
        (f"/p2p/{CID_TEXT}", f"/p2p/{PEER_TEXT}"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", None),
        ("/dns4/example.com/tcp/443/tls/sni/example.com/ws", None),
        (f"/ip4/1.2.3.4/udp/1/quic-v1/webtransport/certhash/{CERT}", None),
        ("/ip4/1.2.3.4/udp/1/webrtc-direct", None),
        ("/unix/run/pt/socket", None),
        ("/memory/18446744073709551615", None),
        ("/dns/bücher.example/tcp/1", None),
    ],
)
def test_text_forms(text, canonical):
    parsed = Multiaddr.parse(text)
    assert str(parsed) == (canonical or text)
    again = Multiaddr.decode(parsed.encode())
    assert (again, again.components, hash(again)) == (parsed, parsed.components, hash(parsed))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "starts with /"),
        ("ip4/1.2.3.4", "starts with /"),
        ("11.0.1.2:4001", "starts with /"),
        ("/", "empty"),
        ("///", "empty"),
        ("//ip4/1.2.3.4", "''"),
        ("/ip4", "needs a value"),
        ("/ip4/1.2.3.4/tcp", "needs a value"),
        ("/ip4/1.2.3.4/tcp/99999", "0 to 65535"),
        ("/ip4/1.2.3/tcp/1", "not an IPv4 address"),
        ("/ip6/fe80::1%eth0/tcp/1", "/ip6zone/ZONE"),
        ("/onion3/abc:1", "'onion3'"),
        ("/p2p/nobody", "is not a peer id"),
        ("/dns/" + "a" * 256, "longer than 255"),
        ("/ws" * (multiaddr.MAX_COMPONENTS + 1), "too long"),
        ("/dns/a" * 400, "starts with /"),
    ],
)
def test_bad_text_names_the_reason(text, reason):
    with pytest.raises(MultiaddrTextError) as caught:
        Multiaddr.parse(text)
    assert reason in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x04",
        b"\x04\x0b\x00\x01",
        b"\x06\x0f",
        b"\xa4\x03",  # code 420 is nobody's
        b"\x7f\x01\x02",
        b"\x84\x00\x0b\x00\x01\x02",  # code 4, not minimal
        b"\x35\x00",
        b"\x35\x05abc",
        b"\x35\x80\x80\x01" + b"a" * 16384,
        b"\xa5\x03\x03\x12\x20\x00",
        b"\xdd\x03" * (multiaddr.MAX_COMPONENTS + 1),
    ],
)
def test_bad_bytes_are_the_peers_fault(raw):
    with pytest.raises(MultiaddrBytesError) as caught:
        Multiaddr.decode(raw)
    assert isinstance(caught.value, RemoteProtocolError)
    assert isinstance(caught.value, MultiaddrError)
    assert caught.value.exit_code == 5


def test_a_relayed_address():
    relayed = Multiaddr.parse(f"/ip4/11.0.1.2/tcp/4001/p2p/{PEER_TEXT}/p2p-circuit")
    assert relayed.is_circuit
    assert relayed.is_public
    assert relayed.peer_id_bytes is None  # the one in it is the relay's
    assert relayed.with_peer(OTHER).peer_id_bytes == OTHER
    assert relayed.with_peer(OTHER).without_peer() == relayed
    assert Multiaddr.parse("/p2p-circuit/ip4/1.2.3.4/tcp/5").tcp_port is None
    assert not relayed.is_plain_tcp


@pytest.mark.parametrize(
    ("text", "host", "tcp", "udp", "plain"),
    [
        ("/ip4/11.0.1.2/tcp/4001", ("ip4", "11.0.1.2"), 4001, None, True),
        (f"/ip4/11.0.1.2/tcp/4001/p2p/{PEER_TEXT}", ("ip4", "11.0.1.2"), 4001, None, True),
        ("/ip4/11.0.1.2/udp/4001/quic-v1", ("ip4", "11.0.1.2"), None, 4001, False),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", ("ip6", "fe80::1%eth0"), 1, None, True),
        ("/dns4/example.com/tcp/443/tls/ws", ("dns4", "example.com"), 443, None, False),
        ("/dns/example.com/tcp/443", ("dns", "example.com"), 443, None, True),
        (f"/dnsaddr/example.com/p2p/{PEER_TEXT}", ("dnsaddr", "example.com"), None, None, False),
        ("/dnsaddr/example.com/tcp/1", ("dnsaddr", "example.com"), 1, None, False),
        ("/memory/5", None, None, None, False),
        (f"/p2p/{PEER_TEXT}", None, None, None, False),
    ],
)
def test_parts(text, host, tcp, udp, plain):
    address = Multiaddr.parse(text)
    assert (address.host, address.tcp_port, address.udp_port) == (host, tcp, udp)
    assert address.is_plain_tcp is plain


@pytest.mark.parametrize(
    ("text", "public", "private", "loopback"),
    [
        ("/ip4/11.0.1.2/tcp/1", True, False, False),
        ("/ip4/10.0.1.2/tcp/1", False, True, False),
        ("/ip4/127.0.0.1/tcp/1", False, True, True),
        ("/ip4/203.0.113.5/tcp/1", False, False, False),
        ("/ip6/::1/tcp/1", False, True, True),
        ("/ip6zone/lo/ip6/::1/tcp/1", False, True, True),
        ("/ip6/2a01:db8::1/tcp/1", True, False, False),
        ("/dns/example.com/tcp/1", True, False, False),
        ("/dns/nas.local/tcp/1", False, False, False),
        ("/memory/1", False, False, False),
    ],
)
def test_reachability(text, public, private, loopback):
    address = Multiaddr.parse(text)
    found = (address.is_public, address.is_private, address.is_loopback)
    assert found == (public, private, loopback)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("11.0.1.2", "/ip4/11.0.1.2/tcp/4001"),
        ("::", "/ip6/::/tcp/4001"),
        ("fe80::1%eth0", "/ip6zone/eth0/ip6/fe80::1/tcp/4001"),
        ("example.com", "/dns/example.com/tcp/4001"),
        ("4chan.example", "/dns/4chan.example/tcp/4001"),
    ],
)
def test_tcp(host, text):
    assert str(Multiaddr.tcp(host, 4001)) == text


@pytest.mark.parametrize(
    ("host", "port"), [("1.2.3", 1), ("a/b", 1), ("", 1), ("::g", 1), ("::1", 65536), ("::1", -1)]
)
def test_tcp_refuses(host, port):
    with pytest.raises(MultiaddrTextError):
        Multiaddr.tcp(host, port)


def test_peer_is_added_replaced_and_removed():
    bare = Multiaddr.tcp("11.0.1.2", 4001)
    whole = bare.with_peer(PEER)
    assert whole.encode().hex() == GOLDEN[3]["bytes"].removesuffix("a202")
    assert whole.with_peer(PEER) == whole
    assert whole.with_peer(OTHER).peer_id_bytes == OTHER
    assert whole.without_peer() == bare
    assert bare.without_peer() is bare
    assert Multiaddr.parse(f"/p2p/{PEER_TEXT}").without_peer() is None
    assert Multiaddr.parse(f"/p2p/{PEER_TEXT}").with_peer(OTHER).peer_id_bytes == OTHER


def test_values_compare_by_their_bytes():
    one, same = Multiaddr.tcp("::1", 1), Multiaddr.parse("/ip6/0:0::1/tcp/1")
    assert len({one, same, Multiaddr.tcp("::1", 2)}) == 2
    assert one != "/ip6/::1/tcp/1"
    assert repr(one) == "Multiaddr('/ip6/::1/tcp/1')"


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("/ip4/11.0.1.2/tcp/4001", "tcp"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/4001", "tcp"),
        (f"/dns/relay.example/tcp/4001/p2p/{PEER_TEXT}", "tcp"),
        ("/ip4/11.0.1.2/tcp/80/ws", "ws"),
        ("/dns4/relay.example/tcp/443/wss", "wss"),
        (f"/dns4/relay.example/tcp/443/tls/ws/p2p/{PEER_TEXT}", "wss"),
        ("/ip4/11.0.1.2/tcp/443/tls/sni/relay.example/ws", "wss"),
        (f"/ip4/11.0.1.2/tcp/4001/p2p/{PEER_TEXT}/p2p-circuit", "circuit"),
        ("/ip4/11.0.1.2/udp/4001/quic-v1", "quic-v1"),
        ("/ip4/11.0.1.2/udp/4001/quic", ""),
        ("/ip4/11.0.1.2/udp/4001", ""),
        ("/dnsaddr/relay.example/tcp/4001", ""),
        ("/ip4/11.0.1.2", ""),
        (f"/p2p/{PEER_TEXT}", ""),
    ],
)
def test_transport(text, transport):
    assert Multiaddr.parse(text).transport == transport


def test_circuits_split_and_join():
    relay = Multiaddr.parse(f"/ip4/11.0.1.2/tcp/4001/p2p/{PEER_TEXT}")
    reserved = relay.through_circuit()
    assert str(reserved) == f"{relay}/p2p-circuit"
    assert reserved.split_circuit() == (relay, None)
    target = Multiaddr.parse(f"/p2p/{PEER_TEXT}")
    assert Multiaddr.parse(f"{reserved}{target}").split_circuit() == (relay, target)
    twice = Multiaddr.parse(f"{reserved}{target}/p2p-circuit{target}")
    assert twice.split_circuit() == (Multiaddr.parse(f"{reserved}{target}"), target)


@pytest.mark.parametrize("text", ["/ip4/11.0.1.2/tcp/4001", f"/p2p-circuit/p2p/{PEER_TEXT}"])
def test_what_is_no_circuit_does_not_split(text):
    with pytest.raises(UsageError, match="does not lead through a relay"):
        Multiaddr.parse(text).split_circuit()


LABEL = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z]{2,8})?", fullmatch=True)
PORT = st.integers(0, 65535)
HOST = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}"),
    st.sampled_from(["dns", "dns4", "dns6", "dnsaddr"]).flatmap(
        lambda kind: LABEL.map(lambda name: f"/{kind}/{name}")
    ),
)
TAIL = st.lists(
    st.sampled_from(
        ["/ws", "/tls", "/quic-v1", "/p2p-circuit", f"/p2p/{PEER_TEXT}", f"/certhash/{CERT}"]
    ),
    max_size=5,
).map("".join)
ADDRESS = st.builds(
    lambda host, kind, port, tail: Multiaddr.parse(f"{host}/{kind}/{port}{tail}"),
    HOST,
    st.sampled_from(["tcp", "udp"]),
    PORT,
    TAIL,
)


@given(ADDRESS)
def test_round_trips(address):
    assert Multiaddr.decode(address.encode()) == address
    assert Multiaddr.parse(str(address)) == address
    again = Multiaddr.decode(address.encode())
    assert again.components == address.components


@given(ADDRESS, st.data())
def test_one_changed_byte_gives_an_address_or_the_remote_error(address, data):
    raw = bytearray(address.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Multiaddr.decode(bytes(raw))
    except MultiaddrBytesError:
        return
    assert found.encode() == raw
    assert Multiaddr.parse(str(found)) == found


@given(ADDRESS, st.data())
def test_cut_addresses_give_an_address_or_the_remote_error(address, data):
    raw = address.encode()[: data.draw(st.integers(0, len(address.encode()) - 1))]
    try:
        found = Multiaddr.decode(raw)
    except MultiaddrBytesError:
        return
    assert found.encode() == raw


@given(st.binary(max_size=60))
def test_any_bytes(raw):
    try:
        found = Multiaddr.decode(raw)
    except MultiaddrBytesError:
        return
    # whatever we accept, we show and read back as the same address
    assert Multiaddr.parse(str(found)).encode() == raw
    assert not (found.is_public and found.is_private)
    assert found.peer_id_bytes is None or found.without_peer() != found


@given(st.text(max_size=60).map(lambda text: "/" + text))
def test_any_text(text):
    try:
        found = Multiaddr.parse(text)
    except MultiaddrTextError:
        return
    assert Multiaddr.parse(str(found)) == found
