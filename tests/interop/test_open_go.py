"""`--open` against a Go peer that behaves as the Go PeerTunnel does, in both roles."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.rig import build
from pt.lab import Lan
from pt.tunnel.selftest.wire import pattern
from tests.e2e.harness import MIB, TIMEOUT, PtProcess, Rig, ask_echo, direct_address, local_port

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(120)]

GO_PEER = Path(__file__).resolve().parents[2] / "interop" / "bin" / "gokad-peer"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if not GO_PEER.exists() and shutil.which("go") is None:
        pytest.skip("no go toolchain to build the Go peer with")
    build(["gokad"])
    with Lan(hosts=3) as lan:
        made = Rig(lan, tmp_path)
        try:
            yield made
        finally:
            made.close()


def go(rig: Rig, host: str, *argv: str) -> dict[str, object]:
    """Start the Go peer on a host; its first line, which says that it is ready."""
    with (rig.tmp / "go.log").open("ab") as log:
        process = getattr(rig, host).popen(
            [str(GO_PEER), *argv], stdout=subprocess.PIPE, stderr=log, env=os.environ
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (rig.tmp / "go.log").read_text()
    said: dict[str, object] = json.loads(line)
    return said


def test_our_binder_to_a_go_exposer(rig: Rig) -> None:
    port = rig.echo_service()
    said = go(rig, "a", "v1-tcp", "--port", str(port), "--listen", f"/ip4/{rig.a.ip}/tcp/4003")
    binder = rig.bind("--port", "0", "--open", to=str(said["multiaddr"]))
    for number in range(20):
        client = rig.dial(local_port(binder))
        ask_echo(client, b"%d" % number + bytes(pattern(0, 200_000)))
        client.close()


def test_a_go_binder_to_our_exposer(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()), "--open")
    go(rig, "b", "v1-bind", "--listen", "127.0.0.1:2022", "--peer", direct_address(exposer))
    for number in range(20):
        client = rig.dial(2022)
        ask_echo(client, b"%d" % number + bytes(pattern(0, 200_000)))
        client.close()


def test_a_client_that_half_closes_loses_nothing_at_a_go_exposer(rig: Rig) -> None:
    """Go drops a reply that follows a FIN: ours is held until the reply is there."""
    listener = rig.listen(rig.a)
    port = listener.getsockname()[1]
    said = go(rig, "a", "v1-tcp", "--port", str(port), "--listen", f"/ip4/{rig.a.ip}/tcp/4003")
    binder = rig.bind("--port", "0", "--open", to=str(said["multiaddr"]))
    client = rig.dial(local_port(binder))
    service = rig.accept(listener)
    client.sendall(b"request\n")
    client.shutdown(socket.SHUT_WR)
    assert service.recv(100) == b"request\n"
    reply = bytes(pattern(0, MIB))
    service.sendall(reply)
    service.close()
    assert receive_all(client) == reply


def test_a_service_that_closes_ends_a_go_binders_client(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer: PtProcess = rig.expose("--port", str(listener.getsockname()[1]), "--open")
    take = rig.accept(listener)  # the exposer's look at its target
    take.close()
    go(rig, "b", "v1-bind", "--listen", "127.0.0.1:2022", "--peer", direct_address(exposer))
    client = rig.dial(2022)
    service = rig.accept(listener)
    reply = bytes(pattern(0, MIB))
    service.sendall(reply)
    service.close()
    assert receive_all(client) == reply


def receive_all(sock: socket.socket) -> bytes:
    sock.settimeout(TIMEOUT)
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)
