"""The services an exposer offers: which port leads where, names resolved ahead of time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterable

from pt.errors import DnsError, LocalPortError
from pt.node.resolve import LOOKUP_TIMEOUT, Asking
from pt.node.system_dns import look_up
from pt.tunnel.config import Service

__all__ = ["Targets"]


class Targets:
    """Looks services up by port; host names are resolved by `resolve` and again after a failure."""

    def __init__(self, services: Iterable[Service], look_up: Asking = look_up) -> None:
        self._look_up = look_up
        self._services = {service.port: service for service in services}
        self._resolved: dict[int, tuple[str, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ports = tuple(self._services)

    async def resolve(self) -> None:
        """Resolve all hosts.

        Raises:
            LocalPortError: a host has no address.

        """
        for port in self.ports:
            await self._resolve(port)

    async def _resolve(self, port: int) -> None:
        host, target_port = self._services[port].target
        with contextlib.suppress(ValueError):
            self._resolved[port] = (str(ipaddress.ip_address(host)), target_port)
            return
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                found = await self._look_up(host, 0)
        except (DnsError, TimeoutError) as error:
            why = "there is none of this name"
            if not isinstance(error, DnsError) or not error.cause.is_answer:
                why = "the DNS does not answer"
            raise LocalPortError(
                f"the target host {host!r} has no address ({why}): check the name, or give an IP "
                "address"
            ) from error
        self._resolved[port] = (min(found, key=lambda ip: ":" in ip), target_port)

    def find(self, port: int) -> tuple[str, int] | None:
        """Address and port to connect to for a binder's `port` (0: the first)."""
        return self._resolved.get(port or self.ports[0])

    def failed(self, port: int) -> None:
        """A connect failed: a name may have moved, resolve it again in the background."""
        port = port or self.ports[0]
        host = self._services[port].host
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return
        if not self._tasks:
            task = asyncio.get_running_loop().create_task(self._again(port))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _again(self, port: int) -> None:
        with contextlib.suppress(LocalPortError):
            await self._resolve(port)

    async def answering(self) -> dict[int, bool]:
        """Which targets accept a connection now; connects and closes at once."""
        result = {}
        for port in self.ports:
            host, target_port = self._resolved[port]
            try:
                async with asyncio.timeout(2.0):
                    _, writer = await asyncio.open_connection(host, target_port)
                writer.close()
                result[port] = True
            except (OSError, TimeoutError):
                result[port] = False
        return result
