"""kubo as a server of the DHT, and its commands on what we store there."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop import kad
from interop.kubo import BINARY, Kubo
from interop.observer import leaks, secrets_of
from interop.rig import RigError, build
from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.kad.aio import Client
from pt.kad.keyspace import K
from pt.kad.messages import Message, MessageType, Record
from pt.kad.results import Stored
from pt.rendezvous import ipns
from pt.rendezvous.epoch import EpochKeys, epoch_at
from pt.rendezvous.mailbox import Sealed, Signed, open_mailbox, pack
from pt.rendezvous.name import NameKeys
from pt.rendezvous.record import Record as Whereabouts
from pt.wire import multibase
from pt.wire.multiaddr import Multiaddr

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(900)]

GO_SERVERS = K - 2
"""With two of kubo, all servers are next to every key."""
KUBOS = ("11.60.0.1", "11.61.0.1")
DELAY = 0.005
NAME = "ssh.tao.gossip"
IDENTITY = PrivateKey.generate(b"\7" * 32)
PEER = PeerId.from_public_key(IDENTITY.public)
RELAY = PeerId.from_public_key(PrivateKey.generate(b"\3" * 32).public)
ADDRESSES = (
    Multiaddr.parse("/ip4/192.168.1.2/tcp/45001"),
    Multiaddr.parse(f"/ip4/11.44.7.3/tcp/4001/p2p/{RELAY}/p2p-circuit"),
)


@dataclass
class Lab:
    net: kad.Lab
    kubo: tuple[Kubo, ...]

    def ours(self, call):
        """Run something with a fresh client of ours, on our host."""

        async def main():
            async with kad.our_client(self.net.servers.infos[0]) as client:
                return await call(client)

        with self.net.us.inside():
            return asyncio.run(main())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not BINARY.exists() and not (shutil.which("go") or shutil.which("/usr/local/go/bin/go")):
        pytest.skip("no go toolchain to build interop/peers/kubo")
    build(["gokad", "kubo"])
    tmp = tmp_path_factory.mktemp("kubo")
    with kad.laboratory(GO_SERVERS, DELAY, ("kubo0", "kubo1")) as net:
        first = [str(info.addresses[0].with_peer(info.id.raw)) for info in net.servers.infos[:6]]
        for host, ip in zip(net.others, KUBOS, strict=True):
            kad.move(host, ip)
        kubos = tuple(
            Kubo(host, ip, tmp / host.name, bootstrap=first)
            for host, ip in zip(net.others, KUBOS, strict=True)
        )
        for one in kubos:
            assert net.servers.meet(one.info) == GO_SERVERS
        yield Lab(net, kubos)


@dataclass(frozen=True)
class Published:
    """A mailbox as an exposer publishes it, and what opens it."""

    box: Sealed
    keys: NameKeys
    epoch: EpochKeys


def sealed(keys: NameKeys | None = None, *, after: int = -1) -> Published:
    """A mailbox, of a name of its own if no keys are given."""
    now = time.time()
    keys = keys or NameKeys.from_master(secrets.token_bytes(32))
    epoch = EpochKeys.derive(keys, epoch_at(now))
    facts = (("nat", b"symmetric"),)
    record = Whereabouts(
        peer_id=PEER, addresses=ADDRESSES, seq=1, expires=int(now) + 3600, services=(22,),
        facts=facts,
    )  # fmt: skip
    mine = Signed.make(record, keys, IDENTITY)
    box = pack([mine], epoch, after=after, now=now, nonce=secrets.token_bytes(12))
    return Published(box, keys, epoch)


def put(lab: Lab, box: Sealed) -> Stored:
    return lab.ours(lambda client: client.put_value(box.routing_key, box.value))


def names(box: Sealed) -> tuple[str, str]:
    """As users of kubo may write it: base36 of the CID, or base58 of the multihash."""
    return multibase.encode("k", b"\x01\x72" + box.name), str(PeerId(box.name))


def shows_nothing(data: bytes, keys: NameKeys) -> None:
    hidden = secrets_of(NAME, (PEER, RELAY), ADDRESSES, ("192.168.1.2", "11.44.7.3"))
    hidden |= {"master": keys.master, "record key": keys.record_key, "fact": b"symmetric"}
    assert not leaks(data, hidden)


def test_kubo_stores_a_mailbox_and_gives_it_back(lab: Lab) -> None:
    """All servers do, so that kubo's own answers are among them."""
    one = sealed()
    box = one.box
    stored = put(lab, box)
    assert {kubo.info.id for kubo in lab.kubo} <= set(stored.acknowledged)
    for kubo in lab.kubo:
        asked = Message(MessageType.GET_VALUE, box.routing_key)
        reply = lab.ours(lambda client, kubo=kubo, asked=asked: client.ask(kubo.info, asked))
        assert reply.record is not None
        assert reply.record.value == box.value
    (signed,) = open_mailbox(reply.record.value, one.epoch, one.keys, time.time()).signed
    assert signed.record.addresses == ADDRESSES


