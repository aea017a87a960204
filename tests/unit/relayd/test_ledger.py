from __future__ import annotations

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.relay.messages import Limit
from pt.relay.registry import STRANGERS, USERS, Circuit, Grade, Registry
from pt.relayd.config import RelayConfig
from pt.relayd.ledger import Ledger, OpenCircuit
from pt.relayd.status import SHOWN, Snapshot
from pt.wire.multiaddr import Multiaddr

RELAY, ONE, TWO = (
    PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public) for n in (1, 2, 3)
)
HERE = Multiaddr.tcp("127.0.0.1", 4001)


class Moved:
    def __init__(self) -> None:
        self.bytes = (0, 0)

    def close(self, reason: str) -> None:
        raise AssertionError(reason)


class Desk:
    def __init__(self, **options: object) -> None:
        self.config = RelayConfig(listen=(HERE,), **options)
        self.registry = Registry(STRANGERS, USERS)
        self.ledger = Ledger()
        self.movers: list[Moved] = []

    def open(self, kind: str, now: float) -> OpenCircuit:
        self.movers.append(Moved())
        circuit = Circuit(ONE, TWO, Grade.USER, None)
        return self.ledger.add(kind, circuit, self.movers[-1], now)

    def snapshot(self, now: float) -> Snapshot:
        slots = [slot for peer in (ONE, TWO) if (slot := self.registry.holder(peer, now))]
        return self.ledger.snapshot(
            now=now,
            config=self.config,
            registry=self.registry,
            slots=slots,
            peer_id=RELAY,
            addresses=(HERE,),
            connections=7,
            draining=False,
            version="1",
        )


def test_bytes_are_counted_while_circuits_are_open_and_afterwards():
    desk = Desk()
    first, second = desk.open("raw", 10.0), desk.open("libp2p", 11.0)
    assert (first.number, second.number) == (1, 2)
    desk.movers[0].bytes = (100, 20)
    desk.movers[1].bytes = (3, 4)
    told = desk.snapshot(20.0)
    assert told.open_circuits == {"raw": 1, "libp2p": 1}
    assert told.totals.bytes == {"raw": 120, "libp2p": 7}
    assert told.totals.circuits == {"raw": 1, "libp2p": 1}
    view = next(one for one in told.circuits if one.number == 1)
    assert (view.kind, view.grade, view.age, view.sent, view.received) == (
        "raw", "user", 10.0, 100, 20,
    )  # fmt: skip
    assert str(ONE) not in view.source
    desk.ledger.remove(first)
    desk.ledger.remove(first)
    told = desk.snapshot(21.0)
    assert told.open_circuits == {"libp2p": 1}
    assert told.totals.bytes == {"raw": 120, "libp2p": 7}
    assert told.totals.circuits == {"raw": 1, "libp2p": 1}


def test_rates_are_those_of_the_time_between_two_looks():
    desk = Desk()
    desk.open("raw", 0.0)
    desk.snapshot(10.0)
    desk.movers[0].bytes = (3000, 1000)
    assert desk.snapshot(12.0).circuits[0].rate == 2000.0


def test_the_busiest_are_shown_and_the_others_counted():
    desk = Desk()
    for _ in range(SHOWN + 5):
        desk.open("raw", 0.0)
    told = desk.snapshot(1.0)
    assert len(told.circuits) == SHOWN
    assert told.more_circuits == 5


def test_quotas_and_reservations_are_told_by_grade():
    desk = Desk(rate=1000.0)
    desk.registry.reserve(ONE, Grade.USER, "11.0.0.1", 0.0)
    desk.registry.reserve(TWO, Grade.STRANGER, "11.0.0.2", 0.0)
    user, stranger = desk.snapshot(1.0).grades
    assert (user.grade, user.reservations, user.reservations_limit) == ("user", 1, 16384)
    assert (user.duration, user.data, user.rate) == (None, None, 1000.0)
    assert (stranger.grade, stranger.reservations, stranger.served) == ("stranger", 1, True)
    assert (stranger.duration, stranger.data) == (120, 131072)
    assert {one.grade for one in desk.snapshot(1.0).reservations} == {"user", "stranger"}


def test_a_bound_of_zero_is_none_and_a_private_relay_serves_no_strangers():
    desk = Desk(
        private=True,
        secret="a-secret-of-the-ledger",
        strangers=type(STRANGERS)(limit=Limit(0, 0)),
    )
    user, stranger = desk.snapshot(1.0).grades
    assert user.served
    assert not stranger.served
    assert (stranger.duration, stranger.data, stranger.rate) == (None, None, None)
