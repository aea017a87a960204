from __future__ import annotations

import pytest

from pt.rendezvous.topic import cid, provider_key, topic

GO = [  # printed by `gokad topic`, which is go-libp2p's routing discovery
    ("test", "bafkreif7wuc7lejkx47l3kzdtsgghefqyiwxiflxm4ypm4dfxcjdjiawta",
     "1220bfb505f5912abf3ebdab239c8c6390b0c22d7415776730f67065b89234a01698"),
    ("ssh.tao.gossip", "bafkreiglr4prrso7b67mcm6km2umfbbl7he4xzubzzrhgisdycg3m2ymoq",
     "1220cb8f1f18c9df0fbec133ca66a8c2842bf9c9cbe681ce62732243c08db66b0c74"),
    ("my id", "bafkreidv3ih73t3jzhlmafjdpcbz7s62bbtgfviypxv42q5c5lhnq4qiqm",
     "122075da0ffdcf69c9d6c0152378839fcbda086662d5187debcd43a2eaced8720883"),
    ("\u00fcn\u00ef", "bafkreia52gvdefdmzsfyylyblunupzgjotk4rrof5gy6kznu345wcxc2ya",
     "12201dd1aa32146ccc8b8c2f015d1b47e4c974d5c8c5c5e9b1e565b4df3b615c5ac0"),
    ("u\u0308", "bafkreifilasshyswwlfstu7kjust6pt5pbhlmnm66orhpvtshaq2rttkbe",
     "1220a8582523e256b2cb29d3ea4d253f3e7d784eb6359ef3a277d6723821a8ce6a09"),
    ("\udcff\udcfe", "bafkreifwy4u474ikwv7xeosc4kic3won4afwkm54qzsj7ccppx65jhyfba",
     "1220b6c729cff10ab57f723a42e2902dd9cde00b6533bc86649f884f7dfdd49f0508"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "key"), GO, ids=[ascii(row[0]) for row in GO])
def test_golden(name: str, text: str, key: str) -> None:
    assert provider_key(name).hex() == key
    assert cid(name) == text


def test_the_topic_is_the_name_as_it_was_typed() -> None:
    assert topic("a b") == b"/peertunnel/1.0.0/a b"
    assert topic("\udcff") == b"/peertunnel/1.0.0/\xff"
