"""multistream-select over a byte stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pt.aio.stream import ByteStream
from pt.errors import ClosedError
from pt.multistream.negotiation import Initiator, Responder, UnsupportedError

__all__ = ["confirm", "handle", "select"]

_READ: Final = 1024  # a whole negotiation, as a rule


async def select(stream: ByteStream, protocols: Sequence[str]) -> str:
    """Propose `protocols` in turn; the one that the peer takes.

    Bytes that follow the agreement stay unread in `stream`.  The caller bounds the time, and
    resets the stream on any error.

    Raises:
        UnsupportedError: the peer takes none of them.
        ClosedError: the peer closed the stream instead of answering.
        RemoteProtocolError: the peer breaks the protocol.

    """
    return await _propose(stream, Initiator(protocols), protocols)


async def confirm(stream: ByteStream, protocol: str) -> None:
    """Read the answer to `lazy_open`; what follows it stays unread. Raises as `select`."""
    machine = Initiator((protocol,))
    machine.data_to_send()
    await _propose(stream, machine, (protocol,))


async def handle(stream: ByteStream, supported: Callable[[str], bool]) -> str:
    """Answer the peer's proposals; the protocol agreed on.

    Raises:
        ClosedError: the peer gave up.
        RemoteProtocolError: the peer breaks the protocol.

    """
    result = await _run(stream, Responder(supported))
    assert result is not None  # a responder never fails by itself
    return result


async def _propose(stream: ByteStream, machine: Initiator, protocols: Sequence[str]) -> str:
    result = await _run(stream, machine)
    if result is None:
        raise UnsupportedError(f"the peer does not speak {' or '.join(protocols)}")
    return result


async def _run(stream: ByteStream, machine: Initiator | Responder) -> str | None:
    while True:
        if out := machine.data_to_send():
            await stream.write(out)
        if machine.done:
            break
        data = await stream.read(_READ)
        if not data:
            raise ClosedError("the peer closed the stream during protocol negotiation")
        machine.receive_data(data)
    if rest := machine.leftover():
        stream.unread(rest)
    return machine.result
