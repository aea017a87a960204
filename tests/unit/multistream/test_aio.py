from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, RemoteProtocolError
from pt.multistream.aio import confirm, handle, select
from pt.multistream.negotiation import (
    HEADER,
    NOT_AVAILABLE,
    UnsupportedError,
    accept_reply,
    encode_token,
    lazy_open,
)
from tests.unit.memory import stream_pair


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_select_and_handle_agree_and_do_not_read_further(chunk: int) -> None:
    async def scenario() -> None:
        left, right = stream_pair(chunk)
        selected, handled = await asyncio.gather(
            select(left, ["/a", "/b"]), handle(right, "/b".__eq__)
        )
        assert selected == handled == "/b"
        await left.write(b"first data")
        assert await right.read_exactly(10) == b"first data"

    asyncio.run(scenario())


def test_data_sent_along_with_the_proposal_stays_in_the_stream() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await left.write(lazy_open("/a") + b"data")
        assert await handle(right, "/a".__eq__) == "/a"
        assert right.pushed_back == b"data"
        assert await right.read(100) == b"data"
        await right.write(b"reply")
        assert await left.read(100) == accept_reply("/a") + b"reply"

    asyncio.run(scenario())


def test_data_sent_along_with_the_echo_stays_in_the_stream() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.write(accept_reply("/a") + b"data")
        assert await select(left, ["/a"]) == "/a"
        assert await left.read(100) == b"data"

    asyncio.run(scenario())


def test_unsupported_names_the_protocols() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        answering = asyncio.ensure_future(handle(right, lambda _: False))
        with pytest.raises(UnsupportedError, match=r"/a or /b"):
            await select(left, ["/a", "/b"])
        await left.close_write()
        with pytest.raises(ClosedError):
            await answering

    asyncio.run(scenario())


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_confirm_reads_the_answer_and_no_further(chunk: int) -> None:
    async def scenario() -> None:
        left, right = stream_pair(chunk)
        await right.write(accept_reply("/a") + b"data")
        await confirm(left, "/a")
        assert left.written == b"", "the proposal went along with something else"
        assert await left.read_exactly(4) == b"data"

    asyncio.run(scenario())


def test_confirm_tells_a_refusal_from_silence() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.write(encode_token(HEADER) + encode_token(NOT_AVAILABLE))
        with pytest.raises(UnsupportedError, match="/a"):
            await confirm(left, "/a")
        left, right = stream_pair()
        await right.close_write()
        with pytest.raises(ClosedError):
            await confirm(left, "/a")

    asyncio.run(scenario())


def test_end_and_garbage() -> None:
    async def scenario() -> None:
        left, right = stream_pair()
        await right.close_write()
        with pytest.raises(ClosedError, match="negotiation"):
            await select(left, ["/a"])
        left, right = stream_pair()
        await right.write(b"220 smtp.example ESMTP\r\n" * 9)
        with pytest.raises(RemoteProtocolError):
            await select(left, ["/a"])

    asyncio.run(scenario())
