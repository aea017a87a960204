"""Multiaddr: a self-describing network address such as `/ip4/192.0.2.1/tcp/4001/p2p/12D3…`.

Text and bytes carry the same components (multiformats/multiaddr); equality is that of the bytes.
A received address that cannot be read is an error of that address alone: its caller drops it and
keeps the rest of the message.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from pt.errors import PtError, RemoteProtocolError, UsageError
from pt.wire import ipranges, uvarint
from pt.wire.multiaddr_protocols import BY_CODE, BY_NAME, MAX_VALUE, VARIABLE, ValueFormatError
from pt.wire.multihash import MultihashError

__all__ = [
    "MAX_BYTES",
    "MAX_COMPONENTS",
    "Component",
    "Multiaddr",
    "MultiaddrBytesError",
    "MultiaddrError",
    "MultiaddrTextError",
]

MAX_BYTES: Final = (
    1024  # the longest sensible address (circuit, certificate hashes) stays below 300
)
MAX_COMPONENTS: Final = 24
_MAX_TEXT: Final = 2048

Component: TypeAlias = tuple[str, str | None]

_HOSTS: Final = frozenset({"ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr"})
_TRANSPORTS: Final = {
    ("tcp",): "tcp",
    ("tcp", "ws"): "ws",
    ("tcp", "wss"): "wss",
    ("tcp", "tls", "ws"): "wss",
    ("udp", "quic-v1"): "quic-v1",
}


class MultiaddrError(PtError):
    """Not a multiaddr, or not one that `pt` understands."""


class MultiaddrTextError(MultiaddrError, UsageError):
    """A text is not a multiaddr."""


class MultiaddrBytesError(MultiaddrError, RemoteProtocolError):
    """Received bytes are not a multiaddr: drop this address."""


class Multiaddr:
    """One address; immutable and hashable. Make it with `parse`, `decode` or `tcp`."""

    __slots__ = ("_components", "_raw")
    _raw: bytes
    _components: tuple[Component, ...]

    def __init__(self, raw: bytes, components: tuple[Component, ...]) -> None:
        # Internal: the two arguments must say the same; the class methods see to that.
        self._raw = raw
        self._components = components

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Read the text form; `/ipfs/` is taken for `/p2p/`, a CID for its peer id.

        Raises:
            MultiaddrTextError: with the place and the reason.

        """
        if not text.startswith("/") or len(text) > _MAX_TEXT:
            raise _bad_text(text, "it starts with /, as /ip4/192.0.2.1/tcp/4001 does")
        words = text.rstrip("/").split("/")[1:]
        if not words:
            raise _bad_text(text, "it is empty")
        raw = bytearray()
        components: list[Component] = []
        at = 0
        while at < len(words):
            protocol = BY_NAME.get(words[at])
            at += 1
            if protocol is None:
                raise _bad_text(text, f"{words[at - 1]!r} is not a protocol known here")
            raw += uvarint.encode(protocol.code)
            if protocol.size == 0:
                components.append((protocol.name, None))
                continue
            if at >= len(words):
                raise _bad_text(text, f"/{protocol.name} needs a value")
            word = words[at]
            at += 1
            if protocol.is_path:
                word = "/" + "/".join((word, *words[at:]))
                at = len(words)
            try:
                value = protocol.to_bytes(word)
                canonical = protocol.to_text(value)
            except (ValueFormatError, UsageError, MultihashError) as error:
                raise _bad_text(text, f"/{protocol.name}: {error}") from error
            if protocol.size == VARIABLE:
                if len(value) > MAX_VALUE:
                    raise _bad_text(text, f"/{protocol.name}: longer than {MAX_VALUE} bytes")
                raw += uvarint.encode(len(value))
            raw += value
            components.append((protocol.name, canonical))
        if len(components) > MAX_COMPONENTS or len(raw) > MAX_BYTES:
            raise _bad_text(text, "it is too long")
        return cls(bytes(raw), tuple(components))

    @classmethod
    def decode(cls, raw: bytes) -> Multiaddr:
        """Read the binary form, which must fill `raw`.

        Raises:
            MultiaddrBytesError: empty, too long, unknown code, or malformed value.

        """
        if not 1 <= len(raw) <= MAX_BYTES:
            raise MultiaddrBytesError(f"a multiaddr of {len(raw)} bytes")
        components: list[Component] = []
        pos = 0
        while pos < len(raw):
            if len(components) == MAX_COMPONENTS:
                raise MultiaddrBytesError(f"a multiaddr of more than {MAX_COMPONENTS} components")
            component, pos = _read_component(raw, pos)
            components.append(component)
        return cls(bytes(raw), tuple(components))

    @classmethod
    def tcp(cls, host: str, port: int) -> Multiaddr:
        """The address of TCP `port` at `host`: an IP address (`fe80::1%eth0` too) or a DNS name.

        Raises:
            MultiaddrTextError: either is out of range.

        """
        return cls.parse(f"{_host_text(host)}/tcp/{port}")

    @classmethod
    def quic(cls, host: str, port: int) -> Multiaddr:
        """The address of QUIC on UDP `port`; as `tcp` otherwise."""
        return cls.parse(f"{_host_text(host)}/udp/{port}/quic-v1")

    def with_host(self, host: str) -> Multiaddr:
        """The same address at another host, an IP address or a DNS name.

        Raises:
            MultiaddrTextError: it is none.

        """
        rest = [part for part in self._components if part[0] != "ip6zone"]
        return _of(Multiaddr.parse(_host_text(host)).components + tuple(rest[1:]))

    def encode(self) -> bytes:
        """The binary form."""
        return self._raw

    @property
    def components(self) -> tuple[Component, ...]:
        """(protocol name, value or None) from left to right."""
        return self._components

    @property
    def host(self) -> tuple[str, str] | None:
        """(kind, host) of the first component that names one; an IPv6 zone is appended as `%zone`.

        kind is `ip4`, `ip6`, `dns`, `dns4`, `dns6` or `dnsaddr`.
        """
        zone = ""
        for name, value in self._components:
            if value is None:
                continue
            if name == "ip6zone":
                zone = f"%{value}"
            elif name in _HOSTS:
                return name, value + zone if name == "ip6" else value
        return None

    @property
    def tcp_port(self) -> int | None:
        """The port of the first /tcp, if there is one before any relay."""
        return self._port("tcp")

    @property
    def udp_port(self) -> int | None:
        """The port of the first /udp, if there is one before any relay."""
        return self._port("udp")

    @property
    def port(self) -> int | None:
        """The port of the first /tcp or /udp, if there is one before any relay."""
        return self.tcp_port if self.tcp_port is not None else self.udp_port

    @property
    def peer_id_bytes(self) -> bytes | None:
        """The peer id's bytes when the address ends with /p2p: who is reached, not a relay."""
        name, value = self._components[-1]
        if name != "p2p" or value is None:
            return None
        return BY_NAME["p2p"].to_bytes(value)

    @property
    def is_circuit(self) -> bool:
        """Whether the address leads through a relay."""
        return ("p2p-circuit", None) in self._components

    @property
    def is_dnsaddr(self) -> bool:
        """Whether the address stands for others, which are in the DNS, and leads to no relay."""
        return self._components[0][0] == "dnsaddr" and not self.is_circuit

    @property
    def is_plain_tcp(self) -> bool:
        """Whether this is host and TCP port, optionally with a peer id, and nothing else."""
        names = [name for name, _ in self._components if name != "ip6zone"]
        if names[-1] == "p2p":
            names.pop()
        return len(names) == 2 and names[0] in _HOSTS - {"dnsaddr"} and names[1] == "tcp"

    @property
    def transport(self) -> str:
        """How it is dialed: `tcp`, `ws`, `wss` (also /tls/ws), `quic-v1`, `circuit`, or empty."""
        if self.is_circuit:
            return "circuit"
        names = [name for name, _ in self._components if name not in {"ip6zone", "sni"}]
        if names[-1] == "p2p":
            names.pop()
        if len(names) < 2 or names[0] not in _HOSTS - {"dnsaddr"}:
            return ""
        return _TRANSPORTS.get(tuple(names[1:]), "")

    def split_circuit(self) -> tuple[Multiaddr, Multiaddr | None]:
        """The relay's address and what follows the last /p2p-circuit (None: nothing does).

        Raises:
            UsageError: there is no circuit, or no relay before it.

        """
        hops = [at for at, part in enumerate(self._components) if part == ("p2p-circuit", None)]
        if not hops or not hops[-1]:
            raise UsageError(f"{self} does not lead through a relay")
        before, after = self._components[: hops[-1]], self._components[hops[-1] + 1 :]
        return _of(before), _of(after) if after else None

    def through_circuit(self) -> Multiaddr:
        """The address of who holds a reservation at the relay with this address."""
        return Multiaddr.decode(self._raw + uvarint.encode(BY_NAME["p2p-circuit"].code))

    @property
    def is_public(self) -> bool:
        """Whether the host (of a circuit: the relay) is reachable from the Internet."""
        host = self.host
        if host is None:
            return False
        address = self._ip()
        return ipranges.is_public_name(host[1]) if address is None else ipranges.is_public(address)

    @property
    def is_private(self) -> bool:
        """Whether the host is an address of a private, link-local or loopback network."""
        address = self._ip()
        return address is not None and ipranges.is_private(address)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address."""
        address = self._ip()
        return address is not None and ipranges.is_loopback(address)

    def with_peer(self, peer_id: bytes) -> Multiaddr:
        """The same address ending with /p2p/`peer_id`, which replaces the one it may end with."""
        base = self if self.peer_id_bytes is None else self.without_peer()
        raw = uvarint.encode(BY_NAME["p2p"].code) + uvarint.prefix(peer_id)
        return Multiaddr.decode((b"" if base is None else base.encode()) + raw)

    def without_peer(self) -> Multiaddr | None:
        """The same address without the /p2p it may end with; None if nothing else is there."""
        peer_id = self.peer_id_bytes
        if peer_id is None:
            return self
        if len(self._components) == 1:
            return None
        tail = len(uvarint.encode(BY_NAME["p2p"].code)) + len(uvarint.prefix(peer_id))
        return Multiaddr(self._raw[:-tail], self._components[:-1])

    def __str__(self) -> str:
        parts = []
        for name, value in self._components:
            if value is None:
                parts.append(f"/{name}")
            else:
                parts.append(f"/{name}{value}" if BY_NAME[name].is_path else f"/{name}/{value}")
        return "".join(parts)

    def __repr__(self) -> str:
        return f"Multiaddr({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return self._raw == other._raw if isinstance(other, Multiaddr) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._raw)

    def _ip(self) -> IPv4Address | IPv6Address | None:
        host = self.host
        if host is None or host[0] not in {"ip4", "ip6"}:
            return None
        return ip_address(host[1].partition("%")[0])

    def _port(self, protocol: str) -> int | None:
        for name, value in self._components:
            if name == "p2p-circuit":
                return None
            if name == protocol and value is not None:
                return int(value)
        return None


def _of(components: tuple[Component, ...]) -> Multiaddr:
    """The address made of components that were read from another one."""
    return Multiaddr.parse(
        "".join(f"/{name}" if value is None else f"/{name}/{value}" for name, value in components)
    )


def _read_component(raw: bytes, pos: int) -> tuple[Component, int]:
    try:
        code, pos = uvarint.decode(raw, pos)
        protocol = BY_CODE.get(code)
        if protocol is None:
            raise MultiaddrBytesError(f"multiaddr protocol code {code} is not known here")
        size = protocol.size
        if size == VARIABLE:
            size, pos = uvarint.decode(raw, pos)
            if size > MAX_VALUE:
                raise MultiaddrBytesError(f"/{protocol.name} has a value of {size} bytes")
        value = bytes(raw[pos : pos + size])
        if len(value) != size:
            raise MultiaddrBytesError(f"/{protocol.name} is cut short")
        text = protocol.to_text(value) if protocol.size else None
    except (uvarint.UvarintError, MultihashError, ValueFormatError) as error:
        raise MultiaddrBytesError(f"bad multiaddr: {error}") from error
    return (protocol.name, text), pos + size


def _host_text(host: str) -> str:
    address, percent, zone = host.partition("%")
    if ":" in address:
        return f"/ip6zone/{zone}/ip6/{address}" if percent else f"/ip6/{address}"
    if address.replace(".", "").isdigit():
        return f"/ip4/{address}"
    return f"/dns/{host}"


def _bad_text(text: str, reason: str) -> MultiaddrTextError:
    return MultiaddrTextError(f"{text[:128]!r} is not a usable multiaddr: {reason}")
