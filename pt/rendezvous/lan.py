"""Finding each other on a LAN by multicast DNS (RFC 6762, libp2p mdns).

The exposer's side is a responder on a shared port among other responders, with all of RFC 6762's
manners: that is zeroconf's job. It skips the probing phase, since nobody else has a random name of
40 characters.

The binder's side is in a hurry and needs little: one-shot questions from a port of its own (RFC
6762 section 6.7), which every responder answers at once and only to us, and a socket in the group
that hears announcements. A querier that shares port 5353 would wait 20 to 120 ms before it asks,
and lose answers to other processes of the same host that share the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from pt.errors import NetworkError, RemoteProtocolError
from pt.rendezvous.mdns import (
    MAX_PACKET,
    SERVICE,
    decode_answer,
    encode_question,
    encode_txt,
    txt_strings,
)
from pt.wire.multiaddr import Multiaddr

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

__all__ = ["LanBrowser", "LanPublisher", "LanRecord", "lan_interfaces"]

GROUP: Final = "224.0.0.251"
PORT: Final = 5353
MAX_INTERFACES: Final = 16
MAX_INSTANCES: Final = 256
"""Instances remembered at once; the one heard of longest ago is forgotten first."""
DRAIN: Final = 64
"""Packets read in one go before the loop gets its turn."""
QUESTION_DELAYS: Final = (0.0, 0.25, 0.75, 2.0, 4.0, 8.0)
"""Seconds between questions at the start (the early ones against lost packets), then REPEAT."""
REPEAT: Final = 20.0
RESCAN: Final = 5.0
"""Seconds between looks at the host's interfaces."""
RECORD_TTL: Final = 120
"""Seconds an announcement is good for; a crashed exposer is forgotten after that."""
GOODBYE_GAP: Final = 0.02
_IP_MULTICAST_ALL: Final = 49
"""Linux: 0 delivers only groups this very socket joined."""
_HINT: Final = "use --peer ADDRESS, or check the interface and firewall (UDP port 5353)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LanRecord:
    """What an instance on the LAN says. Nothing in it is verified yet."""

    instance: str
    addresses: tuple[Multiaddr, ...]
    sealed: bytes | None
    ttl: int
    """Seconds; 0 when the instance said goodbye or fell silent (then the rest is empty)."""


def lan_interfaces() -> tuple[str, ...]:
    """The host's IPv4 addresses, without loopback: one each for the interfaces to speak on."""
    import ifaddr  # noqa: PLC0415  # 15 ms that only discovery pays

    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if isinstance(ip.ip, str) and not IPv4Address(ip.ip).is_loopback:
                found.append(ip.ip)
                break  # one address names the interface
    return tuple(found[:MAX_INTERFACES])


