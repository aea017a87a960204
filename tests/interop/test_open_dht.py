"""Open tunnels that are found by their id on a DHT of go-libp2p-kad-dht servers.

The other end is a Go peer that does what the Go program does: routing discovery on its topic.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from interop import kad
from interop.rig import build
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.connection import Connection
from pt.node.node import Node
from pt.rendezvous.topic import cid, provider_key, topic
from pt.tunnel.core.messages import PROTOCOL_V1
from pt.tunnel.media.providers import ProviderAnnouncer, ProviderSearch
from pt.wire.multiaddr import Multiaddr
from pt.yamux.aio import MuxedStream
from tests.e2e.harness import TIMEOUT, ask_echo, echo, serve_connections

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

SERVERS = 25


@pytest.fixture(scope="module")
def lab() -> Iterator[kad.Lab]:
    if not kad.BINARY.exists() and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/gokad")
    build(["gokad"])
    with kad.laboratory(SERVERS, 0.005) as made:
        yield made


def go(lab: kad.Lab, *argv: str) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
    """Start a Go peer on the host of the DHT; it and its first line, which says it is ready."""
    process = lab.dht.popen([str(kad.BINARY), *argv], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert isinstance(said, dict)
    return process, said


def bootstrap(lab: kad.Lab) -> list[str]:
    info = lab.servers.infos[0]
    return ["--bootstrap", str(info.addresses[0].with_peer(info.id.raw))]


def test_go_makes_the_same_key_of_an_id(lab: kad.Lab) -> None:
    ids = ["test", "a b", "\u00fc", "u\u0308", "~", "\u732b"]
    out = lab.dht.run([str(kad.BINARY), "topic", *ids]).stdout
    for name, said in zip(ids, map(json.loads, out.splitlines()), strict=True):
        assert said["topic"].encode() == topic(name)
        assert said["key"] == provider_key(name).hex()
        assert said["cid"] == cid(name)


def test_a_go_binder_finds_us(lab: kad.Lab) -> None:
    """We announce, it finds, dials and speaks the protocol."""
    said: list[tuple[bool, str, float]] = []

    async def serve(stream: MuxedStream, connection: Connection) -> None:
        while data := await stream.read(65536):
            await stream.write(data)
        await stream.close_write()

    async def main() -> None:
        identity = PrivateKey.generate(secrets.token_bytes(32))
        node = Node(identity=identity, listen=[kad.OURS])
        node.handle(PROTOCOL_V1, serve)
        async with kad.our_amino(lab.servers.infos[0], node=node) as amino:
            told = asyncio.Event()

            def state(*each: object) -> None:
                said.append(each)
                told.set()

            announcer = ProviderAnnouncer(
                amino.client, provider_key("of ours"), lambda: node.addresses, state
            )
            announcer.start()
            await told.wait()
            await asyncio.to_thread(bind, str(node.peer_id))
            await announcer.close()

    def bind(exposer: str) -> None:
        process, ready = go(lab, "v1-bind", "--find", "of ours", *bootstrap(lab))
        assert ready["exposer"] == {"id": exposer, "addresses": [str(kad.OURS)]}
        host, _, port = str(ready["listen"]).rpartition(":")
        with lab.dht.inside(), socket.create_connection((host, int(port)), TIMEOUT) as client:
            ask_echo(client, os.urandom(100_000))
        process.terminate()

    with lab.us.inside():
        asyncio.run(main())
    ok, detail, _ = said[0]
    assert ok
    assert "servers" in detail


def test_we_find_a_go_exposer_among_dead_ones(lab: kad.Lab) -> None:
    """Every run of the Go program leaves a provider behind."""
    key = provider_key("of go's")
    dead = set()
    for _ in range(3):
        left = kad.go(lab.dht, "provide", ip=lab.go_ip, bootstrap=lab.servers.infos[0], key=key)
        dead.add(PeerId.parse(str(left["id"])))
    with lab.dht.inside(), socket.create_server(("127.0.0.1", 0)) as listener:
        serve_connections(listener, echo)
        port = str(listener.getsockname()[1])
        listen = f"/ip4/{lab.go_ip}/tcp/4003"
        process, ready = go(
            lab, "v1-tcp", "--port", port, "--listen", listen, "--advertise", "of go's",
            *bootstrap(lab),
        )  # fmt: skip
        living = PeerId.parse(str(ready["id"]))
        found: dict[PeerId, tuple[Multiaddr, ...]] = {}

        async def main() -> None:
            node = Node(identity=PrivateKey.generate(secrets.token_bytes(32)))
            async with kad.our_amino(lab.servers.infos[0], node=node) as amino:
                news = asyncio.Event()

                def take(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
                    found[peer] = addresses
                    news.set()

                search = ProviderSearch(amino.client, key, take, lambda *state: None)
                search.start()
                while len(found) < 4:
                    news.clear()
                    await news.wait()
                assert set(found) == {living, *dead}
                connection = await node.connect(found[living], expected=living)
                stream = await connection.open_stream((PROTOCOL_V1,))
                data = os.urandom(100_000)
                await stream.write(data)
                got = b""
                while len(got) < len(data):
                    piece = await stream.read(65536)
                    assert piece
                    got += piece
                assert got == data
                await stream.reset()
                await search.close()

        with lab.us.inside():
            asyncio.run(main())
        process.terminate()
