"""Keeps ports of ours mapped at the default gateways, for as long as they are wanted.

All services of a gateway are probed side by side, and the best that grants a mapping is used.  A
gateway that has rebooted, or lost a mapping, is asked again; so is another one, when the network
has changed.  What is granted is the gateway's word: whether it leads here is for others to verify.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from pt.errors import NetworkError, PtError
from pt.node.gateways import Announcements, find_places
from pt.portmap.aio import Datagrams, NatPmp, Pcp, Place
from pt.portmap.leases import Leases
from pt.portmap.mapping import (
    Mapper,
    Mapping,
    MapRefusedError,
    PortmapError,
    Service,
    Wanted,
)
from pt.portmap.upnp import Upnp, UpnpFirewall
from pt.trace import NO_TRACE, Tracer
from pt.wire import ipranges

__all__ = ["Finding", "PortMapper", "ask_gateways"]

LOOK: Final = 5.0
"""Seconds between two looks at routes and ports; reading /proc costs next to nothing."""
CHECK: Final = 60.0
"""Seconds between two questions whether a gateway has rebooted."""
HEED: Final = 5.0
"""Seconds between two questions because of what was announced, which anybody can make up."""
PROBE_AGAIN: Final = 300.0
"""Seconds until a gateway without any service is asked anew."""
ASK: Final = 5.0
"""Seconds for a service to tell what it knows, if it is only asked."""
SILENCE: Final = 2.0
"""The same, for one that says nothing at all."""
RELEASE: Final = 1.0
"""Seconds to give mappings back at the end."""
_ORDER: Final = list(Service)


class Finding(NamedTuple):
    """What became of one service of one gateway; `detail` says what is known, or why it is not."""

    place: Place
    service: Service
    ok: bool
    detail: str
    external: str = ""
    """The gateway's external address, if it tells that without a mapping."""


class PortMapper:
    """Keeps mapped what `wanted` names: ports that are listened at, at an address of ours.

    `on_change` is told when `mappings` has changed.
    """

    def __init__(
        self,
        wanted: Callable[[str], Iterable[Wanted]],
        on_change: Callable[[], None],
        *,
        tracer: Tracer = NO_TRACE,
        places: Callable[[], Sequence[Place]] = find_places,
    ) -> None:
        self._wanted = wanted
        self._on_change = on_change
        self._tracer = tracer
        self._places = places
        self._sites: dict[Place, tuple[_Site, asyncio.Task[None]]] = {}
        self._runner: asyncio.Task[None] | None = None
        self._told: tuple[Mapping, ...] = ()

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """What gateways have granted, and stands."""
        return tuple(each for site, _ in self._sites.values() for each in site.leases.mappings)

    def start(self) -> None:
        """Begin; nothing is asked before something is wanted."""
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Give every mapping back, within `RELEASE` seconds."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
            self._runner = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE):
                await asyncio.gather(*(self._end(each, release=True) for each in [*self._sites]))
        for place in list(self._sites):
            await self._end(place, release=False)

    async def _run(self) -> None:
        while True:
            needed = [each for each in self._places() if _needed(each)]
            places = {each: list(self._wanted(each.local)) for each in needed}
            for place in list(self._sites):
                if not places.get(place):
                    await self._leave(place, release=place in places)
            for place, wanted in places.items():
                if not wanted:
                    continue
                if place not in self._sites:
                    site = _Site(place, self._changed, self._heard, self._tracer)
                    task = asyncio.get_running_loop().create_task(site.run())
                    self._sites[place] = site, task
                self._sites[place][0].want(wanted)
            self._changed()
            await asyncio.sleep(LOOK)

    def _heard(self) -> None:
        """One gateway has announced itself: it is mostly the same machine for both IP versions."""
        for site, _ in self._sites.values():
            site.heard()

    async def _leave(self, place: Place, *, release: bool) -> None:
        """Forget a gateway that is gone, or give back what is wanted no more."""
        self._tracer.emit("portmap_left", gateway=place.host, local=place.local)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE):
                await self._end(place, release=release)

    async def _end(self, place: Place, *, release: bool) -> None:
        site, task = self._sites[place]
        task.cancel()
        await asyncio.wait([task])
        try:
            if release:
                await site.release()
        finally:
            site.close()
            self._sites.pop(place, None)

    def _changed(self) -> None:
        if (now := self.mappings) != self._told:
            before, self._told = self._told, now
            outer = [[each.external for each in group] for group in (before, now)]
            if outer[0] != outer[1]:
                self._on_change()


