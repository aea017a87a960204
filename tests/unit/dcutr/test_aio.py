from __future__ import annotations

import asyncio
import io
import itertools
import json
import socket

import pytest

from pt.aio.tcp import SocketStream
from pt.aio.udp import UdpPort
from pt.dcutr import HolePunch, Kind, Role
from pt.dcutr import aio as module
from pt.dcutr.aio import initiate, open_udp, respond
from pt.errors import ClosedError, ConnectError, LocalProtocolError, RemoteProtocolError
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

A = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
B = Multiaddr.parse("/ip4/11.0.2.2/tcp/4001")


def streams() -> tuple[SocketStream, SocketStream]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return SocketStream(ends[0]), SocketStream(ends[1])


class Pair:
    """B and A; each attempt has a stream of its own; the dials are noted."""

    def __init__(self, failures: int = 0) -> None:
        self.dials: list[tuple[str, Role, float, tuple[Multiaddr, ...]]] = []
        self.failures = failures
        self.responses: list[asyncio.Task[str]] = []
        self.kept: list[SocketStream] = []

    async def open_stream(self) -> SocketStream:
        ours, theirs = streams()
        self.kept += [ours, theirs]
        self.responses.append(
            asyncio.ensure_future(respond(theirs, [A], self.dialer("a"), relayed_by_us=True))
        )
        return ours

    def dialer(self, name: str):
        async def dial(addresses: tuple[Multiaddr, ...], role: Role) -> str:
            self.dials.append((name, role, asyncio.get_running_loop().time(), addresses))
            if name == "b" and self.failures:
                self.failures -= 1
                raise ConnectError("nobody there")
            return f"{name}-direct"

        return dial

    async def close(self) -> None:
        await asyncio.gather(*self.responses, return_exceptions=True)
        for stream in self.kept:
            stream.sock.close()


def test_both_dial_each_other() -> None:
    async def main() -> None:
        pair = Pair()
        sink = io.StringIO()
        assert (
            await initiate(pair.open_stream, lambda: [B], pair.dialer("b"), tracer=Tracer(sink))
            == "b-direct"
        )
        assert await pair.responses[0] == "a-direct"
        what = {name: (role, addresses) for name, role, _, addresses in pair.dials}
        assert what == {"a": (Role.CLIENT, (B,)), "b": (Role.SERVER, (A,))}
        events = [json.loads(line) for line in sink.getvalue().splitlines()]
        assert [each["event"] for each in events[1:]] == ["dcutr_dial", "dcutr_direct"]
        assert events[1]["addresses"] == [str(A)]
        await pair.close()

    run(main())


def test_a_failure_leads_to_another_exchange_and_the_third_to_other_roles() -> None:
    async def main() -> None:
        pair = Pair(failures=2)
        assert await initiate(pair.open_stream, lambda: [B], pair.dialer("b")) == "b-direct"
        roles = [role for name, role, _, _ in pair.dials if name == "b"]
        assert roles == [Role.SERVER, Role.SERVER, Role.CLIENT]
        assert len(pair.responses) == 3
        await pair.close()

    run(main())


def test_three_failures_are_the_end() -> None:
    async def main() -> None:
        pair = Pair(failures=9)
        with pytest.raises(ConnectError, match="in 3 attempts: nobody there"):
            await initiate(pair.open_stream, lambda: [B], pair.dialer("b"))
        await pair.close()

    run(main())


def test_a_peer_that_tells_no_address_gets_one_attempt() -> None:
    async def main() -> None:
        pair = Pair(failures=9)

        async def open_stream() -> SocketStream:
            ours, theirs = streams()
            pair.kept += [ours, theirs]
            await theirs.write(HolePunch(Kind.CONNECT).encode())
            return ours

        with pytest.raises(ConnectError, match="in 1 attempt: nobody there"):
            await initiate(open_stream, lambda: [B], pair.dialer("b"))
        assert [(role, addresses) for _, role, _, addresses in pair.dials] == [(Role.SERVER, ())]
        await pair.close()

    run(main())


def test_a_peer_that_does_not_answer_costs_bounded_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "EXCHANGE_TIMEOUT", 0.02)
    kept = []

    async def silent() -> SocketStream:
        kept.append(streams())
        return kept[-1][0]

    async def main() -> None:
        with pytest.raises(ConnectError, match="no answer in time"):
            await initiate(silent, lambda: [B], Pair().dialer("b"))
        for pair in kept:
            for stream in pair:
                stream.sock.close()

    run(main())
    assert len(kept) == 3


def test_without_a_public_address_nothing_is_tried_again() -> None:
    async def main() -> None:
        ours, theirs = streams()

        async def open_stream() -> SocketStream:
            return ours

        with pytest.raises(LocalProtocolError):
            await initiate(open_stream, list, Pair().dialer("b"))
        assert await theirs.read(10) == b""
        theirs.sock.close()

    run(main())


def test_only_who_was_dialed_over_a_relay_may_ask_us_to_dial() -> None:
    async def main() -> None:
        ours, theirs = streams()
        pair = Pair()
        with pytest.raises(RemoteProtocolError):
            await respond(ours, [A], pair.dialer("a"), relayed_by_us=False)
        assert pair.dials == []
        theirs.sock.close()

    run(main())


def test_a_peer_that_leaves_during_the_exchange() -> None:
    async def main() -> None:
        ours, theirs = streams()
        await theirs.write(HolePunch(Kind.CONNECT, (B,)).encode())
        await theirs.close_write()
        with pytest.raises(ClosedError):
            await respond(ours, [A], Pair().dialer("a"), relayed_by_us=True)
        theirs.sock.close()

    run(main())


def test_udp_is_opened_with_random_datagrams_that_become_rarer() -> None:
    async def main() -> None:
        port, peer = UdpPort(("127.0.0.1", 0)), UdpPort(("127.0.0.1", 0))
        came: list[tuple[float, bytes]] = []
        loop = asyncio.get_running_loop()
        peer.received = lambda data, _: came.append((loop.time(), data))
        await open_udp(port, peer.address, seconds=0.3)
        await asyncio.sleep(0)
        port.close()
        peer.close()
        assert 2 <= len(came) <= 15
        assert {len(data) for _, data in came} == {64}
        assert len({data for _, data in came}) == len(came)
        assert all(
            later - earlier >= 0.009 for (earlier, _), (later, _) in itertools.pairwise(came)
        )

    run(main())
