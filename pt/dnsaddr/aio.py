"""TXT look-ups by `dnspython`, the only module that knows it: imported at the first question.

UDP first, TCP when an answer is cut short. Resolvers that fail or stay silent are passed over for
the next one. dnspython matches answers to the server, id and question that were asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pt.dnsaddr.resolution import DnsCause, DnsError, resolve
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import NoNameservers

__all__ = ["LIFETIME", "TOTAL", "TxtResolver", "resolve_dnsaddr"]

LIFETIME: Final = 3.0
"""Seconds for one name, whatever the number of resolvers."""
TOTAL: Final = 10.0
"""Seconds for one /dnsaddr; what was found by then counts."""
ATTEMPT: Final = 1.0
"""Seconds for one resolver, then the next is asked, or the same again."""
MAX_RESOLVERS: Final = 3
_EDNS_SIZE: Final = 1232
"""Bytes that an answer by UDP may have without being fragmented on the way (DNS flag day 2020)."""
_HINT: Final = "check the network's DNS, or use --peer ADDRESS with an IP address"


class TxtResolver:
    """Asks for TXT records: the system's resolvers, or `servers`, (IP address, port) each."""

    def __init__(self, servers: Sequence[tuple[str, int]] | None = None) -> None:
        self._servers = servers

    async def txt(self, name: str, lifetime: float = LIFETIME) -> list[str]:
        """The TXT records of `name`, the strings of each joined; those not in ASCII are left out.

        Raises:
            DnsError: with the cause; after `lifetime` seconds at the latest.

        """
        # Loading dnspython and reading the system's configuration take a tenth of a second.
        resolver = await asyncio.to_thread(self._resolver)
        import dns.asyncbackend  # noqa: PLC0415  # loaded by now
        import dns.exception  # noqa: PLC0415  # same
        import dns.name  # noqa: PLC0415  # same
        import dns.rdtypes.ANY.TXT  # noqa: PLC0415  # same
        import dns.resolver  # noqa: PLC0415  # same

        try:
            answer = await resolver.resolve(
                dns.name.from_text(name),
                "TXT",
                lifetime=lifetime,
                search=False,
                backend=dns.asyncbackend.get_backend("asyncio"),
            )
        except dns.resolver.NXDOMAIN as error:
            raise DnsError(
                f"{name} does not exist in the DNS: {_HINT}", DnsCause.NO_NAME
            ) from error
        except dns.resolver.NoAnswer as error:
            raise DnsError(f"{name} has no TXT record: {_HINT}", DnsCause.NO_RECORD) from error
        except dns.resolver.NoNameservers as error:
            raise _refused(name, error) from error
        except dns.exception.Timeout as error:
            raise DnsError(
                f"no resolver answered within {lifetime:.1f} s about {name}: {_HINT}",
                DnsCause.TIMEOUT,
            ) from error
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise DnsError(f"cannot look up {name} ({error}): {_HINT}", DnsCause.FAILED) from error
        texts = []
        for data in answer:
            if isinstance(data, dns.rdtypes.ANY.TXT.TXT):
                raw = b"".join(data.strings)
                if raw.isascii():
                    texts.append(raw.decode())
        return texts

    def _resolver(self) -> Resolver:
        import dns.asyncresolver  # noqa: PLC0415  # slow to load: in a thread
        import dns.nameserver  # noqa: PLC0415  # same
        import dns.resolver  # noqa: PLC0415  # same

        try:
            resolver = dns.asyncresolver.Resolver(configure=self._servers is None)
        except (dns.resolver.NoResolverConfiguration, OSError) as error:
            raise _unconfigured() from error
        if self._servers is not None:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(host, port) for host, port in self._servers
            ]
        resolver.nameservers = resolver.nameservers[:MAX_RESOLVERS]
        if not resolver.nameservers:
            raise _unconfigured()
        resolver.timeout = ATTEMPT
        resolver.use_edns(0, 0, _EDNS_SIZE)
        return resolver


async def resolve_dnsaddr(
    address: Multiaddr, resolver: TxtResolver | None = None, total: float = TOTAL
) -> list[Multiaddr]:
    """All addresses that `address` stands for, asking for `total` seconds at most.

    Raises:
        DnsError: nothing was found, with the cause.
        UsageError: see `pt.dnsaddr.resolution.resolve`.

    """
    asking = resolver or TxtResolver()
    loop = asyncio.get_running_loop()
    end = loop.time() + total

    async def query(name: str) -> list[str]:
        left = end - loop.time()
        if left <= 0:
            raise DnsError(
                f"the DNS took more than {total:.0f} s to look up {address}: {_HINT}",
                DnsCause.TIMEOUT,
            )
        return await asking.txt(name, min(left, LIFETIME))

    return await resolve(address, query)


def _unconfigured() -> DnsError:
    return DnsError(
        "this machine names no DNS resolver (/etc/resolv.conf): connect it to a network, or use "
        "--peer ADDRESS with an IP address",
        DnsCause.NO_RESOLVER,
    )


def _refused(name: str, error: NoNameservers) -> DnsError:
    """Every resolver was given up: say why, by what the last one did."""
    last = error.kwargs["errors"][-1][3] if error.kwargs.get("errors") else "no answer"
    if last == "REFUSED":
        return DnsError(f"the resolver refuses to look up {name}: {_HINT}", DnsCause.REFUSED)
    if isinstance(last, OSError):
        return DnsError(
            f"no resolver can be reached ({last}) to look up {name}: {_HINT}", DnsCause.UNREACHABLE
        )
    return DnsError(f"the resolver failed ({last}) to look up {name}: {_HINT}", DnsCause.FAILED)
