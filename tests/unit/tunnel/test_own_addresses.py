"""What an exposer tells of its own addresses, and to whom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pt.autonat.reachability import State, publishable
from pt.tunnel import own_addresses
from pt.tunnel.events import AddressReachability
from pt.tunnel.own_addresses import OwnAddresses
from pt.wire.multiaddr import Multiaddr

TCP, OTHER = (Multiaddr.tcp("11.5.0.2", port) for port in (4001, 4002))


VIEW = object()


class Node:
    def __init__(self, *addresses: Multiaddr) -> None:
        self.addresses = addresses
        self.unreachable: frozenset[Multiaddr] = frozenset()
        self.relayed = ()

    @property
    def published(self):
        return publishable(self.addresses, self.unreachable)


class FakeAutoNat:
    def __init__(self, node, *, mapped, changed) -> None:
        self.mapped, self.changed = mapped, changed
        self.rechecks = 0
        self.running = False

    def start(self) -> None:
        self.running = True

    async def close(self) -> None:
        self.running = False

    def recheck(self) -> None:
        self.rechecks += 1

    def state(self, _):
        return State.UNKNOWN


class FakeMappings(FakeAutoNat):
    addresses = (OTHER,)

    def __init__(self, node, view, emit, *, changed, state) -> None:
        super().__init__(node, mapped=None, changed=changed)
        assert view is VIEW
        assert state(TCP) is State.UNKNOWN


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(own_addresses, "AutoNat", FakeAutoNat)
    monkeypatch.setattr(own_addresses, "PortMappings", FakeMappings)

    def make(*addresses: Multiaddr, portmap: bool = True):
        here = SimpleNamespace(node=Node(*addresses), events=[], changes=0)

        def changed() -> None:
            here.changes += 1

        view = VIEW if portmap else None
        here.own = OwnAddresses(here.node, here.events.append, view=view, changed=changed)
        return here

    return make


@pytest.mark.parametrize(
    ("state", "addresses", "reachable", "published", "detail"),
    [
        (State.REACHABLE, (TCP,), True, True, "have dialed it: published"),
        (State.UNREACHABLE, (TCP,), False, True, "told all the same"),
        (State.UNREACHABLE, (TCP, OTHER), False, False, "not published"),
        (State.UNKNOWN, (), None, False, "any more"),
    ],
)
def test_what_is_found_out_is_told(made, state, addresses, reachable, published, detail) -> None:
    here = made(*addresses)
    if state is State.UNREACHABLE:
        here.node.unreachable = frozenset({TCP})
    here.own._autonat.changed(TCP, state)
    (event,) = here.events
    assert isinstance(event, AddressReachability)
    assert (event.address, event.reachable, event.published) == (TCP, reachable, published)
    assert detail in event.detail
    assert here.changes == 1
    assert here.own._mappings.rechecks == 1  # a mapping may be settled by that


def test_mappings_are_asked_about_and_a_new_one_at_once(made) -> None:
    here = made()
    assert here.own._autonat.mapped() == (OTHER,)
    here.own._mappings.changed()
    assert here.own._autonat.rechecks == 1
    assert here.changes == 1


def test_both_live_as_long_as_it(made) -> None:
    here = made()
    here.own.start()
    assert here.own._autonat.running
    assert here.own._mappings.running
    here.own.recheck()
    assert here.own._mappings.rechecks == 1
    asyncio.run(here.own.close())
    assert not here.own._autonat.running
    assert not here.own._mappings.running


def test_without_port_mappings(made) -> None:
    here = made(portmap=False)
    here.own.start()
    here.own.recheck()
    assert here.own._autonat.mapped() == ()
    here.own._autonat.changed(TCP, State.UNKNOWN)
    assert here.changes == 1
    asyncio.run(here.own.close())
