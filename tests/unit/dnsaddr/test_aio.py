"""Against a real little DNS server on loopback, by UDP and TCP."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from pt.dnsaddr import aio
from pt.dnsaddr.aio import TxtResolver, resolve_dnsaddr
from pt.dnsaddr.resolution import DnsCause, DnsError
from pt.wire.multiaddr import Multiaddr
from tests.unit.dnsaddr.server import Server, refusing, running

PEER = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"


def ask(name: str = "a.test", lifetime: float = 3.0, **options: object) -> tuple[list[str], Server]:
    async def main() -> tuple[list[str], Server]:
        async with running(**options) as server:
            resolver = TxtResolver([("127.0.0.1", server.port)])
            return await resolver.txt(name, lifetime), server

    return asyncio.run(main())


def failure(lifetime: float = 3.0, **options: object) -> DnsError:
    with pytest.raises(DnsError) as caught:
        ask(lifetime=lifetime, **options)
    assert "--peer ADDRESS" in str(caught.value)
    return caught.value


def test_answer() -> None:
    texts, server = ask(zone={"a.test": [b"one", b"two words"]})
    assert sorted(texts) == ["one", "two words"]
    assert (server.udp, server.tcp) == (1, 0)


def test_strings_of_one_record_are_joined() -> None:
    def answer(question: dns.message.Message) -> bytes:
        reply = dns.message.make_response(question)
        rrset = dns.rrset.from_text(question.question[0].name, 60, "IN", "TXT", '"dnsaddr=" "/ip4"')
        reply.answer.append(rrset)
        return reply.to_wire()

    assert ask(trouble=answer)[0] == ["dnsaddr=/ip4"]


def test_what_is_no_text_is_left_out() -> None:
    assert ask(zone={"a.test": [b"fine", b"\\255\\000"]})[0] == ["fine"]


def test_cut_short_then_by_tcp() -> None:
    many = [b"dnsaddr=/ip4/11.0.0.%d/tcp/4001/p2p/%s" % (n, PEER.encode()) for n in range(1, 81)]
    texts, server = ask(zone={"a.test": many})
    assert sorted(texts) == sorted(text.decode() for text in many)
    assert (server.udp, server.tcp) == (1, 1)
    assert server.largest > 4096


def test_edns_makes_room_for_more_than_512_bytes() -> None:
    many = [b"dnsaddr=/ip4/11.0.0.%d/tcp/4001/p2p/%s" % (n, PEER.encode()) for n in range(1, 11)]
    texts, server = ask(zone={"a.test": many})
    assert len(texts) == 10
    assert (server.udp, server.tcp) == (1, 0)
    assert server.largest > 512


def test_no_such_name() -> None:
    assert failure().cause is DnsCause.NO_NAME


def test_no_txt_record() -> None:
    assert failure(zone={"a.test": []}).cause is DnsCause.NO_RECORD


def test_refused() -> None:
    assert failure(trouble=refusing(dns.rcode.REFUSED)).cause is DnsCause.REFUSED


def test_server_failure() -> None:
    error = failure(trouble=refusing(dns.rcode.SERVFAIL))
    assert error.cause is DnsCause.FAILED
    assert "SERVFAIL" in str(error)


def test_silence() -> None:
    assert failure(lifetime=0.2, trouble=lambda question: None).cause is DnsCause.TIMEOUT


def test_garbage_is_not_an_answer() -> None:
    error = failure(lifetime=0.2, trouble=lambda question: b"\xff" * 40)
    assert error.cause is DnsCause.TIMEOUT


def test_an_answer_to_another_question_is_none() -> None:
    def answer(question: dns.message.Message) -> bytes:
        other = dns.message.make_query("b.test", "TXT", id=(question.id + 1) % 65536)
        reply = dns.message.make_response(other)
        rrset = dns.rrset.from_text(other.question[0].name, 60, "IN", "TXT", '"forged"')
        reply.answer.append(rrset)
        return reply.to_wire()

    assert failure(lifetime=0.2, trouble=answer).cause is DnsCause.TIMEOUT


def test_a_name_that_is_none() -> None:
    for name in ("a..test", "x" * 64 + ".test", ".".join(["long"] * 60)):
        with pytest.raises(DnsError) as caught:
            ask(name)
        assert caught.value.cause is DnsCause.FAILED


def test_the_next_resolver_is_asked() -> None:
    """The first is not there: its port answers with an ICMP error, or nothing."""

    async def main() -> list[str]:
        async with running(zone={"a.test": [b"found"]}) as server:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
                closed.bind(("127.0.0.1", 0))
                nobody = closed.getsockname()[1]
            resolver = TxtResolver([("127.0.0.1", nobody), ("127.0.0.1", server.port)])
            return await resolver.txt("a.test")

    assert asyncio.run(main()) == ["found"]


def test_nobody_at_the_resolvers_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    with pytest.raises(DnsError) as caught:
        asyncio.run(TxtResolver([("127.0.0.1", nobody)]).txt("a.test", 0.3))
    assert caught.value.cause in {DnsCause.UNREACHABLE, DnsCause.TIMEOUT}


WITHOUT_NETWORK = """
import asyncio
from pt.dnsaddr.aio import TxtResolver
from pt.dnsaddr.resolution import DnsError
try:
    asyncio.run(TxtResolver([("11.0.0.1", 53)]).txt("a.test"))
