from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pt.lab import Host, Lan, unavailable
from pt.lab.netns import LanError

pytestmark = pytest.mark.netns

ECHO = """
import socket, sys
s = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
c = s.accept()[0]
while data := c.recv(100):
    c.sendall(data)
"""
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7))
for line in sys.stdin.buffer:
    try:
        s.sendall(line)
        got = s.recv(100)
    except OSError as error:
        got = type(error).__name__.encode()
    sys.stdout.buffer.write(got.strip() + b"\\n")
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(hosts=2, congestion="reno") as made:
        yield made


def connected(server: Host, client: Host, family: str = "ip") -> subprocess.Popen[bytes]:
    """A client process whose every line is echoed by the server."""
    listening = server.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert listening.stdout is not None
    assert listening.stdout.readline() == b"ready\n"
    listening.stdout.close()
    pipe = subprocess.PIPE
    return client.popen(
        [sys.executable, "-c", CLIENT, getattr(server, family)], stdin=pipe, stdout=pipe
    )


def ask(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_this_machine_can() -> None:
    assert unavailable() is None


def test_hosts_have_addresses_and_reach_each_other(lan: Lan) -> None:
    a, b = lan.hosts
    assert (a.ip, b.ip, a.name, b.name) == ("11.1.0.1", "11.1.0.2", "h1", "h2")
    echo = connected(a, b)
    assert ask(echo, b"hello") == b"hello"
    probe = (
        "import socket; socket.create_server(('127.0.0.1', 9)).close();"
        "socket.create_server(('::1', 10), family=socket.AF_INET6).close()"
    )
    assert a.run([sys.executable, "-c", probe]).returncode == 0


def test_multicast_reaches_the_other_host(lan: Lan) -> None:
    a, b = lan.hosts
    receive = (
        "import socket,struct\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',5353))\n"
        "m=socket.inet_aton('224.0.0.251')\n"
        f"s.setsockopt(socket.IPPROTO_IP,socket.IP_ADD_MEMBERSHIP,m+socket.inet_aton('{a.ip}'))\n"
        "print('ready',flush=True); print(s.recvfrom(99)[1][0],flush=True)"
    )
    receiver = a.popen([sys.executable, "-c", receive], stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == b"ready\n"
    send = "import socket; socket.socket(2,2).sendto(b'x',('224.0.0.251',5353))"
    b.run([sys.executable, "-c", send])
    assert receiver.communicate()[0].strip().decode() == b.ip


def test_there_is_no_uplink(lan: Lan) -> None:
    dial = (
        "import socket,sys; s=socket.socket(); s.settimeout(1)\n"
        "sys.exit(s.connect_ex((sys.argv[1],80)) != 0)"
    )
    for away in ("192.0.2.1", "11.2.0.1"):
        assert lan.hosts[0].run([sys.executable, "-c", dial, away], check=False).returncode == 1


def test_sysctl_is_per_host() -> None:
    with Lan(hosts=2) as lan:
        a, b = lan.hosts
        path = "/proc/sys/net/ipv4/tcp_congestion_control"
        before = b.run(["cat", path]).stdout
        a.congestion_control("reno" if before != b"reno\n" else "cubic")
        assert a.run(["cat", path]).stdout != before
        assert b.run(["cat", path]).stdout == before


def test_cut_swallows_and_restore_delivers(lan: Lan) -> None:
    a, b = lan.hosts
    echo = connected(a, b)
    assert ask(echo, b"1") == b"1"
    lan.cut(a, b)
    lan.cut(a, b)
    assert echo.stdin is not None
    assert echo.stdout is not None
    echo.stdin.write(b"2\n")
    echo.stdin.flush()
    assert not select.select([echo.stdout], [], [], 0.5)[0]
    lan.restore(a, b)
    lan.restore(a, b)
    assert echo.stdout.readline() == b"2\n"


@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize("everyone", [False, True])
def test_kill_connections_resets_both_ends(lan: Lan, family: str, everyone: bool) -> None:
    a, b = lan.hosts
    echo = connected(a, b, family)
    assert ask(echo, b"1") == b"1"
    assert a.kill_connections(None if everyone else b) == 1
    assert ask(echo, b"2") in (b"ConnectionResetError", b"BrokenPipeError")
    assert a.kill_connections(b) == 0


def test_refuse_resets_what_arrives(lan: Lan) -> None:
    a, b = lan.hosts
    echo = connected(a, b)
    assert ask(echo, b"1") == b"1"
    a.refuse(b)
    assert ask(echo, b"2") == b"ConnectionResetError"


def test_link_down_and_up(lan: Lan) -> None:
    a, b = lan.hosts
    echo = connected(a, b)
    assert ask(echo, b"1") == b"1"
    b.link_down()
    assert b.run(["ip", "-o", "route", "get", a.ip], check=False).returncode != 0
    b.link_up()
    assert ask(echo, b"2") == b"2"
    assert b.run(["ip", "-o", "-6", "route", "get", a.ip6]).returncode == 0


def test_close_ends_the_processes() -> None:
    with Lan(hosts=1) as lan:
        polite = lan.hosts[0].popen(["sleep", "1000"])
        stubborn = lan.hosts[0].popen(
            ["sh", "-c", 'trap "" TERM; echo; while :; do sleep 1000; done'], stdout=subprocess.PIPE
        )
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        stubborn.stdout.close()
    assert polite.wait(20) == -signal.SIGTERM
    assert stubborn.wait(20) == -signal.SIGKILL


def test_nothing_outlives_a_killed_run() -> None:
    script = (
        "import time\n"
        "from pt.lab import Lan\n"
        "with Lan(hosts=1) as lan:\n"
        "    print(lan.hosts[0].popen(['sleep', '1000']).pid, lan.hosts[0].pid, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert run.stdout is not None
    pids = [int(word) for word in run.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    run.kill()
    run.communicate()
    assert eventually(lambda: not any(alive(pid) for pid in pids))


def test_many_at_once_with_the_same_addresses() -> None:
    with Lan(hosts=1) as one, Lan(hosts=1) as two:
        ports = []
        for host in (one.hosts[0], two.hosts[0]):
            server = host.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
            assert server.stdout is not None
            ports.append(server.stdout.readline())
            server.stdout.close()
        assert ports == [b"ready\n", b"ready\n"]


def test_direct_cable() -> None:
    with Lan(hosts=2, direct=True, names=["left", "right"]) as lan:
        left, right = lan
        assert [left.name, right.name] == ["left", "right"]
        echo = connected(left, right)
        assert ask(echo, b"x") == b"x"


def test_errors_are_told(lan: Lan) -> None:
    with pytest.raises(LanError, match=r"false exited with 1"):
        lan.hosts[0].run(["false"])
    with pytest.raises(LanError, match=r"nft"):
        lan.hosts[0].nft("nonsense")


@pytest.mark.parametrize(
    ("hosts", "subnet", "direct"),
    [(0, "11.1.0.0/24", False), (3, "11.1.0.0/30", False), (3, "11.1.0.0/24", True)],
)
def test_impossible_plans(hosts: int, subnet: str, direct: bool) -> None:
    with pytest.raises(ValueError, match=r"hosts"):
        Lan(hosts=hosts, subnet=subnet, direct=direct)


def test_a_thread_visits_hosts_and_keeps_their_sockets(lan: Lan) -> None:
    a, b = lan.hosts
    with a.inside():
        listener = socket.create_server((a.ip, 80))
    with b.inside():
        client = socket.create_connection((a.ip, 80), 5)
    server, (seen, _) = listener.accept()
    assert seen == b.ip
    for sock in (server, client, listener):
        sock.close()
    with socket.socket() as here, pytest.raises(OSError, match=r"."):
        here.bind((a.ip, 0))
