"""IPNS records with boxo, the code of the public DHT's servers: it takes ours, we take its."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from pt.errors import RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous.epoch import EpochKeys, epoch_at
from pt.rendezvous.ipns import (
    MAX_PAYLOAD,
    MAX_SEQ,
    create,
    name_of,
    overlay_key,
    routing_key,
    select,
    validate,
)
from pt.rendezvous.mailbox import Signed, open_mailbox, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.wire.multiaddr import Multiaddr
from tests.e2e.lan_lab import ROOT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SOURCE = ROOT / "interop" / "peers" / "goipns"
BINARY = ROOT / "interop" / "bin" / "go-ipns"
SEED = b"\5" * 32
KEY = PrivateKey.generate(SEED)
NAME = name_of(KEY.public)
NOW = int(time.time())


class Boxo:
    """One process that answers a JSON line for each it is asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(BINARY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: object) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request, default=_base64) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.fixture(scope="module")
def boxo() -> Iterator[Boxo]:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is not None:
        argv = ["nice", go, "build", "-trimpath", "-o", str(BINARY), "."]
        built = subprocess.run(argv, cwd=SOURCE, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    elif not BINARY.exists():
        pytest.skip("no go toolchain to build interop/peers/goipns")
    running = Boxo()
    yield running
    running.close()


@pytest.mark.parametrize(
    ("payload", "seq", "expires", "ttl"),
    [
        (b"sealed", 7, NOW + 3600, 60),
        (b"", 0, NOW + 3600, 0),
        (bytes(MAX_PAYLOAD), MAX_SEQ, NOW + 48 * 3600, 1 << 32),
        (bytes(range(256)), 24, 253_402_300_799, 1),
    ],
    ids=["usual", "least", "most", "far"],
)
def test_boxo_takes_ours(boxo: Boxo, payload: bytes, seq: int, expires: int, ttl: int) -> None:
    raw = create(KEY, payload, seq=seq, expires=expires, ttl=ttl)
    answer = boxo.ask(do="validate", key=routing_key(NAME), records=[raw])
    assert answer["ok"], answer
    assert (answer["seq"], answer["ttl"]) == (seq, ttl * 1_000_000_000)
    assert answer["value"] == "/ipfs/bafkqaaa"
    assert base64.b64decode(str(answer.get("payload", ""))) == payload
    if expires < 9_000_000_000:  # later ones overflow Go's UnixNano, not its validity
        assert answer["eol"] == expires * 1_000_000_000


def test_boxo_takes_a_mailbox_and_shows_nothing_of_it(boxo: Boxo) -> None:
    """All that `ipfs routing get` and `ipfs name inspect` have to show."""
    identity = PrivateKey.generate(b"\7" * 32)
    peer = PeerId.from_public_key(identity.public)
    address = Multiaddr.parse("/ip4/11.1.0.1/tcp/4001")
    keys = NameKeys.from_master(b"\1" * 32)
    epoch = EpochKeys.derive(keys, epoch_at(NOW))
    record = Record(peer_id=peer, addresses=(address,), seq=NOW, expires=NOW + 3600)
    mine = Signed.make(record, keys, identity)
    sealed = pack([mine], epoch, after=-1, now=NOW, nonce=bytes(12))
    answer = boxo.ask(do="validate", key=sealed.routing_key, records=[sealed.value])
    assert answer["ok"], answer
    assert answer["seq"] == sealed.seq
    shown = sealed.routing_key + sealed.value + base64.b64decode(str(answer["payload"]))
    for secret in (peer.raw, identity.public.data, address.encode(), b"11.1.0.1", keys.master):
        assert secret not in shown
    assert open_mailbox(sealed.value, epoch, keys, NOW).signed == (mine,)


def test_boxo_refuses_what_we_refuse(boxo: Boxo) -> None:
    good = create(KEY, b"sealed", seq=7, expires=NOW + 3600, ttl=60)
    other = PrivateKey.generate(b"\6" * 32)
    flipped = bytearray(good)
    flipped[-1] ^= 1
    bad = {
        "flipped": bytes(flipped),
        "cut": good[:-1],
        "expired": create(KEY, b"sealed", seq=7, expires=NOW - 1, ttl=60),
        "another's": create(other, b"sealed", seq=7, expires=NOW + 3600, ttl=60),
        "empty": b"",
    }
    for what, raw in bad.items():
        answer = boxo.ask(do="validate", key=routing_key(NAME), records=[raw])
        assert not answer["ok"], what
        with pytest.raises(RemoteProtocolError):
            validate(raw, NAME, NOW)


def test_we_take_what_boxo_makes(boxo: Boxo) -> None:
    """And it makes what we make, byte for byte."""
    request = {"seed": SEED, "payload": b"sealed", "seq": 300, "expires": NOW + 3600, "ttl": 60}
    answer = boxo.ask(do="create", embed=True, **request)
    raw = base64.b64decode(str(answer["record"]))
    record = validate(raw, NAME, NOW)
    assert (record.payload, record.seq, record.expires) == (b"sealed", 300, NOW + 3600)
    assert (record.ttl, record.overlay_key) == (60_000_000_000, overlay_key(NAME))
    assert raw == create(KEY, b"sealed", seq=300, expires=NOW + 3600, ttl=60)
    flipped = bytearray(raw)
    flipped[100] ^= 1
    with pytest.raises(RemoteProtocolError):
        validate(bytes(flipped), NAME, NOW)


@pytest.mark.parametrize("options", [{"v1": True, "embed": True}, {"embed": False}], ids=str)
def test_other_forms_are_not_ours(boxo: Boxo, options: dict[str, bool]) -> None:
    """Valid for boxo, but no `pt` writes them: one encoding, no room for changes on the way."""
    answer = boxo.ask(
        do="create", seed=SEED, seq=1, expires=NOW + 3600, ttl=0, payload=b"", **options
    )
    raw = base64.b64decode(str(answer["record"]))
    assert boxo.ask(do="validate", key=routing_key(NAME), records=[raw])["ok"]
    with pytest.raises(RemoteProtocolError):
        validate(raw, NAME, NOW)


def test_the_same_record_wins(boxo: Boxo) -> None:
    numbers = [(1, 60), (3, 60), (2, 90), (3, 90), (3, 30)]
    raws = [create(KEY, b"", seq=seq, expires=NOW + life, ttl=0) for seq, life in numbers]
    raws += [create(KEY, payload, seq=3, expires=NOW + 90, ttl=0) for payload in (b"x", b"y")]
    records = [validate(raw, NAME, NOW) for raw in raws]
    for end in range(1, len(raws) + 1):
        answer = boxo.ask(do="select", key=routing_key(NAME), records=raws[:end])
        best = select(records[:end])
        assert best is not None
        assert raws[int(str(answer["index"]))] == best.raw
