"""`pt nat`: whom it asks, and what it shows; finding out is in tests/e2e/test_nat.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pt.cli import nat
from pt.cli.main import main
from pt.cli.nat import _cliffs, _essence, server_of
from pt.cli.nat_text import OTHERS, as_json, as_text, plans
from pt.errors import UsageError
from pt.node.gateways import find_places
from pt.node.nat import StunServer, Survey
from pt.node.nat_family import How, Reach
from pt.node.nat_tcp import TcpDiscovery
from pt.node.nat_tcp_lifetime import TcpLifetime
from pt.node.portmap import Finding
from pt.portmap.aio import Place
from pt.portmap.gateway import Gateway
from pt.portmap.mapping import Service
from pt.stun.binding import Binding
from pt.stun.discovery import Discovery
from pt.stun.lifetime import CLIFFS, LONG_CLIFFS, Lifetime
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, Protocol

SERVER, LOCAL, MAPPED = ("11.1.0.1", 4001), ("192.168.1.10", 40000), ("11.100.0.1", 50000)
FACTS = NatFacts(
    works=True,
    translated=True,
    mapping=Dependence.ADDRESS_AND_PORT,
    filtering=Dependence.ADDRESS,
    ports=Allocation.SEQUENTIAL,
    step=2,
    noise=3.2,
    hairpin=True,
    quota=64,
    lifetime=20.0,
    inbound_refreshes=False,
    max_age=59.4,
    external=MAPPED[0],
    carrier_grade=True,
)
UDP = Discovery(
    facts=FACTS,
    server=SERVER,
    local=LOCAL,
    binding=Binding(mapped=MAPPED, source=SERVER, rtt=0.023),
    lifetime=Lifetime(20.0, 30.0, False, 59.4),
    mtu=1480,
    pooled=False,
)
TCP = TcpDiscovery(
    facts=replace(
        FACTS, protocol=Protocol.TCP, filtering=Dependence.UNKNOWN, hairpin=False, quota=None
    ),
    server=SERVER,
    local=LOCAL,
    binding=Binding(mapped=MAPPED, source=SERVER, rtt=0.03),
    lifetime=TcpLifetime(298.0, 330.0, True),
)
PLACE = Place(Gateway(0, "192.168.1.1", "eth0"), "192.168.1.10")
SURVEY = Survey(
    udp=(UDP,),
    tcp=(TCP,),
    names={"relay.example": ("11.1.0.1",)},
    reach=(Reach(Protocol.UDP, SERVER, How.OPEN), Reach(Protocol.TCP, SERVER, How.OPEN)),
    gateways=(
        Finding(PLACE, Service.PCP, ok=False, detail="no answer"),
        Finding(PLACE, Service.NAT_PMP, ok=True, detail="", external=MAPPED[0]),
        Finding(PLACE, Service.UPNP, ok=True, detail="", external=MAPPED[0]),
    ),
    routers=("192.168.1.1", "100.64.0.1", "", ""),
)


def shown(survey: Survey = SURVEY) -> str:
    return "\n".join(as_text(survey, colour=False))


def changed(**facts) -> str:
    return shown(replace(SURVEY, udp=(replace(UDP, facts=replace(FACTS, **facts)),)))


@pytest.mark.parametrize(
    "words",
    [
        "IPv4 UDP  apdm-seq-adf",
        "192.168.1.10:40000 is 11.100.0.1:50000 outside; 23 ms to 11.1.0.1:4001",
        "another external port for each destination",
        "only addresses that were written to get in",
        "one after the other, in steps of 2; others take 3 a second",
        "between 20 and 30 s of silence; only what goes out counts",
        "gone after 59 s, whatever the traffic",
        "64 mappings at a time",
        "a carrier's NAT",
        "1480 on the way to 11.1.0.1:4001",
        "IPv4 TCP  apdm-seq",
        "hairpin   no",
        "between 298 and 330 s of silence; keep-alives keep it",
        "Ports  UDP 4001 open, TCP 4001 open",
        "Router 192.168.1.1  maps ports by NAT-PMP, UPnP",
        "outside   11.100.0.1, as servers see it",
    ],
)
def test_the_screen(words):
    assert words in shown()


def test_what_is_not_known_is_said():
    assert "it takes a server with a second address" in changed(filtering=Dependence.UNKNOWN)
    assert "hairpin   not known" in changed(hairpin=None)
    assert "no sign of a carrier's NAT" in changed(carrier_grade=None)
    assert "not measured (--lifetime)" in shown(replace(SURVEY, udp=(replace(UDP, lifetime=None),)))
    said = shown(replace(SURVEY, tcp=(replace(TCP, lifetime=None),)))
    assert "not measured (--lifetime, of a pt relay)" in said


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ports": Allocation.PRESERVING}, "the internal port is kept"),
        ({"ports": Allocation.RANDOM}, "ports     random"),
        ({"ports": Allocation.RANDOM, "block": (512, 1023)}, "random, between 512 and 1023"),
        ({"translated": False}, "11.100.0.1:50000, not translated"),
    ],
)
def test_other_nats_in_words(facts, words):
    assert words in changed(**facts)


def test_lifetimes_in_words():
    def row(lifetime: Lifetime) -> str:
        return shown(replace(SURVEY, udp=(replace(UDP, lifetime=lifetime),)))

    assert "more than 298 s of silence" in row(Lifetime(298.0))
    assert "what comes in counts, too" in row(Lifetime(20.0, 30.0, True))
    assert "between 0 and 10 s of silence\n" in row(Lifetime(0.0, 10.0))

    def tcp_row(lifetime: TcpLifetime) -> str:
        return shown(replace(SURVEY, tcp=(replace(TCP, lifetime=lifetime),)))

    assert "more than 60 s of silence\n" in tcp_row(TcpLifetime(60.0))
    assert "; keep-alives do not keep it" in tcp_row(TcpLifetime(60.0, 90.0, False))


def test_what_is_blocked_and_what_does_not_answer():
    silent = Discovery(facts=NatFacts(works=False), silent=(SERVER,))
    assert "no answer from 11.1.0.1:4001, whose TCP port answers" in shown(
        replace(SURVEY, udp=(silent,))
    )
    nobody = Survey(
        udp=(replace(silent, facts=NatFacts()),),
        tcp=(TcpDiscovery(facts=NatFacts(protocol=Protocol.TCP), problem="refused"),),
    )
    assert "neither over UDP nor over TCP" in shown(nobody)
    assert "What works" not in shown(nobody)
    blocked = TcpDiscovery(
        facts=NatFacts(protocol=Protocol.TCP, works=False), problem="no answer in 4 s", silent=True
    )
    assert "IPv4 TCP  blocked" in shown(replace(SURVEY, tcp=(blocked,)))


@pytest.mark.parametrize(
    ("shut", "open_", "words"),
    [
        (4001, 443, "have a relay listen there"),
        (443, 4001, "port 443 does not get through, others do"),
    ],
)
def test_ports_that_are_shut_and_the_cure(shut, open_, words):
    reach = (
        Reach(Protocol.TCP, (SERVER[0], shut), How.SILENT),
        Reach(Protocol.TCP, ("11.2.0.1", open_), How.OPEN),
    )
    said = shown(replace(SURVEY, reach=reach))
    assert f"TCP {shut} silent" in said
    assert words in said
    both = (*reach, Reach(Protocol.TCP, ("11.3.0.1", shut), How.OPEN))
    assert words not in shown(replace(SURVEY, reach=both))  # one host's firewall, not the network's


@pytest.mark.parametrize(
    ("external", "words"),
    [
        (MAPPED[0], "11.100.0.1, as servers see it"),
        ("11.9.9.9", "11.9.9.9, but servers see 11.100.0.1: double NAT"),
        ("100.64.0.2", "100.64.0.2, a carrier's: double NAT"),
        ("192.168.0.2", "192.168.0.2, private: double NAT"),
        ("", "told with a mapping alone"),
    ],
)
def test_routers_that_map_ports(external, words):
    finding = Finding(PLACE, Service.PCP, ok=True, detail="", external=external)
    said = shown(replace(SURVEY, gateways=(finding,)))
    assert "Router 192.168.1.1  maps ports by PCP\n" in said
    assert words in said


def test_routers_that_do_not():
    none = tuple(each._replace(ok=False, external="") for each in SURVEY.gateways)
    said = shown(replace(SURVEY, gateways=none))
    assert "maps no ports: no answer by PCP, NAT-PMP, UPnP" in said
    assert "outside  " not in said
    assert "Router" not in shown(replace(SURVEY, gateways=None))
    assert as_json(replace(SURVEY, gateways=None))["gateways"] is None


def test_ports_that_nobody_named():
    shut = Reach(Protocol.TCP, SERVER, How.SILENT)

    def said(how: How) -> str:
        other = Reach(Protocol.TCP, (SERVER[0], 443), how, named=False)
        return shown(replace(SURVEY, reach=(shut, other)))

    assert "Ports  TCP 443 gets through, TCP 4001 silent" in said(How.REFUSED)
    assert "have a relay listen there" in said(How.REFUSED)
    assert "Ports  TCP 4001 silent\n" in said(How.SILENT)
    assert "port 443" not in said(How.SILENT)


def test_problems_are_told():
    assert "!  no route for IPv6" in shown(replace(SURVEY, problems=("no route for IPv6",)))


def test_what_works_is_the_planners_word():
    told = dict(plans(SURVEY))
    assert set(told) == {name for name, _ in OTHERS}
    assert told["a public address"].best.value == "simultaneous"
    assert told["a NAT with ports in a row"].best.value == "predict"
    assert plans(Survey()) == []


def test_json_says_all_of_it():
    told = json.loads(json.dumps(as_json(SURVEY)))
    udp, tcp = told["paths"]
    assert udp == {
        "family": 4,
        "protocol": "udp",
        "label": "apdm-seq-adf",
        "works": True,
        "translated": True,
        "mapping": "address-and-port-dependent",
        "filtering": "address-dependent",
        "ports": "sequential",
        "step": 2,
        "block": None,
        "external": "11.100.0.1",
        "carrier_grade": True,
        "server": "11.1.0.1:4001",
        "local": "192.168.1.10:40000",
        "mapped": "11.100.0.1:50000",
        "rtt": 0.023,
        "hairpin": True,
        "quota": 64,
        "noise": 3.2,
        "lifetime": 20.0,
        "lifetime_at_least": 20.0,
        "lifetime_at_most": 30.0,
        "inbound_refreshes": False,
        "max_age": 59.4,
        "pooled": False,
        "rewritten": False,
        "mtu": 1480,
        "silent": [],
    }
    assert (tcp["protocol"], tcp["filtering"], tcp["problem"]) == ("tcp", None, None)
    assert tcp["hairpin"] is False
    assert (tcp["lifetime_at_least"], tcp["lifetime_at_most"]) == (298.0, 330.0)
    assert tcp["keepalive_refreshes"] is True
    assert told["names"] == {"relay.example": ["11.1.0.1"]}
    assert set(told["works_with"][0]) == {"nat", "strategy", "direct", "why", "cure"}
    assert told["problems"] == []
    assert told["ports"][0] == {
        "protocol": "udp",
        "address": "11.1.0.1:4001",
        "outcome": "open",
        "named": True,
    }
    assert [each["ok"] for each in told["gateways"]] == [False, True, True]
    assert told["gateways"][1] == {
        "family": 4,
        "gateway": "192.168.1.1",
        "local": "192.168.1.10",
        "service": "NAT-PMP",
        "ok": True,
        "external": "11.100.0.1",
        "outside": "same",
        "detail": "",
    }
    assert told["routers"] == ["192.168.1.1", "100.64.0.1", None, None]


def test_only_changes_are_told_again():
    moved = replace(UDP, binding=replace(UDP.binding, mapped=("11.100.0.1", 50001)))
    assert _essence(replace(SURVEY, udp=(moved,))) == _essence(SURVEY)
    other = replace(UDP, facts=replace(FACTS, external="11.100.0.9"))
    assert _essence(replace(SURVEY, udp=(other,))) != _essence(SURVEY)
    assert _essence(replace(SURVEY, gateways=())) != _essence(SURVEY)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.1:3478", StunServer("ip4", "192.0.2.1", 3478)),
        ("192.0.2.1", StunServer("ip4", "192.0.2.1", 3478)),
        ("stun.example.org:3479", StunServer("dns", "stun.example.org", 3479)),
        ("[2001:db8::1]:5", StunServer("ip6", "2001:db8::1", 5)),
        ("[2001:db8::1]", StunServer("ip6", "2001:db8::1", 3478)),
    ],
)
def test_servers(text, wanted):
    assert server_of(text) == wanted


@pytest.mark.parametrize("text", ["", ":3478", "a:0", "a:70000", "a:b", "2001:db8::1", "[::1"])
def test_servers_that_are_none(text):
    with pytest.raises(UsageError, match="--stun"):
        server_of(text)


def test_silences():
    assert _cliffs(None) == ()
    assert _cliffs(30.0) == (10.0, 20.0, 28.0, 30.0)
    assert _cliffs(CLIFFS[-1]) == CLIFFS
    assert _cliffs(4.0) == (2.0, 4.0)
    assert _cliffs(3600.0) == (*CLIFFS, *LONG_CLIFFS, 3600.0)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ([], "no server is asked that is not named"),
        (["--relay", "/ip4/11.0.0.1"], "relay's address"),
        (["--stun", *(f"127.0.0.1:{port}" for port in range(1, 10))], "more than 8"),
        (["--stun", "127.0.0.1:9", "--lifetime", "0"], "--lifetime 0"),
        (["--stun", "127.0.0.1:9", "--watch", "99999"], "--watch"),
    ],
)
def test_what_makes_no_sense(argv, why, capsys, monkeypatch):
    monkeypatch.delenv("PT_RELAY", raising=False)
    assert main(["nat", *argv]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "environ", "asked"),
    [("-v", "", True), ("--no-portmap", "", False), ("-v", "1", False)],
)
def test_whether_the_router_is_asked(option, environ, asked, capsys, monkeypatch):
    given: list[object] = []

    async def fake(servers, wishes, *, resolver, places, say):
        given.append(places)
        return SURVEY

    monkeypatch.setattr(nat, "survey", fake)
    monkeypatch.setenv("PT_NO_PORTMAP", environ)
    argv = ["nat", "--stun", "127.0.0.1:9", option]
    assert main(argv) == 0
    assert given == [find_places if asked else None]
    assert "Router 192.168.1.1" in capsys.readouterr().out
