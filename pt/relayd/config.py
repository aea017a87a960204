"""What a relay is asked to be: plain values, checked once, and the TOML file they may come from.

    listen = ["/ip4/0.0.0.0/tcp/4001"]      private = false         secret-file = "/etc/pt/secret"
    allow-file = "/etc/pt/allow"            http = "127.0.0.1:9090" rate = "12.5M"
    bootstrap = ["/ip4/192.0.2.2/tcp/4001"] overlay = true
    tls-cert = "…"  tls-key = "…"

    [strangers]                             [users]
    reservations = 128                      limit-data = 0          # none
    limit-data = "128K"                     limit-duration = 0

Bytes take K, M and G, of 1024 for amounts and of 1000 for rates a second.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pt.errors import UsageError
from pt.identity.peer_id import PeerId
from pt.overlay.address import overlay_host
from pt.relay.messages import Limit
from pt.relay.raw import MIN_SECRET
from pt.relay.registry import STRANGERS, USERS, Quotas
from pt.stun.partner import partner_key
from pt.tunnel.facts import Facts
from pt.wire.multiaddr import Multiaddr

__all__ = [
    "KEYS",
    "QUOTA_KEYS",
    "STUN_PORT",
    "RelayConfig",
    "amount",
    "default_listen",
    "quotas_from",
    "rate",
    "read_allow",
    "read_secret",
    "read_toml",
]

DEFAULT_PORT: Final = 4001
STUN_PORT: Final = 3479
"""What STUN servers have for a second port, as a rule."""
MAX_FILE: Final = 1 << 20
MAX_ALLOWED: Final = 65536
KEYS: Final = frozenset(
    {
        "listen", "announce", "private", "secret-file", "allow-file", "http", "rate",
        "circuit-rate", "tls-cert", "tls-key", "connections", "websocket", "overlay", "bootstrap",
        "strangers", "users", "stun", "stun-port", "stun-peer", "stun-secret-file",
    }
)  # fmt: skip
QUOTA_KEYS: Final = frozenset(
    {
        "reservations", "per-host", "per-network", "circuits", "circuits-per-peer", "ttl",
        "limit-data", "limit-duration",
    }
)  # fmt: skip
MOST: Final = float(1 << 63)
MAX_DIGITS: Final = 18
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)")
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3}


def default_listen(*, websocket: bool = True) -> tuple[Multiaddr, ...]:
    """All interfaces, both IP versions, port 4001; WebSocket shares the port."""
    found = []
    for host in ("/ip4/0.0.0.0", "/ip6/::"):
        found.append(Multiaddr.parse(f"{host}/tcp/{DEFAULT_PORT}"))
        if websocket:
            found.append(Multiaddr.parse(f"{host}/tcp/{DEFAULT_PORT}/ws"))
    return tuple(found)


class RelayConfig(Facts):
    """What `RelayServer` does."""

    hidden = frozenset({"secret", "stun_secret"})

    listen: tuple[Multiaddr, ...] = ()
    """None given: `default_listen`."""
    announce: tuple[Multiaddr, ...] = ()
    """Addresses to tell besides those of the interfaces."""
    private: bool = False
    """Strangers get no reservations, and reach users only."""
    secret: str | None = None
    """Who proves to know it is a user."""
    allow: frozenset[PeerId] = frozenset()
    """Who is a user without it."""
    strangers: Quotas = STRANGERS
    users: Quotas = USERS
    rate: float = 0.0
    """Bytes a second of all circuits together, both ways; 0: not shaped."""
    circuit_rate: float = 0.0
    """Bytes a second of one circuit, both ways; 0: not shaped."""
    tls_cert: str | None = None
    """PEM file of the certificate chain for /tls/ws listeners."""
    tls_key: str | None = None
    http: tuple[str, int] | None = None
    """Where the status page and the metrics are served."""
    connections: int = 16384
    websocket: bool = True
    overlay: bool = True
    """Serve the overlay on UDP, at the host and port of each listener."""
    bootstrap: tuple[Multiaddr, ...] = ()
    """Other relays of the overlay."""
    stun: bool = True
    """Serve STUN on each listener's port, UDP and TCP."""
    stun_port: int = STUN_PORT
    """The second port; the system chooses it where it chooses the first."""
    stun_peers: tuple[Multiaddr, ...] = ()
    """Another relay that answers for this one, and this one for it; one of each IP version."""
    stun_secret: str | None = None
    """Which the two relays know, and nobody else: users' secrets are for users."""

    def _check(self) -> None:
        if not self.listen:
            self.__dict__["listen"] = default_listen(websocket=self.websocket)
        if self.secret is not None and len(self.secret.strip()) < MIN_SECRET:
            raise UsageError(
                f"the secret is shorter than {MIN_SECRET} characters, and could be guessed: "
                "make one with `pt relay --make-secret FILE`"
            )
        if self.private and self.secret is None and not self.allow:
            raise UsageError(
                "a private relay without a secret or an allow-list serves nobody: give "
                "--secret-file or --allow-file"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("a certificate needs its key, and a key its certificate: give both")
        wss = [address for address in self.listen if address.transport == "wss"]
        if wss and self.tls_cert is None:
            raise UsageError(f"{wss[0]} needs a certificate: give --tls-cert and --tls-key")
        for address in self.bootstrap:
            if overlay_host(address) is None and not address.is_dnsaddr:
                raise UsageError(
                    f"--bootstrap {address}: give a relay's address as it prints it, such as "
                    "/ip4/192.0.2.1/tcp/4001"
                )
        if self.bootstrap and not self.overlay:
            raise UsageError("--bootstrap names the overlay's relays: it needs the overlay")
        self._check_stun()
        for number, what in ((self.rate, "rate"), (self.circuit_rate, "circuit-rate")):
            if number and number < 1000:
                raise UsageError(f"a {what} of {number:g} bytes a second is too slow for anything")
        if not 1 <= self.connections <= 1 << 20:
            raise UsageError(f"connections = {self.connections}: give a number up to 1048576")

    def _check_stun(self) -> None:
        if not 1 <= self.stun_port <= 65535:
            raise UsageError(f"stun-port = {self.stun_port}: give a port number")
        if bool(self.stun_peers) != (self.stun_secret is not None):
            raise UsageError(
                "two relays answer for each other by a secret of their own: give --stun-peer and "
                "--stun-secret-file, at both"
            )
        if self.stun_peers and not self.stun:
            raise UsageError("--stun-peer is about STUN: it needs STUN")
        if self.stun_secret is not None:
            partner_key(self.stun_secret)
        seen = set()
        for address in self.stun_peers:
            where = overlay_host(address)
            if where is None or where[0].startswith("dns") or where[0] in seen:
                raise UsageError(
                    f"--stun-peer {address}: give the other relay's IP address, one of each "
                    "version at most, such as /ip4/192.0.2.1/tcp/4001"
                )
            seen.add(where[0])


def amount(value: object, key: str, *, base: int = 1024) -> float:
    """Read a number of bytes, such as 131072, "128K" or "1.5G".

    Raises:
        UsageError: it is none.

    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST:
        return float(value)
    found = _AMOUNT.fullmatch(str(value).strip())
    if found is None or len(found[1]) > MAX_DIGITS:
        raise UsageError(f"{key} = {value!r} is not a number of bytes: give one like 128K or 12.5M")
    return float(found[1]) * float(base ** _POWER[found[2].lower()])


def rate(value: object, key: str) -> float:
    """Read bytes a second, such as "12.5M" (100 Mbit/s).

    Raises:
        UsageError: it is none.

    """
    return amount(value, key, base=1000)


def quotas_from(table: object, base: Quotas, name: str) -> Quotas:
    """Read the table of one class; what it does not say stays as in `base`.

    Raises:
        UsageError: a key is unknown, or a value makes no sense.

    """
    if not isinstance(table, dict):
        raise UsageError(f"[{name}] is not a table")
    changed: dict[str, object] = {}
    duration = base.limit.duration if base.limit is not None else 0
    data = base.limit.data if base.limit is not None else 0
    for key, value in table.items():
        where = f"[{name}] {key}"
        if key not in QUOTA_KEYS:
            raise UsageError(f"{where} is not known; known are {', '.join(sorted(QUOTA_KEYS))}")
        if key == "limit-data":
            data = int(amount(value, where))
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{where} = {value!r}: give a whole number")
        if key == "limit-duration":
            duration = value
        elif key in ("per-host", "per-network"):
            changed[key.replace("-", "_")] = value or None
        else:
            changed[key.replace("-", "_")] = value
    if not 0 <= duration < 1 << 32 or not 0 <= data < 1 << 63:
        raise UsageError(f"[{name}]: the limit of a circuit is out of range")
    limit = Limit(duration, data) if duration or data else None
    quotas: Quotas = dataclasses.replace(base, limit=limit, **changed)  # type: ignore[arg-type]
    if quotas.ttl < 60:
        raise UsageError(f"[{name}] ttl = {quotas.ttl:g}: reservations last at least 60 s")
    return quotas


def read_toml(path: str) -> Mapping[str, object]:
    """Read a configuration file.

    Raises:
        UsageError: it cannot be read, is not TOML, or has a key that is not known.

    """
    try:
        with Path(path).expanduser().open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    for key in found:
        if key not in KEYS:
            raise UsageError(f"{path}: {key!r} is not known; known are {', '.join(sorted(KEYS))}")
    return found


def read_allow(path: str) -> frozenset[PeerId]:
    """Read a list of peer ids, one a line; what follows # is a comment.

    Raises:
        UsageError: it cannot be read, or a line is no peer id.

    """
    found: set[PeerId] = set()
    for number, line in enumerate(_text(path).splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            found.add(PeerId.parse(word))
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        if len(found) > MAX_ALLOWED:
            raise UsageError(f"{path}: more than {MAX_ALLOWED} peers; use a secret instead")
    return frozenset(found)


def read_secret(path: str) -> str:
    """Read the secret, the first line of a file.

    Raises:
        UsageError: it cannot be read, or is empty.

    """
    secret = _text(path).split("\n", 1)[0].strip()
    if not secret:
        raise UsageError(f"{path} is empty: make a secret with `pt relay --make-secret {path}`")
    return secret


def _text(path: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise UsageError(f"{path} is far too big")
        return data.decode()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text") from error
