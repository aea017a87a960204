"""When READY is said, on a clock of its own: media and relays that work, are slow or silent."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest

from pt.errors import NetworkError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.tunnel import events, readiness
from pt.tunnel.readiness import (
    GRACE,
    OUTSIDE_WAIT,
    PROBE_AGAIN,
    PROBE_MOST,
    RELAY_TIMEOUT,
    Readiness,
)
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
    probing(monkeypatch, relayed=answers)
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
    probing(monkeypatch, relayed=refuses)
    media = Media({"overlay": (1.0, True)}, frozenset({CIRCUIT}))
    took, told = ready_after(media, FakeRelays(0.5), given=True)
    assert took > RELAY_TIMEOUT
    assert told[0] == "no answer"


def test_relays_that_are_silent_do_not_hold_up_another_medium(monkeypatch) -> None:
    probing(monkeypatch, direct=answers_as(PUBLIC))
    media = Media({"overlay": (NEVER, True), "amino": (2.0, True)}, frozenset({INSIDE, PUBLIC}))
    took, told = ready_after(media, FakeRelays(), given=True)
    assert took == pytest.approx(2)
    assert told == []


def test_a_public_address_that_does_not_answer_does_not_hide_a_relay_that_does(monkeypatch) -> None:
    """A port that the router forwards, and does not lead back to itself."""
    probing(monkeypatch, direct=refuses, relayed=answers)
    media = Media({"amino": (2.0, True)}, frozenset({PUBLIC, CIRCUIT}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(2)
    assert told in ([], ["no answer"])


@pytest.mark.parametrize("relay", [None, 0.5])
def test_a_probe_that_hangs_does_not_hold_up_the_lan(monkeypatch, relay: float | None) -> None:
    probing(monkeypatch, direct=hangs, relayed=hangs)
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

    probing(monkeypatch, relayed=later)
    media = Media({"amino": (1.0, True)}, frozenset({CIRCUIT}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(1 + 2 * PROBE_AGAIN, abs=2 * GRACE)
    assert told == ["no answer"]


def test_ready_is_not_called_a_matter_of_relays_when_there_is_a_public_address(monkeypatch) -> None:
    probing(monkeypatch, direct=refuses)
    media = Media({"amino": (1.0, True)}, frozenset({PUBLIC, INSIDE}))
    took, told = ready_after(media, FakeRelays(), given=False)
    assert took == pytest.approx(OUTSIDE_WAIT, abs=GRACE)
    assert told == ["no answer", readiness.NOT_ANSWERING]


@pytest.mark.parametrize("said", [{}, {"lan": (0, False)}])
def test_without_a_dht_the_first_reservation_is_awaited(monkeypatch, said) -> None:
    """An open tunnel with relays, or a LAN that fails."""
    probing(monkeypatch, relayed=answers)
    assert ready_after(Media(said), FakeRelays(2.0), given=True)[0] == pytest.approx(2)
    assert ready_after(Media(said), FakeRelays(), given=True)[0] == pytest.approx(RELAY_TIMEOUT)
    assert ready_after(Media(said), FakeRelays(), given=False)[0] == pytest.approx(0)


def test_memory_of_probes_is_bounded(monkeypatch) -> None:
    """Addresses that change for days before anything answers."""
    probing(monkeypatch, direct=refuses)

    async def scenario() -> None:
        made = Readiness(Media({}), FakeRelays(), ME, lambda _: None)
        for number in range(500):
            made._probe(frozenset({Multiaddr.tcp(f"11.1.{number // 250}.{number % 250}", 1)}))
            await asyncio.sleep(1)
        await made.close()
        assert len(made._probed) <= readiness.MAX_REMEMBERED

    run(scenario())


@pytest.mark.parametrize(
    ("said", "addresses", "relay", "at"),
    [
        ({"amino": (4.0, True)}, {INSIDE, CIRCUIT}, None, 4.0),
        ({"amino": (40.0, True), "overlay": (50.0, False)}, {CIRCUIT}, None, 40.0),
        ({"overlay": (NEVER, True)}, {INSIDE}, 5.0, 5.0),
    ],
)
def test_ready_on_the_lan_and_later_for_others(monkeypatch, said, addresses, relay, at) -> None:
    probing(monkeypatch, relayed=answers)
    media = Media({"lan": (0, True), **said}, frozenset(addresses))
    outside, told, warnings = watched(media, FakeRelays(relay), 100, given=relay is not None)
    assert outside == [False, True]
    assert told == [pytest.approx(at)]
    assert warnings == []


def test_others_that_do_not_get_through_are_told_of_once_and_waited_for(monkeypatch) -> None:
    tries: list[float] = []

    async def later(addresses, peer) -> None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 10:
            raise NetworkError("no answer")

    probing(monkeypatch, relayed=later)
    media = Media({"lan": (0, True), "amino": (1.0, True)}, frozenset({CIRCUIT}))
    outside, told, warnings = watched(media, FakeRelays(), 3000)
    assert outside == [False, True]
    assert len(told) == 1
    assert warnings == ["no answer", readiness.NOT_ANSWERING]
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert gaps[:2] == pytest.approx([PROBE_AGAIN, PROBE_AGAIN], abs=1)
    assert gaps == sorted(gaps)
    assert PROBE_MOST <= gaps[-1] <= PROBE_MOST + PROBE_AGAIN


def test_nobody_else_is_led_here() -> None:
    media = Media({"lan": (0, True), "amino": (1.0, True)}, frozenset({INSIDE}))
    outside, told, warnings = watched(media, FakeRelays(), 100)
    assert (outside, told) == ([False, False], [])
    assert warnings == [readiness.NOT_OUTSIDE]


def test_on_the_lan_alone_others_are_no_matter() -> None:
    outside, told, warnings = watched(Media({"lan": (0, True)}), FakeRelays(), 100)
    assert (outside, told, warnings) == ([None, None], [], [])


def test_ready_through_a_relay_is_for_others(monkeypatch) -> None:
    probing(monkeypatch, relayed=answers)
    media = Media({"amino": (1.0, True)}, frozenset({CIRCUIT}))
    assert watched(media, FakeRelays(), 1)[0] == [True, True]


def ready_after(media: Media, relays: FakeRelays, given: bool) -> tuple[float, list[str]]:
    """Seconds until READY, and the warnings before it."""
    told: list[events.Event] = []

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        media.start()
        made = Readiness(media, relays, ME, told.append)
        await made.wait(relays_given=given)
        took = loop.time() - began
        await made.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return took

    took = run(scenario())
    assert all(isinstance(event, events.Warned) for event in told)
    return took, [event.message for event in told]


def probing(monkeypatch: pytest.MonkeyPatch, *, direct=None, relayed=None) -> None:
    """What dials find, those through relays apart."""

    async def probe(addresses, peer, *, resolver=None) -> None:
        dial = relayed if addresses[0].is_circuit else direct
        assert dial is not None
        assert len({each.is_circuit for each in addresses}) == 1
        await dial(addresses, peer)

    monkeypatch.setattr(readiness, "probe", probe)


def watched(
    media: Media, relays: FakeRelays, seconds: float, *, given: bool = False
) -> tuple[list[bool | None], list[float], list[str]]:
    """Whether others got through at READY and in the end, when that was told, and warnings."""
    told: list[events.Event] = []
    outside: list[bool | None] = []
    at: list[float] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        media.start()
        made = Readiness(media, relays, ME, told.append)
        await made.wait(relays_given=given)
        outside.append(made.outside)
        if made.outside is False:
            made.watch(lambda: at.append(loop.time() - began))
        await asyncio.sleep(seconds)
        outside.append(made.outside)
        await made.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())
    return outside, at, [event.message for event in told if isinstance(event, events.Warned)]


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
