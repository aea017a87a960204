"""The shell against peers that break the protocol; real punches are in tests/e2e/test_punch.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from pt.aio.tcp import SocketStream
from pt.aio.udp import UdpPort
from pt.errors import ClosedError
from pt.punch import Side, Strategy
from pt.punch import aio as module
from pt.punch.aio import MAX_ATTEMPTS, Conversation, Local, Probes, PunchError
from pt.punch.messages import Offer, PunchMessageError, Sample
from pt.punch.packets import Packet, PacketType, Sealer
from pt.wire import uvarint
from tests.sim.loop import run
from tests.unit.punch.classes import side

HERE = "127.0.0.1"
NONCE = b"n" * 16


class End:
    """Our end of a conversation, and the raw other end of its stream."""

    def __init__(self, local_side: Side, **how: object) -> None:
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        self.stream, self.peer = SocketStream(one), SocketStream(other)
        self.port = UdpPort((HERE, 0))
        self.probes = Probes(self.port)
        values = {"rtt": 0.01, "bind": HERE, **how}
        self.local = Local(
            side=local_side,
            probes=self.probes,
            secret=b"s" * 32,
            **values,  # type: ignore[arg-type]
        )

    async def says(self, *messages: Offer | Sample | bytes) -> None:
        for message in messages:
            data = message if isinstance(message, bytes) else uvarint.prefix(message.encode())
            await self.peer.write(data)

    async def punch(self, *, controlling: bool = True) -> object:
        async with Conversation(self.stream, self.local, controlling=controlling) as talk:
            return await talk.punch()

    def close(self) -> None:
        self.port.close()
        self.stream.sock.close()
        self.peer.sock.close()


def ended(test: Callable[[End], Coroutine[object, object, None]], local_side: Side) -> None:
    async def main() -> None:
        end = End(local_side)
        try:
            await test(end)
        finally:
            end.close()

    run(main())


NOBODY = replace(side("eim-apdf"), candidates=())


def offer(attempt: int = 1, peer: Side = NOBODY) -> Offer:
    return Offer(attempt=attempt, nonce=NONCE, side=peer)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ((b"\xff\xff\xff\xff",), PunchMessageError),
        ((b"\xff\x7f",), PunchMessageError),
        ((b"\x01\x08",), PunchMessageError),
        ((Sample(attempt=1, number=1, address=("11.1.0.1", 2000)),), PunchMessageError),
        ((offer(attempt=2),), PunchMessageError),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_of(messages, error) -> None:
    async def test(end: End) -> None:
        await end.says(*messages)
        with pytest.raises(error):
            await end.punch()

    ended(test, NOBODY)


def test_a_stream_that_ends_early_is_told_of() -> None:
    async def test(end: End) -> None:
        await end.peer.close_write()
        with pytest.raises(ClosedError):
            await end.punch(controlling=False)

    ended(test, NOBODY)


def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFER_TIMEOUT", 0.05)

    async def test(end: End) -> None:
        with pytest.raises(TimeoutError):
            await end.punch()

    ended(test, NOBODY)


def test_an_attempt_without_hope_ends_with_reason_and_cure() -> None:
    hard = replace(side("apdm-random-apdf"), candidates=())

    async def test(end: End) -> None:
        await end.says(offer(peer=replace(side("apdm-random-apdf", 2), candidates=())))
        with pytest.raises(PunchError, match=r"no port can be guessed\. A port mapping") as caught:
            await end.punch()
        assert caught.value.plan.best is Strategy.RELAY
        assert not end.probes._attempts

    ended(test, hard)


def test_a_punch_that_is_cancelled_leaves_nothing_behind() -> None:
    async def test(end: End) -> None:
        await end.says(offer(peer=NOBODY))
        task = asyncio.ensure_future(end.punch())
        while not end.probes._attempts:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not end.probes._attempts

    ended(test, NOBODY)


def test_a_sample_goes_with_the_offer_and_its_socket_is_closed_at_the_end() -> None:
    asked: list[UdpPort] = []

    async def ask(port: UdpPort) -> tuple[str, int]:
        asked.append(port)
        return "11.1.0.1", 5000

    async def main() -> None:
        end = End(replace(side("apdm-seq-apdf"), candidates=()), ask=ask)
        await end.says(offer(peer=NOBODY))
        with pytest.raises(PunchError):
            await end.punch()
        assert asked
        assert all(port.addresses == [] for port in asked)  # closed
        end.close()

    run(main())


def test_a_server_that_does_not_answer_costs_the_sample_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ASK_TIMEOUT", 0.02)

    async def ask(port: UdpPort) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        end = End(replace(side("apdm-seq-apdf"), candidates=()), ask=ask)
        await end.says(offer(peer=NOBODY))
        with pytest.raises(PunchError):
            await end.punch()
        end.close()

    run(main())


class TestProbes:
    def test_only_probes_are_taken(self) -> None:
        async def main() -> None:
            port = UdpPort((HERE, 0))
            probes = Probes(port)
            sealer = Sealer(b"s", (NONCE, NONCE), controlling=True)
            data = sealer.seal(Packet(type=PacketType.PING, counter=1))
            came: list[bytes] = []
            probes.add(sealer.tag, lambda data, _: came.append(data))
            assert probes.received(data, ("11.1.0.1", 1))
            assert not probes.received(b"\x40" + data[1:], ("11.1.0.1", 1))
            assert came == [data]
            probes.remove(sealer.tag)
            assert probes.received(data, ("11.1.0.1", 1))  # still nobody else's
            assert came == [data]
            port.close()

        run(main())

    def test_attempts_are_bounded(self) -> None:
        async def main() -> None:
            port = UdpPort((HERE, 0))
            probes = Probes(port)
            for number in range(2 * MAX_ATTEMPTS):
                probes.add(number.to_bytes(8), lambda *_: None)
            assert len(probes._attempts) == MAX_ATTEMPTS
            port.close()

        run(main())
