"""Names in addresses: what /dns, /dns4, /dns6 and /dnsaddr stand for now, or stood for last.

Each name is asked for once at a time, whoever wants it. The addresses of names that the user gave
are remembered, and used when the DNS does not answer: at once when it did not the time before, else
after a moment (RFC 8767, section 5), while the question goes on. That a name does not exist is an
answer, too: then there is nothing to use.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from pt.errors import DnsCause, DnsError, UsageError
from pt.node.system_dns import INSTEAD, look_up
from pt.trace import NO_TRACE, Tracer
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.address_book import AddressBook

__all__ = ["LOOKUP_TIMEOUT", "MAX_ANSWERS", "PATIENCE", "Asking", "Resolver", "is_named"]

LOOKUP_TIMEOUT: Final = 7.0
"""Seconds for one name: the C library asks a second time after five."""
PATIENCE: Final = 1.8
"""Seconds that the DNS has when there are addresses from before (RFC 8767: "client response")."""
MAX_ANSWERS: Final = 8
"""Addresses taken of one name."""
MAX_NAMES: Final = 16
"""Names taken of one /dnsaddr."""
MAX_SILENT: Final = 256
_FAMILIES: Final = {
    "dns": 0,
    "dns4": int(socket.AF_INET),
    "dns6": int(socket.AF_INET6),
}

Asking = Callable[[str, int], Awaitable[list[str]]]
"""(host, family) to IP addresses; raises DnsError."""
Following = Callable[[Multiaddr, float], Awaitable[list[Multiaddr]]]
"""(a /dnsaddr, seconds it may take) to what it stands for; raises DnsError."""


def is_named(address: Multiaddr) -> bool:
    """Whether a name has to be looked up before the address is dialed.

    The dialers of WebSocket do that themselves: they need the name, too.
    """
    host = address.host
    if host is None or address.is_circuit:
        return False
    return address.is_dnsaddr or (host[0] in _FAMILIES and address.transport in ("tcp", "quic-v1"))


class Resolver:
    """`given` are the addresses whose names are remembered in `book`.

    `warn` is told when remembered addresses are used, once until the DNS answers again.
    """

    def __init__(
        self,
        *,
        given: Iterable[Multiaddr] = (),
        book: AddressBook | None = None,
        warn: Callable[[str], None] = lambda _: None,
        tracer: Tracer = NO_TRACE,
        ask: Asking = look_up,
        follow: Following | None = None,
    ) -> None:
        self._kept = {key for address in given if (key := _key(address))}
        self._book = book
        self._warn = warn
        self._tracer = tracer
        self._ask = ask
        self._follow = follow or _follow
        self._running: dict[tuple[str, int], asyncio.Task[list[str]]] = {}
        self._since: dict[tuple[str, int], float] = {}
        self._silent: dict[str, None] = {}
        self._warned: set[str] = set()
        self._saving: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Give up what is being looked up; what has been learned is written."""
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running.values()))
        if self._saving is not None:
            await asyncio.wait([self._saving])

    def unanswered(self, now: float) -> dict[str, float]:
        """Hosts and /dnsaddr that are being looked up, and for how many seconds."""
        return {key: now - since for (key, _), since in self._since.items()}

    async def expand(self, address: Multiaddr) -> list[Multiaddr]:
        """What an address stands for: itself, unless it `is_named`.

        Raises:
            DnsError: nothing, and why.

        """
        if not is_named(address):
            return [address]
        host = address.host
        assert host is not None
        if address.is_dnsaddr:
            return await self._expand_dnsaddr(address)
        return [address.with_host(each) for each in await self.addresses(*host)]

    async def addresses(self, kind: str, host: str) -> list[str]:
        """The IP addresses of a host; `kind` is dns, dns4 or dns6.

        Raises:
            DnsError: there is none, and why.

        """
        return await self._find(_bare(host), _FAMILIES[kind])

    async def _expand_dnsaddr(self, address: Multiaddr) -> list[Multiaddr]:
        key = str(address)
        entries = [Multiaddr.parse(text) for text in await self._find(key, 0)]
        names = [each for each in entries if is_named(each)][:MAX_NAMES]
        if key in self._kept:
            self._kept.update(filter(None, map(_key, names)))
        results = await asyncio.gather(*map(self.expand, names), return_exceptions=True)
        found = [each for each in entries if not is_named(each)]
        failure: BaseException | None = None
        for result in results:
            if not isinstance(result, BaseException):
                found += result
            elif isinstance(result, DnsError):
                failure = result
            else:
                raise result
        if failure is not None and not found:
            raise failure
        return found

    # --- one name --------------------------------------------------------------------------------

    async def _find(self, key: str, family: int) -> list[str]:
        task = self._running.get((key, family))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._look_up(key, family))
            self._running[key, family] = task
            self._since[key, family] = asyncio.get_running_loop().time()
            task.add_done_callback(lambda done: self._done(key, family, done))
        known = self._known(key, family)
        if not known:
            return await asyncio.shield(task)
        patience = 0.0 if key in self._silent else PATIENCE
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            try:
                return task.result()
            except DnsError as error:
                if error.cause.is_answer:
                    raise
                reason = str(error)
        else:
            reason = f"no answer about {key} within {patience:g} s"
            if not patience:
                reason = f"it did not answer about {key} before"
        return self._use_known(key, known, reason)

    def _done(self, key: str, family: int, task: asyncio.Task[list[str]]) -> None:
        del self._running[key, family], self._since[key, family]
        if not task.cancelled():
            task.exception()  # whoever waited was told

    async def _look_up(self, key: str, family: int) -> list[str]:
        """Ask the DNS, and learn from what it says."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                found = await self._answer(key, family)
        except (DnsError, TimeoutError) as error:
            failure = error if isinstance(error, DnsError) else _silence(key)
            self._tracer.emit(
                "resolve_failed",
                name=key,
                cause=failure.cause.value,
                reason=str(failure),
                seconds=round(time.monotonic() - started, 6),
            )
            if failure.cause.is_answer:
                self._learn(key, 0 if failure.cause is DnsCause.NO_NAME else family, [])
            else:
                self._silent[key] = None
                while len(self._silent) > MAX_SILENT:
                    del self._silent[next(iter(self._silent))]
            raise failure from error
        self._tracer.emit(
            "resolved", name=key, addresses=found, seconds=round(time.monotonic() - started, 6)
        )
        self._learn(key, family, found)
        return found

    async def _answer(self, key: str, family: int) -> list[str]:
        if key.startswith("/"):
            found = await self._follow(Multiaddr.parse(key), LOOKUP_TIMEOUT)
            return [str(each) for each in found]
        found_ips = (await self._ask(key, family))[:MAX_ANSWERS]
        if not found_ips:
            raise DnsError(f"the host {key} has no address", DnsCause.NO_RECORD)
        return found_ips

    def _learn(self, key: str, family: int, found: list[str]) -> None:
        """The DNS works: this is what it says of a name."""
        self._silent.pop(key, None)
        self._warned.discard(key)
        book = self._book
        if book is None or key not in self._kept:
            return

        def other(text: str) -> bool:
            """Nothing was asked about the other family."""
            return bool(family) and _family(text) != family

        work = functools.partial(book.put, key, found, time.time(), other)
        self._saving = asyncio.get_running_loop().create_task(_after(self._saving, work))

    # --- from before -----------------------------------------------------------------------------

    def _known(self, key: str, family: int) -> list[str]:
        """The remembered addresses of a name, of one family or (0) all."""
        known = None if self._book is None else self._book.get(key)
        if known is None:
            return []
        return [each for each in known.addresses if not family or _family(each) == family]

    def _use_known(self, key: str, known: list[str], reason: str) -> list[str]:
        """Tell that the DNS does not answer, and do without."""
        self._tracer.emit("resolve_remembered", name=key, addresses=known, reason=reason)
        assert self._book is not None
        entry = self._book.get(key)
        if key not in self._warned and entry is not None:
            if len(self._warned) >= MAX_SILENT:
                self._warned.clear()
            self._warned.add(key)
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.when))
            self._warn(
                f"the DNS does not answer ({reason}): using what {key} stood for on {day}: "
                f"{', '.join(known)}"
            )
        return known


async def _after(earlier: asyncio.Task[None] | None, work: Callable[[], None]) -> None:
    """Do blocking work in a thread, in the order in which it came up."""
    if earlier is not None:
        await asyncio.wait([earlier])
    await asyncio.to_thread(work)


def _key(address: Multiaddr) -> str | None:
    """Under what an address's name is remembered; None if it has none."""
    via = address
    if address.is_circuit:
        try:
            via = address.split_circuit()[0]
        except UsageError:
            return None
    host = via.host
    if host is None or not host[0].startswith("dns"):
        return None
    return str(via) if via.is_dnsaddr else _bare(host[1])


def _bare(host: str) -> str:
    return host.lower().rstrip(".") or host


def _family(text: str) -> int:
    return int(socket.AF_INET6 if ":" in text else socket.AF_INET)


def _silence(key: str) -> DnsError:
    return DnsError(
        f"could not look up {key}: no answer within {LOOKUP_TIMEOUT:g} s; check the network's "
        f"DNS, {INSTEAD}",
        DnsCause.TIMEOUT,
    )


async def _follow(address: Multiaddr, seconds: float) -> list[Multiaddr]:
    from pt.dnsaddr.aio import resolve_dnsaddr  # noqa: PLC0415  # dnspython is slow to load

    return await resolve_dnsaddr(address, total=seconds)
