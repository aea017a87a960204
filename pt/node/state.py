"""The state directory: what a peer keeps between runs.

    identity.key    the private key: libp2p protobuf, base64, one line                    0600
    salt            32 random bytes in hex; keys the hashes of names below                0600
    known_peers     one line a pin: HASH PEERID, as ssh's known_hosts: who first answered
                    to a name must answer to it ever after                                0600
    names.cache     one line a name: HASH MASTER, oldest first; saves the slow derivation 0600
    seq             the last sequence number given to a record                            0600
    addresses.json  which addresses the hosts of relays and peers had last                 0600
    lock            empty; held while a file above is read and rewritten                  0600

HASH is HMAC-SHA256(salt, purpose · name) in hex, so no file lists the names of tunnels. Binders of
one directory are one identity; an exposer has one for each name, derived from the same key. Any
number of processes may share the directory. Files are replaced whole: written beside, synced,
renamed; a crash leaves the old or the new one.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pt.errors import CryptoFailure, ProtocolError, StateError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.files import (
    ENVIRONMENT,
    damaged,
    file_error,
    make_directory,
    read_file,
    replace_file,
)
from pt.rendezvous.name import MASTER_BYTES, NameKeys, normalise_name

__all__ = ["ENVIRONMENT", "Claim", "StateDir", "default_path"]

MAX_PINS: Final = 4096
MAX_CACHED_NAMES: Final = 64
SALT_BYTES: Final = 32
_HASH_HEX: Final = 64
_FLOCK: Final = "hhqqi4x"
"""struct flock: type, whence, start, length, process (0 for OFD locks)."""


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the state is: PT_HOME, else what the system has for data of users."""
    chosen = (os.environ if environ is None else environ).get(ENVIRONMENT)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # noqa: PLC0415  # only when the environment does not say

    return platformdirs.user_data_path("pt", appauthor=False)


