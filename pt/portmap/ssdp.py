"""Finding an internet gateway device: SSDP's M-SEARCH, and its answers (UPnP DA 1.1, part 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.portmap.mapping import PortmapError

__all__ = ["GROUP", "GROUP6", "MAX_ANSWER", "PORT", "TARGETS", "Answer", "decode", "search"]

GROUP: Final = "239.255.255.250"
GROUP6: Final = "ff02::c"
"""Of the link alone."""
PORT: Final = 1900
MAX_ANSWER: Final = 2048
TARGETS: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the description is, and of what."""

    location: str
    target: str
    server: str = ""


def search(target: str, host: str = GROUP, wait: int = 1) -> bytes:
    """Ask for devices; answers may take `wait` seconds."""
    lines = [
        "M-SEARCH * HTTP/1.1",
        f"HOST: [{host}]:{PORT}" if ":" in host else f"HOST: {host}:{PORT}",
        'MAN: "ssdp:discover"',
        f"MX: {wait}",
        f"ST: {target}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def decode(data: bytes) -> Answer:
    """Read an answer.

    Raises:
        PortmapError: it is none, or of something else than a gateway.

    """
    if len(data) > MAX_ANSWER:
        raise PortmapError(f"an SSDP answer of more than {MAX_ANSWER} bytes")
    first, *lines = data.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.") or first.split()[1:2] != ["200"]:
        raise PortmapError("no SSDP answer")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    location, target = fields.get("location", ""), fields.get("st", "")
    if not location:
        raise PortmapError("an SSDP answer without a location")
    if target not in TARGETS:
        raise PortmapError("an SSDP answer of another device")
    return Answer(location, target, fields.get("server", "")[:128])
