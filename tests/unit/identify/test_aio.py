from __future__ import annotations

import asyncio

import pytest

from pt.errors import LimitError, RemoteProtocolError
from pt.identify.aio import answer, ask, push
from pt.identify.messages import Identify
from tests.unit.memory import stream_pair

SAID = Identify(protocols=tuple(f"/protocol/{n}" for n in range(300)), agent_version="pt")


@pytest.mark.parametrize("send", [answer, push])
@pytest.mark.parametrize("chunk", [1, 700, 1 << 16])
def test_exchange(send, chunk: int) -> None:
    async def scenario() -> None:
        left, right = stream_pair(chunk)
        got, _ = await asyncio.gather(ask(left), send(right, SAID))
        assert got == SAID
        assert left.closed
        assert right.closed

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", RemoteProtocolError), (b"\x05ab", RemoteProtocolError), (b"\xff\x7f", LimitError)],
)
def test_bad_answers(data: bytes, error: type[Exception]) -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.write(data)
        await right.close_write()
        with pytest.raises(error):
            await ask(left)

    asyncio.run(scenario())
