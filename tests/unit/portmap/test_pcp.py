import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap import pcp
from pt.portmap.mapping import PortmapError, Wanted
from pt.wire.nat_facts import Protocol

NONCE = bytes(range(12))
V4 = "00000000000000000000ffff"


def test_map_request_is_as_in_rfc_6887():
    data = pcp.map_request(
        "192.168.1.2",
        Wanted(Protocol.TCP, 80),
        NONCE,
        lifetime=7200,
        external=("0.0.0.0", 8080),
    )
    assert data.hex() == (
        "02010000"
        "00001c20"
        + V4
        + "c0a80102"  # version, MAP, lifetime, client
        + NONCE.hex()
        + "06000000"
        + "0050"
        + "1f90"
        + V4
        + "00000000"
    )


def test_announce_request():
    assert pcp.announce_request("192.168.1.2").hex() == "0200000000000000" + V4 + "c0a80102"


def test_map_response():
    data = bytes.fromhex(
        "02810000"
        "00000e10"
        "00000102" + "00" * 12 + NONCE.hex() + "11000000" + "0fa1" + "9c41" + V4 + "0b050002"
    )
    found = pcp.decode_response(data)
    assert found == pcp.Response(
        opcode=pcp.MAP,
        result=0,
        lifetime=3600,
        epoch=0x102,
        nonce=NONCE,
        wanted=Wanted(Protocol.UDP, 4001),
        external=("11.5.0.2", 40001),
    )
    assert found.why == "SUCCESS"
    assert pcp.encode_response(found) == data


def test_an_error_may_come_without_data():
    found = pcp.decode_response(bytes.fromhex("02810002" + "0000001e" + "00000001" + "00" * 12))
    assert (found.result, found.lifetime, found.why) == (2, 30, "NOT_AUTHORIZED")
    assert pcp.Response(opcode=1, result=77, lifetime=0, epoch=0).why == "error 77"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(24),  # version 0
        bytes.fromhex("0201") + bytes(22),  # a request
        bytes.fromhex("0281") + bytes(22),  # success without data
        bytes.fromhex("0280") + bytes(21),  # not of four-byte words
        bytes.fromhex("0280") + bytes(1200),
    ],
)
def test_what_is_no_response(data):
    with pytest.raises(PortmapError):
        pcp.decode_response(data)


def test_gateways_of_the_older_protocol():
    assert pcp.speaks_older(bytes.fromhex("00800001"))
    assert pcp.speaks_older(bytes.fromhex("0000000100000000"))
    assert not pcp.speaks_older(bytes.fromhex("00800000"))
    assert not pcp.speaks_older(b"")


@given(st.binary(max_size=128))
def test_any_bytes_are_read_or_refused(data):
    for read in (pcp.decode_response, pcp.decode_request):
        try:
            read(data)
        except PortmapError:
            continue


@given(
    st.sampled_from(Protocol),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=12, max_size=12),
    st.ip_addresses(),
)
def test_requests_and_responses_survive(protocol, port, external, lifetime, nonce, host):
    wanted = Wanted(protocol, port)
    mapped = getattr(host, "ipv4_mapped", None)
    place = (str(mapped or host), external)
    request = pcp.decode_request(
        pcp.map_request("192.168.1.2", wanted, nonce, lifetime=lifetime, external=place)
    )
    assert (request.wanted, request.nonce, request.external) == (wanted, nonce, place)
    assert (request.lifetime, request.client) == (lifetime, "192.168.1.2")
    response = pcp.Response(
        opcode=pcp.MAP,
        result=0,
        lifetime=lifetime,
        epoch=lifetime,
        nonce=nonce,
        wanted=wanted,
        external=place,
    )
    assert pcp.decode_response(pcp.encode_response(response)) == response
