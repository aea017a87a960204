from __future__ import annotations

import base64
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pt.errors import StateError, UsageError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.state import ENVIRONMENT, MAX_CACHED_NAMES, MAX_PINS, StateDir, default_path
from pt.rendezvous.name import NameKeys

PEER = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
OTHER = PeerId.from_public_key(PrivateKey.generate(b"\2" * 32).public)
NOW = 1_800_000_000.0


def keys(number: int) -> NameKeys:
    return NameKeys.from_master(number.to_bytes(32, "big"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "deep" / "home")


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_path({ENVIRONMENT: str(tmp_path)}) == tmp_path
    assert default_path({ENVIRONMENT: "~/x"}) == Path.home() / "x"
    assert default_path({}).name == "pt"
    assert default_path({ENVIRONMENT: ""}) == default_path({})
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "there"))
    assert StateDir().path == tmp_path / "there"
    assert StateDir("~/y").path == Path.home() / "y"


def test_nothing_is_made_by_looking(home: StateDir) -> None:
    assert home.pinned("ssh") is None
    assert home.cached_keys("ssh") is None
    assert not home.path.exists()


def test_identity_is_made_once_and_kept(home: StateDir) -> None:
    key = home.identity()
    assert mode(home.path) == 0o700
    assert mode(home.identity_path) == 0o600
    assert base64.b64decode(home.identity_path.read_bytes()) == key.to_protobuf()
    assert StateDir(home.path).identity().public == key.public
    assert sorted(p.name for p in home.path.iterdir()) == ["identity.key", "lock"]


def test_umask_opens_nothing(home: StateDir) -> None:
    before = os.umask(0)
    try:
        home.identity()
        home.pin("ssh", PEER)
        home.cache_keys("ssh", keys(1))
        home.next_seq(NOW)
    finally:
        os.umask(before)
    assert mode(home.path) == 0o700
    assert {mode(path) for path in home.path.iterdir()} == {0o600}


def test_new_identity_keeps_the_old_beside(home: StateDir) -> None:
    old = home.identity()
    new = home.new_identity()
    assert (
        new.public
        != old.public
        == PrivateKey.from_protobuf(
            base64.b64decode((home.path / "identity.key.old").read_bytes())
        ).public
    )
    assert home.identity().public == new.public


def test_new_identity_in_an_empty_directory(home: StateDir) -> None:
    assert home.new_identity().public == home.identity().public


def test_first_use_by_many_at_once_makes_one_identity(home: StateDir) -> None:
    found: list[bytes] = []
    start = threading.Barrier(8)

    def first_use() -> None:
        start.wait()
        found.append(StateDir(home.path).identity().public.data)

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_pins(home: StateDir) -> None:
    home.pin("ssh", PEER)
    home.pin("web", OTHER)
    again = StateDir(home.path)
    assert (again.pinned("ssh"), again.pinned("web"), again.pinned("x")) == (PEER, OTHER, None)
    again.pin("ssh", OTHER)
    assert home.pinned("ssh") == OTHER
    assert home.forget("ssh")
    assert not home.forget("ssh")
    assert home.pinned("ssh") is None
    assert home.pinned("web") == OTHER


def test_files_hold_no_names(home: StateDir) -> None:
    home.pin("very-secret-name", PEER)
    home.cache_keys("very-secret-name", keys(5))
    for path in home.path.iterdir():
        assert b"secret" not in path.read_bytes()
    elsewhere = StateDir(home.path.parent / "other")
    elsewhere.pin("very-secret-name", PEER)
    pins = [(d.path / "known_peers").read_text() for d in (home, elsewhere)]
    assert pins[0] != pins[1], "the hashes of two homes must not be comparable"
    assert str(PEER) in pins[0]


def test_one_name_however_it_is_typed(home: StateDir) -> None:
    home.pin("u\u0308ber", PEER)
    assert home.pinned("\u00fcber") == PEER
    with pytest.raises(UsageError):
        home.pin("a b", PEER)


