"""Dialing back: whom, how often, and whose door is not knocked on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from pt.errors import ConnectError
from pt.identify.messages import Identify
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.route import Route
from pt.tunnel import reversal as module
from pt.tunnel.reversal import Reversal
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.sim.world import node
from tests.unit.node.pair import joined
from tests.unit.node.test_link import CALM

RELAY = Multiaddr.parse("/ip4/9.9.9.9/tcp/4001")
PUBLIC = "/ip4/8.8.8.8/tcp/1"


def addresses(*texts: str) -> tuple[Multiaddr, ...]:
    return tuple(map(Multiaddr.parse, texts))


@pytest.fixture
def dialed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was dialed; nobody answers."""
    found: list[list[str]] = []

    async def connect(self: Node, given: Iterable[Multiaddr], **_: object) -> Connection:
        found.append([str(address) for address in given])
        raise ConnectError("nobody answers")

    monkeypatch.setattr(Node, "connect", connect)
    return found


def relayed(connection: Connection, *listening: str) -> Connection:
    """As if it had come through a relay, and its peer had said where it listens."""
    connection.route = Route(RELAY.through_circuit(), relay=node(9).peer_id, path="relay/raw")
    key = connection.node.identity.public.to_protobuf()
    connection.identified = Identify(public_key=key, listen_addresses=addresses(*listening))
    return connection


def test_a_stranger_sends_us_to_a_door_a_few_times_and_no_more(dialed: list[list[str]]) -> None:
    async def scenario() -> None:
        async with joined(CALM) as (_, theirs):
            stranger = relayed(theirs, PUBLIC)
            reversal = Reversal(stranger.node, ())
            for _ in range(20):  # it pushes its addresses again and again
                reversal.met(stranger)
                await asyncio.sleep(1)
            assert dialed == [[PUBLIC]] * module.TRIES
            stranger.close()
            assert not reversal._tries
            await reversal.close()

    run(scenario())


def test_many_strangers_of_one_relay_do_not_send_us_more_often(
    dialed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRANGERS", 4)

    async def scenario() -> None:
        reversal: Reversal | None = None
        for _ in range(10):
            async with joined(CALM) as (_, theirs):
                stranger = relayed(theirs, PUBLIC)
                reversal = reversal or Reversal(stranger.node, ())
                reversal.met(stranger)
                await asyncio.sleep(1)
        assert len(dialed) == 4
        assert reversal is not None
        await reversal.close()

    run(scenario())


def test_a_strangers_names_and_private_addresses_are_not_dialed(dialed: list[list[str]]) -> None:
    """A name may stand for our own host, or for one of our network."""

    async def scenario() -> None:
        async with joined(CALM) as (_, theirs):
            stranger = relayed(
                theirs, "/dns4/example.com/tcp/22", "/ip4/10.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/22"
            )
            reversal = Reversal(stranger.node, ())
            reversal.met(stranger)
            await asyncio.sleep(1)
            assert not dialed
            stranger = relayed(theirs, "/dns4/example.com/tcp/22", PUBLIC)
            reversal.met(stranger)
            await asyncio.sleep(1)
            assert dialed == [[PUBLIC]]
            await reversal.close()

    run(scenario())


def test_an_invitation_is_followed_although_another_binder_of_that_peer_is_here(
    dialed: list[list[str]],
) -> None:
    """Two `pt bind` of one machine are one peer: only the first was ever dialed back."""

    async def scenario() -> None:
        async with joined(CALM) as (_, theirs):
            reversal = Reversal(theirs.node, ())  # the first one's direct connection: `theirs`
            invited = addresses("/ip4/192.168.1.7/tcp/7", "/ip4/127.0.0.1/tcp/7", "/dns/a/tcp/7")
            reversal.invited(theirs.peer_id, invited, near=False)
            await asyncio.sleep(1)
            assert dialed == [["/ip4/192.168.1.7/tcp/7"]]
            theirs.initiator = True  # now it is one that we made, to that very address
            theirs.route = Route(invited[0])
            reversal.invited(theirs.peer_id, invited, near=False)
            await asyncio.sleep(1)
            assert len(dialed) == 1
            await reversal.close()

    run(scenario())
