"""A gateway's description: where its mappings are made; addresses of other hosts are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urljoin, urlsplit

from pt.portmap.mapping import PortmapError
from pt.portmap.xmltree import Element, parse

__all__ = ["FIREWALLS", "MAX_URL", "SERVICES", "Control", "Url", "checked_url", "controls"]

MAX_URL: Final = 1024
SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
"""What maps ports, the best first."""
FIREWALLS: Final = ("urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",)
"""What opens a firewall over IPv6."""
MAX_CONTROLS: Final = 4


@dataclass(frozen=True, slots=True)
class Url:
    """An http address of the gateway itself."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Control:
    """A service that maps ports, or opens a firewall."""

    service: str
    url: Url

    @property
    def version(self) -> int:
        """Of the service: 2 can choose a port itself."""
        return int(self.service.rpartition(":")[2])


def checked_url(text: str, gateway: str) -> Url:
    """Read an address that the gateway has told.

    Over IPv6 it may call itself by another address than the one by which it is our default route;
    it is asked at the latter all the same.

    Raises:
        PortmapError: it is not of the gateway itself, or is no http address.

    """
    if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
        raise PortmapError("the gateway tells an address that is none")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", 80 if parts.port is None else parts.port
        told, known = ip_address(host), ip_address(gateway)
        same = told == known or told.version == known.version == 6
    except ValueError:
        raise PortmapError(
            f"the gateway sends us to {text[:100]!r}, which is no address of its own"
        ) from None
    if parts.scheme != "http" or parts.username is not None or not port:
        raise PortmapError(f"the gateway sends us to {text[:100]!r}, which is no http address")
    if not same:
        raise PortmapError(f"the gateway {gateway} sends us to another host, {host}: refused")
    path = parts.path or "/"
    return Url(gateway, port, f"{path}?{parts.query}" if parts.query else path)


def controls(
    data: bytes, location: Url, gateway: str, kinds: Sequence[str] = SERVICES
) -> list[Control]:
    """The services of these `kinds` in a description, in the order of `kinds`.

    Raises:
        PortmapError: it is none, has no such service, or leads elsewhere.

    """
    root = parse(data)
    base = root.value("URLBase") or str(location)
    checked_url(base, gateway)
    found: dict[Control, None] = {}
    refused: PortmapError | None = None
    for service in root.all("service"):
        kind = service.value("serviceType")
        if kind not in kinds or len(found) >= MAX_CONTROLS:
            continue
        try:
            found[Control(kind, _control_url(service, base, gateway))] = None
        except PortmapError as error:
            refused = error
    if not found:
        what = kinds[0].split(":")[-2]
        raise refused or PortmapError(f"the gateway's description has no service {what}")
    return sorted(found, key=lambda each: kinds.index(each.service))


def _control_url(service: Element, base: str, gateway: str) -> Url:
    try:
        return checked_url(urljoin(base, service.value("controlURL")), gateway)
    except ValueError:
        raise PortmapError("the gateway's description has an address that is none") from None
