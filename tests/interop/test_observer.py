"""Who sees all traffic of the DHT, and what that is worth."""

from __future__ import annotations

import asyncio
import base64
import secrets
import shutil
import time
from collections.abc import Iterator
from itertools import combinations, product

import pytest

from interop import kad
from interop.observer import Seen, forms, leaks, secrets_of
from interop.rig import build
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.kad.messages import MessageType
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epoch_at, epochs_to_publish
from pt.rendezvous.mailbox import Signed, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record
from pt.wire import protobuf
from pt.wire.multiaddr import Multiaddr

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(600)]

SERVERS = 30
NAME = "ssh.tao.gossip"
SIGNATURE = 8
"""Number of the field of an IPNS record."""
WINDOW = 6
"""Two values of a few kilobytes share so many bytes by chance once in a hundred million runs."""


@pytest.fixture(scope="module")
def lab() -> Iterator[kad.Lab]:
    if not kad.BINARY.exists() and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/gokad")
    build(["gokad"])
    with kad.laboratory(SERVERS, 0.005) as made:
        yield made


@pytest.mark.parametrize("before", range(6))
def test_the_search_for_secrets_finds_them(before: int) -> None:
    """In every base it knows, wherever it starts."""
    secret = bytes(range(200, 238))
    data = secrets.token_bytes(before) + secret + secrets.token_bytes(7)
    base32 = base64.b32encode(data)
    texts = (
        data, data.hex().encode(), data.hex().upper().encode(), base64.b64encode(data),
        base64.urlsafe_b64encode(data), base32, base32.lower(), b"x" + forms(secret)["base58"],
        b"k" + forms(secret)["base36"],
    )  # fmt: skip
    for text in texts:
        assert leaks(b"before" + text + b"after", {"secret": secret})
        assert not leaks(text, {"secret": secret[::-1]})


def test_the_observer_learns_neither_name_nor_exposer(lab: kad.Lab) -> None:
    """An exposer publishes for two days, a searcher reads both; every byte is looked at."""
    keys = NameKeys.derive(NAME)
    identity = PrivateKey.generate(secrets.token_bytes(32))
    peer = PeerId.from_public_key(identity.public)
    relay = lab.servers.infos[7].id
    own = Multiaddr.parse("/ip4/11.44.7.3/tcp/45001")
    circuit = Multiaddr.parse(f"/ip4/11.27.0.1/tcp/4001/p2p/{relay}/p2p-circuit")
    now = time.time()
    record = Record(peer_id=peer, addresses=(own, circuit), seq=1, expires=int(now) + 3600)
    mine = Signed.make(record, keys, identity)
    boxes = [
        pack(
            [mine], EpochKeys.derive(keys, epoch), after=-1, now=now, nonce=secrets.token_bytes(12)
        )
        for epoch in epochs_to_publish(now)
    ]
    used: list[PeerId] = []

    async def publish() -> None:
        async with kad.our_client(lab.servers.infos[0]) as client:
            used.append(client.own)
            for box in boxes:
                assert (await client.put_value(box.routing_key, box.value)).acknowledged

    async def search() -> None:
        async with kad.our_client(lab.servers.infos[1]) as client:
            used.append(client.own)
            for box in boxes:
                assert await kad.all_values(client, box.routing_key, box.name)

    with lab.us.inside():
        asyncio.run(publish())
        asyncio.run(search())

    seen = Seen.read(lab.tap)
    hidden = secrets_of(NAME, (peer,), (own, circuit), ("11.44.7.3", "192.168.1.2"))
    hidden |= {
        "master": keys.master, "membership key": keys.membership, "record key": keys.record_key,
        "record tag": keys.record_tag,
    }  # fmt: skip
    assert not leaks(seen.data, hidden)
    # It did see everything else: the mailboxes, and who wrote and read them.
    for box in boxes:
        assert box.value in seen.data
        assert box.routing_key in seen.data
    assert seen.dialers(lab.link.a_ip) == {str(one) for one in used}
    kinds = {ask.type for one in seen.of(map(str, used)) for ask in one.requests()}
    assert kinds == {MessageType.FIND_NODE, MessageType.PUT_VALUE, MessageType.GET_VALUE}


def test_mailboxes_of_one_name_look_like_those_of_two() -> None:
    """Two days of one name share nothing that a mailbox of another name has not."""
    now = time.time()

    def parts(master: bytes, epoch: int) -> tuple[bytes, tuple[bytes, ...]]:
        keys, identity = NameKeys.from_master(master), PrivateKey.generate(master)
        peer = PeerId.from_public_key(identity.public)
        record = Record(peer_id=peer, addresses=(), seq=7, expires=int(now) + 3600)
        mine = Signed.make(record, keys, identity)
        day = EpochKeys.derive(keys, epoch)
        box = pack([mine], day, after=-1, now=now, nonce=secrets.token_bytes(12))
        outer = ipns.validate(box.value, box.name, now)
        signature = protobuf.Fields(box.value).bytes(SIGNATURE)
        assert signature is not None
        own = day.signer.public.data, signature, outer.payload[1:]
        frame = box.value
        for part in own:
            assert frame.count(part) == 1
            frame = frame.replace(part, b"")
        return frame, (*own, box.overlay_key)

    today = epoch_at(now)
    one, same = parts(b"\1" * 32, today), parts(b"\1" * 32, today + 1)
    other = parts(b"\2" * 32, today)
    assert one[0] == same[0] == other[0]
    for a, b in combinations((one, same, other), 2):
        for left, right in product(a[1], b[1]):
            assert not windows(left) & windows(right)


def windows(data: bytes) -> set[bytes]:
    return {data[pos : pos + WINDOW] for pos in range(len(data) - WINDOW + 1)}
