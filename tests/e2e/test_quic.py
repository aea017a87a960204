"""Tunnels over QUIC: exact as over TCP, through NATs that change their mind, and lost packets."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pt.lab import Host
from pt.lab.link import Link, Shape
from pt.tunnel.selftest import CASES, run_case
from tests.e2e.harness import (
    MIB,
    PtProcess,
    Rig,
    ask_echo,
    local_port,
    soak,
    take_waiting,
)
from tests.e2e.sshd import SSH_PORT, Ssh, start_sshd
from tests.e2e.test_peers import NO_PATH, STRANGER
from tests.e2e.transfer import Transfer

pytestmark = [pytest.mark.netns, pytest.mark.timeout(1800 if soak() else 300)]
UDP_LISTEN = "/ip4/0.0.0.0/udp/4001/quic-v1"
REBINDINGS = 20
SIZE = 1024 * MIB if soak() else 64 * MIB


def quic_address(exposer: PtProcess, at: str = "") -> str:
    """The exposer's QUIC multiaddr, or the same peer `at` another host and port."""
    ready = exposer.wait("ready")
    addresses = ready["addresses"]
    assert isinstance(addresses, list)
    mine = f"/ip4/{exposer.host.ip}/udp/"
    found = next(str(each) for each in addresses if str(each).startswith(mine))
    assert "/quic-v1/p2p/" in found
    return found if not at else f"{at}/quic-v1/p2p/{ready['peer_id']}"


def quic_tunnel(rig: Rig, service: int, *argv: str, at: str = "") -> tuple[PtProcess, int]:
    """A binder that knows nothing but the exposer's QUIC address, and its local port."""
    exposer = rig.expose("--listen", UDP_LISTEN, "--port", str(service), *argv)
    binder = rig.bind("--port", "0", *argv, to=quic_address(exposer, at))
    assert binder.wait("connected")["path"] == "direct/quic"
    return binder, local_port(binder)


@pytest.fixture(scope="module")
def wire(shared_rig: Rig) -> tuple[Rig, int, int]:
    service = shared_rig.case_service()
    exposer = shared_rig.expose(
        "--listen", UDP_LISTEN, "--port", str(service), "--port", "9", home="quic-wire"
    )
    binder = shared_rig.bind(
        "-p", f"0:{service}", "-p", "0:9", to=quic_address(exposer), home="quic-wire-b"
    )
    return shared_rig, local_port(binder), local_port(binder, 1)


@pytest.mark.parametrize("name", [name for name in CASES if name != "duplex"])
def test_exact(wire: tuple[Rig, int, int], name: str) -> None:
    rig, port, dead = wire
    with rig.b.inside():
        result = run_case(name, "127.0.0.1", port, refused_port=dead)
    assert not result.skipped
    assert result.ok, result.detail


