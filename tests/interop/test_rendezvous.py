"""`pt tcp` and `pt bind` on a small internet: found by each other, and by nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop import kad, kubo
from interop.observer import Seen, leaks, secrets_of
from interop.rendezvous import RELAYING, VARIANTS, Round, Variant, run_round
from interop.rig import build
from interop.wire import UDP, Wire
from interop.world import INSIDE, Net, internet, lan
from pt.identity.peer_id import PeerId
from pt.kad.messages import MessageType

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(900)]

SERVERS = 30
STUN_COOKIE = b"\x21\x12\xa4\x42"
SOON = 8.0
"""Seconds; a dial to somebody silent takes longer to fail."""
KINDS = {variant.name: variant for variant in VARIANTS}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    there = kad.BINARY.exists() and kubo.BINARY.exists()
    if not there and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/gokad and kubo")
    build(["gokad", "kubo"])
    tmp = tmp_path_factory.mktemp("internet")
    with internet(tmp, servers=SERVERS, relaying=RELAYING) as made:
        yield made


def one_round(net: Net, variant: Variant) -> tuple[Round, Wire]:
    """Both ends are heard on the cables of their NATs all the time, to no avail."""
    with Wire(*net.nats.values()) as wire:
        took = run_round(net.world, variant, variant.flags(net.far), 0)
    carried = b"\n".join(wire.flows())
    assert b"/noise" in carried
    assert not leaks(carried, hidden_of(net, took, everywhere=False))
    assert took.medium == variant.medium
    assert max(took.published, took.exposed, took.first_byte, took.again) < SOON, took
    return took, wire


def test_the_dht_alone_and_who_sees_all_of_it(net: Net) -> None:
    """Without any other word, through relays met on the DHT."""
    took, _ = one_round(net, KINDS["dht"])
    assert took.path.startswith("relay/")
    assert took.outside is not None
    assert took.exposed < took.outside < SOON, "READY for the LAN first, for others when they can"
    seen = Seen.read(net.far.tap)
    dialers = {name: seen.dialers(net.nats[name].ip) for name in INSIDE}
    assert len(dialers["a"]) == 1, "one id for the DHT"
    assert len(dialers["b"]) == 2, "another one after each start"
    assert not {took.exposer, took.binder} & (dialers["a"] | dialers["b"])
    stored = {
        ask.key
        for one in seen.of(dialers["a"])
        for ask in one.requests()
        if ask.type is MessageType.PUT_VALUE
    }
    asked = {
        ask.key
        for one in seen.of(dialers["b"])
        for ask in one.requests()
        if ask.type is MessageType.GET_VALUE
    }
    mailbox = next(iter(asked & stored))
    assert leaks(seen.data, {"the mailbox": mailbox})
    assert not leaks(seen.data, hidden_of(net, took))


def hidden_of(net: Net, took: Round, *, everywhere: bool = True) -> dict[str, bytes]:
    """What nobody else is to learn; who sees packets knows the NATs' own addresses, of course."""
    peers = [PeerId.parse(text) for text in (took.exposer, took.binder)]
    ips = [f"{inside}.1" for inside in INSIDE.values()]
    ips += [nat.ip for nat in net.nats.values()] if everywhere else []
    return secrets_of(took.name, peers, took.addresses, ips)


def test_a_dht_that_is_broken_delays_nothing_and_who_hears_the_overlay(net: Net) -> None:
    """The overlay speaks in the clear: who listens has the mailboxes, and nothing else."""
    took, wire = one_round(net, KINDS["dht-broken"])
    assert took.path == "relay/raw"
    # A STUN answer says again what the header of its datagram says: where it goes.
    flows = [flow for flow in wire.flows(UDP) if flow[4:8] != STUN_COOKIE]
    datagrams = b"\n".join(flows)
    assert datagrams.count(b"/ipfs/bafkqaaa") >= 2, "what every mailbox names"
    assert not leaks(datagrams, hidden_of(net, took))


def test_relays_that_are_broken_delay_nothing(net: Net) -> None:
    one_round(net, KINDS["relays-broken"])


def test_the_lan_when_all_else_is_broken(tmp_path: Path) -> None:
    variant = KINDS["lan-alone-works"]
    with lan(tmp_path) as world:
        took = run_round(world, variant, variant.flags(None), 0)
    assert (took.medium, took.path) == ("lan", "direct/tcp")
    assert max(took.published, took.exposed, took.first_byte, took.again) < SOON, took
