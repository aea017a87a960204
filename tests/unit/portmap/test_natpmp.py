import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap import natpmp
from pt.portmap.mapping import PortmapError, Wanted
from pt.wire.nat_facts import Protocol


def test_requests_are_as_in_rfc_6886():
    assert natpmp.external_request().hex() == "0000"
    wanted = Wanted(Protocol.UDP, 4001)
    data = natpmp.map_request(wanted, lifetime=7200, port=4002)
    assert data.hex() == "00010000" + "0fa1" + "0fa2" + "00001c20"
    deleted = natpmp.map_request(Wanted(Protocol.TCP, 4001), lifetime=0, port=4002)
    assert deleted.hex() == "00020000" + "0fa1" + "0000" + "00000000"


def test_responses():
    found = natpmp.decode_response(bytes.fromhex("00800000" + "00000064" + "0b050002"))
    assert found == natpmp.Response(0, 0, 100, natpmp.External("11.5.0.2"))
    found = natpmp.decode_response(
        bytes.fromhex("00820000" + "00000064" + "0fa1" + "9c41" + "00000e10")
    )
    granted = natpmp.Granted(Wanted(Protocol.TCP, 4001), 40001, 3600)
    assert found == natpmp.Response(2, 0, 100, granted)
    found = natpmp.decode_response(bytes.fromhex("00810002" + "00000064"))
    assert (found.body, found.why) == (None, "NOT_AUTHORIZED")


@pytest.mark.parametrize(
    "text",
    ["", "0080", "01800000000000640b050002", "00000000000000640b050002", "0080000000000064",
     "0081000000000064" + "0fa1", "0085000000000064" + "00" * 8, "00" * 65],
)  # fmt: skip
def test_what_is_no_response(text):
    with pytest.raises(PortmapError):
        natpmp.decode_response(bytes.fromhex(text))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data):
    for read in (natpmp.decode_response, natpmp.decode_request):
        try:
            read(data)
        except PortmapError:
            continue


@given(
    st.sampled_from(Protocol),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(1, 2**32 - 1),
)
def test_requests_and_responses_survive(protocol, port, external, lifetime):
    wanted = Wanted(protocol, port)
    data = natpmp.map_request(wanted, lifetime=lifetime, port=external)
    assert natpmp.decode_request(data) == natpmp.Request(wanted, external, lifetime)
    assert natpmp.decode_request(natpmp.external_request()) == natpmp.Request(None)
    opcode = 1 + list(Protocol).index(protocol)
    granted = natpmp.Granted(wanted, external, lifetime)
    response = natpmp.Response(opcode, 0, lifetime, granted)
    assert natpmp.decode_response(natpmp.encode_response(response)) == response