def test_ssh(rig: Rig) -> None:
    directory = start_sshd(rig)
    _, port = quic_tunnel(rig, SSH_PORT)
    ssh = Ssh(rig, directory, port)
    done = rig.b.run(ssh.command("echo out; echo err >&2; exit 7"), check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
def test_each_engine_carries_a_tunnel(
    rig: Rig, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PT_QUIC_ENGINE", engine)
    listener = rig.listen(rig.a)
    binder, port = quic_tunnel(rig, listener.getsockname()[1])
    take_waiting(listener)
    client = rig.dial(port)
    both = Transfer(client, rig.accept(listener), 8 * MIB)
    both.finish(both.start())
    assert not binder.matching("disconnected")


class Rebinder:
    """A NAT between a client and a server that changes the client's port when it is told to."""

    def __init__(self, host: Host, server: tuple[str, int], inner: str = "") -> None:
        with host.inside():
            self._inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._inner.bind((inner or host.ip, 0))
        self._host = host
        self._server = server
        self._client: tuple[str, int] | None = None
        self._outer = self._fresh()
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def at(self) -> str:
        host, port = self._inner.getsockname()
        return f"/ip4/{host}/udp/{port}"

    def _fresh(self) -> socket.socket:
        with self._host.inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((self._host.ip, 0))
        for each in (sock, self._inner):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        return sock

    def rebind(self) -> None:
        """What comes to the old port is lost from now on."""
        fresh = self._fresh()
        with self._lock:
            old, self._outer = self._outer, fresh
        old.close()

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                outer = self._outer
                self._pass_on(outer)
            try:
                select.select([self._inner, outer], [], [], 0.2)
            except (OSError, ValueError):  # closed meanwhile
                continue

    def _pass_on(self, outer: socket.socket) -> None:
        for _ in range(256):
            try:
                data, self._client = self._inner.recvfrom(2048)
                outer.sendto(data, self._server)
            except BlockingIOError:
                break
        for _ in range(256):
            try:
                data = outer.recv(2048)
                if self._client is not None:
                    self._inner.sendto(data, self._client)
            except BlockingIOError:
                break

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._inner.close()
        self._outer.close()


@pytest.fixture
def nat(rig: Rig) -> Iterator[Rebinder]:
    with closing(Rebinder(rig.c, (rig.a.ip, 4001))) as rebinder:
        yield rebinder


def test_a_nat_that_rebinds_during_a_transfer(
    rig: Rig, nat: Rebinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session never notices: no stream is resumed, nothing is lost."""
    monkeypatch.setenv("PT_QUIC_ENGINE", "qh3")  # what a rebinding swallows counts as loss
    listener = rig.listen(rig.a)
    binder, port = quic_tunnel(rig, listener.getsockname()[1], at=nat.at)
    take_waiting(listener)
    client = rig.dial(port)
    both = Transfer(client, rig.accept(listener), SIZE)
    threads = both.start()
    for number in range(1, REBINDINGS + 1):
        both.wait_for(2 * SIZE * number // (REBINDINGS + 2))
        nat.rebind()
    both.finish(threads)
    assert not binder.matching("disconnected")
    assert len(binder.matching("connected")) == 1


@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
def test_qlog_files_beside_a_trace(rig: Rig, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What qvis draws: packets with their frames, round trips and congestion windows."""
    monkeypatch.setenv("PT_QUIC_ENGINE", engine)
    trace = rig.tmp / "trace.jsonl"
    exposer = rig.expose("--listen", UDP_LISTEN, "--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", "-v", "--trace", str(trace), to=quic_address(exposer))
    client = rig.dial(local_port(binder))
    ask_echo(client, b"hello")
    client.close()
    binder.wait("stream_closed")
    binder.signal(signal.SIGTERM)
    assert binder.exit_code() == 128 + signal.SIGTERM
    told = [json.loads(line) for line in trace.read_text().splitlines()]
    (path,) = [each["path"] for each in told if each["event"] == "qlog"]
    head, *events = [json.loads(part) for part in Path(path).read_text().split("\x1e")[1:]]
    assert head["trace"]["vantage_point"]["type"] == "client"
    names = {event["name"] for event in events}
    assert {"transport:packet_sent", "transport:packet_received"} <= names
    assert "recovery:metrics_updated" in names
    frames = {
        frame["frame_type"]
        for event in events
        if event["name"].startswith("transport:packet_")
        for frame in event["data"].get("frames", ())
    }
    assert {"stream", "ack"} <= frames
    times = [event["time"] for event in events]
    assert times == sorted(times)
    assert times[-1] / 1000 <= told[-1]["t"] + 1


def test_a_path_that_vanishes_is_resumed_on_the_next(rig: Rig) -> None:
    binder, port = quic_tunnel(rig, rig.echo_service())
    client = rig.dial(port)
    ask_echo(client, b"before")
    rig.lan.cut(rig.a, rig.b)
    client.sendall(b"during")
    binder.wait("disconnected")
    rig.lan.restore(rig.a, rig.b)
    assert binder.wait("resumed")["streams"] == 1
    assert client.recv(100) == b"during"


def test_nobody_at_the_port(rig: Rig) -> None:
    """The network says so, and that is heard: no time-out is waited for."""
    address = f"/ip4/{rig.a.ip}/udp/4001/quic-v1/p2p/{STRANGER}"
    binder = rig.bind("--port", "0", "--once", "--timeout", "20", to=address, ready=False)
    assert binder.exit_code(timeout=15) == NO_PATH
    assert "refused" in binder.log + str(binder.events)


@pytest.mark.parametrize("way", ["quic", "tcp"])
def test_a_path_that_loses_packets_is_left_for_one_that_bears_it(rig: Rig, way: str) -> None:
    """The engine in use halves at each loss; the next connection's does not, nor does TCP."""
    far, near = rig.a, rig.b
    shape = Shape(rate=50e6, delay=0.025, loss=0.01)
    for host in (far, near):
        host.link_down()
    with Link(far, near, shape, seed=5) as link:
        listener = rig.listen(far)
        port = listener.getsockname()[1]
        tcp = ["--listen", "/ip4/0.0.0.0/tcp/4001"] if way == "tcp" else []
        exposer = rig.expose("--listen", UDP_LISTEN, *tcp, "--port", str(port))
        take_waiting(listener)
        peer = exposer.wait("ready")["peer_id"]
        to = f"/ip4/{link.a_ip}/udp/4001/quic-v1/p2p/{peer}"
        binder = rig.bind("--port", "0", to=to)
        assert binder.wait("connected")["path"] == "direct/quic"
        client = rig.dial(local_port(binder))
        both = Transfer(client, rig.accept(listener), 6 * MIB)
        threads = both.start()
        again = binder.wait("connected", count=2)
        assert again["path"] == f"direct/{way}"
        both.finish(threads)
        assert not binder.matching("disconnected")


@pytest.mark.soak
def test_loss_and_rebindings_during_a_transfer_of_a_gibibyte_each_way(rig: Rig) -> None:
    """1 % loss, 50 ms, a NAT that rebinds 20 times; ssh goes on beside it."""
    shape = Shape(rate=200e6, delay=0.025, loss=0.01)
    directory = start_sshd(rig)
    rig.b.link_down()
    with (
        Link(rig.c, rig.b, shape, seed=9) as link,
        closing(Rebinder(rig.c, (rig.a.ip, 4001), inner=link.a_ip)) as nat,
    ):
        listener = rig.listen(rig.a)
        port = listener.getsockname()[1]
        exposer = rig.expose("--listen", UDP_LISTEN, "--port", str(port), "--port", str(SSH_PORT))
        take_waiting(listener)
        to = quic_address(exposer, nat.at)
        binder = rig.bind("-p", f"0:{port}", "-p", f"0:{SSH_PORT}", to=to)
        client = rig.dial(local_port(binder))
        both = Transfer(client, rig.accept(listener), SIZE)
        began = time.monotonic()
        threads = both.start()
        for number in range(1, REBINDINGS + 1):
            both.wait_for(2 * SIZE * number // (REBINDINGS + 2))
            nat.rebind()
        ssh = Ssh(rig, directory, local_port(binder, 1))
        assert rig.b.run(ssh.command("echo still here"), check=False).stdout == b"still here\n"
        both.finish(threads)
        took = time.monotonic() - began
        print(f"{SIZE >> 20} MiB each way in {took:.0f} s: {16 * SIZE / took / 1e6:.0f} Mbit/s")
        assert not binder.matching("disconnected")
