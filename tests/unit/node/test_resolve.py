"""Names on virtual time; the DNS is a function of the test."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from pt.errors import DnsCause, DnsError
from pt.node import resolve as module
from pt.node.address_book import AddressBook
from pt.node.resolve import LOOKUP_TIMEOUT, MAX_ANSWERS, PATIENCE, Resolver, is_named
from pt.node.state import StateDir
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr
from tests.sim.loop import run

PEER = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
OTHER = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
RELAY = Multiaddr.parse(f"/dns4/relay.test/tcp/4001/p2p/{PEER}")
V4, V6 = socket.AF_INET, socket.AF_INET6
DEAD = DnsError("no answer from the resolver", DnsCause.TIMEOUT)


class Dns:
    """Answers from `zone`: addresses, an error, or None for silence."""

    def __init__(self, **zone: Sequence[str] | DnsError | None) -> None:
        self.zone = {name.replace("_", "."): answer for name, answer in zone.items()}
        self.dnsaddr: dict[str, Sequence[str] | DnsError | None] = {}
        self.asked: list[tuple[str, int]] = []
        self.delay = 0.01

    async def ask(self, host: str, family: int) -> list[str]:
        self.asked.append((host, family))
        found = await self._answer(self.zone.get(host, DnsError("no such name", DnsCause.NO_NAME)))
        return [each for each in found if not family or (":" in each) == (family == V6)]

    async def follow(self, address: Multiaddr, seconds: float) -> list[Multiaddr]:
        self.asked.append((str(address), 0))
        assert seconds == LOOKUP_TIMEOUT
        return [Multiaddr.parse(text) for text in await self._answer(self.dnsaddr[str(address)])]

    async def _answer(self, answer: Sequence[str] | DnsError | None) -> list[str]:
        await asyncio.sleep(self.delay if answer is not None else 1000)
        if isinstance(answer, DnsError):
            raise answer
        assert answer is not None
        return list(answer)


class Lab:
    """One resolver with a state directory, and another start of it at any time."""

    def __init__(self, path: Path, dns: Dns, *given: str | Multiaddr) -> None:
        self.dns = dns
        self.said: list[str] = []
        self.trace = io.StringIO()
        self._path = path
        self._given = [
            each if isinstance(each, Multiaddr) else Multiaddr.parse(each) for each in given
        ]
        self.again()

    def again(self) -> None:
        self.resolver = Resolver(
            given=self._given,
            book=AddressBook(StateDir(self._path), self.said.append),
            warn=self.said.append,
            ask=self.dns.ask,
            follow=self.dns.follow,
            tracer=Tracer(self.trace),
        )

    async def restart(self) -> None:
        await self.resolver.close()
        self.again()

    async def expand(self, address: str | Multiaddr = RELAY) -> list[str]:
        parsed = address if isinstance(address, Multiaddr) else Multiaddr.parse(address)
        return [str(each) for each in await self.resolver.expand(parsed)]

    def traced(self, event: str) -> list[dict]:
        lines = [json.loads(line) for line in self.trace.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("/dns4/a.test/tcp/1", True),
        (f"/dns/a.test/tcp/1/p2p/{PEER}", True),
        (f"/dnsaddr/a.test/p2p/{PEER}", True),
        ("/dnsaddr/a.test", True),
        ("/ip4/11.0.0.1/tcp/1", False),
        ("/dns4/a.test/tcp/443/wss", False),
        ("/dns4/a.test/udp/1", False),
        (f"/dns4/a.test/tcp/1/p2p/{PEER}/p2p-circuit", False),
        (f"/dnsaddr/a.test/p2p/{PEER}/p2p-circuit", False),
        (f"/p2p/{PEER}", False),
        (f"/p2p/{PEER}/dnsaddr/a.test", False),
    ],
)
def test_what_has_to_be_looked_up(text: str, named: bool) -> None:
    assert is_named(Multiaddr.parse(text)) is named


def test_a_name_stands_for_its_addresses(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(relay_test=["11.0.0.7", "fd11::7"]))
        assert await lab.expand() == [f"/ip4/11.0.0.7/tcp/4001/p2p/{PEER}"]
        assert await lab.expand("/dns6/RELAY.test./tcp/1") == ["/ip6/fd11::7/tcp/1"]
        assert await lab.expand("/dns/relay.test/tcp/1") == [
            "/ip4/11.0.0.7/tcp/1", "/ip6/fd11::7/tcp/1",
        ]  # fmt: skip
        assert lab.dns.asked == [("relay.test", V4), ("relay.test", V6), ("relay.test", 0)]
        assert await lab.expand("/ip4/11.0.0.1/tcp/1") == ["/ip4/11.0.0.1/tcp/1"]
        assert lab.traced("resolved")[0]["addresses"] == ["11.0.0.7"]

    run(main())


def test_one_question_serves_all_who_wait(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(relay_test=["11.0.0.7"]))
        waiting = [asyncio.ensure_future(lab.expand()) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # one who gives up does not take it from the others
        results = await asyncio.gather(*waiting[1:])
        assert all(results)
        assert lab.dns.asked == [("relay.test", V4)]

    run(main())


def test_answers_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(relay_test=[f"11.0.0.{n}" for n in range(50)]))
        assert len(await lab.expand()) == MAX_ANSWERS
        lab.dns.dnsaddr["/dnsaddr/a.test"] = [f"/dns4/h{n}.test/tcp/1" for n in range(99)]
        with pytest.raises(DnsError):
            await lab.expand("/dnsaddr/a.test")
        assert len(lab.dns.asked) == 1 + 1 + module.MAX_NAMES

    run(main())


def test_silence_is_an_error_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        lab = Lab(tmp_path, Dns(relay_test=None))
        began = loop.time()
        with pytest.raises(DnsError, match=r"relay\.test: no answer within 7 s.*/ip4/") as caught:
            await lab.expand()
        assert caught.value.cause is DnsCause.TIMEOUT
        assert loop.time() - began == pytest.approx(LOOKUP_TIMEOUT, abs=0.1)
        assert lab.traced("resolve_failed")[0]["cause"] == "timeout"

    run(main())


def test_an_empty_answer_is_no_answer_to_use(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(DnsError) as caught:
            await Lab(tmp_path, Dns(relay_test=[])).expand()
        assert caught.value.cause is DnsCause.NO_RECORD

    run(main())


# --- from before -----------------------------------------------------------------------------


async def known(tmp_path: Path, dns: Dns, given: str | Multiaddr = RELAY) -> Lab:
    """A lab whose last run got an answer."""
    lab = Lab(tmp_path, dns, given)
    assert await lab.expand(given)
    await lab.restart()
    return lab


@pytest.mark.parametrize(
    "cause",
    [
        DnsCause.NO_RESOLVER, DnsCause.UNREACHABLE, DnsCause.TIMEOUT, DnsCause.REFUSED,
        DnsCause.FAILED,
    ],
)  # fmt: skip
def test_a_dead_dns_is_done_without(tmp_path: Path, cause: DnsCause) -> None:
    async def main() -> None:
        lab = await known(tmp_path, Dns(relay_test=["11.0.0.7"]))
        lab.dns.zone["relay.test"] = DnsError("the resolver is gone", cause)
        for _ in range(3):
            assert await lab.expand() == [f"/ip4/11.0.0.7/tcp/4001/p2p/{PEER}"]
        (warning,) = lab.said
        assert "the DNS does not answer (the resolver is gone)" in warning
        assert "11.0.0.7" in warning
        assert lab.traced("resolve_remembered")[0]["name"] == "relay.test"

    run(main())


@pytest.mark.parametrize("cause", [DnsCause.NO_NAME, DnsCause.NO_RECORD])
def test_that_there_is_none_is_an_answer(tmp_path: Path, cause: DnsCause) -> None:
    async def main() -> None:
        lab = await known(tmp_path, Dns(relay_test=["11.0.0.7"]))
        lab.dns.zone["relay.test"] = DnsError("it is gone", cause)
        with pytest.raises(DnsError, match="it is gone"):
            await lab.expand()
        assert not lab.said
        await lab.restart()
        lab.dns.zone["relay.test"] = DEAD
        with pytest.raises(DnsError, match="no answer from the resolver"):
            await lab.expand()  # forgotten, too

    run(main())


def test_a_silent_dns_is_waited_for_once(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        lab = await known(tmp_path, Dns(relay_test=["11.0.0.7"]))
        lab.dns.zone["relay.test"] = None
        began = loop.time()
        assert await lab.expand()
        assert loop.time() - began == pytest.approx(PATIENCE, abs=0.1)
        await asyncio.sleep(LOOKUP_TIMEOUT)  # until that look-up has failed
        began = loop.time()
        assert await lab.expand()
        assert loop.time() - began < 0.01
        assert len(lab.said) == 1
        lab.dns.zone["relay.test"] = ["11.0.0.8"]
        await asyncio.sleep(LOOKUP_TIMEOUT + 0.1)
        assert await lab.expand() == [f"/ip4/11.0.0.7/tcp/4001/p2p/{PEER}"]  # asks, does not wait
        await asyncio.sleep(1)
        assert await lab.expand() == [f"/ip4/11.0.0.8/tcp/4001/p2p/{PEER}"]
        lab.dns.zone["relay.test"] = DEAD
        assert await lab.expand() == [f"/ip4/11.0.0.8/tcp/4001/p2p/{PEER}"]
        assert len(lab.said) == 2  # it had answered in between

    run(main())


def test_an_answer_in_time_is_better_than_an_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        lab = await known(tmp_path, Dns(relay_test=["11.0.0.7"]))
        lab.dns.zone["relay.test"] = ["11.0.0.8"]
        lab.dns.delay = PATIENCE - 0.1
        assert await lab.expand() == [f"/ip4/11.0.0.8/tcp/4001/p2p/{PEER}"]
        assert not lab.said

    run(main())


def test_families_are_remembered_apart(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(relay_test=["11.0.0.7", "fd11::7"]), RELAY)
        await lab.expand("/dns/relay.test/tcp/1")
        lab.dns.zone["relay.test"] = ["11.0.0.8"]
        await lab.expand("/dns4/relay.test/tcp/1")
        await lab.restart()
        lab.dns.zone["relay.test"] = DEAD
        assert await lab.expand("/dns4/relay.test/tcp/1") == ["/ip4/11.0.0.8/tcp/1"]
        assert await lab.expand("/dns6/relay.test/tcp/1") == ["/ip6/fd11::7/tcp/1"]
        lab.dns.zone["relay.test"] = DnsError("no IPv6", DnsCause.NO_RECORD)
        await lab.restart()
        with pytest.raises(DnsError):
            await lab.expand("/dns6/relay.test/tcp/1")
        lab.dns.zone["relay.test"] = DEAD
        await lab.restart()
        assert await lab.expand("/dns/relay.test/tcp/1") == ["/ip4/11.0.0.8/tcp/1"]

    run(main())


def test_only_names_that_were_given_are_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        circuit = f"/dns4/relay.test/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}"
        lab = Lab(tmp_path, Dns(relay_test=["11.0.0.7"], stranger_test=["11.0.0.9"]), circuit)
        assert await lab.expand("/dns4/relay.test/tcp/1")
        assert await lab.expand("/dns4/stranger.test/tcp/1")
        await lab.restart()
        lab.dns.zone = {"relay.test": DEAD, "stranger.test": DEAD}
        assert await lab.expand("/dns4/relay.test/tcp/1")
        with pytest.raises(DnsError):
            await lab.expand("/dns4/stranger.test/tcp/1")

    run(main())


def test_a_directory_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "home").write_text("a file")
        lab = Lab(tmp_path / "home", Dns(relay_test=["11.0.0.7"]), RELAY)
        assert await lab.expand()
        await lab.restart()
        assert await lab.expand()
        assert lab.said

    run(main())


# --- /dnsaddr --------------------------------------------------------------------------------


def test_a_dnsaddr_is_followed_and_its_names_are_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        boot = f"/dnsaddr/boot.test/p2p/{PEER}"
        lab = Lab(tmp_path, Dns(r_boot_test=["11.0.0.7"]), boot)
        lab.dns.dnsaddr[boot] = [
            f"/dns4/r.boot.test/tcp/1/p2p/{PEER}",
            f"/ip4/11.0.0.9/tcp/2/p2p/{PEER}",
            f"/dns4/gone.boot.test/tcp/1/p2p/{PEER}",
            f"/dns4/r.boot.test/tcp/443/wss/p2p/{PEER}",
        ]
        expected = {
            f"/ip4/11.0.0.7/tcp/1/p2p/{PEER}",
            f"/ip4/11.0.0.9/tcp/2/p2p/{PEER}",
            f"/dns4/r.boot.test/tcp/443/wss/p2p/{PEER}",
        }
        assert set(await lab.expand(boot)) == expected
        await lab.restart()
        lab.dns.zone["r.boot.test"] = lab.dns.zone["gone.boot.test"] = DEAD
        lab.dns.dnsaddr[boot] = DEAD
        assert set(await lab.expand(boot)) == expected
        assert len(lab.said) == 2  # of the dnsaddr, and of the name in it

    run(main())


def test_a_dnsaddr_that_leads_to_dead_names_alone_fails(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(a_test=DEAD))
        lab.dns.dnsaddr["/dnsaddr/b.test"] = ["/dns4/a.test/tcp/1"]
        with pytest.raises(DnsError, match="no answer from the resolver"):
            await lab.expand("/dnsaddr/b.test")

    run(main())


def test_closing_gives_up_what_is_looked_up(tmp_path: Path) -> None:
    async def main() -> None:
        lab = Lab(tmp_path, Dns(relay_test=None))
        waiting = asyncio.ensure_future(lab.expand())
        await asyncio.sleep(0.1)
        await lab.resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main())