def _needed(place: Place) -> bool:
    """Whether there is a NAT to get through; over IPv6 it is a firewall, which nobody can see."""
    return place.gateway.family == 6 or not ipranges.is_public(ip_address(place.local))


class _Site:
    """One gateway."""

    def __init__(
        self,
        place: Place,
        changed: Callable[[], None],
        announced: Callable[[], None],
        tracer: Tracer,
    ) -> None:
        self.leases = Leases(random.random)
        self._place = place
        self._changed = changed
        self._announced = announced
        self._tracer = tracer
        self._loop = asyncio.get_running_loop()
        self._mappers: dict[Service, Mapper] = {}
        """They know by what their mappings can be renewed and given back."""
        self._ready: dict[Service, Mapper] = {}
        self._datagrams: Datagrams | None = None
        self._announcements: Announcements | None = None
        self._gone: list[Mapping] = []
        self._asking: asyncio.Task[Mapping] | None = None
        self._wake = asyncio.Event()
        self._check_at = math.inf
        self._find_at = math.inf

    def want(self, wanted: Iterable[Wanted]) -> None:
        """Have these ports mapped from now on."""
        now = self._loop.time()
        self._gone += self.leases.want(wanted, now)
        due = self.leases.next_due()
        if self._gone or (due is not None and due <= now):
            self._wake.set()

    async def run(self) -> None:
        """Find services, and keep what is wanted, until cancelled."""
        self._announcements = Announcements(self._place, self._announced)
        while True:
            await self._find()
            self._find_at = self._loop.time() + PROBE_AGAIN
            while self.leases.mappings or self._loop.time() < self._find_at:
                await self._pause()
                if self._ready:
                    await self._round()

    def heard(self) -> None:
        """The gateway seems to have announced that it has started: see whether that is so."""
        soon = self._loop.time() + HEED
        self._check_at, self._find_at = min(self._check_at, soon), min(self._find_at, soon)
        self._wake.set()

    async def _pause(self) -> None:
        """Wait until there is something to do."""
        moments = [] if self.leases.mappings else [self._find_at]
        if self._ready:
            due = self.leases.next_due()
            moments += [self._check_at, *([] if due is None else [due])]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments) - self._loop.time())):
                await self._wake.wait()
        self._wake.clear()

    # --- finding -------------------------------------------------------------------------------

    async def _find(self) -> None:
        """Probe all services at once; the first that is there is used at once."""
        try:
            self._datagrams = self._datagrams or Datagrams(self._place)
        except NetworkError as error:
            self._tracer.emit("portmap_service", gateway=self._place.host, reason=str(error))
            return
        if not self._mappers:
            made = _mappers(self._place, self._datagrams)
            self._mappers = {each.service: each for each in made}
        probes = {self._loop.create_task(_probe(each)): each for each in self._mappers.values()}
        try:
            waiting = set(probes)
            self._ready.clear()
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    mapper, problem = probes[task], task.result()
                    self._tracer.emit(
                        "portmap_service",
                        gateway=self._place.host,
                        service=mapper.service.value,
                        ok=not problem,
                        reason=problem or mapper.detail,
                    )
                    if not problem:
                        self._ready[mapper.service] = mapper
                        self._check_at = self._loop.time() + CHECK
                if self._ready:
                    await self._map_due()
        finally:
            for task in probes:
                task.cancel()

    # --- keeping -------------------------------------------------------------------------------

    async def _round(self) -> None:
        gone, self._gone = self._gone, []
        for mapping in gone:
            await self._unmap(mapping)
        if self._loop.time() >= self._check_at:
            self._check_at = self._loop.time() + CHECK
            await self._check()
        await self._map_due()

    async def _map_due(self) -> None:
        for wanted in self.leases.due(self._loop.time()):
            await self._map(wanted)
        self._changed()

    async def _map(self, wanted: Wanted) -> None:
        held = next((each for each in self.leases.mappings if each.wanted == wanted), None)
        first = None if held is None else held.service
        order = sorted(self._ready, key=lambda each: (each is not first, _ORDER.index(each)))
        retry_after: float | None = None
        for service in order:
            mapper = self._ready[service]
            port = wanted.port if held is None else held.external[1]
            try:
                mapping = await self._ask(mapper, wanted, port)
            except (PtError, OSError) as error:
                self._tell(service, wanted, str(error))
                if isinstance(error, MapRefusedError):
                    retry_after = error.retry_after
                continue
            finally:
                self._reboot(mapper)
            if held is not None and held.service is not service:
                await self._unmap(held)
            if not self.leases.wants(wanted):
                self._gone.append(mapping)
                self._wake.set()
            elif self.leases.granted(mapping, self._loop.time()):
                host, number = mapping.external
                self._tell(service, wanted, "", f"{host}:{number}")
            return
        self.leases.failed(wanted, self._loop.time(), retry_after)

    async def _ask(self, mapper: Mapper, wanted: Wanted, port: int) -> Mapping:
        """Map; if cancelled meanwhile, `release` gives back what is granted then."""
        self._asking = self._loop.create_task(mapper.map(wanted, port))
        try:
            mapping = await asyncio.shield(self._asking)
        except (PtError, OSError):
            self._asking = None
            raise
        self._asking = None
        return mapping

    def _reboot(self, mapper: Mapper) -> None:
        """Act on what a gateway's clock has told."""
        if mapper.rebooted:
            mapper.rebooted = False
            self._tracer.emit("portmap_reboot", gateway=self._place.host)
            self.leases.lost(self._loop.time())

    async def _check(self) -> None:
        """Ask each service in use whether it knows its mappings still."""
        for mapping in self.leases.mappings:
            mapper = self._ready.get(mapping.service)
            if mapper is None or mapping not in self.leases.mappings:
                continue
            try:
                known = await mapper.check(mapping)
            except (PortmapError, MapRefusedError):
                known = False
            except (PtError, OSError):
                continue  # silence is no answer: it shows when the mapping has to be renewed
            if not known:
                mapper.rebooted = True
            self._reboot(mapper)

    def _tell(self, service: Service, wanted: Wanted, problem: str, external: str = "") -> None:
        self._tracer.emit(
            "portmap_mapped",
            gateway=self._place.host,
            service=service.value,
            protocol=wanted.protocol.name.lower(),
            port=wanted.port,
            ok=not problem,
            external=external or None,
            reason=problem or None,
        )

    # --- the end -------------------------------------------------------------------------------

    async def _unmap(self, mapping: Mapping) -> None:
        mapper = self._mappers[mapping.service]
        with contextlib.suppress(PtError, OSError):
            await mapper.unmap(mapping)

    async def release(self) -> None:
        """Give all mappings back."""
        late: list[Mapping] = []
        if self._asking is not None:
            with contextlib.suppress(PtError, OSError):
                late.append(await self._asking)
        await asyncio.gather(*map(self._unmap, {*self.leases.owed, *self._gone, *late}))

    def close(self) -> None:
        """Close the sockets."""
        if self._asking is not None:
            self._asking.cancel()
        if self._datagrams is not None:
            self._datagrams.close()
        if self._announcements is not None:
            self._announcements.close()


