"""What is asked of WANIPv6FirewallControl:1: scripts of calls, as in `pt.portmap.igd`, without I/O.

A pinhole has a number, by which it is renewed and deleted, and an end: 86,400 s at most.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from pt.portmap.description import Control
from pt.portmap.igd import Call, Script
from pt.portmap.mapping import Address, PortmapError
from pt.portmap.soap import Fault, UpnpError
from pt.wire.nat_facts import Protocol

__all__ = ["Status", "check", "delete", "keep", "status"]

_NUMBERS: Final = {Protocol.UDP: "17", Protocol.TCP: "6"}
"""Of IANA's protocol numbers."""
_MUTE: Final = (Fault.INVALID_ACTION, Fault.OPTIONAL_ACTION)
"""What is answered by gateways that do not tell.

About a pinhole that they have forgotten, or whose number is another's now, they answer in as many
ways as there are: 704, 606, and miniupnpd 2.3 mostly 402.
"""


class Status(Enum):
    """How a firewall is set."""

    ALLOWS = "pinholes allowed"
    FORBIDS = "pinholes forbidden"
    OFF = "the firewall is off"


def status(control: Control) -> Script[Status]:
    """How the firewall is set.  Raises UpnpError, PortmapError."""
    told = (yield Call(control, "GetFirewallStatus", {})) or {}
    enabled, allowed = (_flag(told, name) for name in ("FirewallEnabled", "InboundPinholeAllowed"))
    if not enabled:
        return Status.OFF
    return Status.ALLOWS if allowed else Status.FORBIDS


def keep(
    control: Control, ours: Address, protocol: Protocol, lifetime: int, known: str | None
) -> Script[str]:
    """Renew the pinhole whose number is `known`, or make one to our address; its number.

    Raises:
        UpnpError: the gateway does not.
        PortmapError: it answers nonsense.

    """
    if known is not None:
        try:
            fields = {"UniqueID": known, "NewLeaseTime": str(lifetime)}
            yield Call(control, "UpdatePinhole", fields)
        except UpnpError:
            known = None  # a new one tells whether that is the gateway's will
        else:
            return known
    fields = {
        "RemoteHost": "",
        "RemotePort": "0",
        "InternalClient": ours[0],
        "InternalPort": str(ours[1]),
        "Protocol": _NUMBERS[protocol],
        "LeaseTime": str(lifetime),
    }
    told = yield Call(control, "AddPinhole", fields)
    return _number((told or {}).get("UniqueID", ""))


def delete(control: Control, number: str) -> Script[None]:
    """Close a pinhole.  Raises UpnpError, PortmapError."""
    yield Call(control, "DeletePinhole", {"UniqueID": number})


def check(control: Control, number: str) -> Script[bool]:
    """Whether the gateway knows a pinhole still, as far as it tells.  Raises PortmapError."""
    try:
        yield Call(control, "GetPinholePackets", {"UniqueID": number})
    except UpnpError as error:
        return error.code in _MUTE
    return True


def _flag(told: dict[str, str], name: str) -> bool:
    value = told.get(name, "").lower()
    if value not in ("0", "1", "false", "true", "no", "yes"):
        raise PortmapError(f"UPnP GetFirewallStatus: {name} is {value[:20]!r}")
    return value in ("1", "true", "yes")


def _number(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536):
        raise PortmapError(f"UPnP AddPinhole: {text[:20]!r} is no number of a pinhole")
    return text
