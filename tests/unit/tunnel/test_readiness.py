"""When READY is said, on a clock of its own: media and relays that work, are slow or silent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.tunnel import events, readiness
from pt.tunnel.readiness import GRACE, OUTSIDE_WAIT, RELAY_TIMEOUT, Readiness
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

ME = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
RELAY = PeerId.from_public_key(PrivateKey.generate(b"\2" * 32).public)
CIRCUIT = Multiaddr.parse(f"/ip4/11.0.0.1/tcp/4001/p2p/{RELAY}/p2p-circuit")
INSIDE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")


@dataclass
class Media:
    """A publication: what each medium says, and when."""

    said: dict[str, tuple[float, bool]]
    addresses: frozenset[Multiaddr] = frozenset({INSIDE})
    results: dict[str, bool] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        for medium, (after, ok) in self.said.items():
            if after:
                asyncio.get_running_loop().call_later(after, self.tell, medium, ok)
            else:
                self.tell(medium, ok)

    def tell(self, medium: str, ok: bool) -> None:
        self.results[medium] = ok
        self.changed.set()

    @property
    def media(self) -> tuple[str, ...]:
        return tuple(medium for medium, ok in self.results.items() if ok)

    @property
    def has_stores(self) -> bool:
        return any(medium != "lan" for medium in self.said)

    @property
    def settled(self) -> bool:
        return len(self.results) == len(self.said)

    @property
    def stored(self) -> frozenset[Multiaddr]:
        return self.addresses if set(self.media) - {"lan"} else frozenset()

    async def wait(self) -> None:
        await self.changed.wait()
        self.changed.clear()


@dataclass
class FakeRelays:
    """The first reservation, so many seconds after the start; never, if there are none."""

    after: float | None = None

    async def wait_first(self, timeout: float) -> bool:
        await asyncio.sleep(timeout if self.after is None else min(self.after, timeout))
        return self.after is not None and self.after <= timeout

    @property
    def addresses(self) -> list[Multiaddr]:
        return [CIRCUIT]


NEVER = 1000.0
SLOW = 10.0


@pytest.mark.parametrize(
    ("said", "relay", "given", "at"),
    [
        ({"lan": (0, True)}, None, False, 0.0),
        ({"lan": (0, True), "amino": (SLOW, False)}, None, False, 0.0),
        ({"lan": (0, True), "overlay": (2.0, False), "amino": (SLOW, False)}, None, True, GRACE),
        ({"lan": (0, True), "overlay": (NEVER, True)}, None, True, GRACE),
        ({"lan": (0, True), "overlay": (1.5, True)}, 1.0, True, 1.5),
        ({"lan": (0, True), "overlay": (NEVER, True)}, 1.0, True, 1.0 + GRACE),
        ({"overlay": (1.5, True), "amino": (SLOW, False)}, 1.0, True, 1.5),
        ({"overlay": (6.5, True)}, 6.0, True, 6.5),
        ({"overlay": (NEVER, True)}, 6.0, True, 6.0 + GRACE),
        ({"amino": (4.0, True)}, None, False, 4.0),
        ({"overlay": (1.0, False), "amino": (12.0, True)}, None, True, 12.0),
    ],
)
def test_when_ready_is_said(
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, tuple[float, bool]],
    relay: float | None,
    given: bool,
    at: float,
) -> None:
    """Once a path answers; what is silent costs GRACE at most beside what works."""
    monkeypatch.setattr(readiness, "probe_relayed", answers)
    took, told = ready_after(Media(said, frozenset({INSIDE, CIRCUIT})), FakeRelays(relay), given)
    assert took == pytest.approx(at)
    assert told == []


def test_published_but_not_to_be_reached_from_elsewhere() -> None:
    took, told = ready_after(Media({"amino": (1.0, True)}), FakeRelays(), given=False)
    assert took == pytest.approx(OUTSIDE_WAIT, abs=GRACE)
    assert ["only machines of this network" in text for text in told] == [True]


def test_a_path_that_does_not_answer_is_told_and_another_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "probe_relayed", refuses)
    media = Media({"overlay": (1.0, True)}, frozenset({CIRCUIT}))
    took, told = ready_after(media, FakeRelays(0.5), given=True)
    assert took > RELAY_TIMEOUT
    assert told[0] == "no answer"


def ready_after(media: Media, relays: FakeRelays, given: bool) -> tuple[float, list[str]]:
    """Seconds until READY, and the warnings before it."""
    told: list[events.Event] = []

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        media.start()
        await Readiness(media, relays, ME, told.append).wait(relays_given=given)
        return loop.time() - began

    took = run(scenario())
    assert all(isinstance(event, events.Warned) for event in told)
    return took, [event.message for event in told]


async def answers(addresses, peer) -> None:
    assert tuple(addresses) == (CIRCUIT,)
    assert peer == ME


async def refuses(addresses, peer) -> None:
    raise NetworkError("no answer")
