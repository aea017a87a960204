"""A gateway grants port mappings as RFC 6886 and RFC 6887 say, and the mappings work."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab.model import portmap
from pt.lab.model.builder import udp
from pt.lab.model.packet import TCP, UDP
from pt.portmap import natpmp, pcp
from pt.portmap.mapping import Wanted
from pt.wire.nat_facts import Protocol
from tests.unit.lab.model.test_world import Net

GATEWAY = (ip_address("192.168.1.1").packed, portmap.PORT)
OUTER = ip_address("11.100.0.1").packed
MAPPED = bytes(10) + b"\xff\xff"


def ask(net: Net, data: bytes, host: str = "a") -> bytes | None:
    """A request to the gateway; its answer."""
    arrived = net.send(host, udp((net.address(host), 7000), GATEWAY, data))
    if not arrived:
        return None
    ((_, to, packet),) = arrived
    assert (to, packet.source, packet.sport, packet.dport) == (host, *GATEWAY, 7000)
    return packet.payload


def pmp(op: int, internal: int, wanted: int, lifetime: int) -> bytes:
    return struct.pack(">BBHHHI", 0, op, 0, internal, wanted, lifetime)


def pcp_map(net: Net, internal: int, wanted: int, lifetime: int, protocol: int = UDP) -> bytes:
    client = MAPPED + net.address("a")
    head = struct.pack(">BBHI", 2, 1, 0, lifetime) + client
    body = b"nonce nonce!" + struct.pack(">BxxxHH", protocol, internal, wanted)
    return head + body + MAPPED + bytes(4)


def reaches(net: Net, port: int) -> bool:
    """Whether a stranger's datagram to an outer port arrives at host a's port 4000."""
    got = net.udp("s2", 9, (OUTER, port))
    return [(host, packet.dport) for _, host, packet in got] == [("a", 4000)]


@pytest.mark.parametrize("spec", ["eim-apdf,pmp=on", "apdm-apdf-random,pmp=pmp"])
def test_nat_pmp(spec) -> None:
    net = Net(a=spec)
    assert ask(net, b"\0\0") == struct.pack(">BBHI", 0, 128, 0, 0) + OUTER
    assert not reaches(net, 5000)
    net.now = 30.0
    answer = ask(net, pmp(1, 4000, 5000, 600))
    assert answer == struct.pack(">BBHIHHI", 0, 129, 0, 30, 4000, 5000, 600)
    assert reaches(net, 5000)
    assert net.notes[-1]["remote"] == "any"
    ((_, _, back),) = net.send("a", udp((net.address("a"), 4000), (net.address("s2"), 9)))
    assert back.sport == 5000  # the answer to who came in by the mapping
    net.now = 600.0
    assert ask(net, pmp(1, 4000, 0, 600)) == struct.pack(
        ">BBHIHHI", 0, 129, 0, 600, 4000, 5000, 600
    )
    net.now = 1100.0
    assert reaches(net, 5000)
    assert ask(net, pmp(1, 4000, 0, 0)) == struct.pack(">BBHIHHI", 0, 129, 0, 1100, 4000, 0, 0)
    net.now = 1300.0
    assert not reaches(net, 5000)


def test_a_taken_port_and_a_long_lifetime() -> None:
    net = Net(a="eim,pmp=on", lan=2)
    ask(net, pmp(2, 4000, 5000, 600))
    answer = ask(net, pmp(2, 4000, 5000, 99999), "a2")
    assert answer is not None
    *_, internal, port, lifetime = struct.unpack(">BBHIHHI", answer)
    assert internal == 4000
    assert port not in (0, 5000)
    assert lifetime == portmap.MAX_LIFETIME


def test_a_mapping_that_traffic_has_made_is_the_one_that_is_granted() -> None:
    net = Net(a="eim-apdf-random,pmp=on")
    ((_, _, out),) = net.send("a", udp((net.address("a"), 4000), (net.address("s2"), 9)))
    assert not reaches_from_elsewhere(net, out.sport)
    answer = ask(net, pmp(1, 4000, 5000, 600))
    assert struct.unpack_from(">HHI", answer, 8) == (4000, out.sport, 600)
    assert reaches_from_elsewhere(net, out.sport)
    ask(net, pmp(1, 4000, 0, 0))
    assert not reaches_from_elsewhere(net, out.sport)


def reaches_from_elsewhere(net: Net, port: int) -> bool:
    got = net.udp("s1", 77, (OUTER, port))
    return [(host, packet.dport) for _, host, packet in got] == [("a", 4000)]


@pytest.mark.parametrize("protocol", [UDP, TCP])
def test_pcp(protocol) -> None:
    net = Net(a="symmetric,pmp=pcp")
    answer = ask(net, pcp_map(net, 4000, 5000, 600, protocol))
    assert answer is not None
    assert answer[:12] == struct.pack(">BBBBII", 2, 0x81, 0, 0, 600, 0)
    assert answer[24:36] == b"nonce nonce!"
    assert answer[36] == protocol
    assert struct.unpack_from(">HH", answer, 40) == (4000, 5000)
    assert answer[44:] == MAPPED + OUTER
    assert reaches(net, 5000) == (protocol == UDP)


def test_what_pcp_refuses() -> None:
    net = Net(a="eim,pmp=pcp")
    good = pcp_map(net, 4000, 5000, 600)
    for data, result in (
        (good[:20], 3),
        (good[:40], 3),
        (b"\2\2" + good[2:], 4),
        (good[:8] + bytes(16) + good[24:], 12),
        (pcp_map(net, 0, 0, 600, 0), 5),
        (b"\0\0", 1),
        (b"\1" + good[1:], 1),
    ):
        answer = ask(net, data)
        assert answer is not None
        assert answer[3] == result, data
    assert ask(net, b"\2\x81" + good[2:]) is None
    assert ask(net, b"\2") is None


def test_who_speaks_nat_pmp_alone_says_so() -> None:
    net = Net(a="eim,pmp=pmp")
    assert ask(net, pcp_map(net, 4000, 5000, 600)) == struct.pack(">BBHI", 0, 0x81, 1, 0)
    assert ask(net, b"\0\3") == struct.pack(">BBHI", 0, 131, 5, 0)
    assert ask(net, b"\0\1\0\0") is None


def test_silence_without_the_service_and_an_epoch_after_a_reboot() -> None:
    assert ask(Net(a="eim"), b"\0\0") is None
    net = Net(a="eim,pmp=on")
    ask(net, pmp(1, 4000, 5000, 600))
    net.now = 100.0
    net.world.flush("a", net.now)
    assert not reaches(net, 5000)
    net.now = 103.0
    assert ask(net, b"\0\0") == struct.pack(">BBHI", 0, 128, 0, 3) + OUTER


def test_behind_a_carrier_the_router_tells_what_it_knows() -> None:
    net = Net(a="eim,pmp=on+symmetric")
    answer = ask(net, b"\0\0")
    assert answer is not None
    assert ip_address(answer[8:]) == ip_address("100.64.0.1")


def test_pts_own_client_understands_it() -> None:
    net = Net(a="symmetric,pmp=on")
    local, wanted = "192.168.1.10", Wanted(Protocol.UDP, 4000)
    announced = pcp.decode_response(ask(net, pcp.announce_request(local)) or b"")
    assert (announced.result, announced.opcode) == (0, pcp.ANNOUNCE)
    nonce = b"n" * pcp.NONCE
    request = pcp.map_request(local, wanted, nonce, lifetime=600, external=("0.0.0.0", 5000))
    mapped = pcp.decode_response(ask(net, request) or b"")
    assert (mapped.result, mapped.external, mapped.lifetime) == (0, ("11.100.0.1", 5000), 600)
    assert (mapped.wanted, mapped.nonce) == (wanted, nonce)
    assert reaches(net, 5000)
    gone = pcp.map_request(local, wanted, nonce, lifetime=0, external=("0.0.0.0", 0))
    assert pcp.decode_response(ask(net, gone) or b"").result == 0
    assert not reaches(net, 5000)
    outer = natpmp.decode_response(ask(net, natpmp.external_request()) or b"")
    assert outer.body == natpmp.External("11.100.0.1")
    granted = natpmp.decode_response(
        ask(net, natpmp.map_request(wanted, lifetime=600, port=6000)) or b""
    )
    # The mapping that still has a session is granted again, whatever port is suggested.
    assert granted.body == natpmp.Granted(wanted, 5000, 600)
    assert reaches(net, 5000)


@given(st.binary(max_size=80), st.sampled_from(["on", "pmp", "pcp"]))
def test_any_bytes_are_answered_or_not(data, speaks) -> None:
    reply = portmap.answer(data, bytes(4), bytes(4), 0, lambda *_: None, speaks=speaks)
    assert reply is None or len(reply) >= 8