def test_routing_get_returns_the_value(lab: Lab) -> None:
    one = sealed(NameKeys.derive(NAME))
    box = one.box
    put(lab, box)
    for name in names(box):
        got = lab.kubo[0].ipfs("routing", "get", f"/ipns/{name}")
        assert got == box.value
    shows_nothing(got, one.keys)


def test_name_inspect_accepts_it_and_shows_nothing(lab: Lab) -> None:
    one = sealed(NameKeys.derive(NAME))
    box = one.box
    shown = lab.kubo[0].ipfs(
        "name", "inspect", "--enc=json", "--verify", names(box)[0], feed=box.value
    )
    facts = json.loads(shown)
    assert facts["Validation"]["Valid"] is True
    assert facts["SignatureType"] == "V2"
    assert facts["Entry"]["Value"] == "/ipfs/bafkqaaa"
    assert facts["Entry"]["Sequence"] == box.seq
    assert facts["PbSize"] == len(box.value)
    text = lab.kubo[0].ipfs("name", "inspect", "--verify", names(box)[0], feed=box.value)
    dump = facts["HexDump"].splitlines()
    assert b"".join(bytes.fromhex(line[10:58]) for line in dump) == box.value
    shows_nothing(b"\n".join((shown, text, box.value, box.routing_key)), one.keys)


def test_name_inspect_refuses_a_changed_one(lab: Lab) -> None:
    box, other = sealed().box, sealed().box
    flipped = bytearray(box.value)
    flipped[len(flipped) // 2] ^= 1
    for value, name in ((bytes(flipped), names(box)[0]), (box.value, names(other)[0])):
        facts = json.loads(
            lab.kubo[0].ipfs("name", "inspect", "--enc=json", "--verify", name, feed=value)
        )
        assert not facts["Validation"].get("Valid")


def test_kubo_resolves_it_to_nothing(lab: Lab) -> None:
    """To the empty block that every mailbox names: a curious user learns no more."""
    box = sealed().box
    put(lab, box)
    assert lab.kubo[1].ipfs("name", "resolve", names(box)[0]).strip() == b"/ipfs/bafkqaaa"


def test_kubo_takes_the_newest_only(lab: Lab) -> None:
    first = sealed()
    old, new = first.box, sealed(first.keys, after=first.box.seq).box
    asked = [
        Message(MessageType.PUT_VALUE, box.routing_key, Record(box.routing_key, box.value))
        for box in (new, old)
    ]
    kubo = lab.kubo[0]

    async def both(client: Client) -> bytes:
        assert (await client.ask(kubo.info, asked[0])).type is MessageType.PUT_VALUE
        with pytest.raises(PtError):
            await client.ask(kubo.info, asked[1])
        reply = await client.ask(kubo.info, Message(MessageType.GET_VALUE, new.routing_key))
        assert reply.record is not None
        return reply.record.value

    assert lab.ours(both) == new.value


def test_kubo_puts_what_we_read(lab: Lab, tmp_path: Path) -> None:
    """`ipfs routing put` of a mailbox, as somebody might who passes it on."""
    box = sealed().box
    file = tmp_path / "value"
    file.write_bytes(box.value)
    lab.kubo[0].ipfs("routing", "put", f"/ipns/{names(box)[0]}", str(file))
    found = lab.ours(lambda client: kad.all_values(client, box.routing_key, box.name))
    assert {one.value for one in found} == {box.value}
    assert len(found) >= 0.9 * K


def test_what_kubo_publishes_itself_is_found(lab: Lab) -> None:
    """A record without a mailbox in it; it is not ours, but the DHT gives it to us."""
    kubo = lab.kubo[0]
    kubo.ipfs("name", "publish", "--v1compat=false", "/ipfs/bafkqaaa")
    key = ipns.routing_key(kubo.info.id.raw)

    async def first(client: Client) -> bytes:
        async with client.get_value(key, lambda raw: None) as search:
            return (await anext(search)).value

    assert lab.ours(first) == lab.kubo[1].ipfs("routing", "get", f"/ipns/{kubo.info.id}")


def test_nobody_there(lab: Lab) -> None:
    box = sealed().box
    with pytest.raises(RigError, match="not found"):
        lab.kubo[0].ipfs("routing", "get", f"/ipns/{names(box)[0]}")