def _mappers(place: Place, datagrams: Datagrams, patience: float | None = None) -> list[Mapper]:
    if place.gateway.family == 6:
        return [Pcp(datagrams), UpnpFirewall(place, patience)]
    return [Pcp(datagrams), NatPmp(datagrams), Upnp(place, patience)]


async def _probe(mapper: Mapper) -> str:
    """Why a service is not there; empty if it is."""
    try:
        await mapper.probe()
    except (PtError, OSError) as error:
        return str(error) or "no answer"
    return ""


async def _ask(mapper: Mapper) -> str:
    """The same, within `ASK` seconds."""
    try:
        async with asyncio.timeout(ASK):
            return await _probe(mapper)
    except TimeoutError:
        return f"no answer in {ASK:g} s"


async def ask_gateways(places: Callable[[], Sequence[Place]] = find_places) -> list[Finding]:
    """Which services the default gateways have, within `ASK` seconds; nothing is mapped."""

    async def ask(place: Place) -> list[Finding]:
        try:
            datagrams = Datagrams(place, SILENCE)
        except NetworkError as error:
            return [Finding(place, Service.PCP, ok=False, detail=str(error))]
        try:
            mappers = _mappers(place, datagrams, SILENCE)
            problems = await asyncio.gather(*map(_ask, mappers))
        finally:
            datagrams.close()
        return [
            Finding(place, mapper.service, not problem, problem or mapper.detail, mapper.external)
            for mapper, problem in zip(mappers, problems, strict=True)
        ]

    found = await asyncio.gather(*map(ask, filter(_needed, places())))
    return [each for group in found for each in group]
