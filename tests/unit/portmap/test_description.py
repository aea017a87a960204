import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.description import FIREWALLS, MAX_URL, Url, checked_url, controls
from pt.portmap.mapping import PortmapError

GATEWAY = "192.168.1.1"
HERE = Url(GATEWAY, 5000, "/desc/root.xml")


def description(*services, base=""):
    told = "".join(
        f"<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>"
        f"<controlURL>{url}</controlURL></service>"
        for kind, url in services
    )
    head = f"<URLBase>{base}</URLBase>" if base else ""
    return (
        '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">'
        f"{head}<device><deviceList><device><serviceList>{told}</serviceList></device></deviceList>"
        "</device></root>"
    ).encode()


@pytest.mark.parametrize(
    ("url", "base", "expected"),
    [
        ("/ctl/IPConn", "", "http://192.168.1.1:5000/ctl/IPConn"),
        ("ctl", "", "http://192.168.1.1:5000/desc/ctl"),
        ("ctl?a=1", "http://192.168.1.1:80/x/", "http://192.168.1.1:80/x/ctl?a=1"),
        ("http://192.168.1.1:49152/c", "", "http://192.168.1.1:49152/c"),
        ("http://192.168.1.1/c", "", "http://192.168.1.1:80/c"),
    ],
)
def test_control_addresses(url, base, expected):
    (found,) = controls(description(("WANIPConnection:1", url), base=base), HERE, GATEWAY)
    assert str(found.url) == expected
    assert found.version == 1


def test_the_best_service_comes_first_and_others_are_left_out():
    found = controls(
        description(
            ("Layer3Forwarding:1", "/l3"),
            ("WANPPPConnection:1", "/ppp"),
            ("WANIPConnection:1", "/one"),
            ("WANIPConnection:2", "/two"),
        ),
        HERE,
        GATEWAY,
    )
    assert [each.url.path for each in found] == ["/two", "/one", "/ppp"]


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.77:5000/c",
        "http://11.0.0.1/c",
        "//11.0.0.1/c",
        "http://gateway.example/c",
        "http://localhost/c",
        "http://127.0.0.1/c",
        "https://192.168.1.1/c",
        "file:///etc/passwd",
        "http://192.168.1.1@11.0.0.1/c",
        "http://u:p@192.168.1.1/c",
        "http://192.168.1.1:0/c",
        "http://192.168.1.1:99999/c",
        "http://192.168.1.1:x/c",
        "http://[::1/c",
        "http://192.168.1.1/\r\nHost: x",
        "/" + "a" * MAX_URL,
    ],
)
def test_other_hosts_and_nonsense_are_refused(url):
    with pytest.raises(PortmapError):
        controls(description(("WANIPConnection:1", url)), HERE, GATEWAY)


def test_a_base_of_another_host_is_refused():
    data = description(("WANIPConnection:1", "/c"), base="http://11.0.0.1/")
    with pytest.raises(PortmapError, match="another host"):
        controls(data, HERE, GATEWAY)


def test_a_good_service_counts_beside_a_bad_one():
    data = description(("WANIPConnection:2", "http://11.0.0.1/"), ("WANIPConnection:1", "/one"))
    assert [each.url.path for each in controls(data, HERE, GATEWAY)] == ["/one"]


def test_without_a_service():
    with pytest.raises(PortmapError, match="no service"):
        controls(description(("Layer3Forwarding:1", "/x")), HERE, GATEWAY)


SIX = "fe80::1"


@pytest.mark.parametrize("host", ["fe80::1", "2a00:5:1::1", "fd00::1"])
def test_over_ipv6_it_is_asked_by_its_address_on_the_link(host):
    url = checked_url(f"http://[{host}]:5000/root.xml", SIX)
    assert str(url) == "http://[fe80::1]:5000/root.xml"
    data = description(
        ("WANIPConnection:2", "/four"), ("WANIPv6FirewallControl:1", f"http://[{host}]:5001/six")
    )
    (found,) = controls(data, url, SIX, FIREWALLS)
    assert str(found.url) == "http://[fe80::1]:5001/six"


@pytest.mark.parametrize("url", ["http://192.168.1.1/", "http://gateway.example/", "/x"])
def test_over_ipv6_no_other_protocol_or_name_is_used(url):
    with pytest.raises(PortmapError):
        checked_url(url, SIX)


@pytest.mark.parametrize("gateway", [GATEWAY, SIX])
@given(st.text(max_size=80))
def test_any_address_is_the_gateways_or_refused(gateway, text):
    for each in (text, f"http://{text}", f"http://{GATEWAY}{text}", f"http://[{SIX}{text}]"):
        try:
            assert checked_url(each, gateway).host == gateway
        except PortmapError:
            continue
