"""When READY is said, on a clock of its own: media and relays that work, are slow or silent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.tunnel import events, readiness
from pt.tunnel.readiness import GRACE, OUTSIDE_WAIT, PROBE_AGAIN, RELAY_TIMEOUT, Readiness
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

ME = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
RELAY = PeerId.from_public_key(PrivateKey.generate(b"\2" * 32).public)
CIRCUIT = Multiaddr.parse(f"/ip4/11.0.0.1/tcp/4001/p2p/{RELAY}/p2p-circuit")
PUBLIC = Multiaddr.parse("/ip4/11.0.0.9/tcp/4001")
INSIDE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")


@dataclass
class Media:
    """A publication: what each medium says, and when."""

    said: dict[str, tuple[float, bool]]
    addresses: frozenset[Multiaddr] = frozenset({INSIDE})
    results: dict[str, bool] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        for medium, (after, ok) in self.said.items():
            if after:
                asyncio.get_running_loop().call_later(after, self.tell, medium, ok)
            else:
                self.tell(medium, ok)

    def tell(self, medium: str, ok: bool) -> None:
        self.results[medium] = ok
        self.news.set()

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


def test_relays_that_are_silent_do_not_hold_up_another_medium(monkeypatch) -> None:
    monkeypatch.setattr(readiness, "probe", answers_as(PUBLIC))
    media = Media({"overlay": (NEVER, True), "amino": (2.0, True)}, frozenset({INSIDE, PUBLIC}))
    took, told = ready_after(media, FakeRelays(), given=True)
    assert took == pytest.approx(2)
    assert told == []


def test_a_public_address_that_does_not_answer_does_not_hide_a_relay_that_does(monkeypatch) -> None:
    """A port that the router forwards, and does not lead back to itself."""
    monkeypatch.setattr(readiness, "probe", refuses)
    monkeypatch.setattr(readiness, "probe_relayed", answers)
    media = Media({"amino": (2.0, True)}, frozenset({PUBLIC, CIRCUIT}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(2)
    assert told in ([], ["no answer"])


@pytest.mark.parametrize("relay", [None, 0.5])
def test_a_probe_that_hangs_does_not_hold_up_the_lan(monkeypatch, relay: float | None) -> None:
    monkeypatch.setattr(readiness, "probe", hangs)
    monkeypatch.setattr(readiness, "probe_relayed", hangs)
    media = Media({"lan": (0, True), "amino": (1.0, True)}, frozenset({PUBLIC, CIRCUIT}))
    took, told = ready_after(media, FakeRelays(relay), given=relay is not None)
    assert took == pytest.approx(0 if relay is None else relay + GRACE)
    assert told == []


def test_a_path_that_does_not_answer_yet_is_tried_again(monkeypatch) -> None:
    tries: list[float] = []

    async def later(addresses, peer) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 3:
            raise NetworkError("no answer")

    monkeypatch.setattr(readiness, "probe_relayed", later)
    media = Media({"amino": (1.0, True)}, frozenset({CIRCUIT}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(1 + 2 * PROBE_AGAIN, abs=2 * GRACE)
    assert told == ["no answer"]


def test_ready_is_not_called_a_matter_of_relays_when_there_is_a_public_address(monkeypatch) -> None:
    monkeypatch.setattr(readiness, "probe", refuses)
    media = Media({"amino": (1.0, True)}, frozenset({PUBLIC, INSIDE}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(OUTSIDE_WAIT, abs=GRACE)
    assert told == ["no answer", readiness.NOT_ANSWERING]


@pytest.mark.parametrize("said", [{}, {"lan": (0, False)}])
def test_without_a_dht_the_first_reservation_is_awaited(monkeypatch, said) -> None:
    """An open tunnel with relays, or a LAN that fails."""
    monkeypatch.setattr(readiness, "probe_relayed", answers)
    assert ready_after(Media(said), FakeRelays(2.0), given=True)[0] == pytest.approx(2)
    assert ready_after(Media(said), FakeRelays(), given=True)[0] == pytest.approx(RELAY_TIMEOUT)
    assert ready_after(Media(said), FakeRelays(), given=False)[0] == pytest.approx(0)


def test_memory_of_probes_is_bounded(monkeypatch) -> None:
    """Addresses that change for days before anything answers."""
    monkeypatch.setattr(readiness, "probe", refuses)

    async def scenario() -> None:
        made = Readiness(Media({}), FakeRelays(), ME, lambda _: None)
        for number in range(500):
            made._probe(frozenset({Multiaddr.tcp(f"11.1.{number // 250}.{number % 250}", 1)}))
            await asyncio.sleep(1)
        assert len(made._probed) <= readiness.MAX_REMEMBERED

    run(scenario())


def ready_after(media: Media, relays: FakeRelays, given: bool) -> tuple[float, list[str]]:
    """Seconds until READY, and the warnings before it."""
    told: list[events.Event] = []

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        media.start()
        await Readiness(media, relays, ME, told.append).wait(relays_given=given)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return loop.time() - began

    took = run(scenario())
    assert all(isinstance(event, events.Warned) for event in told)
    return took, [event.message for event in told]


async def answers(addresses, peer) -> None:
    assert tuple(addresses) == (CIRCUIT,)
    assert peer == ME


def answers_as(*known: Multiaddr):
    async def answer(addresses, peer) -> None:
        assert set(addresses) == set(known)

    return answer


async def hangs(addresses, peer) -> None:
    await asyncio.sleep(1e6)


async def refuses(addresses, peer) -> None:
    raise NetworkError("no answer")