class LanPublisher:
    """Announces one instance on the LAN and answers questions about it.

    `addresses` must end in /p2p/PEERID; they are for libp2p peers, `sealed` is for those who know
    the name. `port` only fills the SRV record that DNS-SD demands. `interfaces` are IPv4 addresses
    of this host; None means all but loopback, and follows the host when it changes networks.
    """

    def __init__(
        self,
        instance: str,
        addresses: Sequence[Multiaddr],
        sealed: bytes | None,
        port: int,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self._instance = instance
        self._txt = encode_txt(txt_strings(addresses, sealed))
        self._port = port
        self._fixed = interfaces is not None
        self._interfaces = tuple(interfaces or ())
        self._zeroconf: AsyncZeroconf | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._announcing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Open the sockets and announce; returns when the first announcement is out.

        Raises:
            NetworkError: no interface, or none that speaks multicast.

        """
        zeroconf_module = await asyncio.to_thread(_import_zeroconf)
        wanted = self._interfaces if self._fixed else lan_interfaces()
        if not wanted:
            raise NetworkError(f"no network interface to announce on: {_HINT}")
        try:
            self._interfaces = _usable(wanted)
            self._zeroconf = zeroconf_module(interfaces=list(self._interfaces))
            await self._zeroconf.zeroconf.async_wait_for_start()
            # The result announces in the background: now, and twice more in half a second.
            self._announcing = asyncio.ensure_future(
                await self._zeroconf.async_register_service(
                    self._info(), cooperating_responders=True, strict=False
                )
            )
        except (OSError, RuntimeError) as error:
            await self.close()
            raise NetworkError(f"cannot announce on the LAN ({error}): {_HINT}") from error
        await asyncio.sleep(0)
        if not self._fixed:
            self._watcher = asyncio.create_task(self._watch(wanted), name="lan-publisher")

    async def update(self, addresses: Sequence[Multiaddr], sealed: bytes | None) -> None:
        """Announce a new record in place of the old one; a no-op unless started.

        Raises:
            LocalProtocolError: the record does not fit in a packet.

        """
        txt = encode_txt(txt_strings(addresses, sealed))
        if self._zeroconf is None or txt == self._txt:
            self._txt = txt
            return
        self._txt = txt
        await self._stop_announcing()
        self._announcing = asyncio.ensure_future(
            await self._zeroconf.async_update_service(self._info())
        )
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Say goodbye and close; safe to call twice and before `start`."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        await self._stop_announcing()
        aio, self._zeroconf = self._zeroconf, None
        if aio is None:
            return
        goodbye = aio.zeroconf.generate_unregister_all_services()
        if goodbye is not None:
            # zeroconf's own goodbye takes a quarter of a second; a process that ends has no time.
            aio.zeroconf.async_send(goodbye)
            await asyncio.sleep(GOODBYE_GAP)
            aio.zeroconf.async_send(goodbye)
        await aio.async_close()

    async def _stop_announcing(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
            self._announcing = None

    async def _watch(self, current: tuple[str, ...]) -> None:
        """Follow the host from network to network."""
        while self._zeroconf is not None:
            await asyncio.sleep(RESCAN)
            wanted = lan_interfaces()
            if not wanted or wanted == current:
                continue
            try:
                now = _usable(wanted)
                await self._zeroconf.async_update_interfaces(list(now))
            except (OSError, RuntimeError) as error:
                _log.debug("announcing on %s failed: %s", wanted, error)
            else:
                self._interfaces, current = now, wanted

    def _info(self) -> ServiceInfo:
        from zeroconf import ServiceInfo  # noqa: PLC0415  # loaded by start() already

        service = SERVICE + "."
        return ServiceInfo(
            service,
            f"{self._instance}.{service}",
            port=self._port,
            properties=self._txt,
            server=f"{self._instance}.local.",
            host_ttl=RECORD_TTL,
            other_ttl=RECORD_TTL,
            parsed_addresses=list(self._interfaces[:4]),
        )


def _usable(interfaces: Sequence[str]) -> tuple[str, ...]:
    """Those that take part in multicast; one that does not would make zeroconf give up on all.

    Raises:
        OSError: why the last one does not, when none does.

    """
    usable: list[str] = []
    failure: OSError | None = None
    for address in interfaces:
        try:
            with _asking_socket(address) as sock:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(address))
        except OSError as error:
            failure = error
        else:
            usable.append(address)
    if not usable and failure is not None:
        raise failure
    return tuple(usable)


def _import_zeroconf() -> type[AsyncZeroconf]:
    from zeroconf.asyncio import AsyncZeroconf  # noqa: PLC0415  # slow to load, so in a thread

    # Its warnings are about single interfaces and foreign packets: nothing users can act on.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    return AsyncZeroconf


class LanBrowser:
    """Calls `on_record` for every instance on the LAN, when first heard and when it changes.

    Called on the event loop; must not raise. An instance that says goodbye, or is not heard of
    until its time is up, comes again with a ttl of 0.
    """

    def __init__(
        self,
        on_record: Callable[[LanRecord], None],
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self._on_record = on_record
        self._fixed = interfaces is not None
        self._wanted = tuple(interfaces or ())
        self._askers: dict[str, socket.socket] = {}
        self._ear: socket.socket | None = None
        self._known: OrderedDict[str, tuple[LanRecord, float]] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._question = encode_question()

    async def start(self) -> None:
        """Open the sockets and ask at once.

        Raises:
            NetworkError: no interface, or none that speaks multicast.

        """
        failure = self._rescan()
        if not self._askers:
            await self.close()
            if failure is None:
                raise NetworkError(f"no network interface to search on: {_HINT}")
            raise NetworkError(f"cannot search the LAN ({failure}): {_HINT}") from failure
        failure = self._ask()
        if failure is not None:
            await self.close()
            raise NetworkError(f"cannot search the LAN ({failure}): {_HINT}") from failure
        self._task = asyncio.create_task(self._run(), name="lan-browser")

    async def close(self) -> None:
        """Stop and close the sockets; safe to call twice and before `start`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for address in tuple(self._askers):
            self._drop(address)
        if self._ear is not None:
            asyncio.get_running_loop().remove_reader(self._ear)
            self._ear.close()
            self._ear = None

    async def _run(self) -> None:
        for delay in _delays():
            end = time.monotonic() + delay
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(left, RESCAN))
                self._forget_silent()
                before = set(self._askers)
                self._rescan()
                if self._askers.keys() - before:
                    break  # a new network: ask there now
            self._ask()

    def _rescan(self) -> OSError | None:
        """Bring the sockets in line with the interfaces; returns the last failure, if any."""
        wanted = self._wanted if self._fixed else lan_interfaces()
        failure: OSError | None = None
        for address in self._askers.keys() - set(wanted):
            self._drop(address)
        for address in wanted:
            if address in self._askers:
                continue
            try:
                self._add(address)
            except OSError as error:
                failure = error
        return failure

    def _add(self, address: str) -> None:
        asker = _asking_socket(address)
        loop = asyncio.get_running_loop()
        loop.add_reader(asker, self._readable, asker)
        self._askers[address] = asker
        try:
            if self._ear is None:
                self._ear = _listening_socket()
                loop.add_reader(self._ear, self._readable, self._ear)
            self._ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(address))
        except OSError as error:  # deaf to announcements there, yet answers to questions arrive
            _log.debug("cannot listen to the group on %s: %s", address, error)

    def _drop(self, address: str) -> None:
        asker = self._askers.pop(address)
        asyncio.get_running_loop().remove_reader(asker)
        asker.close()
        if self._ear is not None:
            with contextlib.suppress(OSError):  # the interface may be gone
                self._ear.setsockopt(
                    socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, _membership(address)
                )

    def _ask(self) -> OSError | None:
        """Send the question on every interface; returns the failure when none took it."""
        failure: OSError | None = None
        sent = False
        for asker in self._askers.values():
            try:
                asker.sendto(self._question, (GROUP, PORT))
                sent = True
            except OSError as error:
                failure = error
        return None if sent else failure

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                packet = sock.recv(MAX_PACKET + 1)
            except OSError:  # BlockingIOError when empty, or an ICMP error: nothing to read
                return
            try:
                announcements = decode_answer(packet)
            except RemoteProtocolError as error:
                _log.debug("ignored a damaged mDNS packet: %s", error)
                continue
            for news in announcements:
                self._heard(LanRecord(news.instance, news.addresses, news.sealed, news.ttl))

    def _heard(self, record: LanRecord) -> None:
        previous = self._known.pop(record.instance, None)
        if record.ttl == 0:
            if previous is not None:
                self._on_record(LanRecord(record.instance, (), None, 0))
            return
        # Answers to one-shot questions may carry a shortened TTL, so ours is the floor.
        silent_after = time.monotonic() + max(record.ttl, RECORD_TTL)
        self._known[record.instance] = (record, silent_after)
        if len(self._known) > MAX_INSTANCES:
            self._known.popitem(last=False)
        if previous is None or (previous[0].addresses, previous[0].sealed) != (
            record.addresses,
            record.sealed,
        ):
            self._on_record(record)

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for instance in [name for name, (_, end) in self._known.items() if end <= now]:
            del self._known[instance]
            self._on_record(LanRecord(instance, (), None, 0))


def _delays() -> Iterator[float]:
    yield from QUESTION_DELAYS[1:]
    while True:
        yield REPEAT


def _membership(address: str) -> bytes:
    return socket.inet_aton(GROUP) + socket.inet_aton(address)


def _asking_socket(address: str) -> socket.socket:
    """A socket that sends to the group through the interface with this address."""
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        asker.setblocking(False)
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        asker.bind((address, 0))
    except OSError:
        asker.close()
        raise
    return asker


def _listening_socket() -> socket.socket:
    """A socket that hears the group beside other mDNS programs, and takes nothing from them."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        ear.setblocking(False)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sys.platform == "linux":
            ear.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        # Bound to the group, it never sees unicast that is meant for the other programs.
        ear.bind((GROUP if sys.platform != "win32" else "", PORT))
    except OSError:
        ear.close()
        raise
    return ear
