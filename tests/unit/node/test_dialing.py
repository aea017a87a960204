"""Names beside plain addresses: on virtual time, with real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from pt.errors import ConnectError, DialOutcome, DnsCause, DnsError, PtError
from pt.node.circuits import Circuits
from pt.node.dialing import MAX_NAMES
from pt.node.node import Node
from pt.node.resolve import LOOKUP_TIMEOUT, Resolver
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run
from tests.unit.node.relays_lab import full, node
from tests.unit.node.test_node import dead_address, free_port

MISSING = DnsError("the host gone.test does not exist", DnsCause.NO_NAME)


class Names:
    """`delay` seconds until each answer; the answers may be an error."""

    def __init__(self, answers: list[str] | DnsError, delay: float = 0.0) -> None:
        self.answers = answers
        self.delay = delay
        self.asked = 0

    async def __call__(self, host: str, family: int) -> list[str]:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if isinstance(self.answers, DnsError):
            raise self.answers
        return self.answers


@contextlib.asynccontextmanager
async def nodes(names: Names, **rest: object) -> AsyncIterator[tuple[Node, Node]]:
    dialer, listener = node(resolver=Resolver(ask=names, **rest)), node()
    await dialer.start()
    await listener.start()
    try:
        yield dialer, listener
    finally:
        await dialer.close()
        await dialer.resolver.close()
        await listener.close()


def by_name(of: Node, host: str = "listener.test") -> Multiaddr:
    return Multiaddr.parse(f"/dns4/{host}/tcp/{of.addresses[0].tcp_port}")


@pytest.mark.parametrize("names", [Names([], 1000), Names(MISSING), Names(MISSING, 2)])
def test_a_name_that_is_looked_up_delays_no_other_address(names: Names) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(names) as (dialer, listener):
            began = loop.time()
            lost = by_name(listener, "gone.test")
            connection = await dialer.connect((lost, full(listener)))
            assert connection.peer_id == listener.peer_id
            assert loop.time() - began < 0.1
            refused = Multiaddr.tcp("127.0.0.1", free_port())
            began = loop.time()
            await dialer.connect((lost, refused, full(listener)))
            assert loop.time() - began < 0.1  # a refusal is noticed beside it, too

    run(main())


def test_names_join_a_race_that_is_under_way() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(Names(["127.0.0.1"], 1.5)) as (dialer, listener):
            with dead_address() as dead:
                began = loop.time()
                connection = await dialer.connect((dead, by_name(listener)))
                assert loop.time() - began == pytest.approx(1.5, abs=0.1)
            assert connection.peer_id == listener.peer_id
            assert connection.remote_addr.host == ("ip4", "127.0.0.1")

    run(main())


def test_every_address_of_a_name_is_tried_in_turn() -> None:
    async def main() -> None:
        async with nodes(Names(["127.0.0.9", "127.0.0.8", "127.0.0.1"])) as (dialer, listener):
            connection = await dialer.connect(by_name(listener).with_peer(listener.peer_id.raw))
            assert connection.peer_id == listener.peer_id
            outcomes = [
                each.outcome for each in dialer.dials.recent(asyncio.get_running_loop().time())
            ]
            assert outcomes == [DialOutcome.REFUSED, DialOutcome.REFUSED, DialOutcome.ANSWERED]

    run(main())


def test_a_name_alone_that_fails_says_why() -> None:
    async def main() -> None:
        async with nodes(Names(MISSING)) as (dialer, listener):
            with pytest.raises(DnsError, match="does not exist") as caught:
                await dialer.connect(by_name(listener, "gone.test"))
            assert caught.value.exit_code == 12
            (dial,) = dialer.dials.recent(asyncio.get_running_loop().time())
            assert dial.outcome is DialOutcome.NO_NAME

    run(main())


def test_a_name_is_one_of_the_failures() -> None:
    async def main() -> None:
        async with nodes(Names(MISSING)) as (dialer, listener):
            refused = Multiaddr.tcp("127.0.0.1", free_port())
            with pytest.raises(ConnectError, match="does not exist") as caught:
                await dialer.connect((refused, by_name(listener, "gone.test")))
            outcomes = {each.outcome for each in caught.value.attempts}
            assert outcomes == {DialOutcome.REFUSED, DialOutcome.NO_NAME}

    run(main())


@pytest.mark.parametrize("timeout", [3, 30])
def test_a_silent_dns_has_its_time(timeout: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(Names([], 1000)) as (dialer, listener):
            began = loop.time()
            with pytest.raises(PtError, match="no answer") as caught:
                await dialer.connect(by_name(listener), timeout=timeout)
            assert loop.time() - began == pytest.approx(min(timeout, LOOKUP_TIMEOUT), abs=0.1)
            if isinstance(caught.value, ConnectError):
                assert caught.value.attempts[0].outcome is DialOutcome.NO_DNS

    run(main())


def test_who_does_not_answer_in_time_is_told() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(Names([])) as (dialer, _):
            with dead_address() as dead, pytest.raises(ConnectError) as caught:
                await dialer.connect(dead, timeout=2)
            (dial,) = caught.value.attempts
            assert dial.outcome is DialOutcome.SILENT
            (noted,) = dialer.dials.recent(loop.time())
            assert noted.outcome is DialOutcome.SILENT

    run(main())


def test_a_dial_that_is_given_up_at_once_says_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(Names([])) as (dialer, listener):
            with dead_address() as dead:
                await dialer.connect((dead, full(listener)))
            (noted,) = dialer.dials.recent(loop.time())
            assert noted.outcome is DialOutcome.ANSWERED

    run(main())


def test_the_names_of_a_peer_are_bounded() -> None:
    async def main() -> None:
        names = Names(MISSING)
        async with nodes(names) as (dialer, _):
            many = [Multiaddr.parse(f"/dns4/h{n}.test/tcp/1") for n in range(99)]
            with pytest.raises(ConnectError):
                await dialer.connect(many)
            assert names.asked == MAX_NAMES

    run(main())


def test_a_cancelled_dial_gives_its_names_up() -> None:
    async def main() -> None:
        async with nodes(Names([], 1000)) as (dialer, listener):
            dialing = asyncio.ensure_future(dialer.connect(by_name(listener)))
            await asyncio.sleep(0.1)
            dialing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialing

    run(main())


def test_a_dnsaddr_leads_to_the_peer_that_is_meant() -> None:
    async def main() -> None:
        found: list[Multiaddr] = []

        async def follow(address: Multiaddr, seconds: float) -> list[Multiaddr]:
            return found

        async with nodes(Names([]), follow=follow) as (dialer, listener):
            port = listener.addresses[0].tcp_port
            stranger = Multiaddr.tcp("127.0.0.1", free_port()).with_peer(dialer.peer_id.raw)
            found += [stranger, Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")]
            boot = Multiaddr.parse("/dnsaddr/boot.test")
            connection = await dialer.connect(boot.with_peer(listener.peer_id.raw))
            assert connection.peer_id == listener.peer_id
            found[1:] = []
            with pytest.raises(ConnectError, match="nothing that can be dialed"):
                await dialer.connect(boot.with_peer(listener.peer_id.raw))

    run(main())


def test_a_peer_that_takes_the_connection_and_is_mute_is_not_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with nodes(Names([])) as (dialer, _):
            with socket.create_server(("127.0.0.1", 0)) as mute:
                address = Multiaddr.tcp("127.0.0.1", mute.getsockname()[1])
                with pytest.raises(PtError, match="said too little"):
                    await dialer.connect(address)
                ws = Circuits(dialer)
                with pytest.raises(PtError, match="said too little"):
                    await dialer.connect(Multiaddr.parse(f"{address}/ws"))
                await ws.close()
            assert {each.outcome for each in dialer.dials.recent(loop.time())} == {DialOutcome.CUT}

    run(main())
