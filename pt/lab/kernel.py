"""The kernel engine: a plan as router namespaces with nftables, joined by routed veth pairs.

For throughput, and to see the same on a real Linux NAT. There is no bridge: where br_netfilter is
loaded, bridged frames would pass the NATs' hooks. If a link is to be slow or lossy, the internet
between the NATs is the user engine's (hybrid): each router's outer device is then a TUN device.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any, Final

from pt.lab.model.plan import CORE, HostPlan, NatPlan, Network, Plan
from pt.lab.model.spec import NatSpec, SpecError
from pt.lab.model.world import UnknownError
from pt.lab.nftables import WAN, WAN6, nat_rules, require_kernel, wall_rules
from pt.lab.system import KernelError, Netlink, open_tun, setns, unshare

__all__ = ["KernelNet", "check"]

DEVICE: Final = "eth0"
QUEUE: Final = 1000
MTU: Final = 1500
NFT_TIMEOUT: Final = 20.0
_FLUSH_CONNTRACK: Final = 1 << 8 | 2


def check(plan: Plan) -> None:
    """Check that the kernel engine can be this plan.

    Raises: SpecError names what it cannot.
    """
    for nat in plan.nats:
        require_kernel(nat.spec)
    for name in {nat.at.link for nat in plan.nats if nat.at.network != CORE}:
        if not plan.links[name].shape.transparent or plan.links[name].shape.mtu:
            raise SpecError(f"the kernel engine has no slow link behind a carrier's NAT: {name}")


def is_ideal(plan: Plan) -> bool:
    """Whether all links to the internet do nothing, so that the kernel can be it, too."""
    ends = [host.at for host in plan.hosts] + [nat.at for nat in plan.nats]
    links = [plan.links[end.link].shape for end in ends if end.network == CORE]
    return all(link.transparent and not link.mtu for link in links)


def core_plan(plan: Plan) -> Plan:
    """Return the internet alone, with the NATs' outsides as its hosts (hybrid)."""
    hosts = [host for host in plan.hosts if host.at.network == CORE]
    outsides = [nat for nat in plan.nats if nat.at.network == CORE]
    hosts += [HostPlan(f"nat {nat.name}", nat.at, nat.addresses, 32) for nat in outsides]
    core = tuple(network for network in plan.networks if network.name == CORE)
    return Plan(core, tuple(hosts), (), plan.links)


