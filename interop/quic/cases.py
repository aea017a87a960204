"""The cases: what the path does, what is fetched, and what must have been seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from interop.quic.path import Conditions, Seen

MB: Final = 1_000_000
CHACHA: Final = "CHACHA20_POLY1305_SHA256"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run ended with: what the path saw, and what the ends said."""

    seen: Seen
    server: dict[str, object]
    client: dict[str, object]
    is_ours: bool
    """Whether the server is."""


Check = Callable[[Run], str | None]
"""What was not as it must be."""


def always(_: Run) -> str | None:
    return None


def no_retry(run: Run) -> str | None:
    return f"{run.seen.retries} Retry packets" if run.seen.retries else None


def retried(run: Run) -> str | None:
    if run.seen.retries and run.seen.tokens:
        return None
    return f"{run.seen.retries} Retry packets, {run.seen.tokens} Initials with a token"


def chacha(run: Run) -> str | None:
    ciphers = {end["cipher"] for end in (run.server, run.client)} - {""}
    return None if ciphers == {CHACHA} else f"the cipher was {ciphers}"


def keys_updated(run: Run) -> str | None:
    if run.server["key_updates"] and run.client["key_updates"]:
        return None
    return f"key updates: {run.server['key_updates']} and {run.client['key_updates']}"


def harmed(run: Run) -> str | None:
    return None if run.seen.lost + run.seen.damaged else "the path did no harm"


def moved(run: Run) -> str | None:
    if not run.seen.rebinds:
        return "the path did not change"
    if run.seen.answered < max(2, run.seen.rebinds):  # the last one may have come too late
        return f"{run.seen.rebinds} changes, but only {run.seen.answered} paths were used"
    return None if run.server["moves"] else "the server did not notice a move"


def within_three(run: Run) -> str | None:
    if run.seen.amplification > 3.0 and run.is_ours:  # quic-go lets one datagram more go
        return f"{run.seen.amplification} times as much came back before the client was proved"
    return harmed(run)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case, and which of the runner's it is."""

    name: str
    what: str
    path: Conditions | None = field(default_factory=Conditions)
    """None: the ends are on one LAN, and speak IPv6."""
    sizes: Sequence[int] = (1024,)
    connections: int = 1
    retry: bool = False
    chacha: bool = False
    key_update: bool = False
    check: Check = always
    timeout: float = 60.0


CASES: Final = (
    Case(name="handshake", what="1 KB, and no Retry that nobody asked for", check=no_retry),
    Case(
        name="transfer",
        what="2, 3 and 5 MB on three streams at once",
        sizes=(2 * MB, 3 * MB, 5 * MB),
    ),
    Case(name="chacha20", what="3 MB under ChaCha20-Poly1305", sizes=(3 * MB,), chacha=True,
         check=chacha),
    Case(name="keyupdate", what="3 MB; the client changes keys early on, the server follows",
         sizes=(3 * MB,), key_update=True, check=keys_updated),
    Case(name="retry", what="the server has the client's address proved first", retry=True,
         check=retried),
    Case(name="multiplexing", what="2,000 streams of 32 bytes, more than may be open at a time",
         sizes=(32,) * 2000),
    Case(name="ipv6", what="1 MB over IPv6", path=None, sizes=(MB,)),
    Case(name="longrtt", what="a handshake with a round trip of 1.5 s",
         path=Conditions(delay=0.75)),
    Case(
        name="handshakeloss",
        what="50 connections, 30 % of all datagrams lost",
        path=Conditions(loss=0.3),
        connections=50,
        check=harmed,
        timeout=90,
    ),
    Case(name="transferloss", what="2 MB, 2 % lost", path=Conditions(loss=0.02), sizes=(2 * MB,),
         check=harmed),
    Case(
        name="handshakecorruption",
        what="50 connections, a bit changed in 30 % of all datagrams",
        path=Conditions(damage=0.3),
        connections=50,
        check=harmed,
        timeout=90,
    ),
    Case(name="transfercorruption", what="2 MB, a bit changed in 2 %",
         path=Conditions(damage=0.02), sizes=(2 * MB,), check=harmed),
    Case(name="blackhole", what="10 MB; every 5 s the path carries nothing for 2 s",
         path=Conditions(hole=(5.0, 2.0)), sizes=(10 * MB,), check=harmed),
    Case(
        name="amplification",
        what="the client's datagrams 2 to 7 vanish; at most three times as much may come back",
        path=Conditions(drop_to_server=(2, 3, 4, 5, 6, 7)),
        sizes=(5000,),
        check=within_three,
    ),
    Case(name="rebind-port",
         what="10 MB; a NAT changes the client's port 2.5 s after each answer there",
         path=Conditions(rebind=2.5), sizes=(10 * MB,), check=moved),
    Case(name="rebind-addr", what="10 MB; a NAT changes the client's address so",
         path=Conditions(rebind=2.5, rebind_address=True), sizes=(10 * MB,), check=moved),
)  # fmt: skip

SHORT: Final = (
    Case(
        name="retry, key update",
        what="both of these cases at once",
        path=Conditions(rate=100e6, delay=0.001, queue=1_000_000),
        sizes=(MB,),
        retry=True,
        key_update=True,
        check=lambda run: retried(run) or keys_updated(run),
    ),
    Case(
        name="loss, rebinding",
        what="1 MB, 1 % lost, a port that changes 0.4 s after each answer there",
        path=Conditions(delay=0.005, queue=60_000, loss=0.01, rebind=0.4),
        sizes=(MB,),
        check=lambda run: harmed(run) or moved(run),
    ),
)
"""For a continuous run: the same machinery in seconds."""