def test_pins_are_bounded(home: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pt.node.state.MAX_PINS", 3)
    for name in "abcd":
        home.pin(name, PEER)
    assert [home.pinned(name) for name in "abcd"] == [None, PEER, PEER, PEER]
    assert MAX_PINS * 140 < 1 << 20, "the whole table must be readable again"


def test_cache(home: StateDir) -> None:
    home.cache_keys("ssh", keys(1))
    assert StateDir(home.path).cached_keys("ssh") == keys(1)
    assert home.cached_keys("web") is None
    home.cache_keys("ssh", keys(2))
    assert home.cached_keys("ssh") == keys(2)


def test_cache_forgets_what_was_used_longest_ago(home: StateDir) -> None:
    for number in range(MAX_CACHED_NAMES):
        home.cache_keys(f"n{number}", keys(number))
    assert home.cached_keys("n0") == keys(0)
    home.cache_keys("new", keys(999))
    assert home.cached_keys("n1") is None
    assert home.cached_keys("n0") == keys(0)
    assert len((home.path / "names.cache").read_text().splitlines()) == MAX_CACHED_NAMES


@pytest.mark.parametrize(
    "content", [b"", b"nonsense\n", b"\xff\xfe", b"a b\n" * 100, b"0" * 64 + b" " + b"x" * 64]
)
def test_a_damaged_cache_only_costs_time(home: StateDir, content: bytes) -> None:
    home.cache_keys("ssh", keys(1))
    (home.path / "names.cache").write_bytes(content)
    assert home.cached_keys("ssh") is None
    home.cache_keys("ssh", keys(1))
    assert home.cached_keys("ssh") == keys(1)


def test_seq_grows_whatever_the_clock_does(home: StateDir) -> None:
    numbers = [StateDir(home.path).next_seq(now) for now in (NOW, NOW, NOW - 1e6, 0.0, NOW + 9)]
    assert numbers == [int(NOW * 1000) + add for add in (0, 1, 2, 3, 9000)]


def test_seq_across_processes(home: StateDir) -> None:
    numbers: list[int] = []

    def take() -> None:
        numbers.extend(StateDir(home.path).next_seq(0.0) for _ in range(10))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 41))


# --- what can be wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
@pytest.mark.parametrize("name", ["identity.key", "salt", "names.cache", "known_peers"])
def test_files_others_can_read_are_refused(home: StateDir, name: str, bits: int) -> None:
    home.identity()
    home.pin("ssh", PEER)
    home.cache_keys("ssh", keys(1))
    path = home.path / name
    path.chmod(bits)
    with pytest.raises(StateError, match=f"chmod 600 {path}"):
        home.identity(), home.pinned("ssh"), home.cached_keys("ssh")


def test_directory_others_can_write_is_refused(home: StateDir) -> None:
    home.path.mkdir(parents=True)
    home.path.chmod(0o777)
    with pytest.raises(StateError, match=f"chmod 700 {home.path}"):
        home.identity()


GOOD_KEY = base64.b64encode(PrivateKey.generate(b"\3" * 32).to_protobuf())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello",
        GOOD_KEY[:-8],
        GOOD_KEY.swapcase(),
        b"AAAA",
        b"x" * 2**21,
    ],
    ids=["empty", "blank", "text", "cut", "changed", "no key", "huge"],
)
def test_damaged_identity(home: StateDir, content: bytes) -> None:
    home.identity()
    home.identity_path.write_bytes(content)
    with pytest.raises(StateError, match="damaged") as caught:
        home.identity()
    assert str(home.identity_path) in str(caught.value)
    assert home.identity_path.read_bytes() == content, "never overwrite what may be repaired"


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("known_peers", b"x y z\n", "delete line 1"),
        ("known_peers", b"0" * 64 + b" nobody\n", "delete line 1"),
        ("known_peers", b"\xff\n", "delete it"),
        ("salt", b"", "known_peers"),
        ("salt", b"zz" * 32, "known_peers"),
        ("salt", b"00" * 31, "known_peers"),
        ("seq", b"x", "delete it"),
        ("seq", b"9" * 19, "delete it"),
    ],
)
def test_damaged_files(home: StateDir, name: str, content: bytes, step: str) -> None:
    home.pin("ssh", PEER)
    home.next_seq(NOW)
    (home.path / name).write_bytes(content)
    with pytest.raises(StateError, match=step) as caught:
        home.pinned("ssh"), home.next_seq(NOW)
    assert str(home.path / name) in str(caught.value)


