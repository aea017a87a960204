"""A relay reached over WebSocket: plain, and with TLS at port 443."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from tests.certificate import self_signed
from tests.e2e.harness import MIB, Rig, ask_echo, local_port

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.mark.parametrize(("port", "suffix"), [(4001, "/ws"), (443, "/tls/ws")], ids=["ws", "wss"])
def test_tunnel_over_a_relay_over_websocket(rig: Rig, port: int, suffix: str) -> None:
    rig.lan.cut(rig.a, rig.b)
    listen = f"/ip4/0.0.0.0/tcp/{port}{suffix}"
    secret = rig.tmp / "secret"
    secret.write_text("a secret that is long enough\n")
    argv = ["--listen", listen, "--secret-file", str(secret)]
    if "tls" in suffix:
        pem = str(self_signed(rig.tmp / "both.pem", rig.c.ip))
        argv += ["--tls-cert", pem, "--tls-key", pem]
    relay = rig.pt("relay", "--json", *argv, host=rig.c, home="c")
    ready = relay.wait("relay_ready")
    address = f"/ip4/{rig.c.ip}/tcp/{port}{suffix}/p2p/{ready['peer_id']}"
    addresses = ready["addresses"]
    assert isinstance(addresses, list)
    assert [each for each in addresses if "/tcp/" in each] == [address]  # QUIC is served, too
    exposer = rig.expose(
        "--port", str(rig.echo_service()), "--relay", address,
        "--relay-secret-file", str(secret),
    )  # fmt: skip
    assert relay.wait("reserved")["grade"] == "user"
    peer = f"{address}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"
    binder = rig.bind("--port", "0", to=peer)
    assert str(binder.wait("connected")["path"]).startswith("relay/")
    sock = rig.dial(local_port(binder))
    ask_echo(sock)
    ask_echo(sock, os.urandom(2 * MIB))
    flow = threading.Thread(target=sock.sendall, args=(data := os.urandom(32 * MIB),))
    flow.start()
    got = hashlib.sha256()
    left = len(data)
    while left:
        piece = sock.recv(min(left, MIB))
        assert piece
        got.update(piece)
        left -= len(piece)
    flow.join()
    assert got.digest() == hashlib.sha256(data).digest()
