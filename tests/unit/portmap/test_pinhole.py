import pytest

from pt.portmap import pinhole, soap
from pt.portmap.description import FIREWALLS, Control, Url
from pt.portmap.mapping import PortmapError
from pt.wire.nat_facts import Protocol

CONTROL = Control(FIREWALLS[0], Url("fe80::1", 5000, "/ctl/IP6FCtl"))
OURS = ("2a00:5:1::2", 4001)


def played(script, *answers):
    """What a script asks of a gateway that answers so, numbers being faults; and its result."""
    calls = []
    try:
        call = next(script)
        for each in answers:
            calls.append((call.action, call.fields))
            if isinstance(each, int):
                call = script.throw(soap.UpnpError(call.action, each, ""))
            else:
                call = script.send(each)
    except StopIteration as stop:
        return calls, stop.value
    raise AssertionError(f"asks more: {call}")


def keep(known=None, protocol=Protocol.UDP):
    return pinhole.keep(CONTROL, OURS, protocol, 7200, known)


def test_a_pinhole_for_everybody_to_our_port():
    calls, number = played(keep(), {"UniqueID": "17"})
    assert number == "17"
    ((action, fields),) = calls
    assert action == "AddPinhole"
    assert list(fields.items()) == [
        ("RemoteHost", ""),
        ("RemotePort", "0"),
        ("InternalClient", OURS[0]),
        ("InternalPort", "4001"),
        ("Protocol", "17"),
        ("LeaseTime", "7200"),
    ]


def test_tcp_has_another_number():
    ((_, fields),), _ = played(keep(protocol=Protocol.TCP), {"UniqueID": "1"})
    assert fields["Protocol"] == "6"


def test_one_that_is_known_is_renewed():
    calls, number = played(keep("17"), {})
    assert number == "17"
    assert calls == [("UpdatePinhole", {"UniqueID": "17", "NewLeaseTime": "7200"})]


@pytest.mark.parametrize("code", [401, 501, 606, 704])
def test_one_that_is_not_renewed_is_made_anew(code):
    calls, number = played(keep("17"), code, {"UniqueID": "18"})
    assert number == "18"
    assert [action for action, _ in calls] == ["UpdatePinhole", "AddPinhole"]


def test_a_refusal_is_raised():
    with pytest.raises(soap.UpnpError, match="set to open nothing"):
        played(keep("17"), 704, 703)


@pytest.mark.parametrize("number", ["", "-1", "1.5", "65536", "٣"])
def test_what_is_no_number(number):
    with pytest.raises(PortmapError, match="no number"):
        played(keep(), {"UniqueID": number})


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        ({"PinholePackets": "0"}, True),
        *((each, False) for each in (402, 501, 606, 704)),
        *((each, True) for each in (401, 602)),
    ],
)
def test_whether_it_is_there_still(answer, known):
    assert played(pinhole.check(CONTROL, "17"), answer) == (
        [("GetPinholePackets", {"UniqueID": "17"})],
        known,
    )


def test_it_is_deleted_by_its_number():
    calls, _ = played(pinhole.delete(CONTROL, "17"), {})
    assert calls == [("DeletePinhole", {"UniqueID": "17"})]


@pytest.mark.parametrize(
    ("enabled", "allowed", "expected"),
    [
        ("1", "1", pinhole.Status.ALLOWS),
        ("true", "yes", pinhole.Status.ALLOWS),
        ("1", "0", pinhole.Status.FORBIDS),
        ("0", "1", pinhole.Status.OFF),
    ],
)
def test_how_a_firewall_is_set(enabled, allowed, expected):
    told = {"FirewallEnabled": enabled, "InboundPinholeAllowed": allowed}
    assert played(pinhole.status(CONTROL), told) == ([("GetFirewallStatus", {})], expected)


@pytest.mark.parametrize("told", [{}, {"FirewallEnabled": "1"}, {"FirewallEnabled": "perhaps"}])
def test_a_status_that_is_none(told):
    with pytest.raises(PortmapError):
        played(pinhole.status(CONTROL), told)
