"""Two hosts behind NATs, through `pt relay`: nothing is lost, whatever happens to the relays."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import MIB, NAME, PtProcess, ask_echo, local_port, soak, take_waiting
from tests.e2e.relay_rig import (
    GapTransfer,
    Relay,
    RelayRig,
    converse,
    relay_of,
    relay_rig_at,
)
from tests.e2e.sshd import SSH_PORT, Ssh, start_sshd

pytestmark = [pytest.mark.netns, pytest.mark.timeout(1800 if soak() else 240)]
SIZE = 1024 * MIB if soak() else 48 * MIB
INTERRUPTION = 2.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RelayRig]:
    with relay_rig_at(tmp_path) as made:
        yield made


def transfer_through(
    rig: RelayRig, *relays: Relay, size: int = SIZE, binder_on=None
) -> tuple[PtProcess, PtProcess, GapTransfer]:
    """A tunnel and one connection through it, both ends in hand."""
    listener = rig.listen(rig.a)
    exposer = rig.expose_through(listener.getsockname()[1], *relays)
    binder = rig.bind_through(exposer, *relays, host=binder_on)
    take_waiting(listener)
    client = rig.dial(local_port(binder), host=binder_on)
    return exposer, binder, GapTransfer(client, rig.accept(listener), size)


@pytest.mark.soak
def test_a_transfer_both_ways_between_two_nats(rig: RelayRig) -> None:
    relay = rig.relay()
    _, binder, transfer = transfer_through(rig, relay)
    transfer.finish(transfer.start())
    assert binder.wait("connected")["path"] == "relay/raw"
    opened = relay.process.wait("circuit_opened", kind="raw")
    assert opened["grade"] == "user"
    assert not binder.matching("disconnected")


def test_ssh_between_two_nats(rig: RelayRig) -> None:
    relay = rig.relay()
    directory = start_sshd(rig)
    exposer = rig.expose_through(SSH_PORT, relay)
    binder = rig.bind_through(exposer, relay)
    ssh = Ssh(rig, directory, local_port(binder))
    done = rig.b.run(ssh.command("echo out; echo err >&2; exit 7"), check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    data = os.urandom(8 * MIB)
    assert rig.b.run(ssh.command("sha256sum"), feed=data).stdout.split()[0].decode() == (
        hashlib.sha256(data).hexdigest()
    )
    assert [event["path"] for event in binder.matching("connected")] == ["relay/raw"]


def test_libp2p_circuits_carry_it_too(rig: RelayRig) -> None:
    """Over WebSocket the relay cannot hand its socket to the kernel: both ends use its streams."""
    listen = f"/ip4/{rig.r1.ip}/tcp/4002/ws"
    relay = rig.relay("--listen", f"/ip4/{rig.r1.ip}/tcp/4001", listen)
    ws = Relay(relay.process, relay.address.replace("/tcp/4001", "/tcp/4002/ws"))
    _, binder, transfer = transfer_through(rig, ws, size=16 * MIB)
    transfer.finish(transfer.start())
    assert binder.wait("connected")["path"] == "relay/circuit"
    relay.process.wait("circuit_opened", kind="libp2p")


@pytest.mark.soak
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_one_of_two_relays_dies_in_the_middle(rig: RelayRig, how: str) -> None:
    one, two = rig.relay(), rig.relay(host=rig.r2)
    exposer, binder, transfer = transfer_through(rig, one, two)
    used = relay_of(binder.wait("connected"), one, two)
    threads = transfer.start()
    transfer.wait_for(SIZE // 2)
    transfer.watch()
    if how == "killed":
        used.process.signal(signal.SIGKILL)
    else:
        rig.net.cut(used.host, rig.net.router("a"))
        rig.net.cut(used.host, rig.net.router("b"))
    resumed = binder.wait("resumed")
    transfer.finish(threads)
    print(f"{how}: {transfer.gap:.2f} s without a byte, path lost for {resumed['seconds']} s")
    assert transfer.gap <= INTERRUPTION
    last = binder.matching("connected")[-1]
    assert relay_of(last, one, two) is not used
    exposer.wait("published", medium="relay", ok=False)


def test_both_relays_die_and_one_comes_back(rig: RelayRig) -> None:
    one, two = rig.relay(), rig.relay(host=rig.r2)
    port = rig.echo_service()
    exposer = rig.expose_through(port, one, two)
    binder = rig.bind_through(exposer, one, two)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    for relay in (one, two):
        relay.process.signal(signal.SIGKILL)
    binder.wait("disconnected")
    again = rig.relay()
    assert again.address == one.address  # the identity is kept
    exposer.wait("published", medium="relay", ok=True, count=3)
    binder.wait("resumed")
    ask_echo(client, b"the connection is the same as before")


def test_a_relay_that_is_stopped_sends_everybody_elsewhere_first(rig: RelayRig) -> None:
    one, two = rig.relay(), rig.relay(host=rig.r2)
    port = rig.echo_service()
    exposer = rig.expose_through(port, one, two)
    binder = rig.bind_through(exposer, one, two)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    used = relay_of(binder.wait("connected"), one, two)
    used.process.signal(signal.SIGTERM)
    draining = used.process.wait("relay_draining")
    assert draining["circuits"] == 1
    exposer.wait("published", medium="relay", ok=False)
    ask_echo(client, b"while it drains")
    used.process.signal(signal.SIGTERM)
    assert used.process.exit_code() == 143
    binder.wait("resumed")
    ask_echo(client, b"and after it is gone")


# --- classes of users --------------------------------------------------------------------------


def test_a_private_relay_knows_who_may_use_it(rig: RelayRig) -> None:
    relay = rig.relay("--private")
    port = rig.echo_service()
    stranger = rig.expose("--port", str(port), "--relay", relay.address, home="stranger")
    refused = stranger.wait("published", medium="relay", ok=False)
    assert "private" in str(refused["detail"])
    stranger.signal(signal.SIGTERM)
    exposer = rig.expose_through(port, relay)
    binder = rig.bind_through(exposer, relay)  # needs no secret
    ask_echo(rig.dial(local_port(binder)))


def test_a_wrong_secret_is_told_on_both_sides(rig: RelayRig) -> None:
    relay = rig.relay()
    wrong = rig.tmp / "wrong.secret"
    wrong.write_text("this-is-not-the-right-secret\n")
    wrong.chmod(0o600)
    exposer = rig.expose("--port", "9", "--relay", relay.address, "--relay-secret-file", str(wrong))
    told = exposer.wait("published", medium="relay", ok=False)
    assert "does not know this secret" in str(told["detail"])
    assert relay.process.wait("relay_refused", what="auth")["reason"] == "a wrong secret"
    assert "128 KiB" in str(exposer.wait("published", medium="relay", ok=True)["detail"])


def test_peers_on_the_list_are_users(rig: RelayRig) -> None:
    identity = rig.pt("key", "--json", "--id", NAME, "--home", str(rig.home("a")), host=rig.a)
    assert identity.exit_code() == 0
    allow = rig.tmp / "allow"
    allow.write_text(f"# friends\n{identity.events[0]['peer_id']}  # host a\n")
    relay = rig.relay("--allow-file", str(allow), "--private", users=False)
    exposer = rig.expose_through(rig.echo_service(), relay, users=False)
    assert relay.process.wait("reserved")["grade"] == "user"
    ask_echo(rig.dial(local_port(rig.bind_through(exposer, relay))))


def test_the_list_is_read_again_on_sighup(rig: RelayRig) -> None:
    allow = rig.tmp / "allow"
    allow.write_text("# nobody yet\n")
    relay = rig.relay("--allow-file", str(allow), "--private")
    exposer = rig.expose("--port", str(rig.echo_service()), "--relay", relay.address)
    exposer.wait("published", medium="relay", ok=False)
    allow.write_text("nonsense\n")
    relay.process.signal(signal.SIGHUP)
    assert "line 1" in str(relay.process.wait("warned")["message"])
    allow.write_text(f"{exposer.wait('ready')['peer_id']}\n")
    relay.process.signal(signal.SIGHUP)
    relay.process.wait("relay_reloaded")
    exposer.wait("published", medium="relay", ok=True)


# --- limited relays ----------------------------------------------------------------------------


@pytest.mark.soak
def test_a_dialogue_lives_on_a_relay_with_tight_limits(rig: RelayRig) -> None:
    limits = ["128K", "120"] if soak() else ["24K", "6"]
    seconds = 900 if soak() else 25
    relay = rig.relay("--stranger-data", limits[0], "--stranger-duration", limits[1], users=False)
    exposer = rig.expose_through(rig.echo_service(), relay, users=False)
    binder = rig.bind_through(exposer, relay)
    told = converse(rig.dial(local_port(binder)), seconds)
    circuits = len(relay.process.matching("circuit_opened"))
    print(f"{told}, {circuits} circuits")
    assert circuits >= 4
    assert not binder.matching("disconnected")
    warned = [str(event["message"]) for event in binder.matching("warned")]
    assert any("pt relay" in message for message in warned)


def test_bulk_over_a_limited_relay_is_slow_exact_and_explained(rig: RelayRig) -> None:
    relay = rig.relay("--stranger-data", "64K", users=False)
    listener = rig.listen(rig.a)
    exposer = rig.expose_through(listener.getsockname()[1], relay, users=False)
    binder = rig.bind_through(exposer, relay)
    take_waiting(listener)
    client = rig.dial(local_port(binder))
    transfer = GapTransfer(client, rig.accept(listener), 100 * 1024)
    began = time.monotonic()
    transfer.finish(transfer.start())
    seconds = time.monotonic() - began
    circuits = relay.process.matching("circuit_opened")
    assert len(circuits) >= 3
    assert seconds > 5
    for closed in relay.process.matching("circuit_closed"):
        assert int(str(closed["sent"])) <= 64 * 1024
    assert "KiB/s" in str(binder.wait("warned")["message"])


# --- direct paths ------------------------------------------------------------------------------


def direct_after_relay(
    rig: RelayRig, size: int = SIZE
) -> tuple[PtProcess, GapTransfer, list[threading.Thread]]:
    """A transfer that began over a relay and goes on directly: the binder is on a public host."""
    relay = rig.relay()
    _, binder, transfer = transfer_through(rig, relay, size=size, binder_on=rig.c)
    threads = transfer.start()
    assert str(binder.wait("connected")["path"]) == "relay/raw"
    binder.wait("connected", path="direct/tcp")
    return binder, transfer, threads


def test_a_public_binder_is_dialed_back(rig: RelayRig) -> None:
    _, transfer, threads = direct_after_relay(rig)
    transfer.finish(threads)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["cut off", "reset"])
def test_the_direct_path_dies_and_the_relay_takes_over(rig: RelayRig, how: str) -> None:
    binder, transfer, threads = direct_after_relay(rig, size=SIZE * 2)
    transfer.wait_for(SIZE // 4)
    transfer.watch()
    if how == "cut off":
        rig.net.cut(rig.c, rig.net.router("a"))
        binder.wait("connected", path="relay/raw", count=2)
    else:
        rig.c.run(["ss", "-K", "-t", "dst", rig.net.router("a").ip])
        binder.wait("resumed")
    transfer.finish(threads)
    print(f"{how}: {transfer.gap:.2f} s without a byte")
    assert transfer.gap <= INTERRUPTION


def test_a_public_exposer_given_by_its_relay_is_dialed(rig: RelayRig) -> None:
    relay = rig.relay()
    port = rig.echo_service(rig.c)
    exposer = rig.expose_through(port, relay, host=rig.c)
    binder = rig.bind_through(exposer, relay)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    binder.wait("connected", path="direct/tcp")
    ask_echo(client, b"directly")


# --- what a relay sees -------------------------------------------------------------------------


def test_a_relay_cannot_read_what_it_carries(rig: RelayRig) -> None:
    """A marker that crosses the relay is neither on its wire nor in its memory."""
    relay = rig.relay()
    exposer = rig.expose_through(rig.echo_service(), relay)
    binder = rig.bind_through(exposer, relay)
    client = rig.dial(local_port(binder))
    marker = b"MARKER-0f9b3c77-that-nobody-in-between-may-see"
    with rig.r1.inside():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("eth0", 0))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * MIB)
    wire.settimeout(0.5)
    payload = marker * 2000
    ask_echo(client, payload)
    seen = bytearray()
    try:
        while len(seen) < 4 * len(payload):
            seen += wire.recv(65536)
    except TimeoutError:
        pass
    wire.close()
    assert len(seen) > 2 * len(payload)  # it did cross
    assert marker not in seen
    assert marker not in memory_of(relay.process.pid)
    assert marker in memory_of(binder.pid)  # where it is plain text, this search finds it


def memory_of(pid: int) -> bytes:
    """All that a process has written to its own pages."""
    found = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            mem.seek(start)
            while start < end:
                piece = mem.read(min(MIB, end - start))
                if not piece:
                    break
                found += piece
                start += len(piece)
    return bytes(found)


def test_prometheus_finds_the_relays_metrics(rig: RelayRig) -> None:
    relay = rig.relay("--http", "127.0.0.1:9090")
    exposer = rig.expose_through(rig.echo_service(), relay)
    ask_echo(rig.dial(local_port(rig.bind_through(exposer, relay))))
    said = rig.r1.run(["curl", "-sf", "http://127.0.0.1:9090/metrics"]).stdout.decode()
    assert 'pt_relay_reservations{class="user"} 1.0' in said
    assert 'pt_relay_circuits{kind="raw"} 1.0' in said
    assert rig.r1.run(["curl", "-sf", "http://127.0.0.1:9090/healthz"]).stdout == b"ok\n"
    relay.process.signal(signal.SIGTERM)
    relay.process.wait("relay_draining")
    code = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9090/healthz"]
    deadline = time.monotonic() + 10  # the page's figures may be a quarter of a second old
    while rig.r1.run(code).stdout != b"503":
        assert time.monotonic() < deadline
