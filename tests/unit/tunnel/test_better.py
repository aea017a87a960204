from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError
from pt.tunnel.better import is_better, over_loss, to_tcp
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

TCP = Multiaddr.parse("/ip4/11.0.0.1/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.0.1/udp/4001/quic-v1")


class Path:
    def __init__(self, rtt: float = 0.05, *, answers: bool = True) -> None:
        self.rtt = rtt
        self.remote_addr = QUIC
        self.closed = ""
        self.link = self
        self.minds_loss = False
        self._answers = answers

    async def ping(self) -> float:
        if not self._answers:
            raise ClosedError("gone")
        return self.rtt

    def close(self, reason: str) -> None:
        self.closed = reason


class World:
    """TCP gets through from the time `tcp_from` on, QUIC always."""

    def __init__(self, tcp: Path | None, tcp_from: float = 0.0, addresses=(TCP, QUIC)) -> None:
        self.tcp, self.tcp_from, self.addresses = tcp, tcp_from, list(addresses)
        self.dialed: list[tuple[float, str]] = []
        self.taken: list[Path] = []
        self.takes = True
        self.quic = Path()
        self.start = asyncio.get_running_loop().time()

    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self.start, 1)

    async def dial(self, addresses, timeout):
        (address,) = addresses
        self.dialed.append((self.now(), address.transport))
        if address == QUIC:
            return self.quic
        if self.tcp is None or self.now() < self.tcp_from:
            raise TimeoutError
        return self.tcp

    async def take(self, path) -> bool:
        self.taken.append(path)
        return self.takes


@pytest.mark.parametrize(
    ("tcp", "quic", "expected"),
    [
        (0.05, 0.05, True),
        (0.079, 0.05, True),
        (0.2, 0.05, False),
        (0.006, 0.001, True),
        (None, 0.05, True),
        (0.5, None, True),
    ],
)
def test_which_is_better(tcp: float | None, quic: float | None, expected: bool) -> None:
    assert is_better(tcp, quic) is expected


def test_tcp_is_tried_until_it_gets_through() -> None:
    async def main() -> None:
        world = World(Path(), tcp_from=600.0)
        await to_tcp(Path(), lambda: world.addresses, world.dial, world.take)
        assert world.dialed == [(1.0, "tcp"), (61.0, "tcp"), (661.0, "tcp")]
        assert world.taken == [world.tcp]

    run(main())


def test_a_longer_way_is_not_taken() -> None:
    async def main() -> None:
        world = World(Path(0.3))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await to_tcp(Path(), lambda: world.addresses, world.dial, world.take)
        assert world.tcp is not None
        assert world.tcp.closed
        assert world.taken == []

    run(main())


def test_with_loss_tcp_comes_first() -> None:
    async def main() -> None:
        world = World(Path())
        await over_loss(Path(), lambda: world.addresses, world.dial, world.take)
        assert world.taken == [world.tcp]

    run(main())


@pytest.mark.parametrize("tcp", [None, Path(0.5), Path(answers=False)])
def test_with_loss_and_without_tcp_quic_is_dialed_anew(tcp: Path | None) -> None:
    async def main() -> None:
        world = World(tcp)
        await over_loss(Path(), lambda: world.addresses, world.dial, world.take)
        assert world.dialed == [(0.1, "tcp"), (0.2, "quic-v1")] or world.dialed[-1][1] == "quic-v1"
        assert world.taken == [world.quic]
        if tcp is not None:
            assert tcp.closed

    run(main())


def test_a_path_that_bears_loss_no_better_is_not_gone_over_to() -> None:
    """Else a session whose congestion control was chosen by hand would move for ever."""

    async def main() -> None:
        world = World(None)
        world.quic.minds_loss = True
        await over_loss(Path(), lambda: world.addresses, world.dial, world.take)
        assert world.taken == []
        assert world.quic.closed

    run(main())
