"""The user-space engine: real sockets behind the model's NATs, over its links."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.lab.lab import Lab, LabError
from pt.lab.machine import Machine
from pt.lab.model.spec import SpecError

pytestmark = pytest.mark.netns
TIMEOUT = 5.0


def udp(host: Machine, port: int = 0, ip: str = "") -> socket.socket:
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((ip, port))
    sock.settimeout(TIMEOUT)
    return sock


def silent(sock: socket.socket, wait: float = 0.15) -> bool:
    sock.settimeout(wait)
    try:
        sock.recv(100)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        sock.settimeout(TIMEOUT)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(a="eim-apdf", b="apdm-eif,v6=adf", c="public", d="fw", lan=2) as made:
        yield made


def test_a_datagram_there_and_back(lab: Lab) -> None:
    with udp(lab["s1"]) as server, udp(lab["s2"]) as other, udp(lab["a"], 40000) as client:
        client.sendto(b"ask", (lab["s1"].ip, server.getsockname()[1]))
        data, seen = server.recvfrom(100)
        assert (data, seen) == (b"ask", ("11.100.0.1", 40000))
        server.sendto(b"answer", seen)
        assert client.recv(100) == b"answer"
        other.sendto(b"stranger", seen)
        assert silent(client)
    (mapping,) = [each for each in lab.mappings()["a"] if each["protocol"] == "udp"]
    assert mapping["internal"] == "192.168.1.10:40000"
    assert lab.stats()["drops"]["a"] == {"filtered": 1}


def test_tcp_and_bulk(lab: Lab) -> None:
    size = 4 << 20
    with lab["s1"].inside():
        server = socket.create_server(("0.0.0.0", 0))
    with lab["b"].inside():
        client = socket.create_connection((lab["s1"].ip, server.getsockname()[1]), TIMEOUT)
    with server, client:
        accepted, peer = server.accept()
        assert peer[0] == "11.101.0.1"
        with accepted:
            child = os.fork()
            if not child:
                accepted.sendall(bytes(size))
                os._exit(0)
        left = size
        while left:
            data = client.recv(1 << 20)
            assert data
            left -= len(data)
        assert os.waitpid(child, 0)[1] == 0


def test_refused_connections_are_refused_by_the_host_itself(lab: Lab) -> None:
    with lab["a"].inside(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((lab["s1"].ip, 9), TIMEOUT)


def test_hosts_of_a_side_share_a_network_with_multicast(lab: Lab) -> None:
    group = ("224.0.0.251", 5353)
    with udp(lab["a2"], 5353) as listener, udp(lab["a"], 7000) as sender:
        joined = socket.inet_aton(group[0]) + socket.inet_aton(lab["a2"].ip)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        sender.sendto(b"who", group)
        assert listener.recvfrom(100) == (b"who", (lab["a"].ip, 7000))


def test_ipv6_behind_its_wall(lab: Lab) -> None:
    with udp(lab["s1"], ip=lab["s1"].ip6) as server, udp(lab["b"], 4000, lab["b"].ip6) as client:
        server.sendto(b"early", (lab["b"].ip6, 4000))
        assert silent(client)
        client.sendto(b"ask", server.getsockname()[:2])
        assert server.recvfrom(100)[1][:2] == (lab["b"].ip6, 4000)
        with udp(lab["s1"], ip=lab["s1"].ip6) as same_address:
            same_address.sendto(b"in", (lab["b"].ip6, 4000))
            assert client.recv(100) == b"in"


def test_a_reboot_a_cut_and_another_nat(lab: Lab) -> None:
    with udp(lab["s1"]) as server, udp(lab["a"], 41000) as client:
        target = (lab["s1"].ip, server.getsockname()[1])
        client.sendto(b"1", target)
        before = server.recvfrom(10)[1]
        assert lab.flush("a", renumber=True) == ("11.100.0.2",)
        server.sendto(b"lost", before)
        client.sendto(b"2", target)
        assert server.recvfrom(10)[1][0] == "11.100.0.2"
        assert silent(client)
        lab.cut("a")
        client.sendto(b"3", target)
        assert silent(server)
        lab.restore("a")
        lab.set_nat("a", "apdm-random")
        client.sendto(b"4", target)
        assert server.recvfrom(10)[1][1] != 41000
    lab.set_nat("a", "eim-apdf")


@pytest.mark.parametrize(
    ("do", "order", "named"),
    [
        ("flush", {"name": "x"}, "there are a, b"),
        ("nat", {"name": "a", "spec": "cone"}, "not a NAT"),
        ("nat", {"name": "a", "spec": "eim+eim"}, "not a chain"),
        ("link", {"name": "a", "spec": "delay=x"}, "milliseconds"),
        ("dance", {}, "not an order"),
        ("flush", {}, "not an order"),
    ],
)
def test_wrong_orders_are_refused_by_name(lab: Lab, do, order, named) -> None:
    with pytest.raises(LabError) as error:
        lab.ask(do, **order)
    assert named in str(error.value)
    with pytest.raises(LabError, match="no host 'x'"):
        lab["x"]


def test_there_is_no_way_out(lab: Lab) -> None:
    for name in ("a", "s1"):
        devices = lab[name].run(["ip", "-o", "link"]).stdout.decode()
        assert {line.split(": ")[1] for line in devices.splitlines()} == {"lo", "eth0"}
    with udp(lab["s1"]) as sock:
        sock.sendto(b"out", ("192.0.2.1", 9))
        assert silent(sock)
    assert lab.stats()["drops"]["core"]["no route"] >= 1


def test_a_link_has_its_delay_and_loss() -> None:
    with (
        Lab(a="eim", link="delay=10", links={"s2": "loss=50"}, seed=4) as lab,
        udp(lab["s1"]) as server,
        udp(lab["s2"]) as lossy,
        udp(lab["a"]) as client,
    ):
        trips = []
        for _ in range(9):
            began = time.monotonic()
            client.sendto(b"ask", (lab["s1"].ip, server.getsockname()[1]))
            server.sendto(b"answer", server.recvfrom(10)[1])
            client.recv(10)
            trips.append(time.monotonic() - began)
        assert min(trips) >= 0.040
        assert statistics.median(trips) < 0.060
        for _ in range(100):
            client.sendto(b"ask", (lab["s2"].ip, lossy.getsockname()[1]))
        while not silent(lossy, 0.05):
            pass
        down = lab.stats()["links"]["s2"]["down"]
        assert down["packets"] + down["lost"] == 100
        assert 30 <= down["lost"] <= 70


def test_trace_and_capture_share_a_clock(tmp_path: Path) -> None:
    trace, pcap = tmp_path / "t.jsonl", tmp_path / "core.pcap"
    with (
        Lab(a="eim,timeout=0.3", trace=trace, pcap=pcap, seed=9) as lab,
        udp(lab["s1"]) as server,
        udp(lab["a"], 4000) as client,
    ):
        before = time.monotonic()
        client.sendto(b"ask", (lab["s1"].ip, server.getsockname()[1]))
        server.recvfrom(10)
        lab.mark("here")
        server.sendto(b"late", ("11.100.0.9", 1))
        while "unmap" not in trace.read_text():
            assert time.monotonic() - before < TIMEOUT
            time.sleep(0.02)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["lab", "map", "mark", "drop", "unmap"]
    assert (lines[0]["seed"], lines[0]["sides"]) == (9, {"a": "eim,timeout=0.3"})
    assert lines[1]["internal"] == "192.168.1.10:4000"
    assert lines[3]["why"] == "no route"
    assert lines[4]["why"] == "timeout"
    assert before <= lines[1]["t"] <= lines[2]["t"] <= time.monotonic()
    raw = pcap.read_bytes()
    assert struct.unpack_from("I", raw)[0] == 0xA1B23C4D
    seconds, nanoseconds, size, _ = struct.unpack_from("IIII", raw, 24)
    assert size == 31
    wall = lines[0]["wall"] + lines[1]["t"] - lines[0]["t"]
    assert abs(seconds + nanoseconds / 1e9 - wall) < 0.01


def test_wrong_words_are_told_before_anything_is_built() -> None:
    with pytest.raises(SpecError, match="not a NAT"):
        Lab(a="cone")


def test_nothing_is_left_even_of_one_whose_owner_is_killed() -> None:
    code = (
        "from pt.lab.lab import Lab\n"
        "with Lab(a='eim') as lab:\n"
        "    child = lab['a'].popen(['sleep', '60'])\n"
        "    print(child.pid, lab['a'].netns.split('/')[2], flush=True)\n"
        "    input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    handles = [os.pidfd_open(pid) for pid in pids]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    for handle in handles:  # readable when the process has ended
        assert _readable(handle)
        os.close(handle)
    owner.stdin.close()
    owner.stdout.close()


def _readable(handle: int) -> bool:
    return bool(select.select([handle], [], [], TIMEOUT)[0])


def test_closing_ends_what_runs_on_the_hosts() -> None:
    with Lab(a="eim") as lab:
        child = lab["a"].popen(["sleep", "60"])
        stubborn = lab["a"].popen(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 9; done"],
                                  stdout=subprocess.PIPE)  # fmt: skip
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"on\n"
    assert child.returncode == -signal.SIGTERM
    assert stubborn.returncode == -signal.SIGKILL


def test_a_topology_is_up_in_time() -> None:
    times: list[float] = []
    while not times or (min(times) > 0.150 and len(times) < 10):  # others use the machine, too
        began = time.monotonic()
        with Lab(a="eim-apdf", b="apdm-random", link="delay=10,loss=1"):
            times.append(time.monotonic() - began)
    assert min(times) <= 0.150, times


def test_a_nat_of_somebodys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Path(__file__).parents[3] / "examples"
    monkeypatch.chdir(examples)
    with (
        Lab(a="eim-apdf-random,box=lab_nat:BySubnet") as lab,
        udp(lab["a"]) as client,
        udp(lab["s1"], 5000) as one,
        udp(lab["s2"], 5000) as two,
    ):
        seen = []
        for server, host in ((one, "s1"), (two, "s2")):
            client.sendto(b"?", (lab[host].ip, 5000))
            seen.append(server.recvfrom(10)[1])
        assert seen[0] != seen[1]
        with udp(lab["s1"], 5001) as neighbour:
            neighbour.sendto(b"in", seen[0])
            assert client.recv(10) == b"in"
        two.sendto(b"no", seen[0])
        assert silent(client)
    for box, named in (
        ("lab_nat:Nobody", "no attribute 'Nobody'"),
        ("nobody:X", "No module named"),
        ("json:JSONDecoder", "not a subclass"),
    ):
        with pytest.raises(LabError, match=named), Lab(a=f"eim,box={box}"):
            pass
