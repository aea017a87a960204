"""Kill, starve, flood and confuse: the tunnel says so, stays up, stays small and heals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import MIB, NAME, PtProcess, Rig, ask_echo, local_port, need, take_waiting

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
STATE_EXIT = 11
FLOOD_GROWTH_LIMIT = 64 * MIB


def test_an_exposer_killed_and_restarted(rig: Rig) -> None:
    """The binder heals by itself; connections whose service is gone end at once, by reset."""
    service = rig.echo_service()
    exposer = rig.expose("--port", str(service))
    binder = rig.bind("--port", "0", to=exposer)
    old = rig.dial(local_port(binder))
    ask_echo(old)
    exposer.process.kill()
    exposer.exit_code()
    binder.wait("disconnected")
    binder.wait("retrying")
    rig.expose("--port", str(service))
    binder.wait("connected", count=2)
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    ask_echo(rig.dial(local_port(binder)))
    assert binder.running()


def test_a_binder_killed_and_restarted(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer = rig.expose("--port", str(listener.getsockname()[1]))
    binder = rig.bind("--port", "2022", to=exposer)
    take_waiting(listener)
    client = rig.dial(2022)
    service = rig.accept(listener)
    client.sendall(b"x")
    assert service.recv(1) == b"x"
    binder.process.kill()
    binder.exit_code()
    rig.bind("--port", "2022", to=exposer)
    rig.dial(2022).sendall(b"y")
    assert rig.accept(listener).recv(1) == b"y"


def test_once_ends_when_the_exposer_is_lost(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", "--once", to=exposer)
    ask_echo(rig.dial(local_port(binder)))
    exposer.process.kill()
    exposer.exit_code()
    assert binder.exit_code() != 0


def garbage(sock: socket.socket) -> None:
    sock.sendall(os.urandom(100_000))


def zeros(sock: socket.socket) -> None:
    sock.sendall(bytes(100_000))


def huge_length(sock: socket.socket) -> None:
    sock.sendall(b"\xff" * 9 + b"\x01" + bytes(1000))


def stall_at_once(sock: socket.socket) -> None:
    del sock


def stall_after_the_header(sock: socket.socket) -> None:
    sock.sendall(b"\x13/multistream/1.0.0\n")


def stall_in_noise(sock: socket.socket) -> None:
    sock.sendall(b"\x13/multistream/1.0.0\n\x07/noise\n")


def garbage_in_noise(sock: socket.socket) -> None:
    sock.sendall(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + os.urandom(32))
    sock.sendall(b"\xff\xff" + os.urandom(65535))


def endless_proposals(sock: socket.socket) -> None:
    sock.sendall(b"\x13/multistream/1.0.0\n" + b"\x05/abc\n" * 20_000)


def never_reads(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 20_000)


BAD_PEERS = [
    garbage,
    zeros,
    huge_length,
    stall_at_once,
    stall_after_the_header,
    stall_in_noise,
    garbage_in_noise,
    endless_proposals,
    never_reads,
]


def dial_exposer(rig: Rig) -> socket.socket:
    return rig.dial(4001, host=rig.c, ip=rig.a.ip)


@pytest.mark.parametrize("behave", BAD_PEERS, ids=lambda f: f.__name__)
def test_a_bad_peer_does_not_disturb(rig: Rig, behave: Callable[[socket.socket], None]) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", to=exposer)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    before = exposer.baseline()
    socks = []
    for _ in range(30):
        with contextlib.suppress(ConnectionError):
            socks.append(dial_exposer(rig))
            socks[-1].settimeout(5)
            with contextlib.suppress(TimeoutError):
                behave(socks[-1])
    ask_echo(client)
    ask_echo(rig.dial(local_port(binder)))
    assert exposer.memory("VmHWM") - before < FLOOD_GROWTH_LIMIT
    assert not binder.matching("disconnected")
    for sock in socks:  # every one of them is thrown out, by and by
        sock.settimeout(90)
        with contextlib.suppress(ConnectionError):
            while sock.recv(65536):
                pass
    ask_echo(client)
    assert "Traceback" not in exposer.log


def test_a_flood_of_connections(rig: Rig) -> None:
    """More strangers than there are places: those inside go on, memory stays bounded."""
    exposer = rig.expose("--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", to=exposer)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    before = exposer.baseline()
    for _ in range(1500):
        try:
            sock = dial_exposer(rig)
        except OSError:
            break
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"\x13/multistream/1.0.0\n")
    ask_echo(client)
    assert exposer.memory() - before < FLOOD_GROWTH_LIMIT
    assert exposer.running()


def test_a_local_client_that_never_reads_or_writes(rig: Rig) -> None:
    """Idle clients cost little and take nothing from the others."""
    exposer, binder, port = rig.tunnel(rig.echo_service())
    before = [process.baseline() for process in (exposer, binder)]
    idle = [rig.dial(port) for _ in range(300)]
    ask_echo(rig.dial(port))
    ask_echo(idle[150])
    after = [process.memory() for process in (exposer, binder)]
    grown = [now - was for now, was in zip(after, before, strict=True)]
    assert max(grown) < 32 * MIB, [f"{size / MIB:.1f} MiB" for size in grown]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, with the given mount options."""
    need("mount", "umount")
    made: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / f"fs{len(made)}"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
        made.append(path)
        return path

    yield mount
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


