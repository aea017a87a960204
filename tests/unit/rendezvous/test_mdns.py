from __future__ import annotations

import contextlib
import string
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import DNSIncoming, DNSOutgoing, DNSPointer, DNSQuestion, DNSText

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.rendezvous.mdns import (
    INSTANCE_RANDOM,
    MAX_ADDRESSES,
    MAX_PACKET,
    MAX_TXT,
    SERVICE,
    Announcement,
    decode_answer,
    encode_question,
    encode_txt,
    instance_name,
    split_txt,
    txt_strings,
)
from pt.wire.multiaddr import Multiaddr

PEER = PeerId.from_public_key(PrivateKey.generate(b"\1" * 32).public)
ADDRESS = Multiaddr.parse(f"/ip4/11.1.0.1/tcp/4001/p2p/{PEER}")
NAME = "a" * 40
SERVICE_WIRE = b"\x04_p2p\x04_udp\x05local\x00"
TXT = encode_txt([b"dnsaddr=" + str(ADDRESS).encode()])


def record(name: bytes, kind: int, data: bytes, ttl: int = 120, klass: int = 0x8001) -> bytes:
    return name + struct.pack("!HHIH", kind, klass, ttl, len(data)) + data


def packet(*records: bytes, questions: bytes = b"", count: int = 0, flags: int = 0x8400) -> bytes:
    header = struct.pack("!HHHHHH", 0, flags, count, len(records), 0, 0)
    return header + questions + b"".join(records)


def instance_wire(name: str = NAME) -> bytes:
    return bytes((len(name),)) + name.encode() + SERVICE_WIRE


def test_question_is_what_zeroconf_reads() -> None:
    message = DNSIncoming(encode_question(0x1234))
    assert message.valid
    assert message.is_query()
    assert message.id == 0x1234
    [question] = message.questions
    assert (question.name, question.type, question.class_) == (SERVICE + ".", 12, 1)
    assert question.unicast
    assert encode_question() == bytes.fromhex(
        "000000000001000000000000045f703270045f756470056c6f63616c00000c8001"
    )


def zeroconf_answer(txt: bytes, ttl: int = 120, *, echo: bool = False) -> bytes:
    """A response as zeroconf compresses it."""
    out = DNSOutgoing(0x8400, multicast=not echo)
    if echo:
        out.add_question(DNSQuestion(SERVICE + ".", 12, 1))
    full = f"{NAME}.{SERVICE}."
    out.add_answer_at_time(DNSPointer(SERVICE + ".", 12, 1, ttl, full), 0)
    out.add_answer_at_time(DNSText(full, 16, 0x8001, ttl, txt), 0)
    [data] = out.packets()
    return data


@pytest.mark.parametrize("echo", [False, True])
def test_answer_of_zeroconf(echo: bool) -> None:
    sealed = bytes(range(256)) * 3
    data = zeroconf_answer(encode_txt(txt_strings([ADDRESS], sealed)), echo=echo)
    assert len(data) <= 1460
    assert decode_answer(data) == (
        Announcement(instance=NAME, addresses=(ADDRESS,), sealed=sealed, ttl=120),
    )


def test_goodbye_of_zeroconf() -> None:
    assert decode_answer(zeroconf_answer(TXT, ttl=0)) == (Announcement(instance=NAME, ttl=0),)


def test_pointer_alone_says_goodbye() -> None:
    data = packet(record(SERVICE_WIRE, 12, instance_wire(), ttl=0, klass=1))
    assert decode_answer(data) == (Announcement(instance=NAME),)
    alive = packet(record(SERVICE_WIRE, 12, instance_wire(), ttl=9, klass=1))
    assert decode_answer(alive) == ()


def test_several_instances_and_other_records() -> None:
    other = "b" * 63
    data = packet(
        record(instance_wire(), 16, TXT),
        record(instance_wire(), 33, bytes(20)),
        record(b"\x05\x5f_ipp\x04_tcp\x05local\x00", 16, TXT),
        record(b"\xc0\x0c", 16, TXT, klass=3),
        record(instance_wire(other), 16, encode_txt([b"pt=AAEC"]), ttl=7),
        record(b"\x09something\x05local\x00", 1, bytes(4)),
    )
    assert decode_answer(data) == (
        Announcement(instance=NAME, addresses=(ADDRESS,), ttl=120),
        Announcement(instance=other, sealed=b"\0\1\2", ttl=7),
    )


def test_letter_case_of_the_service_does_not_matter() -> None:
    name = bytes((40,)) + NAME.encode() + SERVICE_WIRE.upper()
    assert decode_answer(packet(record(name, 16, TXT)))[0].instance == NAME


def test_a_bad_instance_does_not_hide_the_others() -> None:
    data = packet(
        record(instance_wire("bad"), 16, b"\xffx"),
        record(instance_wire("bad2"), 16, encode_txt([b"pt=!!!"])),
        record(instance_wire(), 16, TXT),
    )
    assert [news.instance for news in decode_answer(data)] == [NAME]


