from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pt.errors import DnsCause, DnsError
from pt.node import system_dns
from pt.node.system_dns import explain, look_up, nameservers

AGAIN, NONAME, NODATA = socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_NODATA
SERVER = ("11.0.0.53",)

CASES = [
    # family, code, seconds, servers, routed → cause, words
    (0, NONAME, 0.1, SERVER, True, DnsCause.NO_NAME, "relay.test does not exist"),
    (4, NODATA, 0.1, SERVER, True, DnsCause.NO_RECORD, "no IPv4 address"),
    (6, NODATA, 0.1, SERVER, True, DnsCause.NO_RECORD, "no IPv6 address"),
    (0, NODATA, 0.1, SERVER, True, DnsCause.NO_RECORD, "no address"),
    (6, socket.EAI_ADDRFAMILY, 0.1, SERVER, True, DnsCause.NO_RECORD, "no IPv6 address"),
    (0, AGAIN, 0.1, (), False, DnsCause.NO_RESOLVER, "names no DNS resolver"),
    (0, AGAIN, 0.1, SERVER, False, DnsCause.UNREACHABLE, "no route to the resolver 11.0.0.53"),
    (0, AGAIN, 0.1, SERVER, True, DnsCause.FAILED, "the resolver 11.0.0.53 cannot be reached"),
    (0, AGAIN, 9.9, SERVER, True, DnsCause.TIMEOUT, "no answer from the resolver 11.0.0.53"),
    (0, AGAIN, 9.9, ("a", "b"), True, DnsCause.TIMEOUT, "no answer from the resolvers a and b"),
    (0, socket.EAI_FAIL, 9.9, SERVER, True, DnsCause.FAILED, "fails"),
    (0, socket.EAI_SYSTEM, 0.1, SERVER, True, DnsCause.FAILED, "fails"),
    (0, None, 0.1, SERVER, True, DnsCause.FAILED, "fails"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "code", "seconds", "servers", "routed", "cause", "words"), CASES
)
def test_what_a_failure_means(
    family: int, code: int | None, seconds: float, servers: tuple[str, ...], routed: bool,
    cause: DnsCause, words: str,
) -> None:  # fmt: skip
    number = {0: 0, 4: socket.AF_INET, 6: socket.AF_INET6}[family]
    error = explain("relay.test", number, code, seconds, servers, routed=routed)
    assert error.cause is cause
    assert words in str(error)
    assert "/ip4/" in str(error)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ()),
        ("# nameserver 11.0.0.1\nsearch example.test\n", ()),
        ("nameserver 11.0.0.53\nnameserver fd11::53\n", ("11.0.0.53", "fd11::53")),
        ("nameserver\nnameserver\t11.0.0.1 # x\n", ("11.0.0.1",)),
        ("".join(f"nameserver 11.0.0.{n}\n" for n in range(9)),
         ("11.0.0.0", "11.0.0.1", "11.0.0.2")),
        ("\udcff\nnameserver 11.0.0.1", ("11.0.0.1",)),
    ],
)  # fmt: skip
def test_nameservers(tmp_path: Path, text: str, servers: tuple[str, ...]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert nameservers(path) == servers
    assert nameservers(tmp_path / "missing") == ()


def test_localhost() -> None:
    assert "127.0.0.1" in asyncio.run(look_up("localhost", 0))
    assert asyncio.run(look_up("localhost", socket.AF_INET)) == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["a..test", "a" * 64 + ".test", "."])
def test_what_is_no_name_does_not_exist(host: str) -> None:
    with pytest.raises(DnsError) as caught:
        asyncio.run(look_up(host, 0))
    assert caught.value.cause is DnsCause.NO_NAME


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch):
    """getaddrinfo waits until the test says go, as with resolvers that stay silent."""
    go = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        assert go.wait(30)
        return [(2, 1, 6, "", ("11.0.0.1", 0))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield go
    go.set()
    for thread in threading.enumerate():
        if thread.name == "pt-dns":
            thread.join(10)


def test_look_ups_that_hang_are_bounded_and_hold_nobody_up(stuck: threading.Event) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(system_dns.MAX_THREADS):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await look_up("a.test", 0)
        with pytest.raises(DnsError, match="being looked up already") as caught:
            await look_up("a.test", 0)
        assert caught.value.cause is DnsCause.TIMEOUT
        assert loop.time() - began < 5
        stuck.set()
        while any(thread.name == "pt-dns" for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
        assert await look_up("a.test", 0) == ["11.0.0.1"]

    asyncio.run(main())


def test_an_answer_after_the_end_of_the_loop_is_dropped(stuck: threading.Event) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await look_up("a.test", 0)

    asyncio.run(main())  # an exception in the thread would fail the test


HANGS = """
import asyncio, socket, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from pt.node.system_dns import look_up
async def main():
    try:
        async with asyncio.timeout(0.01):
            await look_up("a.test", 0)
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""


def test_the_end_of_the_process_does_not_wait() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, timeout=30, check=True, text=True
    )
    assert done.stdout == "given up\n"
    assert not done.stderr
    assert time.monotonic() - began < 20
