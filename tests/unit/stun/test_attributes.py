from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.stun.attributes import (
    ERROR_CODE,
    MAPPED_ADDRESS,
    XOR_MAPPED_ADDRESS,
    Change,
    address,
    change_request,
    error_code,
    later,
    read_address,
    read_change_request,
    read_error_code,
    read_later,
    read_port,
    read_unknown,
    read_xor_address,
    response_port,
    unknown_attributes,
    xor_address,
)
from pt.stun.messages import BINDING, Kind, Message, StunError

ID = bytes(range(12))
ips = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
)


@given(ips, st.integers(0, 65535))
def test_addresses_come_back(ip, port):
    where = (str(ip), port)
    assert read_address(address(MAPPED_ADDRESS, where)[1]) == where
    disguised = xor_address(XOR_MAPPED_ADDRESS, where, ID)[1]
    assert read_xor_address(disguised, ID) == where
    assert len(disguised) == (8 if ip.version == 4 else 20)


def test_the_disguise_hides_the_address():
    plain = address(MAPPED_ADDRESS, ("11.5.0.1", 4001))[1]
    disguised = xor_address(XOR_MAPPED_ADDRESS, ("11.5.0.1", 4001), ID)[1]
    assert plain[2:4] != disguised[2:4]
    assert plain[4:] != disguised[4:]


@given(st.binary(max_size=24))
def test_damaged_addresses(value):
    for read in (read_address, lambda data: read_xor_address(data, ID)):
        try:
            host, port = read(value)
        except StunError:
            continue
        assert len(value) == (20 if ":" in host else 8)
        assert 0 <= port <= 65535


def errored(value: bytes) -> Message:
    return Message(Kind.ERROR, BINDING, ID, ((ERROR_CODE, value),))


def test_errors():
    assert read_error_code(errored(error_code(420, "Unknown")[1])) == (420, "Unknown")
    assert read_error_code(errored(b"\0\0\x04\x01\xff")) == (401, "\ufffd")
    with pytest.raises(LocalProtocolError):
        error_code(200, "OK")
    assert len(error_code(500, "x" * 1000)[1]) == 513


@pytest.mark.parametrize("value", [b"", b"\0\0\4", b"\0\0\2\0", b"\0\0\7\0", b"\0\0\4\x64"])
def test_errors_that_are_none(value):
    with pytest.raises(StunError):
        read_error_code(errored(value))


def test_an_error_response_without_an_error():
    with pytest.raises(StunError):
        read_error_code(Message(Kind.ERROR, BINDING, ID))


def test_unknown_attributes():
    assert read_unknown(unknown_attributes([3, 0x7FFF])[1]) == (3, 0x7FFF)
    with pytest.raises(StunError):
        read_unknown(b"\0\3\0")


@pytest.mark.parametrize("change", [Change(a, b) for a in (False, True) for b in (False, True)])
def test_change_requests(change):
    assert read_change_request(change_request(change)[1]) == change


def test_change_requests_are_those_of_the_rfc():
    assert change_request(Change(True, True))[1] == b"\0\0\0\6"
    assert change_request(Change(False, True))[1] == b"\0\0\0\2"
    with pytest.raises(StunError):
        read_change_request(b"\0\0\0")


def test_response_ports():
    assert read_port(response_port(4001)[1]) == 4001
    assert read_port(b"\x0f\xa1\0\0") == 4001
    for bad in (b"", b"\0\0", b"\1", b"\1\2\3"):
        with pytest.raises(StunError):
            read_port(bad)


def test_what_is_to_be_said_later():
    assert later(1.5) == (0xC0F4, bytes.fromhex("000005dc"))
    assert read_later(later(3600.0)[1]) == 3600.0
    for bad in (b"", b"\0\0\0", bytes(8)):
        with pytest.raises(StunError):
            read_later(bad)