@pytest.mark.parametrize("label", [b"\xff\xfe", b"a\x00b", b"a\x1b[31m", "ä".encode()], ids=repr)
def test_labels_that_are_no_text_are_skipped(label: bytes) -> None:
    data = packet(record(bytes((len(label),)) + label + SERVICE_WIRE, 16, TXT))
    assert decode_answer(data) == ()


def test_questions_are_not_answers() -> None:
    assert decode_answer(encode_question()) == ()


LOOP = b"\xc0\x0c"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        bytes(MAX_PACKET + 1),
        packet(b"\x05ab"),
        packet(b"\x05"),
        packet(b"\xc0"),
        packet(b"\x80abc"),
        packet(b"\x40" + b"a" * 64 + b"\0"),
        packet(record(LOOP, 16, TXT)),
        packet(record(b"\xc0\xff", 16, TXT)),
        packet(record(instance_wire(), 16, TXT)[:-1]),
        packet(instance_wire() + bytes(9)),
        packet(record((b"\x3f" + b"a" * 63) * 4 + b"\0", 16, TXT)),
        packet(record(SERVICE_WIRE, 12, b"\x05ab", ttl=0)),
    ],
    ids=[
        "empty",
        "header",
        "oversize",
        "label cut",
        "label missing",
        "pointer cut",
        "label form 10",
        "label form 01",
        "pointer to itself",
        "pointer forward",
        "data cut",
        "record cut",
        "name too long",
        "target cut",
    ],
)
def test_damaged_packets(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(data)


@pytest.mark.parametrize(("links", "ok"), [(14, True), (40, False)])
def test_chains_of_pointers_are_bounded(links: int, ok: bool) -> None:
    """A record whose data is a chain of pointers, and one whose name starts at its end."""
    first = 12 + 1 + 10
    chain = instance_wire() + b"".join(
        struct.pack("!H", 0xC000 | first + (len(instance_wire()) + 2 * (i - 1) if i else 0))
        for i in range(links)
    )
    last = first + len(chain) - 2
    data = packet(record(b"\0", 1, chain), record(struct.pack("!H", 0xC000 | last), 16, TXT))
    if ok:
        assert decode_answer(data)[0].instance == NAME
    else:
        with pytest.raises(RemoteProtocolError, match="loops"):
            decode_answer(data)


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for body in (data, b"\0\0\x84\0" + data, packet(data)):
        with contextlib.suppress(RemoteProtocolError):
            decode_answer(body)


@given(st.integers(0, 700), st.integers(0, 255))
def test_any_damage(position: int, value: int) -> None:
    data = bytearray(zeroconf_answer(encode_txt(txt_strings([ADDRESS], bytes(300)))))
    data[position % len(data)] = value
    with contextlib.suppress(RemoteProtocolError):
        for news in decode_answer(bytes(data)):
            assert len(news.addresses) <= MAX_ADDRESSES


@given(st.binary(max_size=768))
def test_sealed_round_trip(sealed: bytes) -> None:
    strings = txt_strings((), sealed)
    assert all(len(text) <= 255 and text.startswith(b"pt=") for text in strings)
    assert split_txt(encode_txt(strings)) == ((), sealed or None)


def test_addresses_fill_what_is_left() -> None:
    many = [Multiaddr.parse(f"/ip4/11.1.0.{i}/tcp/4001/p2p/{PEER}") for i in range(1, 30)]
    for sealed, least in ((None, 12), (bytes(256), 8), (bytes(768), 1)):
        data = encode_txt(txt_strings(many, sealed))
        assert len(data) <= MAX_TXT
        addresses, got = split_txt(data)
        assert got == sealed
        assert least <= len(addresses) <= MAX_ADDRESSES
        assert list(addresses) == many[: len(addresses)]


def test_a_record_beyond_a_packet_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="fit"):
        txt_strings((), bytes(900))


def test_no_strings_is_one_empty_string() -> None:
    assert encode_txt(()) == b"\0"
    assert split_txt(b"\0") == ((), None)
    assert split_txt(b"") == ((), None)


@pytest.mark.parametrize(
    "text",
    [
        b"dnsaddr=/ip4/11.1.0.1/tcp/4001",
        b"dnsaddr=/nonsense/1",
        b"dnsaddr=",
        b"dnsaddr=\xff",
        b"other=1",
        b"flag",
        b"",
    ],
)
def test_strings_that_mean_nothing_are_skipped(text: bytes) -> None:
    good = b"dnsaddr=" + str(ADDRESS).encode()
    assert split_txt(encode_txt([text, good, good])) == ((ADDRESS,), None)


@pytest.mark.parametrize(
    "data",
    [b"\x05pt=", encode_txt([b"pt=A"]), encode_txt([b"pt=AA=="]), encode_txt([b"pt=A+/A"])],
)
def test_bad_txt(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        split_txt(data)


def test_instance_name() -> None:
    name = instance_name(bytes(range(INSTANCE_RANDOM)))
    assert len(name) == INSTANCE_RANDOM
    assert set(name) <= set(string.ascii_lowercase + string.digits)
    assert instance_name(bytes(INSTANCE_RANDOM)) != name
    for size in (0, 31, 64):
        with pytest.raises(ValueError, match="32 to 63"):
            instance_name(bytes(size))
