import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap import ssdp
from pt.portmap.mapping import PortmapError

ANSWER = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nUSN: uuid:1::x\r\nEXT:\r\n"
    "SERVER: Debian/12 UPnP/1.1 MiniUPnPd/2.3.1\r\n"
    "Location:  http://192.168.1.1:5000/rootDesc.xml \r\n\r\n"
)


def test_the_search():
    assert ssdp.search(ssdp.TARGETS[0]) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:2\r\n\r\n"
    )


def test_over_ipv6_the_group_is_in_brackets():
    assert b"HOST: [ff02::c]:1900\r\n" in ssdp.search(ssdp.TARGETS[0], ssdp.GROUP6)


@pytest.mark.parametrize("target", ssdp.TARGETS)
def test_an_answer(target):
    found = ssdp.decode(ANSWER.format(target=target).encode())
    assert found.location == "http://192.168.1.1:5000/rootDesc.xml"
    assert found.target == target
    assert "MiniUPnPd" in found.server


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no SSDP"),
        (b"NOTIFY * HTTP/1.1\r\n\r\n", "no SSDP"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "no SSDP"),
        (b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n\r\n", "location"),
        (ANSWER.format(target="upnp:rootdevice").encode(), "another device"),
        (ANSWER.format(target="x" * 2048).encode(), "bytes"),
    ],
)
def test_what_is_no_answer(data, why):
    with pytest.raises(PortmapError, match=why):
        ssdp.decode(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for each in (data, b"HTTP/1.1 200 OK\r\n" + data):
        try:
            ssdp.decode(each)
        except PortmapError:
            continue
