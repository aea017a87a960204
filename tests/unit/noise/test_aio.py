from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, CryptoFailure
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.noise.aio import secure
from pt.noise.handshake import Suite
from pt.noise.upgrade import SecureHandshake
from tests.unit.memory import MemoryStream, stream_pair

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)


def side(*, initiator: bool, suite: Suite = Suite.CHACHAPOLY) -> SecureHandshake:
    return SecureHandshake(
        suite, initiator=initiator, identity=ALICE if initiator else BOB, static=b"s" * 32
    )


@pytest.mark.parametrize("chunk", [1, 4096])
def test_both_ends(chunk: int) -> None:
    async def scenario() -> None:
        left, right = stream_pair(chunk)
        ours, theirs = await asyncio.gather(
            secure(left, side(initiator=True)), secure(right, side(initiator=False))
        )
        assert ours.send_key == theirs.recv_key
        assert ours.peer_id == PeerId.from_public_key(BOB.public)
        assert left.pushed_back == right.pushed_back == b""

    asyncio.run(scenario())


def test_early_frames_are_pushed_back() -> None:
    class Eager(MemoryStream):
        """Its last handshake message and its first frame arrive together."""

        async def write(self, data: bytes) -> None:
            await super().write(data if len(self.written) == 0 else data + b"\0\x10frame")

    async def scenario() -> None:
        left, right = Eager(), MemoryStream()
        left.other, right.other = right, left
        await asyncio.gather(
            secure(left, side(initiator=True)), secure(right, side(initiator=False))
        )
        assert right.pushed_back == b"\0\x10frame"

    asyncio.run(scenario())


def test_end_within_the_handshake() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.write(b"\x01")
        await right.close_write()
        with pytest.raises(ClosedError, match="handshake"):
            await secure(left, side(initiator=True))

    asyncio.run(scenario())


def test_failure_reaches_the_caller() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        answering = asyncio.ensure_future(secure(right, side(initiator=False, suite=Suite.AESGCM)))
        with pytest.raises(CryptoFailure):
            await secure(left, side(initiator=True))
        await left.close_write()
        with pytest.raises(ClosedError):
            await answering

    asyncio.run(scenario())