def start_both(rig: Rig, home: Path) -> list[PtProcess]:
    peer = f"/ip4/{rig.a.ip}/tcp/1"
    tcp = ["tcp", "--port", "22", "--id", NAME, "--no-lan", "--listen", "/ip4/0.0.0.0/tcp/0"]
    bind = ["bind", "--port", "0", "--id", NAME, "--no-lan", "--peer", peer]
    return [rig.pt(*argv, "--json", home=home) for argv in (tcp, bind, ["key", "new"])]


def complained(processes: list[PtProcess], home: Path) -> None:
    for process in processes:
        assert process.exit_code() == STATE_EXIT
        assert str(home) in process.log + process.output.decode()
        assert "Traceback" not in process.log


def test_state_on_a_full_disk(rig: Rig, mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=64k")
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    complained(start_both(rig, disk / "state"), disk)


def test_state_where_nothing_can_be_written(rig: Rig, mounted: Callable[[str], Path]) -> None:
    disk = mounted("ro")
    complained(start_both(rig, disk / "state"), disk)


def test_state_that_is_a_file(rig: Rig) -> None:
    home = rig.tmp / "plain-file"
    home.write_text("not a directory")
    complained(start_both(rig, home), home)


def test_a_disk_that_fills_up_later(rig: Rig, mounted: Callable[[str], Path]) -> None:
    """A pin that cannot be remembered is reported, not hidden."""
    disk = mounted("size=64k")
    key = rig.pt("key", "new", home=disk / "state")
    assert key.exit_code() == 0
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(512))
    exposer = rig.expose("--port", str(rig.echo_service()))
    argv = ["bind", "--port", "0", "--id", NAME, "--no-lan", "--peer"]
    address = f"/ip4/{rig.a.ip}/tcp/4001/p2p/{exposer.wait('ready')['peer_id']}"
    binder = rig.pt(*argv, address, "--json", home=disk / "state")
    try:
        binder.wait("warned")
    except AssertionError:
        assert binder.exit_code() == STATE_EXIT


def test_a_missing_home_is_made(rig: Rig) -> None:
    deep = rig.tmp / "not" / "yet" / "there"
    shown = rig.pt("key", "show", home=deep)
    assert shown.exit_code() == 0
    assert deep.stat().st_mode & 0o777 == 0o700


def test_a_damaged_identity_is_not_replaced(rig: Rig) -> None:
    """A key file that cannot be read is an error: a silent new identity would break every pin."""
    assert rig.pt("key", "new", home="a").exit_code() == 0
    home = rig.home("a")
    path = rig.pt("key", "path", home="a")
    assert path.exit_code() == 0
    key = Path(path.output.decode().strip())
    key.write_bytes(b"damaged")
    exposer = rig.expose("--port", "22", ready=False)
    assert exposer.exit_code() == STATE_EXIT
    assert key.read_bytes() == b"damaged"
    shutil.rmtree(home)


def test_the_network_goes_away_and_comes_back(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", to=exposer)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    rig.b.link_down()
    binder.wait("disconnected")
    client.sendall(b"patience")
    rig.b.link_up()
    binder.wait("resumed")
    assert client.recv(8) == b"patience"


def test_a_stopped_exposer_is_noticed_and_missed_by_nobody(rig: Rig) -> None:
    """SIGSTOP: connections stay open, nobody answers; then it goes on as if nothing had been."""
    exposer = rig.expose("--port", str(rig.echo_service()))
    binder = rig.bind("--port", "0", to=exposer)
    client = rig.dial(local_port(binder))
    ask_echo(client)
    exposer.signal(signal.SIGSTOP)
    binder.wait("disconnected")
    client.sendall(b"patience")
    exposer.signal(signal.SIGCONT)
    assert client.recv(8) == b"patience"
    ask_echo(client)
