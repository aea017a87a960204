"""Hosts of one LAN, each a network namespace on a virtual switch (namespaces(7), veth(4)).

    with Lan(hosts=2) as lan:
        a, b = lan.hosts
        server = a.popen(["python3", "-m", "http.server", "80"])
        b.run(["curl", f"http://{a.ip}/"])
        lan.cut(a, b)                       # the path swallows packets, silently
        lan.restore(a, b)
        a.kill_connections(b)               # the path resets what is established

A namespace here has no name: it lives as long as its holder, a small shell that waits for the end
of its standard input. So nothing can clash with another run, and when this process ends in any way,
`kill -9` included, the holder reads end-of-file, kills what still runs in its namespace and the
kernel frees namespace, addresses and links. There is no uplink and no route out of the laboratory.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pt.lab.machine import SETUP_TIMEOUT, TERM_GRACE, LanError, Machine, setup
from pt.lab.system import is_zombie

__all__ = ["DEVICE", "Host", "Lan", "LanError", "Namespace", "setup", "unavailable"]

DEVICE: Final = "eth0"
"""Name of every host's only network device beside lo."""
TOOLS: Final = ("ip", "nft", "nsenter", "sh", "ss", "unshare")
ULA: Final = ipaddress.IPv6Network("fd11:7074::/64")
"""IPv6 addresses of the hosts."""
LINK_LOCAL: Final = ipaddress.IPv6Network("fe80::/64")
"""Link-local addresses are set by us instead of the kernel, so that they are known."""

# Says so when the namespace exists, then waits; the loop ends whatever outlives its owner.
_HOLDER: Final = """
echo ready; cat >/dev/null
me=$(readlink /proc/self/ns/net)
for p in /proc/[0-9]*; do
  [ "$(readlink "$p/ns/net" 2>/dev/null)" = "$me" ] || continue
  [ "${p#/proc/}" = $$ ] || kill -9 "${p#/proc/}" 2>/dev/null
done
exit 0
"""
_TABLE: Final = """
table inet lab {
  set cut4 { type ipv4_addr; }
  set cut6 { type ipv6_addr; }
  set rst4 { type ipv4_addr; }
  chain path { type filter hook prerouting priority raw;
    ip saddr @cut4 drop
    ip6 saddr @cut6 drop
  }
  chain refuse { type filter hook input priority filter;
    meta l4proto tcp ip saddr @rst4 reject with tcp reset
  }
}
"""


def unavailable() -> str | None:
    """Tell why this machine cannot run a laboratory, or None when it can."""
    if platform.system() != "Linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"missing tools: {' '.join(missing)} (packages iproute2, nftables, util-linux)"
    probe = subprocess.run(
        ["unshare", "--net", "nft", "-f", "-"],
        input=_TABLE,
        capture_output=True,
        text=True,
        check=False,
        timeout=SETUP_TIMEOUT,
    )
    return None if probe.returncode == 0 else f"no namespaces or nftables: {probe.stderr.strip()}"