except DnsError as error:
    print(error.cause.value)
"""


@pytest.mark.netns
def test_no_network() -> None:
    argv = ["unshare", "-n", sys.executable, "-c", WITHOUT_NETWORK]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "unreachable\n"


def test_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DnsError) as caught:
        asyncio.run(TxtResolver([]).txt("a.test"))
    assert caught.value.cause is DnsCause.NO_RESOLVER

    def unreadable(self: object, source: object = None) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", unreadable)
    with pytest.raises(DnsError, match=r"/etc/resolv\.conf") as caught:
        asyncio.run(TxtResolver().txt("a.test"))
    assert caught.value.cause is DnsCause.NO_RESOLVER


BOOTSTRAP = {
    "_dnsaddr.boot.test": [b"dnsaddr=/dnsaddr/sv.boot.test/p2p/" + PEER.encode()],
    "_dnsaddr.sv.boot.test": [
        b"dnsaddr=/ip4/11.0.0.1/tcp/4001/p2p/" + PEER.encode(),
        b"dnsaddr=/dnsaddr/dead.boot.test/p2p/" + PEER.encode(),
    ],
}


def test_dnsaddr() -> None:
    async def main() -> tuple[list[Multiaddr], Server]:
        async with running(zone=BOOTSTRAP) as server:
            resolver = TxtResolver([("127.0.0.1", server.port)])
            address = Multiaddr.parse(f"/dnsaddr/boot.test/p2p/{PEER}")
            return await resolve_dnsaddr(address, resolver), server

    found, server = asyncio.run(main())
    assert [str(address) for address in found] == [f"/ip4/11.0.0.1/tcp/4001/p2p/{PEER}"]
    assert server.udp == 3


def test_what_was_found_in_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third domain is silent; the others' addresses are there when the time is up."""

    async def main() -> list[Multiaddr]:
        async with running(zone=BOOTSTRAP) as server:
            answer = server.answer

            def silent_at_last(raw: bytes, limit: int) -> bytes | None:
                return None if b"\4dead" in raw else answer(raw, limit)

            monkeypatch.setattr(server, "answer", silent_at_last)
            resolver = TxtResolver([("127.0.0.1", server.port)])
            return await resolve_dnsaddr(Multiaddr.parse("/dnsaddr/boot.test"), resolver, 1.0)

    assert [str(address) for address in asyncio.run(main())] == [
        f"/ip4/11.0.0.1/tcp/4001/p2p/{PEER}"
    ]


def test_the_time_for_all_is_bounded() -> None:
    async def main() -> None:
        async with running(trouble=lambda question: None) as server:
            resolver = TxtResolver([("127.0.0.1", server.port)])
            await resolve_dnsaddr(Multiaddr.parse("/dnsaddr/boot.test"), resolver, 0.2)

    with pytest.raises(DnsError) as caught:
        asyncio.run(main())
    assert caught.value.cause is DnsCause.TIMEOUT


def test_a_literal_address_asks_nobody() -> None:
    address = Multiaddr.parse("/ip4/11.0.0.1/tcp/4001")
    assert asyncio.run(resolve_dnsaddr(address, TxtResolver([]))) == [address]
    assert aio.TOTAL > aio.LIFETIME > aio.ATTEMPT
