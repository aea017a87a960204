import pytest

from pt.portmap import igd, soap
from pt.portmap.description import Control, Url
from pt.portmap.mapping import Mapping, PortmapError, Service, Wanted
from pt.wire.nat_facts import Protocol

URL = Url("192.168.1.1", 80, "/c")
ONE = Control("urn:schemas-upnp-org:service:WANIPConnection:1", URL)
TWO = Control("urn:schemas-upnp-org:service:WANIPConnection:2", URL)
WISH = igd.Wish("192.168.1.2", Wanted(Protocol.UDP, 4001), 0, 7200)
MAPPING = Mapping(
    service=Service.UPNP,
    wanted=WISH.wanted,
    internal=("192.168.1.2", 4001),
    external=("11.5.0.2", 4001),
    lifetime=7200,
)


class Gateway:
    """Answers calls: `faults` by action, used up one after the other."""

    def __init__(self, faults=(), external="11.5.0.2", entry=("192.168.1.2", "4001"), **answers):
        self.faults = list(faults)
        self.external = external
        self.entry = entry
        self.answers = answers
        self.calls = []

    def run(self, script):
        try:
            call = next(script)
            while True:
                self.calls.append((call.action, call.fields))
                code = next((code for name, code in self.faults if name == call.action), None)
                if code is None:
                    call = script.send(self.answer(call))
                else:
                    self.faults.remove((call.action, code))
                    call = script.throw(soap.UpnpError(call.action, code, ""))
        except StopIteration as stop:
            return stop.value

    def answer(self, call):
        match call.action:
            case "GetExternalIPAddress":
                return {"NewExternalIPAddress": self.external}
            case "GetSpecificPortMappingEntry":
                host, port = self.entry
                return {"NewInternalClient": host, "NewInternalPort": port}
            case action:
                return self.answers.get(action, {})

    @property
    def adds(self):
        return [
            (action, fields["NewExternalPort"], fields["NewLeaseDuration"])
            for action, fields in self.calls
            if action.startswith("Add")
        ]


def other():
    return 33333


def test_version_1_asks_for_our_own_port():
    gateway = Gateway()
    assert gateway.run(igd.add(ONE, WISH, other)) == igd.Added(("11.5.0.2", 4001), 7200)
    action, fields = gateway.calls[0]
    assert action == "AddPortMapping"
    assert list(fields) == [
        "NewRemoteHost", "NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient",
        "NewEnabled", "NewPortMappingDescription", "NewLeaseDuration",
    ]  # fmt: skip
    assert fields["NewProtocol"] == "UDP"
    assert fields["NewInternalClient"] == "192.168.1.2"


def test_version_2_lets_the_gateway_choose():
    gateway = Gateway(AddAnyPortMapping={"NewReservedPort": "4711"})
    assert gateway.run(igd.add(TWO, WISH, other)).external == ("11.5.0.2", 4711)


@pytest.mark.parametrize(
    ("control", "faults", "adds"),
    [
        (ONE, [725], [("4001", "7200"), ("4001", "0")]),
        (ONE, [718], [("4001", "7200"), ("33333", "7200")]),
        (ONE, [729, 725], [("4001", "7200"), ("33333", "7200"), ("33333", "0")]),
        (ONE, [718, 724], [("4001", "7200"), ("33333", "7200"), ("4001", "7200")]),
        (ONE, [402], [("4001", "7200"), ("4001", "0")]),
        (ONE, [501], [("4001", "7200"), ("4001", "0")]),
        (TWO, [725], [("4001", "7200"), ("4001", "0")]),
    ],
)
def test_gateways_that_want_it_otherwise(control, faults, adds):
    name = "AddAnyPortMapping" if control is TWO else "AddPortMapping"
    gateway = Gateway([(name, code) for code in faults])
    added = gateway.run(igd.add(control, WISH, other))
    assert [(port, lease) for _, port, lease in gateway.adds] == adds
    assert added.lifetime == int(adds[-1][1])
    assert added.external[1] == int(adds[-1][0])


@pytest.mark.parametrize("code", [401, 402, 501])
def test_version_2_without_the_new_action(code):
    gateway = Gateway([("AddAnyPortMapping", code)])
    gateway.run(igd.add(TWO, WISH, other))
    assert [action for action, *_ in gateway.adds] == ["AddAnyPortMapping", "AddPortMapping"]


@pytest.mark.parametrize("code", [606, 728, 0, 401])
def test_refusals_are_final(code):
    gateway = Gateway([("AddPortMapping", code)])
    with pytest.raises(soap.UpnpError) as caught:
        gateway.run(igd.add(ONE, WISH, other))
    assert caught.value.code == code
    assert len(gateway.calls) == 1


def test_the_attempts_are_bounded():
    gateway = Gateway([("AddPortMapping", 718)] * 100)
    with pytest.raises(soap.UpnpError):
        gateway.run(igd.add(ONE, WISH, other))
    assert len(gateway.calls) == igd.MAX_TRIES


@pytest.mark.parametrize("entry", [("192.168.1.9", "4001"), ("192.168.1.2", "22")])
def test_a_mapping_to_somebody_else_is_refused(entry):
    with pytest.raises(PortmapError, match="not to us"):
        Gateway(entry=entry).run(igd.add(ONE, WISH, other))


def test_a_mapping_that_is_not_there_is_refused():
    gateway = Gateway([("GetSpecificPortMappingEntry", 714)])
    with pytest.raises(soap.UpnpError):
        gateway.run(igd.add(ONE, WISH, other))


def test_a_gateway_need_not_know_how_to_tell():
    gateway = Gateway([("GetSpecificPortMappingEntry", 401)])
    assert gateway.run(igd.add(ONE, WISH, other)).external == ("11.5.0.2", 4001)


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "x", "999999", "٤"])
def test_ports_that_are_none(text):
    with pytest.raises(PortmapError, match="no port"):
        Gateway(AddAnyPortMapping={"NewReservedPort": text}).run(igd.add(TWO, WISH, other))


@pytest.mark.parametrize("host", ["", "0.0.0.0", "nonsense"])
def test_a_gateway_that_is_not_connected(host):
    with pytest.raises(PortmapError, match="external address"):
        Gateway(external=host).run(igd.add(ONE, WISH, other))


@pytest.mark.parametrize(
    ("gateway", "known"),
    [
        (Gateway(), True),
        (Gateway([("GetSpecificPortMappingEntry", 714)]), False),
        (Gateway([("GetSpecificPortMappingEntry", 401)]), True),
        (Gateway(entry=("192.168.1.9", "4001")), False),
        (Gateway(external="11.5.0.3"), False),
    ],
)
def test_whether_a_mapping_still_stands(gateway, known):
    assert gateway.run(igd.check(ONE, MAPPING)) is known


def test_deleting_names_the_external_port():
    gateway = Gateway()
    gateway.run(igd.delete(ONE, MAPPING))
    action, fields = gateway.calls[0]
    assert action == "DeletePortMapping"
    assert fields == {"NewRemoteHost": "", "NewExternalPort": "4001", "NewProtocol": "UDP"}
