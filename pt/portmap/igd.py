"""What is asked of UPnP-IGD, and in which ways gateways differ: scripts of calls, without I/O.

A script yields calls; the fields of the answer are sent into it, and a fault is thrown.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar

from pt.portmap.description import Control
from pt.portmap.mapping import Address, Mapping, PortmapError, Wanted, checked_external
from pt.portmap.soap import Fault, UpnpError

__all__ = ["MAX_TRIES", "Added", "Call", "Script", "Wish", "add", "check", "delete", "external"]

T = TypeVar("T")

MAX_TRIES: Final = 6
"""Requests for one mapping."""
NAME: Final = "pt"
"""By which people find our mappings in a gateway's list."""


@dataclass(frozen=True, slots=True)
class Call:
    """One SOAP call."""

    control: Control
    action: str
    fields: dict[str, str]


Script: TypeAlias = Generator[Call, "dict[str, str] | None", T]


class Added(NamedTuple):
    """A mapping that was made; `lifetime` 0: it has no end, which some gateways insist on."""

    external: Address
    lifetime: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A mapping to be made: of our address `local`, to the external `port` if possible."""

    local: str
    wanted: Wanted
    port: int
    lifetime: int


def add(control: Control, wish: Wish, other: Callable[[], int]) -> Script[Added]:
    """Make a mapping; `other` tells an external port to try when one is taken.

    Raises:
        UpnpError: the gateway does not.
        PortmapError: it answers nonsense, or maps to somebody else.

    """
    wanted = wish.wanted
    port, lifetime = yield from _add(control, wish, other)
    entry = yield from _entry(control, wanted, port)
    if entry is not None and entry != (wish.local, wanted.port):
        raise PortmapError(f"UPnP: the gateway maps to {entry[0]} port {entry[1]}, not to us")
    host = yield from external(control)
    return Added((host, port), lifetime)


def _add(control: Control, wish: Wish, other: Callable[[], int]) -> Script[tuple[int, int]]:
    wanted, port, lifetime = wish.wanted, wish.port or wish.wanted.port, wish.lifetime
    actions = ["AddAnyPortMapping"] if control.version >= 2 else []
    actions.append("AddPortMapping")
    tries = 0
    while True:
        tries += 1
        fields = {
            **_name(wanted, port),
            "NewInternalPort": str(wanted.port),
            "NewInternalClient": wish.local,
            "NewEnabled": "1",
            "NewPortMappingDescription": NAME,
            "NewLeaseDuration": str(lifetime),
        }
        try:
            told = yield Call(control, actions[0], fields)
        except UpnpError as error:
            unfit = error.code in (Fault.INVALID_ARGS, Fault.ACTION_FAILED, Fault.INVALID_ACTION)
            if tries == MAX_TRIES:
                raise
            if error.code == Fault.ONLY_PERMANENT and lifetime:
                lifetime = 0
            elif error.code == Fault.SAME_PORTS and port != wanted.port:
                port = wanted.port
            elif error.code in (Fault.CONFLICT, Fault.OTHER_MECHANISM):
                port = other()
            elif unfit and len(actions) > 1:
                del actions[0]
            elif unfit and error.code != Fault.INVALID_ACTION and lifetime:
                lifetime = 0  # old gateways say so when they know no leases
            else:
                raise
        else:
            reserved = (told or {}).get("NewReservedPort")
            return (port if reserved is None else _port(reserved)), lifetime


def delete(control: Control, mapping: Mapping) -> Script[None]:
    """Delete a mapping.  Raises UpnpError, PortmapError."""
    yield Call(control, "DeletePortMapping", _name(mapping.wanted, mapping.external[1]))


def check(control: Control, mapping: Mapping) -> Script[bool]:
    """Whether the gateway knows a mapping still, as far as it tells.  Raises PortmapError."""
    try:
        entry = yield from _entry(control, mapping.wanted, mapping.external[1])
    except UpnpError:
        return False
    if entry is not None and entry != mapping.internal:
        return False
    host = yield from external(control)
    return host == mapping.external[0]


def external(control: Control) -> Script[str]:
    """The gateway's external address.

    Raises:
        UpnpError: it tells none.
        PortmapError: no host can have it, so that the line is down.

    """
    told = yield Call(control, "GetExternalIPAddress", {})
    return checked_external((told or {}).get("NewExternalIPAddress", ""))


def _entry(control: Control, wanted: Wanted, port: int) -> Script[Address | None]:
    """To whom a port is mapped; None if the gateway does not say.

    Raises:
        UpnpError: there is no such mapping.

    """
    try:
        told = yield Call(control, "GetSpecificPortMappingEntry", _name(wanted, port))
    except UpnpError as error:
        if error.code == Fault.NO_SUCH_ENTRY:
            raise
        return None
    if not told or "NewInternalClient" not in told or "NewInternalPort" not in told:
        return None
    return told["NewInternalClient"], _port(told["NewInternalPort"])


def _name(wanted: Wanted, port: int) -> dict[str, str]:
    return {
        "NewRemoteHost": "",
        "NewExternalPort": str(port),
        "NewProtocol": wanted.protocol.name,
    }


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 0 < number < 65536:
        raise PortmapError(f"UPnP: {text[:20]!r} is no port")
    return number
