"""An internet of public hosts, and sites behind kernel NATs (nftables).

    with Internet(public=["relay"], sites={"a": Site(), "b": Site()}) as net:
        net["relay"].popen([...])           # 11.5.0.1
        net["a"].run(["curl", f"http://{net['relay'].ip}/"])    # from 192.168.1.2, translated
        net.cut(net.router("a"), net["relay"])                  # silently, as seen from outside

Each site is one host behind a router; the router's outer address is on the switch that joins the
public hosts.  A NAT translates as Linux's masquerade does (endpoint-independent mapping as long as
ports do not collide, address- and port-dependent filtering), and drops what nobody asked for
without an answer.  Sites may have equal inner addresses.  There is no way out of the laboratory.
Other kinds of NATs, in the kernel as well: `pt.lab.lab.Lab`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from pt.lab.netns import DEVICE, Host, Lan, Namespace, setup

__all__ = ["INNER", "Internet", "Site"]

INNER: Final = "lan0"
"""A router's device towards its site."""
_NAT: Final = """
table ip nat {{
  chain out {{ type nat hook postrouting priority srcnat;
    oifname "{outer}" masquerade
  }}
}}
"""
_FIREWALL: Final = """
table inet wall {{
  chain pass {{ type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "{inner}" accept
  }}
  chain own {{ type filter hook input priority filter; policy accept;
    iifname "{outer}" ct state new drop
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A host behind a router.

    `nat` False: no translation, the host has a public address (of `subnet`) behind a firewall that
    lets in only answers.
    """

    subnet: str = "192.168.1.0/24"
    nat: bool = True


class Internet:
    """Use it in a `with` block; hosts by name, in brackets."""

    def __init__(
        self,
        public: Sequence[str],
        sites: Mapping[str, Site],
        *,
        subnet: str = "11.5.0.0/24",
        congestion: str | None = None,
    ) -> None:
        self._sites = dict(sites)
        self._congestion = congestion
        self._lan = Lan(
            names=[*public, *(f"router-{name}" for name in sites)],
            subnet=subnet,
            congestion=congestion,
        )
        self._hosts: dict[str, Host] = {}
        self._inner: list[Host] = []

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

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    @property
    def hosts(self) -> list[Host]:
        """All hosts, routers included."""
        return list(self._hosts.values())

    def router(self, site: str) -> Host:
        """The router of a site; `ip` is its outer address."""
        return self._hosts[f"router-{site}"]

    def close(self) -> None:
        """End every process and free the namespaces; may be called twice."""
        for host in self._inner:
            host.close()
        self._inner = []
        self._lan.close()
        self._hosts = {}

    def cut(self, *ends: Host) -> None:
        """Swallow everything among public hosts and routers (default: all), silently."""
        self._lan.cut(*ends)

    def restore(self, *ends: Host) -> None:
        """Undo `cut`."""
        self._lan.restore(*ends)

    # --- building ------------------------------------------------------------------------------

    def _build(self) -> None:
        self._lan.__enter__()
        self._hosts = {host.name: host for host in self._lan.hosts}
        for number, (name, site) in enumerate(self._sites.items()):
            self._hosts[name] = self._site(name, site, 100 + number)

    def _site(self, name: str, site: Site, number: int) -> Host:
        router = self.router(name)
        network = ipaddress.IPv4Network(site.subnet)
        gateway, address = str(network[1]), str(network[2])
        namespace = Namespace()
        host = Host(name, address, number, namespace)
        self._inner.append(host)
        namespace.wait_ready()
        if self._congestion is not None:
            host.congestion_control(self._congestion)
        link = f"link add {INNER} type veth peer name {DEVICE} netns {host.pid}"
        lines = [link, f"link set {INNER} up"]
        lines += [f"addr add {gateway}/{network.prefixlen} dev {INNER}"]
        setup([*router.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
        lines = ["link set lo up", f"addr add {address}/{network.prefixlen} brd + dev {DEVICE}"]
        lines += [host.up_commands(), f"route replace default via {gateway}"]
        setup([*host.prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
        host.prepare()
        router.sysctl("net.ipv4.ip_forward", "1")
        rules = _FIREWALL.format(inner=INNER, outer=DEVICE)
        if site.nat:
            rules += _NAT.format(outer=DEVICE)
        else:  # the others believe that the host is on their switch
            router.sysctl(f"net.ipv4.conf.{DEVICE}.proxy_arp", "1")
        router.nft(rules)
        return host