def test_pins_without_their_salt_are_not_ignored(home: StateDir) -> None:
    """Else deleting one file would undo every pin unseen."""
    home.pin("ssh", PEER)
    (home.path / "salt").unlink()
    with pytest.raises(StateError, match="missing"):
        home.pinned("ssh")
    with pytest.raises(StateError, match="missing"):
        home.pin("ssh", OTHER)


def test_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    for path in (tmp_path / "home", tmp_path / "home" / "below"):
        with pytest.raises(StateError, match="in its place") as caught:
            StateDir(path).identity()
        assert str(tmp_path / "home") in str(caught.value)


@pytest.mark.parametrize("name", ["identity.key", "lock"])
def test_file_is_a_directory(home: StateDir, name: str) -> None:
    (home.path / name).mkdir(parents=True)
    with pytest.raises(StateError, match="move it away"):
        home.identity()


def test_file_is_a_fifo(home: StateDir) -> None:
    home.path.mkdir(parents=True)
    os.mkfifo(home.identity_path, 0o600)
    with pytest.raises(StateError, match="not a file"):
        home.identity()


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "who owns"),
        (errno.EIO, "check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_failing_writes(
    home: StateDir, monkeypatch: pytest.MonkeyPatch, call: str, number: int, step: str
) -> None:
    key = home.identity()
    home.pin("ssh", PEER)
    real_open = os.open

    def fail(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    def fail_new(path: Path, *args: int) -> int:
        return fail() if path.name.endswith(".new") else real_open(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_new if call == "open" else fail)
        with pytest.raises(StateError, match=step) as caught:
            home.pin("ssh", OTHER)
    assert str(home.path / "known_peers") in str(caught.value)
    assert ENVIRONMENT in str(caught.value)
    assert home.pinned("ssh") == PEER, "the old content stays"
    assert home.identity().public == key.public
    assert not [path for path in home.path.iterdir() if path.name.endswith(".new")]


needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root and unshare"
)

SCRIPT = """
import sys
from pt.errors import StateError
from pt.node.state import StateDir
home = StateDir(sys.argv[1])
for work in (home.identity, lambda: home.pin("n", __import__("pt.identity.peer_id", fromlist=["x"])
             .PeerId.parse(sys.argv[2])), lambda: home.next_seq(0.0)):
    try:
        work()
    except StateError as error:
        print(error)
    else:
        print("done")
"""


