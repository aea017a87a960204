"""What is told of the network, and when: on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import (
    BlockedError,
    ConnectError,
    CryptoFailure,
    Dial,
    DialOutcome,
    DnsCause,
    DnsError,
    IdentityChangedError,
    NetworkError,
    NotFoundError,
    RefusedError,
)
from pt.identity.keys import PrivateKey
from pt.node.state import StateDir
from pt.trace import NO_TRACE
from pt.tunnel import events
from pt.tunnel.network import SETTLE, Network
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.node.relays_lab import full, node

A, B = (f"/ip4/11.0.0.{n}/tcp/4001" for n in (1, 2))
FAILED = events.Published(medium="relay", ok=False, detail="no answer in time")
RETRY = events.Retrying(delay=1.0, reason="no answer in time")


class Lab(Network):
    def __init__(self, path: Path) -> None:
        self.told: list[events.Event] = []
        super().__init__(StateDir(path), (), self.told.append, NO_TRACE)

    def dial(self, outcome: DialOutcome, *addresses: str) -> None:
        now = asyncio.get_running_loop().time()
        for address in addresses:
            self.dials.note(Dial(address, f"because {outcome.value}", outcome), now)

    @property
    def warnings(self) -> list[str]:
        return [each.message for each in self.told if isinstance(each, events.Warned)]


@pytest.mark.parametrize(
    "event", [FAILED, RETRY, events.Searched(medium="amino", ok=False, detail="x", seconds=0.0)]
)
def test_a_cause_is_told_once_however_often_it_fails(tmp_path: Path, event: events.Event) -> None:
    async def main() -> None:
        network = Lab(tmp_path)
        for _ in range(5):
            network.dial(DialOutcome.SILENT, A, B)
            for _ in range(3):
                network.emit(event)
            assert network.told[-1] is event, "events are not held up"
            await asyncio.sleep(10)
        (warning,) = network.warnings
        assert warning.startswith("nothing answers")
        network.dial(DialOutcome.NO_ROUTE, A, B)
        network.emit(event)
        await asyncio.sleep(10)
        assert len(network.warnings) == 2, "another cause is told"
        network.dial(DialOutcome.ANSWERED, A)
        network.emit(event)
        await asyncio.sleep(10)
        assert len(network.warnings) == 2
        await network.close()

    run(main())


def test_failures_of_a_moment_are_judged_together(tmp_path: Path) -> None:
    async def main() -> None:
        network = Lab(tmp_path)
        network.dial(DialOutcome.REFUSED, A)
        network.emit(FAILED)
        await asyncio.sleep(SETTLE / 2)
        network.dial(DialOutcome.REFUSED, B)
        network.emit(FAILED)
        await asyncio.sleep(SETTLE * 3)
        (warning,) = network.warnings
        assert warning.startswith("everything refuses")
        await network.close()

    run(main())


def test_success_and_what_says_nothing_are_not_judged(tmp_path: Path) -> None:
    async def main() -> None:
        network = Lab(tmp_path)
        network.dial(DialOutcome.SILENT, A, B)
        network.emit(events.Published(medium="lan", ok=True))
        network.emit(events.Warned(message="x"))
        await asyncio.sleep(10)
        assert network.warnings == ["x"]
        await network.close()

    run(main())


def test_nothing_is_told_after_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        network = Lab(tmp_path)
        network.dial(DialOutcome.SILENT, A, B)
        network.emit(FAILED)
        await network.close()
        network.emit(FAILED)
        await asyncio.sleep(10)
        assert not network.warnings

    run(main())


def test_a_connection_that_stands_shows_that_the_network_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        network = Lab(tmp_path)
        here, there = network.make_node(PrivateKey.generate(b"1" * 32)), node()
        await here.start()
        await there.start()
        network.dial(DialOutcome.SILENT, A, B)
        connection = await here.connect(full(there))
        network.emit(FAILED)
        await asyncio.sleep(2)
        assert len(network.warnings) == 1, "loopback shows nothing"
        monkeypatch.setattr(Multiaddr, "is_public", True)
        network.dial(DialOutcome.NO_ROUTE, A, B)
        network.emit(FAILED)
        await asyncio.sleep(2)
        assert len(network.warnings) == 1
        connection.close("the end")
        network.emit(FAILED)
        await asyncio.sleep(2)
        assert len(network.warnings) == 2
        for each in (here, there):
            await each.close()
        await network.close()

    run(main())


NOT_FOUND = NotFoundError("nobody offers it")
NO_PATH = ConnectError("no address", [Dial(A, "x", DialOutcome.SILENT)])
NO_NAME = DnsError("relay.test does not exist", DnsCause.NO_NAME)
REFUSED = RefusedError("the name is wrong")
NETWORK = NetworkError("x")

CASES = [
    # dials, the error at hand → kind, exit code, words of the error to give up with
    (DialOutcome.SILENT, (), NOT_FOUND, NotFoundError, 3, "nobody offers"),
    (DialOutcome.ANSWERED, (A,), NOT_FOUND, NotFoundError, 3, "nobody offers"),
    (DialOutcome.SILENT, (A,), NOT_FOUND, NotFoundError, 3, "nobody offers"),
    (DialOutcome.SILENT, (A, B), NOT_FOUND, BlockedError, 13, "nothing answers"),
    (DialOutcome.NO_ROUTE, (A, B), NOT_FOUND, NetworkError, 7, "no route"),
    (DialOutcome.NO_DNS, (A,), NOT_FOUND, DnsError, 12, "because no-dns"),
    (DialOutcome.SILENT, (A,), NO_PATH, ConnectError, 5, "does not answer"),
    (DialOutcome.SILENT, (A,), TimeoutError(), ConnectError, 5, "does not answer"),
    (DialOutcome.REFUSED, (A, B), NO_PATH, BlockedError, 13, "everything refuses"),
    (DialOutcome.REFUSED, (A, B), ConnectionRefusedError(), BlockedError, 13, ""),
    (DialOutcome.NO_NAME, (A,), NO_NAME, DnsError, 12, "relay.test"),
    (DialOutcome.NO_ROUTE, (A,), NO_NAME, NetworkError, 7, "no route"),
    (DialOutcome.SILENT, (A, B), NETWORK, BlockedError, 13, ""),
    (DialOutcome.SILENT, (A,), NETWORK, NetworkError, 7, "x"),
    (DialOutcome.SILENT, (A, B), REFUSED, RefusedError, 4, "the name is wrong"),
    (DialOutcome.SILENT, (A, B), IdentityChangedError("y"), IdentityChangedError, 9, "y"),
    (DialOutcome.SILENT, (A, B), CryptoFailure("z"), CryptoFailure, 4, "z"),
]


@pytest.mark.parametrize(("outcome", "addresses", "error", "kind", "code", "words"), CASES)
def test_why_a_command_gives_up(
    tmp_path: Path, outcome: DialOutcome, addresses: tuple[str, ...], error: Exception,
    kind: type, code: int, words: str,
) -> None:  # fmt: skip
    async def main() -> None:
        network = Lab(tmp_path)
        network.dial(outcome, *addresses)
        found = network.explain(error)
        assert type(found) is kind
        assert found.exit_code == code
        assert words in str(found)
        if isinstance(found, ConnectError):
            assert found.attempts
        await network.close()

    run(main())


def test_names_of_given_addresses_are_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        relay = Multiaddr.parse("/dns4/localhost/tcp/1")
        network = Network(StateDir(tmp_path), (relay,), lambda _: None, NO_TRACE)
        assert await network.resolver.expand(relay)
        await network.close()
        assert b"localhost" in (tmp_path / "addresses.json").read_bytes()

    asyncio.run(main())
