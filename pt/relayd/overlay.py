"""A relay as a server of the overlay: its UDP port, its company, and what outlives a restart."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pt.aio.scope import Scope
from pt.errors import LocalPortError
from pt.overlay.address import overlay_host
from pt.overlay.aio import Names, OverlayServer, Port, UdpPort, resolve
from pt.overlay.messages import MAX_VALUE
from pt.overlay.state import State
from pt.overlay.storage import Storage
from pt.relayd import events
from pt.relayd.overlay_file import OverlayFile
from pt.relayd.status import OverlayView
from pt.tunnel.events import Event, Warned
from pt.tunnel.media.stored import validate
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from pt.node.node import Node

__all__ = ["Overlay", "open_port"]

TRIES: Final = 16
"""Ports tried when the system may choose one that TCP and UDP have both."""
FIRST_SAVE: Final = 60.0
SAVE_EVERY: Final = 600.0
PATIENCE: Final = 15.0
"""Seconds after which nobody's answer is worth a warning."""
RESOLVE_AGAIN: Final = 60.0
RESOLVE_EVERY: Final = 3600.0
RESTORED: Final = 16
"""Records checked in one turn of the loop, about 3 ms; then the relay's other work is done."""
PAUSE: Final = 0.003
MAX_TOLD: Final = 64


def open_port(node: Node, listen: Iterable[Multiaddr]) -> UdpPort:
    """Open UDP at every host and port where `node` listens for TCP.

    Where the system chose the port and UDP's is taken, the node gets another one.

    Raises:
        LocalPortError: a port cannot be used.

    """
    listen = tuple(listen)
    for left in reversed(range(TRIES)):
        try:
            return UdpPort(*dict.fromkeys(node.points))
        except LocalPortError as error:
            if not left or any(address.tcp_port for address in listen):
                raise LocalPortError(
                    f"the relay's overlay and STUN cannot be served: {error}; stop the program "
                    "that holds the port, choose another --listen address, or give --no-overlay "
                    "and --no-stun"
                ) from error
        node.unlisten()
        node.listen(listen)
    raise AssertionError("the last try returns or raises")


