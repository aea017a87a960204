import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pt.errors import WaitTimeoutError
from pt.node import outside
from pt.node.outside import Outside, judge, seen_by_servers, seen_over_tcp
from pt.portmap.mapping import Mapping, Service, Wanted
from pt.stun.binding import Binding
from pt.stun.transactions import Outcome
from pt.wire.nat_facts import Protocol

SERVER = ("11.1.0.1", 3478)
OTHER = ("11.1.1.1", 3479)
OURS = ("11.5.0.2", 4001)


def mapping(host="11.5.0.2", port=4001):
    return Mapping(
        service=Service.PCP,
        wanted=Wanted(Protocol.UDP, 4001),
        internal=("192.168.1.2", 4001),
        external=(host, port),
        lifetime=60,
    )


@pytest.mark.parametrize(
    ("seen", "strangers", "verdict"),
    [
        ([OURS], None, Outside.VERIFIED),
        ([OURS], True, Outside.VERIFIED),
        ([OURS], False, Outside.CLOSED),
        ([("11.5.0.2", 4002)], None, Outside.UNVERIFIED),
        ([("11.5.0.2", 4002), OURS], None, Outside.VERIFIED),
        ([("11.9.0.1", 4001)], None, Outside.ELSEWHERE),
        ([("2a00:6000::1", 4001)], None, Outside.UNVERIFIED),
        ([], None, Outside.UNVERIFIED),
        ([], True, Outside.VERIFIED),
        ([], False, Outside.CLOSED),
    ],
)
def test_what_was_seen_decides(seen, strangers, verdict):
    assert judge(mapping(), seen, strangers=strangers) is verdict


def test_another_address_of_ours_behind_a_firewall_proves_no_nat():
    one, other = ("2a00:6000::1", 4001), ("2a00:6000::2", 4001)
    pinhole = replace(mapping(), internal=one, external=one)
    assert judge(pinhole, [other], strangers=None) is Outside.UNVERIFIED
    assert judge(pinhole, [other, one], strangers=None) is Outside.VERIFIED
    translated = replace(pinhole, internal=("fd00::1", 4001))
    assert judge(translated, [other], strangers=None) is Outside.ELSEWHERE


def test_servers_of_the_same_ip_version_are_asked_over_tcp(monkeypatch):
    async def bind(server, *, local, timeout):
        asked.append((server, local))
        return SimpleNamespace(mapped=local), local

    asked = []
    monkeypatch.setattr(outside, "bind_over_tcp", bind)
    one, server = ("2a00:6000::1", 4001), ("2a00:6000::9", 3478)
    pinhole = replace(mapping(), internal=one, external=one)
    assert asyncio.run(seen_over_tcp([SERVER, server], pinhole)) == [one]
    assert asyncio.run(seen_over_tcp([server, SERVER], mapping())) == [("192.168.1.2", 4001)]
    assert asked == [(server, one), (SERVER, ("192.168.1.2", 4001))]


@pytest.mark.parametrize(
    ("host", "verdict"), [("100.64.0.9", Outside.CARRIER), ("10.0.0.2", Outside.PRIVATE)]
)
def test_what_is_not_public_is_never_published(host, verdict):
    found = judge(mapping(host), [(host, 4001)], strangers=True)
    assert found is verdict
    assert not found.usable


class Client:
    """Of STUN: `mapped` is what servers see, `back` where the answer to CHANGE-REQUEST is from."""

    def __init__(self, mapped=OURS, other=OTHER, back=OTHER, silent=(), error=None):
        self.mapped, self.other, self.back = mapped, other, back
        self.silent, self.error = silent, error
        self.asked = []

    async def binding(self, server):
        self.asked.append(server)
        if server in self.silent:
            raise WaitTimeoutError("silence")
        return Binding(mapped=self.mapped, source=server, other=self.other, rtt=0.01)

    async def ask(self, server, **_):
        if self.error:
            return Outcome(error=(420, "unknown"), source=server)
        if self.back is None:
            return Outcome()
        return Outcome(response=self.message(), source=self.back)

    def message(self):
        from pt.stun.attributes import xor_address  # noqa: PLC0415
        from pt.stun.messages import BINDING, Kind, decode, encode  # noqa: PLC0415

        transaction = bytes(12)
        told = xor_address(0x20, self.mapped, transaction)
        return decode(encode(Kind.SUCCESS, BINDING, transaction, [told]))


@pytest.mark.parametrize(
    ("client", "seen", "strangers"),
    [
        (Client(), [OURS], True),
        (Client(back=None), [OURS], False),
        (Client(back=None, silent=[OTHER]), [OURS], None),
        (Client(error=True), [OURS], None),
        (Client(other=None), [OURS], None),
        (Client(back=(SERVER[0], 3479)), [OURS], None),
        (Client(mapped=("11.9.0.1", 1)), [("11.9.0.1", 1)], None),
        (Client(silent=[SERVER]), [], None),
    ],
)
def test_servers_are_asked_where_they_see_us_and_whether_strangers_get_in(client, seen, strangers):
    assert asyncio.run(seen_by_servers(client, [SERVER], mapping())) == (seen, strangers)


def test_few_servers_are_asked_and_of_the_right_family():
    client = Client(silent=[SERVER])
    servers = [("2a00:6000::1", 1), *[SERVER] * 9]
    assert asyncio.run(seen_by_servers(client, servers, mapping())) == ([], None)
    assert client.asked == [SERVER] * 3
