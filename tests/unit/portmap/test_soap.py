import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap import soap
from pt.portmap.mapping import PortmapError
from pt.portmap.xmltree import parse

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


def answer(inner):
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inner}</s:Body></s:Envelope>"
    ).encode()


FAULT = answer(
    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>725</errorCode>'
    "<errorDescription>OnlyPermanentLeasesSupported</errorDescription></UPnPError></detail>"
    "</s:Fault>"
)


def test_a_call_names_service_and_action_and_escapes_what_is_told():
    assert soap.header(SERVICE, "AddPortMapping") == f'"{SERVICE}#AddPortMapping"'
    data = soap.body(SERVICE, "AddPortMapping", {"NewRemoteHost": "", "NewName": "<&>"})
    root = parse(data)
    call = root.find("Body").find("AddPortMapping")
    assert [(each.name, each.text) for each in call.children] == [
        ("NewRemoteHost", ""),
        ("NewName", "<&>"),
    ]
    assert b'xmlns:u="' + SERVICE.encode() in data


def test_an_answer():
    data = answer("<u:GetXResponse xmlns:u='x'><NewX> 11.5.0.2 </NewX><NewY/></u:GetXResponse>")
    assert soap.result("GetX", 200, data) == {"NewX": "11.5.0.2", "NewY": ""}


def test_a_fault():
    with pytest.raises(soap.UpnpError, match="permanent") as caught:
        soap.result("AddPortMapping", 500, FAULT)
    assert caught.value.code == soap.Fault.ONLY_PERMANENT


def test_a_fault_without_a_code():
    data = answer("<s:Fault><faultstring>go away</faultstring></s:Fault>")
    with pytest.raises(soap.UpnpError, match="go away") as caught:
        soap.result("X", 500, data)
    assert caught.value.code == 0


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (404, answer("<XResponse/>")),
        (500, answer("<XResponse/>")),
        (200, answer("<YResponse/>")),
        (200, b"<a/>"),
        (200, b"<Envelope/>"),
        (200, b"nonsense"),
    ],
)
def test_what_is_no_answer(status, data):
    with pytest.raises(PortmapError):
        soap.result("X", status, data)


@given(st.binary(max_size=200), st.sampled_from([200, 500, 302]))
def test_any_bytes_are_read_or_refused(data, status):
    for each in (data, answer(data.decode("latin-1"))):
        try:
            soap.result("X", status, each)
        except (PortmapError, soap.UpnpError):
            continue