def in_mount(tmp_path: Path, options: str, before: str, script: str = SCRIPT) -> list[str]:
    """Run a script with a file system of its own, mounted where nobody else sees it."""
    tmp_path.joinpath("m").mkdir()
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec"),
            f'mount -t tmpfs -o {options} tmpfs "$1/m"; cd "$1/m"; {before}; shift; exec "$@"',
            *("sh", str(tmp_path), sys.executable, "-c", script),
            *(str(tmp_path / "m" / "home"), str(PEER)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


@needs_mounts
def test_disk_really_full(tmp_path: Path) -> None:
    fill = "mkdir -m 700 home; : > home/lock; head -c 1M /dev/zero > fill 2>/dev/null || :"
    lines = in_mount(tmp_path, "size=64k", fill)
    assert len(lines) == 3
    for line in lines:
        assert "No space left on device" in line
        assert "free some space" in line
        assert str(tmp_path / "m" / "home") in line


@needs_mounts
def test_disk_without_inodes(tmp_path: Path) -> None:
    lines = in_mount(tmp_path, "size=1m,nr_inodes=3", "touch x")
    assert all("free some space" in line for line in lines)
    assert len(lines) == 3


@needs_mounts
def test_read_only_disk(tmp_path: Path) -> None:
    lines = in_mount(tmp_path, "size=1m", 'mount -o remount,ro "$1/m"')
    assert len(lines) == 3
    assert all("read-only" in line for line in lines)


US = PeerId.from_public_key(PrivateKey.generate(b"u" * 32).public)
NOT_US = PeerId.from_public_key(PrivateKey.generate(b"n" * 32).public)


def test_each_name_is_exposed_under_an_identity_of_its_own(home: StateDir) -> None:
    keys = [home.identity(), home.identity("ssh"), home.identity("web")]
    assert len({key.public.data for key in keys}) == 3
    again = StateDir(home.path)
    assert [again.identity(name).public for name in (None, "ssh", "web")] == [
        key.public for key in keys
    ]
    home.new_identity()
    assert home.identity("ssh").public != keys[1].public


def test_a_claim_is_one_holder_s_until_it_is_released(home: StateDir) -> None:
    key = home.identity()
    claim = home.claim(US)
    assert claim is not None
    assert StateDir(home.path).claim(US) is None
    other = StateDir(home.path).claim(NOT_US)
    assert other is not None
    other.release()
    assert StateDir(home.path).claim(US) is None
    assert StateDir(home.path).identity().public == key.public  # that others may read
    claim.release()
    claim.release()
    again = StateDir(home.path).claim(US)
    assert again is not None
    claim.release()  # not what another holds now
    assert home.claim(US) is None
    again.release()


HOLD = """
import sys
from pt.node.state import StateDir
from pt.identity.peer_id import PeerId
claim = StateDir(sys.argv[1]).claim(PeerId(bytes.fromhex("1220") + b"u" * 32))
print(claim is not None, flush=True)
sys.stdin.read()
"""


def test_a_claim_ends_with_its_process(home: StateDir) -> None:
    home.identity()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert home.claim(PeerId(bytes.fromhex("1220") + b"u" * 32)) is None
        holder.kill()
        holder.wait()
        claim = home.claim(PeerId(bytes.fromhex("1220") + b"u" * 32))
        assert claim is not None
        claim.release()


def test_there_is_nothing_to_claim_without_an_identity(home: StateDir) -> None:
    with pytest.raises(StateError, match=r"identity\.key"):
        home.claim(US)


@needs_mounts
def test_a_claim_on_a_read_only_disk(tmp_path: Path) -> None:
    make = "from pt.node.state import StateDir; StateDir('home').identity()"
    before = f'{sys.executable} -c "{make}"; mount -o remount,ro "$1/m"'
    assert in_mount(tmp_path, "size=1m", before, HOLD) == ["True"]


def test_pins_are_read_again_when_somebody_has_changed_them(tmp_path, monkeypatch):
    """A command asks for each of its candidates, and the file may have thousands of lines."""
    state, other = StateDir(tmp_path), StateDir(tmp_path)
    reads = []
    read = StateDir._read_pins
    monkeypatch.setattr(StateDir, "_read_pins", lambda self: reads.append(self) or read(self))
    assert state.pinned("name") is None
    other.pin("name", PEER)
    assert state.pinned("name") == PEER
    del reads[:]
    assert [state.pinned("name") for _ in range(100)] == [PEER] * 100
    assert reads == []
    other.pin("name", OTHER)
    assert state.pinned("name") == OTHER
    assert state.pinned("another") is None
    assert state.forget("name")
    assert other.pinned("name") is None
    (tmp_path / "known_peers").unlink()
    assert state.pinned("name") is None
