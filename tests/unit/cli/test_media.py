"""What the options and the environment say about where to look."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pt.cli.media import MAX_NETWORK_FILE, Media, add_media, media_from
from pt.cli.options import add_relay
from pt.errors import UsageError
from pt.wire.multiaddr import Multiaddr
from tests.unit.cli.samples import PEER

RELAY, ANOTHER = (f"/ip4/192.0.2.{number}/tcp/4001/p2p/{PEER}" for number in (1, 2))
SERVER = "/ip4/192.0.2.3/udp/4001"
DHT = f"/ip4/192.0.2.4/tcp/4001/p2p/{PEER}"


def parse(*argv: str, **environ: str) -> Media:
    parser = argparse.ArgumentParser()
    add_relay(parser.add_argument_group("network"))
    add_media(parser)
    return media_from(parser.parse_args(argv), environ)


def said(media: Media) -> tuple[bool, bool, tuple[str, ...], tuple[str, ...]]:
    return media.lan, media.public, (*map(str, media.relays),), (*map(str, media.bootstrap),)


@pytest.fixture
def network(tmp_path: Path) -> str:
    path = tmp_path / "network"
    path.write_text(
        f"# ours\n\n--relay {RELAY}   # as pt relay prints it\n{SERVER} {RELAY}\n\t{ANOTHER}\r\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, (True, True, (), ())),
        (["--no-public"], {}, (True, False, (), ())),
        (["--no-lan"], {}, (False, True, (), ())),
        (["--lan-only"], {}, (True, False, (), ())),
        (["--relay", RELAY], {}, (True, True, (RELAY,), ())),
        ([], {"PT_RELAY": f"{RELAY},{ANOTHER}"}, (True, True, (RELAY, ANOTHER), ())),
        (["--bootstrap", DHT, SERVER], {}, (True, True, (), (DHT, SERVER))),
        ([], {"PT_BOOTSTRAP": f"{DHT} {SERVER}"}, (True, True, (), (DHT, SERVER))),
        # options go before the environment
        (["--bootstrap", SERVER], {"PT_BOOTSTRAP": DHT}, (True, True, (), (SERVER,))),
        ([], {"PT_NO_PUBLIC": "1"}, (True, False, (), ())),
        ([], {"PT_NO_PUBLIC": "Yes"}, (True, False, (), ())),
        ([], {"PT_NO_PUBLIC": "0"}, (True, True, (), ())),
        (["--bootstrap", DHT], {"PT_NO_PUBLIC": "1"}, (True, True, (), (DHT,))),
        # a server of our own overlay is no wish to be on the public DHT
        (["--bootstrap", SERVER], {"PT_NO_PUBLIC": "1"}, (True, False, (), (SERVER,))),
        # peers of the DHT that the environment names are not for who leaves the DHT out
        (["--no-public"], {"PT_BOOTSTRAP": f"{DHT} {SERVER}"}, (True, False, (), (SERVER,))),
        ([], {"PT_BOOTSTRAP": DHT, "PT_NO_PUBLIC": "true"}, (True, False, (), ())),
        # whose options contradict each other is told so by the configuration
        (["--no-public", "--bootstrap", DHT], {}, (True, False, (), (DHT,))),
        # only the LAN is only the LAN
        (
            ["--lan-only"],
            {"PT_RELAY": RELAY, "PT_BOOTSTRAP": DHT, "PT_NETWORK": "/nowhere"},
            (True, False, (), ()),
        ),
    ],
)
def test_what_they_say(argv: list[str], environ: dict[str, str], expected: object) -> None:
    assert said(parse(*argv, **environ)) == expected


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_network_is_its_own_relays_and_no_others(network: str, by: str) -> None:
    """Not those that the environment names for other networks: they would learn of this one."""
    foreign = {"PT_RELAY": f"/ip4/198.51.100.1/tcp/1/p2p/{PEER}", "PT_BOOTSTRAP": DHT}
    if by == "option":
        media = parse("--network", network, **foreign)
    else:
        media = parse(**foreign, PT_NETWORK=network)
    assert said(media) == (True, False, (RELAY, ANOTHER), (SERVER,))


def test_a_network_and_relays_that_are_named_with_it(network: str) -> None:
    more = f"/ip4/192.0.2.9/tcp/4001/p2p/{PEER}"
    media = parse("--network", network, "--relay", more, RELAY, "--no-lan")
    assert said(media) == (False, False, (more, RELAY, ANOTHER), (SERVER,))


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["--no-lan"], "--no-lan"),
        (["--relay", RELAY], "--relay"),
        (["--bootstrap", DHT], "--bootstrap"),
        (["--network", "x"], "--network"),
    ],
)
def test_only_the_lan_and_something_else(argv: list[str], option: str) -> None:
    with pytest.raises(UsageError, match=f"--lan-only and {option}"):
        parse("--lan-only", *argv)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "lists no relay"),
        (b"# nothing but\n   # comments\n", "lists no relay"),
        (f"{RELAY}\nnonsense\n".encode(), "line 2: .*nonsense"),
        (b"\xff\xfe\x00", "is not text"),
        (b"#" * (MAX_NETWORK_FILE + 1), "bytes long"),
        # cut in the middle of a character, and longer than it looks in characters
        ("ä".encode() * (MAX_NETWORK_FILE // 2 + 1), "bytes long"),
        (b"# \xc3", "is not text"),
    ],
)
def test_a_network_file_that_is_no_use(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "network"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=why) as caught:
        parse("--network", str(path))
    assert str(path) in str(caught.value)


def test_a_network_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        parse("--network", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="Is a directory"):
        parse("--network", str(tmp_path))


def test_a_network_file_in_the_home_directory(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path(network).parent))
    assert parse("--network", "~/network").relays == (
        Multiaddr.parse(RELAY),
        Multiaddr.parse(ANOTHER),
    )


@pytest.mark.parametrize(
    "argv", [["--bootstrap", "nonsense"], ["--relay", "/ip4/1.2.3.4/tcp/99999"]]
)
def test_what_is_no_address(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=r"multiaddr|99999"):
        parse(*argv)
