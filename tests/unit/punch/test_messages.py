from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.punch import Budget, Candidate, Kind, Side
from pt.punch.candidates import MAX_CANDIDATES
from pt.punch.messages import MAX_MESSAGE, Offer, PunchMessageError, Sample, decode_message
from pt.wire import protobuf
from pt.wire.nat_facts import NatFacts, Protocol
from tests.unit.punch.classes import side

NONCE = b"n" * 16


def offer(**how: object) -> Offer:
    values = {"attempt": 3, "nonce": NONCE, "side": side("apdm-block-adf", tcp="fw"), **how}
    return Offer(**values)  # type: ignore[arg-type]


def test_an_offer_is_read_as_it_was_written() -> None:
    budget = Budget(pps=200, packets=10, sockets=3, seconds=2.5, full_scan=True, scan_pps=5000)
    sent = offer(side=side("apdm-seq-adf", tcp="fw", budget=budget), sample=("11.1.0.1", 5000))
    assert decode_message(sent.encode()) == sent


def test_a_sample_is_read_as_it_was_written() -> None:
    sample = Sample(attempt=3, number=2, address=("11.1.0.1", 1025))
    assert decode_message(sample.encode()) == sample
    assert sample.encode() == bytes.fromhex("120d080310021a040b01000120" + "8108")


def test_the_fullest_offer_fits() -> None:
    facts = tuple(
        NatFacts(
            family=family, protocol=protocol, external="11.1.0.1" if family == 4 else "2a00::1"
        )
        for family in (4, 6)
        for protocol in Protocol
    )
    candidates = tuple(
        Candidate(Kind.REFLEXIVE, f"2a00:6000::{n}", 65000) for n in range(1, 2 * MAX_CANDIDATES)
    )
    sent = offer(side=Side(facts=facts, candidates=candidates))
    assert len(sent.encode()) < MAX_MESSAGE // 2
    read = decode_message(sent.encode())
    assert isinstance(read, Offer)
    assert len(read.side.candidates) == MAX_CANDIDATES


@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "ff02::1", "::1"])
def test_addresses_that_are_nobodys_are_left_out(host: str) -> None:
    sent = offer(side=Side(candidates=(Candidate(Kind.HOST, host, 4000),)))
    read = decode_message(sent.encode())
    assert isinstance(read, Offer)
    assert read.side.candidates == ()


def test_kinds_of_a_newer_version_are_left_out() -> None:
    known = protobuf.put_bytes(
        4,
        protobuf.put_uint(1, 9)
        + protobuf.put_uint(2, 0)
        + protobuf.put_bytes(3, bytes([11, 1, 0, 1]))
        + protobuf.put_uint(4, 4000),
    )
    body = protobuf.Fields(offer(side=Side()).encode()).bytes(1)
    assert body is not None
    read = decode_message(protobuf.put_bytes(1, body + known))
    assert isinstance(read, Offer)
    assert read.side.candidates == ()


def test_a_greedy_budget_is_bounded() -> None:
    sent = offer(side=Side(budget=Budget(pps=10**9, packets=10**9, sockets=10**6, seconds=10**6)))
    read = decode_message(sent.encode())
    assert isinstance(read, Offer)
    budget = read.side.budget
    assert budget.sockets <= 1024
    assert budget.meet(Budget()) == Budget()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x08",
        protobuf.put_uint(1, 1),
        protobuf.put_bytes(3, b"x"),
        bytes(MAX_MESSAGE + 1),
        offer(nonce=b"short").encode(),
        protobuf.put_bytes(1, protobuf.put_bytes(2, NONCE)),
        protobuf.put_bytes(2, protobuf.put_bytes(3, b"123") + protobuf.put_uint(4, 1)),
        protobuf.put_bytes(2, protobuf.put_bytes(3, b"1234") + protobuf.put_uint(4, 0)),
        protobuf.put_bytes(2, protobuf.put_bytes(3, b"1234") + protobuf.put_uint(4, 70000)),
        Sample(attempt=1, number=1 << 17, address=("11.1.0.1", 1025)).encode(),
        offer(side=Side(facts=(NatFacts(),) * 8)).encode()[:-1],
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(PunchMessageError):
        decode_message(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    with contextlib.suppress(PunchMessageError):
        decode_message(protobuf.put_bytes(1, body))
    with contextlib.suppress(PunchMessageError):
        decode_message(body)
