from __future__ import annotations

import random

from aioquic.quic.crypto import CryptoPair

from pt.quic.engine import Admission
from pt.quic.packets import Kind, parse_header, put_varint, reset_token
from pt.quic.reception import Drop, Reception, Reply

HERE = ("11.0.0.2", 4001)
KEY = b"r" * 32


def reception(**options: float) -> Reception:
    return Reception(KEY, random.Random(1).randbytes, **options)  # type: ignore[arg-type]


def initial(
    *, destination: bytes = b"original", token: bytes = b"", size: int = 1200, version: int = 1
) -> bytes:
    packet = b"\xc0" + version.to_bytes(4, "big") + bytes([len(destination)]) + destination
    packet += b"\x06source" + put_varint(len(token)) + token
    left = size - len(packet) - 2
    packet += (left | 0x4000).to_bytes(2, "big")
    if version != 1:
        return packet + bytes(left)
    keys = CryptoPair()
    keys.setup_initial(destination, is_client=True, version=1)
    return keys.encrypt_packet(packet + b"\0", b"\x01" * (left - 17), 0)


HANDSHAKE = b"\xe0\x00\x00\x00\x01\x08original\x06source\x44\xa0" + bytes(1200)


def test_a_client_is_let_in() -> None:
    assert reception().decide(initial(), HERE, 0) == Admission(
        b"original", b"original", b"source", validated=False
    )


def test_what_is_dropped() -> None:
    desk = reception()
    for datagram, cause in (
        (b"", "not QUIC"),
        (b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), "not QUIC"),
        (initial(size=1199), "too small for an Initial"),
        (initial(size=1199, version=7), "too small for an Initial"),
        (initial(destination=b"7 bytes"), "unknown connection"),
        (initial(version=0), "unknown connection"),
        (initial()[:-1] + b"!", "broken Initial"),
        (HANDSHAKE, "unknown connection"),
        (b"\x40" + bytes(20), "unknown connection"),  # too short to be answered with a reset
    ):
        assert desk.decide(datagram, HERE, 0) == Drop(cause)


def test_who_only_dials_lets_nobody_in() -> None:
    assert reception().decide(initial(), HERE, 0, accepting=False) == Drop("unknown connection")
    reset = reception().decide(b"\x40" + bytes(60), HERE, 0, accepting=False)
    assert isinstance(reset, Reply)


def test_another_version_is_answered() -> None:
    reply = reception().decide(initial(version=0xBABABABA), HERE, 0)
    assert isinstance(reply, Reply)
    header = parse_header(reply.datagram)
    assert header is not None
    assert header[:3] == (Kind.VERSION_NEGOTIATION, b"source", b"original")


def test_under_load_a_client_must_come_back_with_a_token() -> None:
    desk = reception(retry_from=2)
    desk.half_open = 1
    assert isinstance(desk.decide(initial(), HERE, 0), Admission)
    desk.half_open = 2
    reply = desk.decide(initial(), HERE, 0)
    assert isinstance(reply, Reply)
    retry = parse_header(reply.datagram)
    assert retry is not None
    assert (retry.kind, retry.destination) == (Kind.RETRY, b"source")
    again = initial(destination=retry.source, token=retry.token)
    assert desk.decide(again, HERE, 1) == Admission(
        b"original", retry.source, b"source", validated=True
    )
    # Not from elsewhere, not later, not for another id: it is asked again.
    assert isinstance(desk.decide(again, ("11.0.0.3", 4001), 1), Reply)
    assert isinstance(desk.decide(again, HERE, 100), Reply)
    assert isinstance(desk.decide(initial(token=retry.token), HERE, 1), Reply)


def test_a_strange_token_is_as_good_as_none() -> None:
    assert isinstance(reception().decide(initial(token=b"old"), HERE, 0), Admission)


def test_a_full_house_is_full() -> None:
    desk = reception(half_open=3, retry_from=0)
    reply = desk.decide(initial(), HERE, 0)
    assert isinstance(reply, Reply)
    retry = parse_header(reply.datagram)
    assert retry is not None
    desk.half_open = 3
    again = initial(destination=retry.source, token=retry.token)
    assert desk.decide(again, HERE, 0) == Drop("too many handshakes")
    assert desk.decide(initial(), HERE, 0) == Drop("too many handshakes")


def test_an_unknown_connection_is_reset() -> None:
    datagram = b"\x40ABCDEFGH" + bytes(60)
    reply = reception().decide(datagram, HERE, 0)
    assert isinstance(reply, Reply)
    assert reply.datagram.endswith(reset_token(KEY, b"ABCDEFGH"))
    assert len(reply.datagram) < len(datagram)


def test_answers_are_rationed() -> None:
    desk = reception(replies_a_second=10)
    alien = initial(version=7)
    answers = [desk.decide(alien, HERE, 0.0) for _ in range(15)]
    assert sum(isinstance(answer, Reply) for answer in answers) == 10
    assert answers[-1] == Drop("too many answers")
    assert isinstance(desk.decide(alien, HERE, 0.11), Reply)
    assert isinstance(desk.decide(alien, HERE, 0.11), Drop)
    later = [desk.decide(alien, HERE, 100.0) for _ in range(15)]
    assert sum(isinstance(answer, Reply) for answer in later) == 10


def test_whoever_has_no_place_says_so() -> None:
    desk = reception(replies_a_second=1)
    reply = desk.refuse(initial(), 0)
    assert isinstance(reply, Reply)
    header = parse_header(reply.datagram)
    assert header is not None
    assert (header.kind, header.destination) == (Kind.INITIAL, b"source")
    assert desk.refuse(initial(), 0) == Drop("too many answers")