class Overlay:
    """Serves from `start` to `close`; what goes wrong with its file is a warning."""

    def __init__(
        self,
        port: Port,
        home: Path,
        emit: Callable[[Event], None],
        *,
        names: Names,
        own: Iterable[Multiaddr] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._port = port
        self._emit = emit
        self._names = names
        self._own = frozenset(own)
        self._wall = wall
        self._storage = Storage(validate, max_value=MAX_VALUE)
        self._file: OverlayFile | None = OverlayFile(home)
        self._server: OverlayServer
        self._scope = Scope(limit=8)
        self._joining: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._save_timer: asyncio.TimerHandle | None = None
        self._reader: IO[str] | None = None
        """Open while what it holds is being taken back."""
        self._saved: tuple[int, frozenset[object]] | None = None
        self._told: OrderedDict[str, None] = OrderedDict()
        self._unsaved = ""
        """Why the last attempt to save failed."""

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where it serves, for --bootstrap of others."""
        found = {
            Multiaddr.parse(f"/{kind}/{host}/udp/{port}")
            for kind, host, port in filter(None, map(overlay_host, self._own))
            if not kind.startswith("dns")
        }
        return tuple(sorted(found, key=str))

    def start(self, bootstrap: tuple[Multiaddr, ...]) -> None:
        """Serve; records of an earlier run come back little by little."""
        state = self._load()
        self._server = OverlayServer(
            self._port,
            self._storage,
            state=state,
            on_company=self._company,
            wall=self._wall,
        )
        if self._reader is not None:
            self._scope.start(self._restore(self._reader))
        self.join(bootstrap)
        loop = asyncio.get_running_loop()
        self._save_timer = loop.call_later(FIRST_SAVE, self._save_soon)

    def join(self, bootstrap: tuple[Multiaddr, ...]) -> None:
        """Have these relays for company, in place of those named before."""
        if self._joining is not None:
            self._joining.cancel()
        self._joining = self._scope.start(self._join(bootstrap))

    async def close(self) -> None:
        """Save, and end everything."""
        if self._save_timer is not None:
            self._save_timer.cancel()
        await self._scope.aclose()
        if self._saving is not None:
            await self._saving
        await self._save()
        await self._server.close()
        if self._reader is not None:
            self._reader.close()
        if self._file is not None:
            self._file.close()

    def view(self) -> OverlayView:
        """Its numbers at this moment."""
        counts = self._server.counts
        return OverlayView(
            records=len(self._storage),
            bytes=self._storage.bytes,
            nodes=self._server.nodes,
            evicted=self._storage.evicted,
            requests=_named(counts, "requests: "),
            refused={str(reason): count for reason, count in self._storage.refused.items()},
            dropped=_named(counts, "dropped: "),
            datagrams={way: counts.get(f"datagrams {way}", 0) for way in ("in", "out")},
            traffic={way: counts.get(f"bytes {way}", 0) for way in ("in", "out")},
        )

    # --- company -------------------------------------------------------------------------------

    def _company(self, nodes: int) -> None:
        self._emit(events.OverlayJoined(nodes=nodes) if nodes else events.OverlayAlone())

    async def _join(self, bootstrap: tuple[Multiaddr, ...]) -> None:
        own = {(each.host, each.tcp_port) for each in self._own}
        others = [
            each
            for each in bootstrap
            if each not in self._own and (each.host, each.tcp_port or each.udp_port) not in own
        ]
        first = True
        while others:
            found, failures = await resolve(others, self._names)
            self._server.join(found)
            for address, failure in failures.items():
                self._warn(f"a relay of the overlay cannot be asked: {address}: {failure}")
            if first and found:
                first = False
                await asyncio.sleep(PATIENCE)
                if not self._server.nodes:
                    self._warn(
                        "no relay given with --bootstrap answers over UDP: check the addresses, "
                        "and that their UDP ports are open; asking goes on"
                    )
            await asyncio.sleep(RESOLVE_AGAIN if failures else RESOLVE_EVERY)

    # --- the file ------------------------------------------------------------------------------

    def _load(self) -> State | None:
        assert self._file is not None
        path = self._file.path
        try:
            if not self._file.lock():
                self._file = None
                self._warn(
                    f"another relay keeps the overlay's records in {path}: this one will forget "
                    "its own when it stops; give each relay its own --home"
                )
                return None
            reader = self._reader = self._file.open()
            if reader is None:
                return None
            state = self._file.head(reader)
        except OSError as error:
            state = None
            self._warn(f"{path} cannot be read ({error.strerror or error}): starting afresh")
        else:
            if state is None:
                self._warn(
                    f"{path} is damaged: starting afresh, other relays give the records back"
                )
        if state is None and self._reader is not None:
            self._reader.close()
            self._reader = None
        return state

    async def _restore(self, reader: IO[str]) -> None:
        assert self._file is not None
        began = asyncio.get_running_loop().time()
        kept = over = 0
        try:
            for number, (key, entry) in enumerate(self._file.records(reader), 1):
                if self._storage.restore(key, entry, self._wall()):
                    kept += 1
                else:
                    over += 1
                if number % RESTORED == 0:
                    await asyncio.sleep(PAUSE)
        except OSError as error:
            self._warn(f"{self._file.path} cannot be read to its end ({error.strerror or error})")
        reader.close()
        self._reader = None
        if self._file.damaged:
            self._warn(f"{self._file.path} has {self._file.damaged} damaged lines; they are lost")
        took = asyncio.get_running_loop().time() - began
        if kept or over:
            self._emit(events.OverlayRestored(records=kept, dropped=over, seconds=round(took, 3)))

    def _save_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._save_timer = loop.call_later(SAVE_EVERY, self._save_soon)
        if self._saving is None:
            self._saving = loop.create_task(self._save())
            self._saving.add_done_callback(self._save_done)

    def _save_done(self, task: asyncio.Task[None]) -> None:
        self._saving = None
        if not task.cancelled():
            task.result()

    async def _save(self) -> None:
        """Write the file, unless it says the same already, or is still being read."""
        state = self._server.state
        mark = (self._storage.changes, frozenset(state.nodes))
        if self._file is None or self._reader is not None or mark == self._saved:
            return
        try:
            await asyncio.to_thread(self._file.write, state, self._storage.snapshot().items())
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._unsaved:
                self._unsaved = reason
                message = (
                    f"the overlay's records cannot be saved in {self._file.path} ({reason}): free "
                    "some space, or check the disk; the relay goes on, and tries again"
                )
                self._emit(Warned(message=message))
            return
        self._saved = mark
        self._unsaved = ""

    def _warn(self, message: str) -> None:
        """Tell it, once."""
        if message in self._told:
            return
        self._told[message] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        self._emit(Warned(message=message))


def _named(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count
        for name, count in counts.items()
        if name.startswith(prefix)
    }
