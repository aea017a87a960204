"""Who sees all traffic of the DHT in plaintext, as `gokad servers --tap FILE` writes it down.

    seen = Seen.read(path)
    assert not seen.leaks(secrets_of(…))

A secret is looked for as raw bytes and in every base that peers, DHTs and their tools print.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pt.identity.peer_id import PeerId
from pt.kad.messages import Message
from pt.wire import multibase, uvarint
from pt.wire.multiaddr import Multiaddr

MIN_SECRET: Final = 5
"""Shorter ones would be found by chance."""


def forms(secret: bytes) -> dict[str, bytes]:
    """How `secret` may appear within other data; bases that work on groups, at each alignment."""
    if len(secret) < MIN_SECRET:
        raise ValueError(f"{secret!r} is too short to be looked for")
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base58": multibase.encode("z", secret)[1:].encode(),
        "base36": multibase.encode("k", secret)[1:].encode(),
    }
    for shift in range(3):
        text = _aligned(base64.b64encode, secret, shift, 8, 6)
        found[f"base64+{shift}"] = text
        found[f"base64url+{shift}"] = text.translate(bytes.maketrans(b"+/", b"-_"))
    for shift in range(5):
        text = _aligned(base64.b32encode, secret, shift, 8, 5)
        found[f"BASE32+{shift}"], found[f"base32+{shift}"] = text, text.lower()
    return found


def _aligned(
    encode: Callable[[bytes], bytes], secret: bytes, shift: int, unit: int, bits: int
) -> bytes:
    """The characters that `secret` alone decides when `shift` bytes come before it."""
    text = encode(bytes(shift) + secret)
    first = -(-shift * unit // bits)
    return text[first : (shift + len(secret)) * unit // bits]


def secrets_of(
    name: str, peers: Iterable[PeerId], addresses: Iterable[Multiaddr], ips: Iterable[str]
) -> dict[str, bytes]:
    """What an observer must not see: a name, who and where its exposers are."""
    topic = f"/peertunnel/1.0.0/{name}".encode()
    found = {"the name": name.encode(), "the topic of --open": topic}
    for what, data in (*found.items(),):
        for kind in ("sha1", "sha256", "sha512"):
            found[f"{kind} of {what}"] = hashlib.new(kind, data).digest()
    for peer in peers:
        found[f"peer id {peer}"] = peer.raw
        found[f"key of {peer}"] = peer.raw[-32:]
        found[f"text of {peer}"] = str(peer).encode()
        found[f"CID of {peer}"] = b"\x01\x72" + peer.raw
    for address in addresses:
        found[f"address {address}"] = address.encode()
        found[f"text of {address}"] = str(address).encode()
    for ip in ips:
        found[f"IP address {ip}"] = Multiaddr.parse(f"/ip4/{ip}").encode()
        found[f"text of {ip}"] = ip.encode()
    return found


def leaks(data: bytes, secrets: Mapping[str, bytes]) -> list[str]:
    """Which secrets occur in `data`, and in which form."""
    return [
        f"{what} ({form})"
        for what, secret in secrets.items()
        for form, text in forms(secret).items()
        if text in data
    ]


@dataclass(frozen=True)
class Stream:
    """A stream of the DHT that a peer opened to a server."""

    server: int
    peer: str
    """Whom the security handshake showed."""
    address: str
    asked: bytes
    answered: bytes

    def requests(self) -> Iterator[Message]:
        """What was asked; a message that was cut off is left out."""
        return _messages(self.asked)

    def replies(self) -> Iterator[Message]:
        """What was answered."""
        return _messages(self.answered)


@dataclass(frozen=True)
class Seen:
    """All of a tap."""

    streams: tuple[Stream, ...]
    identified: tuple[dict[str, Any], ...]
    """What peers said of themselves: `peer`, `address`, `agent`, `listens`, `protocols`, …"""

    @classmethod
    def read(cls, path: Path) -> Seen:
        """Read the file; servers may still be writing, so half a line at its end is left out."""
        parts: dict[int, dict[str, Any]] = {}
        identified = []
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            said = json.loads(line)
            if said["kind"] == "identify":
                identified.append(said)
                continue
            one = parts.setdefault(said["stream"], {**said, "in": bytearray(), "out": bytearray()})
            one[said["way"]] += base64.b64decode(said["data"])
        streams = (
            Stream(one["server"], one["peer"], one["address"], bytes(one["in"]), bytes(one["out"]))
            for one in parts.values()
        )
        return cls(tuple(streams), tuple(identified))

    @property
    def data(self) -> bytes:
        """All that peers of the DHT said, without what the network adds: who connects, from where.

        A peer that never asked the DHT anything, but uses a server as a relay, is left out: it
        cannot hide who it is.
        """
        said = [part for one in self.streams for part in (one.asked, one.answered)]
        dialers = {one.peer for one in self.streams}
        for one in self.identified:
            if one["peer"] in dialers:
                told = {key: one[key] for key in ("agent", "version", "protocols", "listens")}
                said += [json.dumps(told).encode(), base64.b64decode(one.get("record", ""))]
        return b"\n".join(said)

    def dialers(self, ip: str) -> set[str]:
        """Ids of the peers that asked the DHT something, from this address."""
        return {one.peer for one in self.streams if one.address.startswith(f"/ip4/{ip}/")}

    def of(self, peers: Iterable[str]) -> list[Stream]:
        """Streams that these peers opened."""
        wanted = set(peers)
        return [one for one in self.streams if one.peer in wanted]


def _messages(data: bytes) -> Iterator[Message]:
    pos = 0
    while pos < len(data):
        try:
            size, start = uvarint.decode(data, pos)
        except uvarint.Incomplete:
            return
        if len(data) < start + size:
            return
        yield Message.decode(data[start : start + size])
        pos = start + size
