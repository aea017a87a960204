"""The services an exposer offers: which port leads where, names resolved ahead of time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable

from pt.errors import LocalPortError
from pt.tunnel.config import Service

__all__ = ["Targets"]


class Targets:
    """Looks services up by port; host names are resolved by `resolve` and again after a failure."""

    def __init__(self, services: Iterable[Service]) -> None:
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
            infos = await asyncio.get_running_loop().getaddrinfo(
                host, target_port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise LocalPortError(
                f"the target host {host!r} has no address ({error.strerror or error}): check the "
                "name, or give an IP address"
            ) from error
        infos.sort(key=lambda info: info[0] != socket.AF_INET)
        self._resolved[port] = (str(infos[0][4][0]), target_port)

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
