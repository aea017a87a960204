"""System calls of the laboratory: namespaces, TUN devices, and just enough rtnetlink(7).

Addresses and routes are set by netlink from the process that makes a namespace: an `ip` for each
would take more time than all the rest.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

__all__ = ["KernelError", "Netlink", "members", "namespace_link", "open_tun", "setns", "unshare"]

CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # os.setns needs Python 3.12

_REQUEST: Final = 1
_ACK: Final = 4
_CREATE: Final = 0x400 | 0x200  # and exclusively
_NEWLINK: Final = 16
_NEWADDR: Final = 20
_NEWROUTE: Final = 24
_IFF_UP: Final = 1
_IFF_NOARP: Final = 0x80
_HARDWARE: Final = bytes.fromhex("02000b000001")
_NODAD: Final = 2
_LOOPBACK: Final = 1


class KernelError(OSError):
    """The kernel refuses; the message says what."""


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise KernelError(code, f"{what}: {os.strerror(code)}")


def setns(descriptor: int) -> None:
    """Move this thread to a network namespace."""
    _check(_LIBC.setns(descriptor, CLONE_NEWNET), "setns")


def unshare() -> int:
    """Move this thread to a new network namespace; return a descriptor of it."""
    _check(_LIBC.unshare(CLONE_NEWNET), "cannot create a network namespace (are you root?)")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def namespace_link(path: str) -> str:
    """Return what identifies the namespace at `path`, as `/proc/PID/ns/net` reads."""
    return f"net:[{os.stat(path).st_ino}]"


def members(links: Iterable[str]) -> list[int]:
    """Return the processes inside of these namespaces, without zombies."""
    wanted = set(links)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inside = os.readlink(f"/proc/{entry.name}/ns/net") in wanted
                if inside and not is_zombie(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile
    return found


def is_zombie(pid: int) -> bool:
    """Whether a process has ended (or is gone)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def open_tun(name: str) -> int:
    """Create a TUN device in this namespace; it lives as long as the descriptor."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno, f"no TUN devices here: {error}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise KernelError(error.errno, f"cannot make the TUN device {name}: {error}") from error
    return fd


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("HH", size, kind) + value + bytes(-size % 4)


class Netlink:
    """Changes of the namespace that this was made in; `commit` has them done."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._messages: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def loopback_up(self) -> None:
        """Bring up `lo`."""
        body = struct.pack("BxHiII", 0, 0, _LOOPBACK, _IFF_UP, _IFF_UP)
        self._add(_NEWLINK, 0, body, "lo up")

    def link_up(self, name: str, *, mtu: int, queue: int, noarp: bool = False) -> int:
        """Bring up a device; return its index. `noarp`: the other end is all there is."""
        index = socket.if_nametoindex(name)
        flags = _IFF_UP | (_IFF_NOARP if noarp else 0)
        body = struct.pack("BxHiII", 0, 0, index, flags, flags)
        body += _attribute(4, struct.pack("I", mtu)) + _attribute(13, struct.pack("I", queue))
        self._add(_NEWLINK, 0, body, f"{name} up")
        return index

    def veth(self, name: str, peer: str, peer_namespace: int) -> None:
        """Make a pair of devices, the other end in another namespace.

        Both have one hardware address: with `noarp` each then sends to the other and nobody asks.
        """
        head = struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attribute(1, _HARDWARE)
        other = head + _attribute(3, peer.encode() + b"\0")
        other += _attribute(28, struct.pack("i", peer_namespace))
        info = _attribute(1, b"veth\0") + _attribute(2, _attribute(1, other))
        body = head + _attribute(3, name.encode() + b"\0") + _attribute(18, info)
        self._add(_NEWLINK, _CREATE, body, f"veth {name}")

    def address(self, index: int, text: str, prefix: int) -> None:
        """Give a device an address."""
        address = ip_address(text)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        flags = _NODAD if address.version == 6 else 0
        body = struct.pack("BBBBi", family, prefix, flags, 0, index)
        body += _attribute(2, address.packed) + _attribute(1, address.packed)
        self._add(_NEWADDR, _CREATE, body, f"address {text}")

    def route(self, index: int, target: str, prefix: int, gateway: str = "") -> None:
        """Lead packets for a network out of a device, to a gateway if given."""
        address = ip_address(target)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        scope = 0 if gateway or address.version == 6 else 253
        body = struct.pack("BBBBBBBBI", family, prefix, 0, 0, 254, 4, scope, 1, 0)
        if prefix:
            body += _attribute(1, address.packed)
        if gateway:
            body += _attribute(5, ip_address(gateway).packed)
        body += _attribute(4, struct.pack("i", index))
        self._add(_NEWROUTE, _CREATE, body, f"route {target}/{prefix}")

    def _add(self, kind: int, flags: int, body: bytes, what: str) -> None:
        sequence = len(self._messages) + 1
        head = struct.pack("IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, sequence, 0)
        self._messages.append((what, head + body))

    def commit(self) -> None:
        """Have it all done, in order.

        Raises: KernelError for the first that fails.
        """
        messages, self._messages = self._messages, []
        if not messages:
            return
        self._socket.send(b"".join(message for _, message in messages))
        pending = len(messages)
        while pending:
            data = self._socket.recv(65536)
            while len(data) >= 20:
                size, kind, _, sequence, _ = struct.unpack_from("IHHII", data)
                code = -struct.unpack_from("i", data, 16)[0]
                if kind == 2:  # an acknowledgement
                    if code:
                        what = messages[sequence - 1][0]
                        raise KernelError(code, f"{what}: {os.strerror(code)}")
                    pending -= 1
                data = data[(size + 3) & ~3 :]
