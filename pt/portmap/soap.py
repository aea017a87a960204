"""SOAP calls of UPnP-IGD: what is sent, and what its answers say.

Of WANIPConnection:1 and :2, and WANIPv6FirewallControl:1.
"""

from __future__ import annotations

from collections.abc import Mapping as Fields
from enum import IntEnum
from typing import Final

from pt.portmap.mapping import MapRefusedError, PortmapError
from pt.portmap.xmltree import escape, parse

__all__ = ["NAMES", "Fault", "UpnpError", "body", "header", "result"]

_ENVELOPE: Final = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
    '<u:{action} xmlns:u="{service}">{fields}</u:{action}></s:Body></s:Envelope>\r\n'
)


class Fault(IntEnum):
    """Error codes that somebody does something about."""

    INVALID_ACTION = 401
    INVALID_ARGS = 402
    ACTION_FAILED = 501
    OPTIONAL_ACTION = 602
    NOT_AUTHORIZED = 606
    NO_SPACE = 701
    FIREWALL_OFF = 702
    PINHOLES_FORBIDDEN = 703
    NO_SUCH_PINHOLE = 704
    NO_SUCH_ENTRY = 714
    CONFLICT = 718
    SAME_PORTS = 724
    ONLY_PERMANENT = 725
    NO_PORTS = 728
    OTHER_MECHANISM = 729


NAMES: Final[dict[int, str]] = {
    Fault.INVALID_ACTION: "it does not know the action",
    Fault.INVALID_ARGS: "it does not take the arguments",
    Fault.ACTION_FAILED: "it failed",
    Fault.OPTIONAL_ACTION: "it does not have the action",
    Fault.NOT_AUTHORIZED: "it does not let this machine do so",
    Fault.NO_SPACE: "it has no room for another pinhole",
    Fault.FIREWALL_OFF: "its firewall is off, so that nothing has to be opened",
    Fault.PINHOLES_FORBIDDEN: "it is set to open nothing",
    Fault.NO_SUCH_PINHOLE: "there is no such pinhole",
    Fault.NO_SUCH_ENTRY: "there is no such mapping",
    Fault.CONFLICT: "the port is taken",
    Fault.SAME_PORTS: "it maps only to the same port",
    Fault.ONLY_PERMANENT: "it makes only permanent mappings",
    Fault.NO_PORTS: "it has no port left",
    Fault.OTHER_MECHANISM: "the port is taken by another protocol",
}


class UpnpError(MapRefusedError):
    """The gateway answers with a fault; `code` is UPnP's."""

    def __init__(self, action: str, code: int, text: str) -> None:
        known = NAMES.get(code)
        super().__init__(f"UPnP {action}: {known or text or 'a fault'} ({code})")
        self.code = code


def header(service: str, action: str) -> str:
    """The header SOAPAction."""
    return f'"{service}#{action}"'


def body(service: str, action: str, fields: Fields[str, str]) -> bytes:
    """The document of a call; the order of fields matters to some gateways."""
    told = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return _ENVELOPE.format(action=action, service=service, fields=told).encode()


def result(action: str, status: int, data: bytes) -> dict[str, str]:
    """The fields of an answer.

    Raises:
        UpnpError: the gateway tells a fault.
        PortmapError: it is no answer.

    """
    if status not in (200, 500):
        raise PortmapError(f"UPnP {action}: the gateway answers with HTTP status {status}")
    envelope = parse(data)
    inner = envelope.find("Body") if envelope.name == "Envelope" else None
    if inner is None:
        raise PortmapError(f"UPnP {action}: the answer is no SOAP envelope")
    fault = inner.find("Fault")
    if fault is not None:
        error = next(fault.all("UPnPError"), None)
        code = "" if error is None else error.value("errorCode")
        text = fault.value("faultstring") if error is None else error.value("errorDescription")
        number = int(code) if code.isascii() and code.isdigit() and len(code) < 6 else 0
        raise UpnpError(action, number, text[:100])
    response = inner.find(f"{action}Response")
    if response is None or status != 200:
        raise PortmapError(f"UPnP {action}: the answer is to something else")
    return {each.name: each.text.strip() for each in response.children}
