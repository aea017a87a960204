from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, LocalProtocolError, RemoteProtocolError
from pt.ping.aio import ping, respond
from tests.unit.memory import stream_pair


@pytest.mark.parametrize("chunk", [1, 31, 1000])
def test_many_pings_on_one_stream(chunk: int) -> None:
    async def scenario() -> None:
        left, right = stream_pair(chunk)
        answering = asyncio.ensure_future(respond(right))
        for n in range(5):
            await ping(left, bytes([n]) * 32)
        await left.close_write()
        await answering
        assert right.closed
        assert right.written == left.written

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("reply", "error"), [(b"x" * 32, RemoteProtocolError), (b"y" * 31, ClosedError)]
)
def test_wrong_and_short_echo(reply: bytes, error: type[Exception]) -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.write(reply)
        await right.close_write()
        with pytest.raises(error):
            await ping(left, b"y" * 32)

    asyncio.run(scenario())


def test_payload_length() -> None:
    async def scenario() -> None:
        left, _ = stream_pair()
        with pytest.raises(LocalProtocolError):
            await ping(left, b"short")
        assert left.written == b""

    asyncio.run(scenario())
