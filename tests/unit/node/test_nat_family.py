"""One IP version, UDP and TCP side by side, asked of servers on loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pt.node import nat_family
from pt.node.nat_family import Family, How, Reach, measure
from pt.node.nat_tcp import TcpDiscovery
from pt.stun.aio import Explorer
from pt.stun.discovery import Discovery
from pt.wire.nat_facts import NatFacts, Protocol
from tests.sim.loop import run as run_virtually
from tests.unit.node.test_nat import QUICKLY, serving


def run(*, every: bool, silent_first: bool) -> tuple[Family, int]:
    """Two servers, one of which says nothing; and the other one's port."""

    async def main() -> tuple[Family, int]:
        async with serving(udp=False, tcp=False) as mute, serving() as port:
            ports = (mute, port) if silent_first else (port, mute)
            servers = [("127.0.0.1", each) for each in ports]
            return await measure(Explorer(), servers, QUICKLY, every=every), port

    return run_virtually(main())


def tcp_reach(found: Family) -> list[How]:
    return [each.how for each in found.reach if each.protocol is Protocol.TCP and each.named]


def test_what_is_silent_over_both_is_not_known():
    blank = Discovery(facts=NatFacts())
    silent = TcpDiscovery(facts=NatFacts(protocol=Protocol.TCP), silent=True)
    assert nat_family._compare(blank, silent) == (blank, silent)
    works = replace(blank, facts=NatFacts(works=True))
    assert nat_family._compare(works, silent)[1].facts.works is False
    refused = replace(silent, silent=False)  # it got through, to somebody who does not serve
    assert nat_family._compare(works, refused)[1].facts.works is None


def test_each_port_is_waited_for_if_that_is_wanted(monkeypatch):
    monkeypatch.setattr(nat_family, "TCP_PATIENCE", 0.2)
    found, _ = run(every=True, silent_first=False)
    assert tcp_reach(found) == [How.OPEN, How.SILENT]


@pytest.mark.parametrize("silent_first", [True, False])
def test_else_nobody_waits_for_a_silent_server(silent_first, monkeypatch):
    monkeypatch.setattr(nat_family, "TCP_PATIENCE", 60.0)
    monkeypatch.setattr(nat_family, "HEAD_START", 0.05)
    found, port = run(every=False, silent_first=silent_first)
    assert found.tcp.server == ("127.0.0.1", port)
    assert found.tcp.facts.works
    assert tcp_reach(found) == [How.OPEN]
    assert all(each.named for each in found.reach)


def test_usual_ports_of_the_first_server_are_tried_too(monkeypatch):
    async def main() -> None:
        async with serving() as port, serving() as other:
            with socket.create_server(("127.0.0.1", 0)) as open_, closed() as shut:
                usual = (port, open_.getsockname()[1], shut)
                monkeypatch.setattr(nat_family, "USUAL_PORTS", usual)
                servers = [("127.0.0.1", port), ("127.0.0.1", other)]
                found = await measure(Explorer(), servers, QUICKLY)
        more = [each for each in found.reach if not each.named]
        assert [(each.address[1], each.how) for each in more] == [
            (usual[1], How.OPEN),
            (shut, How.REFUSED),
        ]
        assert all(each.through for each in more)

    run_virtually(main())


@contextlib.contextmanager
def closed() -> Iterator[int]:
    """A port that refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_silence_of_a_port_that_nobody_named_tells_nothing():
    address = ("11.1.0.1", 443)
    through = {
        (how, named): Reach(Protocol.TCP, address, how, named).through
        for how in How
        for named in (True, False)
    }
    assert {each for each, is_through in through.items() if is_through} == {
        (How.OPEN, True),
        (How.OPEN, False),
        (How.REFUSED, False),
    }