class KernelNet:
    """Namespaces and rules of a plan. Descriptors of all namespaces are kept open here."""

    def __init__(self, plan: Plan) -> None:
        check(plan)
        self._plan = plan
        self._ideal = is_ideal(plan)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._gates: dict[str, int] = {}
        self._specs: dict[str, NatSpec] = {nat.name: nat.spec for nat in plan.nats}
        self._count = 0
        self.hosts: dict[str, int] = {}
        """Descriptors of the hosts' namespaces."""
        self.tuns: dict[str, int] = {}
        """Of the hybrid core's hosts, by their names in `core_plan`."""

    def build(self) -> None:
        """Make everything; leaves the thread where it was."""
        networks = {network.name: network for network in self._plan.networks}
        if self._ideal:
            self._gates[CORE] = self._router()
        for nat in self._plan.nats:
            if nat.inside not in self._gates:
                self._gates[nat.inside] = self._router()
        for host in self._plan.hosts:
            self.hosts[host.name] = unshare()
            _settings(forward=False)
            with Netlink() as net:
                net.loopback_up()
                net.commit()
            self._attach(host.name, self.hosts[host.name], DEVICE, host, networks)
        for nat in self._plan.nats:
            six = nat.family == 6
            place = HostPlan(f"nat {nat.name}", nat.at, nat.addresses, 32)
            device = WAN6 if six else WAN
            gate, own = self._gates[nat.inside], nat.spec.translates
            self._attach(place.name, gate, device, place, networks, own=own)
            setns(self._gates[nat.inside])
            _nft(self._rules(nat))
            _timers(nat.spec)
        setns(self._home)

    # --- building ------------------------------------------------------------------------------

    @staticmethod
    def _router() -> int:
        namespace = unshare()
        _settings(forward=True)
        with Netlink() as net:
            net.loopback_up()
            net.commit()
        return namespace

    def _attach(
        self,
        name: str,
        namespace: int,
        device: str,
        host: HostPlan,
        networks: dict[str, Network],
        *,
        own: bool = True,
    ) -> None:
        """Join a namespace to a network by `device`; `own`: the addresses are its own."""
        network = networks[host.at.network]
        addresses = host.addresses if own else ()
        if network.name == CORE and not self._ideal:
            setns(namespace)
            self.tuns[name] = open_tun(device)
            with Netlink() as net:
                index = net.link_up(device, mtu=MTU, queue=4096)
                _address(net, index, addresses, 32)
                if any(":" not in each for each in host.addresses):
                    net.route(index, "0.0.0.0", 0)
                if any(":" in each for each in host.addresses):
                    net.route(index, "::", 0)
                net.commit()
            return
        self._count += 1
        port = f"{'wan' if network.name == CORE else 'lan'}-{self._count}"
        gate = self._gates[network.name]
        setns(gate)
        with Netlink() as net:
            net.veth(port, device, namespace)
            net.commit()
            index = net.link_up(port, mtu=MTU, queue=QUEUE, noarp=True)
            gateways = [each for each in (network.router, network.router6) if each]
            for gateway in gateways:
                net.address(index, gateway, 128 if ":" in gateway else 32)
            for address in host.addresses:
                net.route(index, address, 128 if ":" in address else 32)
            net.commit()
        setns(namespace)
        with Netlink() as net:
            index = net.link_up(device, mtu=MTU, queue=QUEUE, noarp=True)
            _address(net, index, addresses, host.prefix)
            for gateway, every in ((network.router, "0.0.0.0"), (network.router6, "::")):
                if gateway and any((":" in each) == (":" in gateway) for each in host.addresses):
                    net.route(index, gateway, 128 if ":" in gateway else 32)
                    net.route(index, every, 0, gateway)
            net.commit()

    def _rules(self, nat: NatPlan) -> str:
        spec = self._specs[nat.name]
        table = "ip6" if nat.family == 6 else "ip"
        rules = nat_rules(spec, nat.addresses[0]) if spec.translates else ""
        rules = rules or wall_rules(spec, nat.family)
        # Created if it is not there, so that the second line never fails.
        return f"table {table} box\ndelete table {table} box\n{rules}"

    # --- orders --------------------------------------------------------------------------------

    def _find(self, name: str) -> NatPlan:
        for nat in self._plan.nats:
            if nat.name == name:
                return nat
        raise UnknownError(f"no NAT {name!r}: there are {', '.join(self._specs)}")

    def flush(self, name: str) -> tuple[str, ...]:
        """Let a router forget all connections and mappings."""
        nat = self._find(name)
        self._inside(nat, self._rules(nat))
        return nat.addresses

    def change(self, name: str, spec: NatSpec) -> None:
        """Let a router behave otherwise."""
        nat = self._find(name)
        require_kernel(spec)
        if spec.translates != nat.spec.translates:
            raise SpecError("a NAT stays a NAT, and a firewall a firewall")
        self._specs[name] = spec
        self._inside(nat, self._rules(nat), spec)

    def _inside(self, nat: NatPlan, rules: str, spec: NatSpec | None = None) -> None:
        setns(self._gates[nat.inside])
        try:
            _nft(rules)
            if spec is not None:
                _timers(spec)
            _forget_connections()
        finally:
            setns(self._home)

    def mappings(self) -> dict[str, list[dict[str, Any]]]:
        """Return the connections that each router tracks."""
        found = {}
        for nat in self._plan.nats:
            setns(self._gates[nat.inside])
            try:
                text = Path("/proc/thread-self/net/nf_conntrack").read_text()
            except OSError:
                text = ""  # a kernel without the file: nothing can be told
            finally:
                setns(self._home)
            family = f"ipv{nat.family}"
            found[nat.name] = [
                {"connection": " ".join(line.split()[2:])}
                for line in text.splitlines()
                if line.startswith(family)
            ]
        return found


def _settings(*, forward: bool) -> None:
    """Set this namespace's sysctls."""
    root = Path("/proc/sys/net")
    values = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"}
    if forward:
        values |= {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
    else:
        values |= {"ipv4/ping_group_range": "0 2147483647"}
    values |= {"ipv6/conf/default/accept_ra": "0", "ipv6/conf/default/accept_dad": "0"}
    for name, value in values.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            (root / name).write_text(value)


def _timers(spec: NatSpec) -> None:
    root = Path("/proc/sys/net/netfilter")
    for name, seconds in (
        ("nf_conntrack_udp_timeout", spec.new),
        ("nf_conntrack_udp_timeout_stream", spec.timeout),
        ("nf_conntrack_tcp_timeout_established", spec.tcpest),
        ("nf_conntrack_tcp_timeout_syn_sent", spec.tcpnew),
    ):
        (root / name).write_text(str(max(1, round(seconds))))


def _address(net: Netlink, index: int, addresses: tuple[str, ...], prefix: int) -> None:
    for address in addresses:
        net.address(index, address, 128 if ":" in address else prefix)


def _nft(rules: str) -> None:
    """Load rules in this thread's namespace; the child inherits it."""
    done = subprocess.run(
        ["nft", "-f", "-"],
        input=rules,
        capture_output=True,
        text=True,
        check=False,
        timeout=NFT_TIMEOUT,
    )
    if done.returncode:
        raise KernelError(done.returncode, f"nft refuses: {done.stderr.strip()[:500]}")


def _forget_connections() -> None:
    """Flush conntrack of this namespace (ctnetlink)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:  # NETLINK_NETFILTER
        sock.send(struct.pack("IHHIIBBH", 20, _FLUSH_CONNTRACK, 5, 1, 0, 0, 0, 0))
        code = -struct.unpack_from("i", sock.recv(4096), 16)[0]
        if code:
            raise KernelError(code, f"cannot flush conntrack: {os.strerror(code)}")