class Claim:
    """That an identity is one process's until it releases it; see `StateDir.claim`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def release(self) -> None:
        """Let others have it; again does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class StateDir:
    """One state directory. Nothing is touched before the first use, and made only when needed.

    Every method that reads or writes may raise StateError: unwritable, full, in the way, readable
    by others, or damaged. Its message names the path and what to do.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path: Final = default_path() if path is None else Path(path).expanduser()
        self._pins: dict[str, str] = {}
        self._pins_stamp: tuple[int, ...] | None = None
        """Of the file that `_pins` was read from."""

    @property
    def identity_path(self) -> Path:
        """Where the private key is, or will be."""
        return self.path / "identity.key"

    def identity(self, name: str | None = None) -> PrivateKey:
        """Our key, made at first use; with a name, the one under which we expose that name."""
        key = self._read_identity()
        if key is None:
            with self._locked():
                key = self._read_identity() or self._write_identity()
        return key if name is None else key.derive(b"exposer " + name.encode())

    def new_identity(self) -> PrivateKey:
        """Make a new key in place of the old, which stays beside it as `identity.key.old`."""
        with self._locked():
            path = self.identity_path
            try:
                with contextlib.suppress(FileNotFoundError):
                    path.replace(path.with_name("identity.key.old"))
            except OSError as error:
                raise file_error(error, "replace", path) from error
            return self._write_identity()

    def pin(self, name: str, peer: PeerId, *, first: bool = False) -> PeerId:
        """Remember that `name` is `peer`, in place of whoever it was; who it is now.

        With `first` it stays whoever it was.
        """
        tag = self._hash("pin", name)
        with self._locked():
            pins = self._read_pins()
            known = pins.get(tag)
            if known is not None and (first or known == str(peer)):
                return PeerId.parse(known)
            pins.pop(tag, None)
            while len(pins) >= MAX_PINS:
                del pins[next(iter(pins))]
            pins[tag] = str(peer)
            self._write_table("known_peers", pins)
            return peer

    def pinned(self, name: str) -> PeerId | None:
        """Who `name` was when it was first reached, if it ever was.

        It may be asked often: the file is read again when it is another one.
        """
        stamp = self._stamp("known_peers")
        if stamp is None or stamp != self._pins_stamp:
            self._pins, self._pins_stamp = self._read_pins(), stamp
        pins = self._pins
        text = pins.get(self._hash("pin", name)) if pins else None
        return None if text is None else PeerId.parse(text)

    def forget(self, name: str) -> bool:
        """Drop the pin of `name`; tells whether there was one."""
        tag = self._hash("pin", name)
        with self._locked():
            pins = self._read_pins()
            if pins.pop(tag, None) is None:
                return False
            self._write_table("known_peers", pins)
            return True

    def cached_keys(self, name: str) -> NameKeys | None:
        """The keys of a name derived before; None means `NameKeys.derive` must do the work."""
        cache = self._read_cache()
        if not cache:
            return None
        tag = self._hash("name", name)
        text = cache.get(tag)
        if text is None:
            return None
        if tag != next(reversed(cache)):
            with contextlib.suppress(StateError), self._locked():  # its order is a nicety
                cache = self._read_cache()
                cache[tag] = cache.pop(tag, text)
                self._write_table("names.cache", cache)
        return NameKeys.from_master(bytes.fromhex(text))

    def cache_keys(self, name: str, keys: NameKeys) -> None:
        """Keep the keys of a name; the name used longest ago makes room."""
        tag = self._hash("name", name)
        with self._locked():
            cache = self._read_cache()
            cache.pop(tag, None)
            while len(cache) >= MAX_CACHED_NAMES:
                del cache[next(iter(cache))]
            cache[tag] = keys.master.hex()
            self._write_table("names.cache", cache)

    def next_seq(self, now: float) -> int:
        """A sequence number for a record, greater than all before, clocks set back or not.

        `now` is Unix time in seconds; it keeps numbers growing even if the directory is lost.
        """
        with self._locked():
            path = self.path / "seq"
            text = (self.read("seq") or b"0").strip()
            if not text.isdigit() or len(text) > 18:
                raise damaged(path, "delete it, the clock gives the next number")
            seq = max(int(text) + 1, int(now * 1000))
            self._write("seq", b"%d\n" % seq)
            return seq

    def read(self, name: str) -> bytes | None:
        """The content of a file, None if there is none."""
        return read_file(self.path / name)

    def rewrite(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a file by what `change` makes of its content; nobody else does at the time."""
        with self._locked():
            replace_file(self.path / name, change(read_file(self.path / name)))

    # --- files ------------------------------------------------------------------------------

    def _read_identity(self) -> PrivateKey | None:
        data = self.read("identity.key")
        if data is None:
            return None
        try:
            return PrivateKey.from_protobuf(binascii.a2b_base64(data.strip(), strict_mode=True))
        except (ProtocolError, CryptoFailure, UsageError, ValueError) as error:
            raise damaged(
                self.identity_path,
                "restore it from a backup, or make a new identity with `pt key new` "
                "(peers that pinned the old one will refuse it)",
            ) from error

    def _write_identity(self) -> PrivateKey:
        key = PrivateKey.generate(os.urandom(32))
        self._write("identity.key", binascii.b2a_base64(key.to_protobuf()))
        return key

    def _read_pins(self) -> dict[str, str]:
        pins: dict[str, str] = {}
        path = self.path / "known_peers"
        for number, line in enumerate(_lines(self.read("known_peers"), path), 1):
            fields = line.split()
            try:
                if len(fields) != 2 or len(fields[0]) != _HASH_HEX:
                    raise ValueError(line)
                pins[fields[0]] = str(PeerId.parse(fields[1]))
            except (ValueError, UsageError, ProtocolError) as error:
                raise damaged(
                    path,
                    f"delete line {number}; the name it held is pinned anew at its next use",
                ) from error
        return pins

    def _stamp(self, name: str) -> tuple[int, ...] | None:
        """What changes with a file's contents, since files are replaced whole; None: it is gone."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read_cache(self) -> dict[str, str]:
        """The cache; lines that make no sense only cost the time to derive again."""
        cache: dict[str, str] = {}
        data = self.read("names.cache") or b""
        for line in data.decode("ascii", "replace").splitlines()[-MAX_CACHED_NAMES:]:
            tag, _, text = line.partition(" ")
            if len(tag) == _HASH_HEX and len(text) == 2 * MASTER_BYTES:
                with contextlib.suppress(ValueError):
                    cache[tag] = bytes.fromhex(text).hex()
        return cache

    def _hash(self, purpose: str, name: str) -> str:
        message = purpose.encode() + b"\0" + normalise_name(name).encode()
        return hmac.digest(self._salt(), message, "sha256").hex()

    def _salt(self) -> bytes:
        data = self.read("salt")
        if data is None:
            with self._locked():
                data = self.read("salt")
                if data is None:
                    if (self.path / "known_peers").exists():
                        # Without it no pin is found again, and a changed key would go unseen.
                        raise damaged(
                            self.path / "salt",
                            "it is missing: restore it, or delete known_peers to pin anew",
                        )
                    data = binascii.b2a_hex(os.urandom(SALT_BYTES))
                    self._write("salt", data + b"\n")
        with contextlib.suppress(ValueError):
            salt = binascii.a2b_hex(data.strip())
            if len(salt) == SALT_BYTES:
                return salt
        raise damaged(
            self.path / "salt", "restore it, or delete it together with known_peers and names.cache"
        )

    def _write_table(self, name: str, table: Mapping[str, str]) -> None:
        self._write(name, "".join(f"{tag} {text}\n" for tag, text in table.items()).encode())

    def _write(self, name: str, data: bytes) -> None:
        replace_file(self.path / name, data)

    def claim(self, peer: PeerId) -> Claim | None:
        """Be the one process that others are led to as `peer`, one of ours; None: another one is.

        A byte of the file of the key is locked, which one depends on the peer; where nothing can be
        written, the whole file for any. The system frees it when the holder dies.
        """
        path = self.identity_path
        at = int.from_bytes(hashlib.sha256(peer.raw).digest()[:7], "big")
        try:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                at = -1
        except OSError as error:
            raise file_error(error, "open", path) from error
        try:
            if at < 0 or not hasattr(fcntl, "F_OFD_SETLK"):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:  # a lock of this open file, not of the process: fcntl(2), OFD locks
                lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise file_error(error, "lock", path) from error
        return Claim(fd)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory's lock, making the directory first; not to be nested.

        Others hold it for milliseconds; the system frees it when a holder dies.
        """
        path = self.path / "lock"
        make_directory(self.path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise file_error(error, "write", path) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                raise file_error(error, "lock", path) from error
            yield
        finally:
            os.close(fd)


def _lines(data: bytes | None, path: Path) -> list[str]:
    try:
        return [] if data is None else data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise damaged(path, "restore it from a backup, or delete it to pin anew") from error