class Namespace:
    """A network namespace and the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C meant for the test must not end the laboratory first
        )
        self.pid: Final = self._holder.pid

    def wait_ready(self) -> None:
        """Wait until the namespace is there.

        Raises: LanError.
        """
        out = self._holder.stdout
        if out is None or out.readline() != "ready\n":
            raise LanError("cannot create a network namespace: are you root?")

    @property
    def prefix(self) -> list[str]:
        """What to put before an argv to run it inside, in the same process that exec leaves."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def members(self) -> list[int]:
        """Process ids inside, without the holder and its child."""
        me = os.readlink(f"/proc/{self.pid}/ns/net")
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
                if parent != self.pid and os.readlink(entry / "ns/net") == me:
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End the processes inside and free the namespace."""
        if self._holder.poll() is None and self._terminate_members():
            os.killpg(self.pid, signal.SIGKILL)  # the holder's own sweep has nothing left to do
        if self._holder.stdin is not None:
            self._holder.stdin.close()
        try:
            self._holder.wait(SETUP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()

    def _terminate_members(self) -> bool:
        """Ask them to end; return whether all did within the grace."""
        deadline = time.monotonic() + TERM_GRACE
        asked: set[int] = set()
        while time.monotonic() < deadline:
            pids = [pid for pid in self.members() if not is_zombie(pid)]
            if not pids:
                return True
            for pid in pids:
                if pid not in asked:
                    asked.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
            time.sleep(0.01)  # processes of others: there is no handle to wait on
        return False


class Host(Machine):
    """One machine of a `Lan`: lo, one device, one address of each family, no uplink."""

    def __init__(self, name: str, ip: str, number: int, namespace: Namespace) -> None:
        super().__init__(name, ip, str(ULA[number]), f"/proc/{namespace.pid}/ns/net")
        self.link_local: Final = str(LINK_LOCAL[number])
        self._namespace = namespace

    @property
    def pid(self) -> int:
        """A process inside, for `nsenter --target` and `ip link set … netns`."""
        return self._namespace.pid

    def link_down(self) -> None:
        """Pull the cable: no carrier, routes gone, senders get errors."""
        setup([*self.prefix, "ip", "link", "set", DEVICE, "down"])

    def link_up(self) -> None:
        """Plug the cable in again, with the routes and the IPv6 address it takes away."""
        setup([*self.prefix, "ip", "-batch", "-"], self.up_commands())

    def kill_connections(self, peer: Host | None = None) -> int:
        """Abort the established TCP connections (with `peer`), RST to both ends; return how many.

        Listeners and what stays within the host (127.0.0.1) are left alone.
        """
        if peer is None:
            wanted = "not dst 127.0.0.0/8 and not dst [::1]"
        else:
            ends = (peer.ip, f"[::ffff:{peer.ip}]", f"[{peer.ip6}]", f"[{peer.link_local}]")
            wanted = " or ".join(f"dst {end}" for end in ends)
        out = setup([*self.prefix, "ss", "-K", "-H", "-t", "-n", "state", "connected", wanted])
        return len(out.splitlines())

    def refuse(self, peer: Host) -> None:
        """Answer every TCP segment from `peer` with RST until `Lan.restore`."""
        self.nft(f"add element inet lab rst4 {{ {peer.ip} }}")

    def close(self) -> None:
        """End every process on this host and free its namespace."""
        self._namespace.close()
        self.reap()

    def up_commands(self) -> str:
        """Return the `ip -batch` lines that plug the cable in."""
        return "\n".join(
            (
                f"link set {DEVICE} addrgenmode none",
                f"link set {DEVICE} up",
                f"addr replace {self.ip6}/{ULA.prefixlen} dev {DEVICE} nodad",
                f"addr replace {self.link_local}/{LINK_LOCAL.prefixlen} dev {DEVICE} nodad",
                f"route replace 224.0.0.0/4 dev {DEVICE}",
                f"route replace default dev {DEVICE}",
                "",
            )
        )

    def prepare(self) -> None:
        """Make the table `inet lab`, by which paths are cut."""
        self.nft(_TABLE)

    def nft(self, commands: str) -> None:
        """Feed commands to nft on this host (table `inet lab` is there)."""
        setup([*self.prefix, "nft", "-f", "-"], commands + "\n")


class Lan:
    """A switch with `hosts` hosts on it; use it in a `with` block.

    Hosts get the addresses 1, 2, … of `subnet` and of `fd11:7074::/64`, multicast on their device,
    and a default route that ends on the LAN. With `direct`, two hosts are joined by one cable
    instead of a switch: cheaper a packet (for measurements), and one end down is both down.
    """

    def __init__(
        self,
        hosts: int = 2,
        subnet: str = "11.1.0.0/24",
        names: Sequence[str] | None = None,
        *,
        congestion: str | None = None,
        direct: bool = False,
        mtu: int = 1500,
    ) -> None:
        network = ipaddress.IPv4Network(subnet)
        labels = list(names) if names is not None else [f"h{i + 1}" for i in range(hosts)]
        if not 1 <= len(labels) <= network.num_addresses - 2:
            raise ValueError(f"{len(labels)} hosts do not fit into {subnet}")
        if direct and len(labels) != 2:
            raise ValueError("a direct cable joins exactly two hosts")
        self._labels = labels
        self._network = network
        self._congestion = congestion
        self._direct = direct
        self._mtu = mtu
        self._namespaces: list[Namespace] = []
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def close(self) -> None:
        """End every process on every host and free the namespaces; may be called twice."""
        for host in self.hosts:
            host.close()
        while self._namespaces:
            self._namespaces.pop().close()
        self.hosts = []

    def cut(self, *ends: Host) -> None:
        """Swallow every IP packet among `ends` (default: all hosts), silently, both ways."""
        self._each_pair(ends, "add")

    def restore(self, *ends: Host) -> None:
        """Undo `cut` (and `Host.refuse`) among `ends` (default: all hosts)."""
        hosts = ends or tuple(self.hosts)
        for host in hosts:
            host.nft("flush set inet lab rst4")
        self._each_pair(hosts, "delete")

    def _each_pair(self, ends: Sequence[Host], verb: str) -> None:
        hosts = ends or tuple(self.hosts)
        for host in hosts:
            others = [other for other in hosts if other is not host]
            # Added first, so that a delete never fails on an element that is not there.
            verbs = ("add", "delete") if verb == "delete" else ("add",)
            lines = [
                f"{word} element inet lab {table} {{ {', '.join(addresses)} }}"
                for word in verbs
                for table, addresses in (
                    ("cut4", [other.ip for other in others]),
                    ("cut6", [ip for other in others for ip in (other.ip6, other.link_local)]),
                )
            ]
            if others:
                host.nft("\n".join(lines))

    def _build(self) -> None:
        labels = self._labels
        self._namespaces = []
        for _ in range(len(labels) + (not self._direct)):
            self._namespaces.append(Namespace())
        for namespace in self._namespaces:
            namespace.wait_ready()
        addresses = self._network.hosts()
        members = self._namespaces[: len(labels)]
        self.hosts = [
            Host(label, str(next(addresses)), index + 1, namespace)
            for index, (label, namespace) in enumerate(zip(labels, members, strict=True))
        ]
        self._plug(members)
        for host in self.hosts:
            self._configure(host)

    def _plug(self, members: Sequence[Namespace]) -> None:
        mtu = f"mtu {self._mtu}"
        if self._direct:
            one, two = members
            lines = [f"link add {DEVICE} {mtu} type veth peer name {DEVICE} {mtu} netns {two.pid}"]
            setup([*one.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
            return
        switch = self._namespaces[-1]
        lines = [
            f"link add sw0 {mtu} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set sw0 up",
        ]
        for index, member in enumerate(members):
            port = f"port{index + 1}"
            lines += [
                f"link add {port} {mtu} type veth peer name {DEVICE} {mtu} netns {member.pid}",
                f"link set {port} master sw0",
                f"link set {port} up",
            ]
        setup([*switch.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")

    def _configure(self, host: Host) -> None:
        if self._congestion is not None:
            host.congestion_control(self._congestion)
        lines = [
            "link set lo up",
            f"addr add {host.ip}/{self._network.prefixlen} brd + dev {DEVICE}",
        ]
        setup([*host.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n" + host.up_commands())
        host.prepare()
